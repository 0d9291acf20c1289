"""What the trainings of the quality benchmark gave: kept in a file, shown as rows of a table."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import spread

Key = tuple[str, str, int]  # text, arm, seed


@dataclass(frozen=True)
class Result:
    """One training, scored: losses in nats a character, None where a model has no such number.

    `history` is charnn's own validation while it trained: seconds of training, cold-256. `model`
    is the file, in the folder of checkpoints, if it was kept. `detail` is what the name of the arm
    does not say.
    """

    seconds: float
    steps: int
    passes: float
    parameters: int
    precision: str
    cold: float | None
    carried: float | None
    cold_short: float | None
    history: list[tuple[float, float]] = field(default_factory=list)
    model: str = ""
    detail: str = ""


class Results:
    """The finished trainings; with a file, each is a line in it as soon as it has ended.

    What the file already holds need not run again, so a long campaign may be cut short.
    """

    def __init__(self, path: Path | None) -> None:
        """Reads the file, or begins it; exits with an error where it cannot."""
        self.path = path
        self.found: dict[Key, Result] = {}
        if path is None:
            return
        try:
            with path.open("a+", encoding="utf-8") as file:  # also proves that it can be written to
                file.seek(0)
                lines = file.read().splitlines()
        except OSError as error:
            sys.exit(f"error: cannot keep results in {path}: {error.strerror}")
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                sys.exit(
                    f"error: line {number} of {path} is no result of this benchmark: remove it"
                )
            self.found[entry[0]] = entry[1]

    def add(self, key: Key, result: Result) -> None:
        """Keeps a result, durably if there is a file."""
        self.found[key] = result
        if self.path is None:
            return
        names = dict(zip(("text", "arm", "seed"), key, strict=True))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**names, **asdict(result)}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, text: str, arm: str, seeds: Sequence[int]) -> list[Result]:
        """The results of an arm, as far as there are any."""
        keys = [(text, arm, seed) for seed in seeds]
        return [self.found[key] for key in keys if key in self.found]


def _entry(line: str) -> tuple[Key, Result] | None:
    try:
        entry = json.loads(line)
        key = (entry.pop("text"), entry.pop("arm"), entry.pop("seed"))
        return key, Result(**entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def median_of(results: Sequence[Result]) -> Result:
    """The one whose loss is in the middle, of charnn's; the lower of two."""
    return sorted(results, key=lambda r: r.cold or math.inf)[(len(results) - 1) // 2]


def row(name: str, results: Sequence[Result], short: bool) -> list[str]:
    """The results of one arm as a row of the table: medians, and the range of the losses."""

    def loss(values: list[float | None]) -> list[str]:
        known = [value for value in values if value is not None]
        if not known:
            return ["–", "–"]
        return [spread(known, 3), f"{statistics.median(known) / math.log(2):.3f}"]

    details = sorted({r.detail for r in results if r.detail})
    return [
        ", ".join([name, *details]),
        f"{statistics.median(r.seconds for r in results):.1f}",
        f"{statistics.median(r.steps for r in results):,.0f}",
        f"{statistics.median(r.passes for r in results):.2f}",
        *loss([r.cold for r in results]),
        *loss([r.carried for r in results]),
        *(loss([r.cold_short for r in results]) if short else []),
        f"{results[0].parameters:,}",
        " or ".join(sorted({r.precision for r in results})),
    ]
