"""Shared by the benchmarks: timed commands, alternating arms, tables in markdown."""

from __future__ import annotations

import os
import platform
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # measures this charnn, installed or not

SHAPES = ((3, 256), (2, 512))  # layers and units of the measured networks
SYMBOLS = string.ascii_letters + string.digits + " .\n"  # 65 like tiny Shakespeare

T = TypeVar("T")


@dataclass(frozen=True)
class Ran:
    """A command that succeeded: wall seconds and output."""

    seconds: float
    stdout: bytes
    stderr: str


def charnn_command(*arguments: str) -> list[str]:
    """Returns the command line `charnn ...`, installed or not."""
    return [sys.executable, "-c", "from charnn.cli import main; main()", *arguments]


def run(command: Sequence[str], cwd: Path | None = None) -> Ran:
    """Runs a command to its end; exits with the last lines of its output if it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    talk = done.stderr.decode("utf-8", "replace")
    if done.returncode:
        tail = "\n".join((done.stdout.decode("utf-8", "replace") + talk).splitlines()[-15:])
        sys.exit(f"{tail}\nerror: this command failed: {' '.join(command)}")
    return Ran(seconds, done.stdout, talk)


def alternate(arms: dict[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Measures every arm `repeats` times, in turn, so that disturbances hit all arms."""
    found: dict[str, list[T]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, measure in arms.items():
            found[name].append(measure())
    return found


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median of the ratios of values measured side by side."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def spread(values: Sequence[float], digits: int) -> str:
    """Formats the median, with the lowest and highest of several values in parentheses."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table in markdown: the first column on the left, the others on the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Describes the machine and the versions in one line, without the host name."""
    import torch

    from charnn import __version__

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{processor()}, {cores} cores, {system}; charnn {__version__}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__} "
        f"on {torch.get_num_threads()} threads"
    )


def read_split(path: Path) -> tuple[str, str]:
    """Returns the first nine tenths of a UTF-8 file and the last, split as `charnn train` does."""
    text = path.read_bytes().decode("utf-8-sig")
    cut = len(text) * 90 // 100
    return text[:cut], text[cut:]


def split_ids(split: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the ids of both parts, and the size of their common alphabet."""
    points = np.frombuffer("".join(split).encode("utf-32-le"), np.uint32)
    chars, ids = np.unique(points, return_inverse=True)
    return ids[: len(split[0])], ids[len(split[0]) :], len(chars)


def random_text(size: int) -> bytes:
    """Returns `size` bytes of ASCII with 65 symbols, the same every time."""
    alphabet = np.frombuffer(SYMBOLS.encode(), np.uint8)
    return alphabet[np.random.default_rng(0).integers(0, len(alphabet), size)].tobytes()


def processor() -> str:
    """Returns the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = (line.partition(":")[2] for line in file if line.startswith("model name"))
            return next(models, "").strip() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def say(message: str) -> None:
    """Prints to stderr; stdout has the tables."""
    print(message, file=sys.stderr, flush=True)
