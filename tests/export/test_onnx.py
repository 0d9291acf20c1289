"""An ONNX file: its step gives the logits of the network that samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

import charnn.cli
from charnn.checkpoint import Checkpoint, save
from charnn.config import GATES, ModelConfig
from charnn.engines import make_predictor
from charnn.errors import CharnnError
from charnn.export import exporter, onnx_graph
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "The goat is not a sailor, é ∞\n"
SHAPES = [(24, 24, 2), (13, 21, 3), (37, 10, 1), (5, 64, 2)]


def make(
    cell: str = "lstm",
    shape: tuple[int, int, int] = (13, 21, 3),
    tokenizer: Tokenizer | None = None,
    **info: Any,
) -> Checkpoint:
    tokenizer = tokenizer or CharTokenizer.learn(TEXT)
    config = ModelConfig(tokenizer.vocab_size, cell, *shape)
    generator = np.random.default_rng(sum(shape))
    weights = {
        name: generator.normal(0.02, 1.5 * size[-1] ** -0.5, size).astype(np.float32)
        for name, size in config.tensor_shapes().items()
    }
    return Checkpoint(config, tokenizer.to_dict(), weights, 1, info, start=[1, 2])


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    path = folder / "book.onnx"
    exporter("onnx").write(checkpoint, "book", path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def reference(path: Path) -> Any:
    return ReferenceEvaluator(str(path))


def runtime(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opened", [reference, runtime])
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_step_gives_the_logits_that_sample_draws_from(
    cell: str, shape: tuple[int, int, int], opened: Any, tmp_path: Path
) -> None:
    checkpoint = make(cell, shape)
    session = opened(write(checkpoint, tmp_path))
    network = make_predictor(checkpoint.config, checkpoint.weights)
    texts = np.random.default_rng(1).integers(0, checkpoint.config.vocab_size, (3, 25))
    states = np.stack([network.initial_state()] * 3)
    state = np.zeros((3, *checkpoint.config.state_shape), np.float32)
    for tokens in texts.T:
        logits, state = session.run(None, {"token": tokens, "state": state})
        np.testing.assert_allclose(logits, network.step_batch(tokens, states), atol=1e-4)
    alone = np.zeros((1, *checkpoint.config.state_shape), np.float32)
    for token in texts[0]:
        logits, alone = session.run(None, {"token": np.array([token]), "state": alone})
    np.testing.assert_allclose(alone[0], state[0], atol=1e-5)


def test_the_file_names_its_opset_its_vocabulary_and_its_card(tmp_path: Path) -> None:
    checkpoint = make(corpus={"chars": 61000}, results={"carried": {"bits_per_char": 2.125}})
    model = onnx.load(write(checkpoint, tmp_path))
    assert [("", onnx_graph.OPSET)] == [(each.domain, each.version) for each in model.opset_import]
    found = {each.key: each.value for each in model.metadata_props}
    tokenizer = CharTokenizer.learn(TEXT)
    vocabulary = json.loads(found["vocabulary"])
    assert "goat" == "".join(vocabulary[i] for i in tokenizer.encode("goat"))
    assert ([1, 2], False) == (json.loads(found["start"]), json.loads(found["lines"]))
    card = json.loads(found["card"])
    assert ("61,000 characters", "2.12 bits per character") == (
        card["Trained on"],
        card["Held-out loss"],
    )
    assert ("book", "char") == (found["name"], found["tokenizer"])


def test_bytes_that_are_not_utf_8_are_surrogate_escapes(tmp_path: Path) -> None:
    model = onnx.load(write(make("rnn", (4, 4, 1), ByteTokenizer()), tmp_path))
    found = {each.key: each.value for each in model.metadata_props}
    spelt = "".join(json.loads(found["vocabulary"]))
    assert bytes(range(256)) == spelt.encode("utf-8", "surrogateescape")


def test_the_command_says_that_the_file_leaves_the_n_grams_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = make("gru", (8, 8, 1))
    save(Path("plain.safetensors"), checkpoint)
    ids = CharTokenizer.learn(TEXT).encode(TEXT * 20).astype(np.int64)
    tree = NGramTree.of(ids, checkpoint.config.vocab_size, 4, None)
    checkpoint.ngrams = tree.section(MixtureWeights(0.5, 0.5))
    save(Path("mixed.safetensors"), checkpoint)
    for name in ("plain", "mixed"):
        words = ["export", f"{name}.safetensors", "--to", "onnx", "--json"]
        result = CliRunner().invoke(charnn.cli.app, words)
        assert 0 == result.exit_code, result.output
        assert f"{name}.onnx" == json.loads(result.stdout)["path"]
        assert ("n-grams" in result.stderr) == (name == "mixed")
    graphs = [onnx.load(f"{name}.onnx").graph for name in ("plain", "mixed")]
    assert graphs[0] == graphs[1]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
    with pytest.raises(CharnnError, match="2 GiB"):
        onnx_graph.write_onnx(make(), "book", tmp_path / "book.onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CharnnError, match="pip install"):
        onnx_graph.write_onnx(make(), "book", tmp_path / "book.onnx")
    assert [] == list(tmp_path.iterdir())
