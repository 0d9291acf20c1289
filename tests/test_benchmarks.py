"""The benchmarks count right and print what the README shows; nothing here looks at a clock."""

from __future__ import annotations

import json
import math
import pickle
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from charnn import checkpoint, evaluation
from charnn.config import GATES, ModelConfig
from charnn.model import LanguageModel
from charnn.runs import Run
from charnn.text.sources import open_source
from charnn.text.token_file import write_token_file
from charnn.text.tokenizers import CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # they are scripts, and import each other as such

import harness  # noqa: E402  # found through the line above
import nanogpt  # noqa: E402 - benchmarks is put on the path first
import quality  # noqa: E402 - benchmarks is put on the path first
import scorer  # noqa: E402 - benchmarks is put on the path first
import speed  # noqa: E402 - benchmarks is put on the path first
import speed_train  # noqa: E402 - benchmarks is put on the path first

TEXT = "To be, or not to be.\n" * 30


def save_model(folder: Path, cell: str) -> Path:
    tokenizer = CharTokenizer(np.array(sorted(set(map(ord, TEXT))), np.uint32))
    shape = ModelConfig(tokenizer.vocab_size, cell, 8, 12, 2)
    network = LanguageModel(shape)
    network.reset_parameters(torch.Generator().manual_seed(1))
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    path = folder / f"{cell}.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(shape, tokenizer.to_dict(), weights, 0))
    return path


def test_a_table_is_markdown_with_numbers_to_the_right() -> None:
    expected = "| what | MB/s |\n| --- | ---: |\n| char | 120 |"
    assert expected == harness.table(["what", "MB/s"], [["char", "120"]])


def test_several_values_show_their_median_and_range_and_one_shows_itself() -> None:
    assert "1.500 (1.400..2.000)" == harness.spread([2.0, 1.4, 1.5], 3)
    assert "1.50" == harness.spread([1.5], 2)


def test_a_ratio_compares_what_was_measured_side_by_side() -> None:
    assert 2.0 == harness.ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0])


def test_arms_take_turns() -> None:
    order: list[str] = []

    def arm(name: str) -> int:
        order.append(name)
        return len(order)

    found = harness.alternate({"a": lambda: arm("a"), "b": lambda: arm("b")}, 2)
    assert {"a": [1, 3], "b": [2, 4]} == found
    assert ["a", "b", "a", "b"] == order


def test_the_machine_is_described_without_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "secret-host")
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    line = harness.machine()
    assert torch.__version__ in line
    assert "secret-host" not in line


def test_a_command_that_fails_ends_the_benchmark_with_its_own_words() -> None:
    with pytest.raises(SystemExit, match=r"(?s)error: no run in .*this command failed"):
        harness.run(harness.charnn_command("show", "--checkpoints", "/nowhere"))


def test_a_model_that_knows_nothing_scores_the_logarithm_of_its_vocabulary() -> None:
    windows: list[int] = []

    def uniform(ids: torch.Tensor, memory: None) -> tuple[torch.Tensor, None]:
        windows.append(ids.numel())
        return torch.zeros(*ids.shape, 5), None

    ids = torch.arange(23) % 5
    assert math.log(5) == pytest.approx(scorer.cold(uniform, ids, 4))
    assert [20] == windows  # the 22 targets make five windows of 4, and the rest is dropped
    assert math.log(5) == pytest.approx(scorer.carried(uniform, ids))
    assert [20, 22] == windows


@pytest.mark.parametrize("cell", GATES)
def test_the_scorer_agrees_with_the_evaluation_that_it_does_not_share(
    cell: str, tmp_path: Path
) -> None:
    loaded = scorer.load_charnn(save_model(tmp_path, cell))
    model = evaluation.network_of(checkpoint.load(tmp_path / f"{cell}.safetensors"))
    ids = loaded.encode(TEXT)
    ones = np.ones(model.config.vocab_size, np.int64)
    sizes = evaluation.TextSizes(ones, ones)
    cold = evaluation.cold(model, ids.numpy(), sizes).nats_per_token
    carried = evaluation.carried(model, ids.numpy(), sizes).nats_per_token
    assert cold == pytest.approx(scorer.cold(loaded.network, ids, 256), rel=1e-6)
    assert carried == pytest.approx(scorer.carried(loaded.network, ids), rel=1e-6)
    assert abs(cold - carried) > 1e-5  # or the comparison would prove little
    assert model.config.parameters == loaded.parameters


def test_a_row_shows_medians_and_a_dash_for_what_a_model_has_not() -> None:
    found = [
        quality.Result(seconds, 100, 1.5, 1234, "float32", cold, None, None)
        for seconds, cold in ((60.0, 1.5), (62.0, 1.4), (61.0, 1.6))
    ]
    expected = ["x", "61.0", "100", "1.50", "1.500 (1.400..1.600)", "2.164", "–", "–"]
    assert [*expected, "1,234", "float32"] == quality.row("x", found, short=False)
    assert [*expected, "–", "–", "1,234", "float32"] == quality.row("x", found, short=True)


def test_nanogpt_gets_the_files_that_it_would_make(tmp_path: Path) -> None:
    folder = tmp_path / nanogpt.DATA
    folder.mkdir(parents=True)
    encode = nanogpt.prepare(tmp_path, "hello ", "world")
    meta = pickle.loads((folder / "meta.pkl").read_bytes())  # noqa: S301  # written one line above
    assert 8 == meta["vocab_size"]
    train, valid = (np.fromfile(folder / f"{name}.bin", np.uint16) for name in ("train", "val"))
    assert "hello " == "".join(meta["itos"][i] for i in train)
    assert encode("world").tolist() == valid.tolist()


def test_a_copy_of_nanogpt_has_another_seed_and_no_history(tmp_path: Path) -> None:
    checkout = tmp_path / "nanoGPT"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "train.py").write_text(f"import torch\n{nanogpt.SEED_LINE}\n")
    nanogpt.copy(checkout, tmp_path / "copy", 2)
    copied = (tmp_path / "copy" / "train.py").read_text()
    assert "import torch\ntorch.manual_seed(1339 + seed_offset)\n" == copied
    assert not (tmp_path / "copy" / ".git").exists()
    (checkout / "train.py").write_text("something else")
    with pytest.raises(SystemExit, match="another version"):
        nanogpt.copy(checkout, tmp_path / "other", 2)


@pytest.mark.parametrize("cell", GATES)
def test_both_arms_of_the_training_section_train(cell: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(harness.random_text(5_000))
    with open_source([str(text)]) as source:
        tokens = write_token_file(tmp_path / "text.tokens", source)
    model = ModelConfig(tokens.tokenizer.vocab_size, cell, 8, 8, 2)
    run = Run(tmp_path, "run")
    assert 2 == len(list(islice(speed_train.trainer_steps(run, tokens, model, "float32"), 2)))
    lines = run.metrics.read_text().splitlines()
    assert 2 == len([line for line in lines if json.loads(line)["event"] == "step"])
    # Four windows fill a pass over so short a text, so the bare loop begins another one.
    assert 6 == len(list(islice(speed_train.bare_steps(tokens, model, "float32"), 6)))


def test_the_text_that_is_tokenized_is_ascii_of_the_size_asked_for() -> None:
    text = harness.random_text(100_000)
    assert 100_000 == len(text)
    assert set(harness.SYMBOLS) == set(text.decode("ascii"))
    assert 65 == len(harness.SYMBOLS)


@pytest.mark.parametrize("script", [quality, speed])
def test_help_says_how_to_run_it(
    script: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--help"])
    with pytest.raises(SystemExit) as ended:
        script.main()  # type: ignore[attr-defined]  # a module, which mypy cannot see into
    assert 0 == ended.value.code
    assert "python benchmarks/" in capsys.readouterr().out


@pytest.mark.slow
def test_quality_trains_with_the_whole_command_and_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 10)
    arguments = ["quality.py", str(text), "--minutes", "0.02", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    quality.main()
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| training | wall s | steps | passes | cold-256 | bits | carried")
    assert table[2].startswith("| charnn lstm, 0.02 min | ")
    assert table[0].count("|") == table[2].count("|")


@pytest.mark.slow
@pytest.mark.parametrize("section", ["tokenize", "startup"])
def test_speed_prints_a_table_for_a_section(
    section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["speed.py", section, "--repeats", "1", "--megabytes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    speed.main()
    table = capsys.readouterr().out.splitlines()
    assert table[1].startswith("| --- | ---: |")
    assert table[0].count("|") == table[2].count("|")
    assert "torch" in table[-1]
