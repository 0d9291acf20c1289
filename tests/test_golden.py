"""Golden outputs: a refactoring changes no sampled character and no training loss.

The weights come from a numpy generator, so the texts depend on charnn's arithmetic alone. The
digests were made before the redesign of the package; change one only where an issue asks for other
output, and say so in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from charnn.checkpoint import Checkpoint
from charnn.config import GATES, ModelConfig, TrainOptions
from charnn.engines import compiled
from charnn.export.c_program import c_files
from charnn.export.page import make_page
from charnn.generation import Model
from charnn.ngrams.add import NGramStep
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import CharTokenizer
from charnn.training.events import StepDone
from charnn.training.launch import start

DRIVER = Path(__file__).parent / "export/drive.js"
TEXT = "the goat is not a sailor.\nwind west, and knows it.\nMem. count the stairs.\n"
COMPILER = shutil.which("gcc") or shutil.which("cc")
NODE = shutil.which("node")
TEXTS = {
    ("rnn", "network", "float32"): "ac294bec5014931b",
    ("rnn", "network", "int8"): "0488af640a80f163",
    ("rnn", "mixed", "float32"): "c7d0a50b3f1b5dc3",
    ("rnn", "mixed", "int8"): "b4f2d9c344bd8e9c",
    ("gru", "network", "float32"): "96993a11c355a0c0",
    ("gru", "network", "int8"): "ea83e20546e29167",
    ("gru", "mixed", "float32"): "54100a6410ed2525",
    ("gru", "mixed", "int8"): "cd8435995f1f7407",
    ("lstm", "network", "float32"): "84970d01b1efa11f",
    ("lstm", "network", "int8"): "3d5b90d377b60044",
    ("lstm", "mixed", "float32"): "1eb1b6970ff2c691",
    ("lstm", "mixed", "int8"): "c5bc1a375b4eb350",
}
LOSSES = {
    "rnn": [3.09507, 3.087383, 3.061187, 3.031466, 3.014597, 3.001146, 2.982975, 2.994551],
    "gru": [3.089373, 3.07636, 3.032223, 3.034115, 3.017865, 2.953598, 2.995503, 2.990813],
    "lstm": [3.091289, 3.075145, 3.027526, 3.031686, 3.0158, 2.951956, 2.986978, 2.98945],
}
TRAINED = {
    "rnn": "goat is not a sailor.\nwind west, and west, and knows it.\nMem",
    "gru": "goat is not a sailor.\nwind west, and west, and knows it.\nMem",
    "lstm": "goat is not a sailor.\nwind west, and west, and knows it.\nMem",
}
WRITERS = [
    "numpy",
    pytest.param(
        "native", marks=pytest.mark.skipif(not compiled.kernels(), reason="no native engine here")
    ),
    "int8",
    pytest.param("c", marks=pytest.mark.skipif(not COMPILER, reason="no C compiler here")),
    pytest.param("javascript", marks=pytest.mark.skipif(not NODE, reason="no node here")),
]


@cache
def checkpoint_of(cell: str, ngrams: bool) -> Checkpoint:
    """A model with random weights, the same on every machine."""
    tokenizer = CharTokenizer.learn(TEXT)
    config = ModelConfig(tokenizer.vocab_size, cell, 20, 32, 2)
    generator = np.random.default_rng(5)
    weights = {
        name: generator.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    made = Checkpoint(config, tokenizer.to_dict(), weights, int(tokenizer.encode("\n")[0]))
    if not ngrams:
        return made
    tree = NGramTree.of(tokenizer.encode(TEXT * 3), tokenizer.vocab_size, 5)
    weights = MixtureWeights(0.6, 0.5)
    return replace(made, ngrams=tree.section(weights))


def written_by(writer: str, checkpoint: Checkpoint, folder: Path) -> str:
    """400 characters after "the " at temperature 0.8 and seed 7."""
    if writer == "c":
        files, _ = c_files(checkpoint)
        for name, content in files.items():
            (folder / name).write_text(content, "utf-8")
        sources = sorted(folder.glob("*.c"))
        build = [COMPILER, "-std=c99", "-O2", "-ffp-contract=off", *sources, "-lm", "-o"]
        subprocess.run([*build, folder / "writer"], check=True)
        words = ["-n", "400", "--seed", "7", "--temperature", "0.8", "--prompt", "the "]
        return subprocess.run(
            [folder / "writer", *words], capture_output=True, text=True, check=True
        ).stdout
    if writer == "javascript":
        (folder / "page.html").write_text(make_page(checkpoint, "golden"), "utf-8")
        tokenizer = CharTokenizer.learn(TEXT)
        prompt = tokenizer.encode("the ").tolist()
        job = {"what": "write", "settings": [[0.8, 1, 7]], "length": 400, "prompt": prompt}
        done = subprocess.run(
            [str(NODE), DRIVER, folder / "page.html"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
        return "the " + tokenizer.decode(json.loads(done.stdout)[0]["ids"])
    engine = "numpy" if writer == "int8" else writer
    model = Model.from_checkpoint(checkpoint, engine=engine, int8=writer == "int8")
    return model.generate("the ", echo=True, max_tokens=400, temperature=0.8, seed=7)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("ngrams", [False, True], ids=["network", "mixed"])
@pytest.mark.parametrize("cell", GATES)
def test_a_model_writes_its_golden_text(
    cell: str, ngrams: bool, writer: str, tmp_path: Path
) -> None:
    text = written_by(writer, checkpoint_of(cell, ngrams), tmp_path)
    arithmetic = "float32" if writer in {"numpy", "native"} else "int8"
    expected = TEXTS[cell, "mixed" if ngrams else "network", arithmetic]
    assert expected == hashlib.sha256(text.encode()).hexdigest()[:16], text


@pytest.mark.parametrize("cell", GATES)
def test_a_run_has_its_golden_losses(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)
    (tmp_path / "goat.txt").write_text(TEXT * 20)
    options = TrainOptions(
        cell=cell,
        max_steps=8,
        num_layers=2,
        hidden_size=16,
        batch_size=4,
        bptt=16,
        dropout=0.1,
        seed=3,
        threads=1,
        precision="float32",
    )
    step = NGramStep(4)
    with start([str(tmp_path / "goat.txt")], options, tmp_path / "runs", final_step=step) as (
        trainer,
        _,
    ):
        losses = [event.loss for event in trainer.run() if isinstance(event, StepDone)]
        path = trainer.home.best
    assert LOSSES[cell] == pytest.approx(losses, abs=1e-4)
    import charnn

    text = charnn.load(path, engine="numpy").generate("the ", max_tokens=60, seed=1)
    assert TRAINED[cell] == text
