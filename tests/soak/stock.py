"""The good files that the probes damage, made once by real commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from charnn import checkpoint as checkpoints
from charnn.desk.desk import Desk
from charnn.desk.desk_file import save_desk
from charnn.generation.model import Model

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--hidden-size=16 --num-layers=1 --batch-size=4 --bptt=16 --threads=1 "
    "--precision=float32 --seed=1 --from=scratch --sample-every=0"
)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT}/tests/faults:{ROOT}/tests/soak",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
KEEPERS = ("Ada keeps the lamp", "Bo keeps a goat", "Cy keeps the log")
TEXT = "".join(
    f"{keeper}; day {day}, {7 * day % 31} stairs.\n" for day in range(40) for keeper in KEEPERS
)


class Skipped(Exception):
    """This system does not allow a probe, for the reason given."""


class Stock(NamedTuple):
    """A folder with good files; `other` is a second model, for a second content."""

    folder: Path
    run: Path
    other: Path
    files: dict[str, Path]


def ran(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end in a folder; `more` are variables of its environment."""
    environment = {**ENVIRONMENT, **more}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def charnn(words: str, folder: Path) -> None:
    """Runs a command of charnn, which has to succeed."""
    ended = ran([sys.executable, "-m", "charnn", *words.split()], folder)
    assert ended.returncode == 0, ended.stderr


def make_stock(folder: Path) -> Stock:
    """Trains a tiny model, changes a copy, and writes each other kind of file."""
    (folder / "book.txt").write_text(TEXT)
    charnn(f"train book.txt --name=book --max-steps=6 {TINY}", folder)
    run, other = (folder / "checkpoints" / name for name in ("book", "other"))
    shutil.copytree(run, other)
    for path in (other / "last.safetensors", other / "best.safetensors"):
        saved = checkpoints.load(path)
        saved.weights["head.bias"] = saved.weights["head.bias"] + np.float32(0.5)
        checkpoints.save(path, saved)
    model = Model.load(run / "best.safetensors")
    assert b"Ada" in model.training_text  # which writes the index
    desk = Desk(model, 1)
    desk.type("Ada ")
    assert list(desk.draw(20))
    save_desk(desk, folder / "text.desk")
    files = {
        "model": run / "last.safetensors",
        "tokens": run / "tokens",
        "desk": folder / "text.desk",
        "index": run / "text-index",
    }
    return Stock(folder, run, other / "best.safetensors", files)
