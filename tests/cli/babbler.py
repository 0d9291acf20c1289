"""A run whose model writes characters nearly at random, and commands that are run beside it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from random_model import random_model

from charnn.checkpoint import Checkpoint, save
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file


def make_run(
    folder: Path,
    name: str,
    cell: str = "gru",
    num_layers: int = 1,
    lines: bool = False,
    split: tuple[int, ...] = (90, 10),
) -> Checkpoint:
    """Saves a run of the text book.txt in `folder`, weights from a fixed seed; gives its model."""
    run = folder / "checkpoints" / name
    run.mkdir(parents=True)
    with open_source([folder / "book.txt"]) as source:
        tokenizer = write_token_file(run / "tokens", source, split=split).tokenizer
    model = random_model(tokenizer, cell, layers=num_layers, scale=0.3, lines=lines)
    save(run / "best.safetensors", model)
    return model


def run_command(
    folder: Path, *words: str, stdin: bytes = b"", terminal: bool = False, **environment: str
) -> tuple[int, str, str]:
    """Runs charnn to the end in `folder`: exit code, stdout (which may be a terminal), stderr."""
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", "from charnn.cli import main; main()", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **environment},
        input=stdin,
        stdout=follower if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    out = os.read(leader, 1 << 16) if terminal else done.stdout
    os.close(leader)
    return done.returncode, out.decode(), done.stderr.decode()
