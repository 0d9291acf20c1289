"""docs/micrornn.py, the program to show in class, writes what `charnn sample` writes."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_model import random_weights
from typer.testing import CliRunner

from charnn import checkpoint
from charnn.checkpoint import Checkpoint
from charnn.cli import app
from charnn.config import GATES, ModelConfig
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer

PROGRAM = Path(__file__).resolve().parent.parent / "docs/micrornn.py"
TEXT = "the goat is not a sailor.\nÉtienne knows it: 100 €.\n"
write = runpy.run_path(str(PROGRAM))["write"]


def make_model(
    path: Path, tokenizer: Tokenizer, cell: str = "lstm", embedding: int = 12, dtype: str = "F32"
) -> Path:
    config = ModelConfig(tokenizer.vocab_size, cell, embedding, 12, 2)
    weights = random_weights(config, 0.8, seed=7, mean=0.2)
    ids = tokenizer.encode(TEXT).astype(np.int64)
    ngrams = NGramTree.of(ids, tokenizer.vocab_size, 3, None).section(MixtureWeights(0.5, 0.5))
    start = ids[-2:].tolist()
    made = Checkpoint(config, tokenizer.to_dict(), weights, start[-1], ngrams=ngrams, start=start)
    checkpoint.save(path, made, dtype)
    return path


def sampled(model: Path, prompt: str, *options: str) -> bytes:
    words = ["sample", prompt, "-m", str(model), "--network-only", "-n", "80", *options]
    done = CliRunner().invoke(app, words)
    assert 0 == done.exit_code, done.output
    return done.stdout_bytes


@pytest.mark.parametrize("dtype", ["F32", "F16"])
@pytest.mark.parametrize("embedding", [12, 5])
@pytest.mark.parametrize("cell", GATES)
def test_it_writes_the_text_of_sample_with_every_cell(
    cell: str, embedding: int, dtype: str, tmp_path: Path
) -> None:
    tokenizer = CharTokenizer.learn(TEXT)
    model = make_model(tmp_path / "a.safetensors", tokenizer, cell, embedding, dtype)
    for prompt in ("", "the É"):
        text = b"".join(write(model, prompt, 80, 0.8, 5))
        assert sampled(model, prompt, "--seed", "5") == text


@pytest.mark.parametrize("temperature", [0, 0.3, 1, 2])
def test_it_knows_temperatures_seeds_and_bytes(temperature: float, tmp_path: Path) -> None:
    model = make_model(tmp_path / "a.safetensors", ByteTokenizer())
    for seed in (0, 4294967295):
        text = b"".join(write(model, "goat €", 80, temperature, seed))
        assert sampled(model, "goat €", "-t", str(temperature), "--seed", str(seed)) == text


def test_it_writes_with_the_base_that_ships_from_the_command_line() -> None:
    base = PROGRAM.parent.parent / "charnn/bases/english.safetensors"
    command = [sys.executable, str(PROGRAM), str(base), "It was ", "-n", "80", "--seed", "2"]
    done = subprocess.run(command, capture_output=True)
    assert sampled(base, "It was ", "--seed", "2") == done.stdout, done.stderr


def test_it_is_short_and_needs_numpy_alone() -> None:
    source = PROGRAM.read_text("utf-8")
    assert len(source.splitlines()) <= 150
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
        if name
    }
    assert {"numpy"} == imported - sys.stdlib_module_names
