"""A new cell needs a torch layer, a numpy step and lines in tables; other features refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from charnn import config
from charnn.checkpoint import Checkpoint
from charnn.cli import main
from charnn.config import GateRoles
from charnn.engines import float32, make_predictor
from charnn.engines.clamps import Clamp, Unit
from charnn.errors import ConfigError
from charnn.evaluation import network_of
from charnn.model import cells
from charnn.model.cells import RecurrentLayer
from charnn.model.state import HiddenState

TEXT = "the goat is not a sailor.\nwind west, and knows it.\nMem. count the stairs.\n"


class MinimalGatedLayer(RecurrentLayer):
    """Minimal gated unit (Heck and Salem 2017).

    f = sigmoid(W_f x + U_f h + b_f);  n = tanh(W_n x + U_n (f h) + b_n);  h' = (1 - f) h + f n
    """

    cell = "mgu"

    def forward(
        self, inputs: Tensor, state: HiddenState, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, HiddenState]:
        w, u, b = self._weights(inputs.dtype, weight_ih)
        sums, (u_f, u_n) = (inputs @ w.T + b).chunk(2, dim=-1), u.chunk(2)
        h, outputs = state.h.to(inputs.dtype), []
        for a_f, a_n in zip(*sums, strict=True):
            f = torch.sigmoid(a_f + h @ u_f.T)
            h = (1 - f) * h + f * torch.tanh(a_n + (f * h) @ u_n.T)
            outputs.append(h)
        return torch.stack(outputs), HiddenState(h.float())


class MinimalGatedCell(float32.Cell):
    """A step of the same equations."""

    def step(self, inputs: np.ndarray, state: np.ndarray, after: np.ndarray) -> None:
        (h,), (a_f, a_n) = state, np.split(inputs, 2, axis=-1)
        u_f, u_n = np.split(self.weight_hh, 2, axis=1)
        f = 1 / (1 + np.exp(-(a_f + h @ u_f)))
        after[0] = (1 - f) * h + f * np.tanh(a_n + (f * h) @ u_n)


@pytest.fixture(autouse=True)
def new_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(config.GATES, "mgu", ("f", "n"))
    monkeypatch.setitem(config.STATES, "mgu", ("h",))
    monkeypatch.setitem(config.GATE_ROLES, "mgu", GateRoles(("f",), write="f"))
    monkeypatch.setitem(cells.CELLS, "mgu", MinimalGatedLayer)
    monkeypatch.setitem(float32.CELLS, "mgu", MinimalGatedCell)
    monkeypatch.chdir(tmp_path)
    Path("goat.txt").write_text(TEXT * 40)


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["charnn", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, *capsys.readouterr()


def test_a_new_cell_trains_writes_and_scores_and_the_rest_refuses_it_by_name(monkeypatch, capsys):
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)

    def charnn(*words: str) -> str:
        code, out, err = run(monkeypatch, capsys, *words)
        assert 0 == code, err
        return out

    shape = ["--hidden-size", "16", "--num-layers", "2", "--bptt", "16", "--batch-size", "4"]
    charnn("train", "goat.txt", "--cell", "mgu", "--max-steps", "6", "--threads", "1", *shape)
    assert json.loads(charnn("eval", "--json"))["carried"]["targets"] > 0
    assert 20 == json.loads(charnn("sample", "-n", "20", "--seed", "1", "--json"))["tokens"]
    charnn("score", "goat.txt")
    charnn("inspect", "goat.txt", "--json")
    charnn("horizon", "goat.txt", "--samples", "20")
    exports = [["export", "--to", name] for name in ("c", "html", "onnx")]
    for words in (["sample", "--int8"], *exports):
        code, _, err = run(monkeypatch, capsys, *words)
        assert 2 == code
        assert "mgu" in err
        assert "lstm" in err


def random_checkpoint() -> Checkpoint:
    shape = config.ModelConfig(7, "mgu", 8, 8, 2)
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(0, 0.5, size).astype(np.float32)
        for name, size in shape.tensor_shapes().items()
    }
    return Checkpoint(shape, {}, weights, 0)


def test_torch_and_numpy_give_the_same_logits():
    saved, tokens = random_checkpoint(), [1, 5, 2, 6]
    network = network_of(saved)
    with torch.no_grad():
        expected, _ = network(torch.tensor(tokens)[:, None], network.initial_state(1))
    predictor = make_predictor(saved.config, saved.weights)
    logits, _ = predictor.feed(tokens, predictor.initial_state())
    np.testing.assert_allclose(logits, expected[-1, 0], atol=1e-5)


def test_a_unit_of_a_new_cell_can_be_clamped_by_the_roles_of_its_gates():
    saved, clamp = random_checkpoint(), Clamp(Unit(1, 3, "h"), 0.25)
    predictor = make_predictor(saved.config, saved.weights, clamps=[clamp])
    _, state = predictor.feed([1, 2, 3], predictor.initial_state())
    assert state[1, 0, 3] == pytest.approx(0.25, abs=1e-6)


def test_the_native_engine_refuses_a_cell_that_it_lacks():
    saved = random_checkpoint()
    with pytest.raises(ConfigError, match="mgu"):
        make_predictor(saved.config, saved.weights, "native")
