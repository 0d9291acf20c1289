"""Plots in plain characters: learning curves, and curves over lags."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from charnn.cli.console import terminal_columns

DEFAULT_COLUMNS = 80  # where neither COLUMNS nor a terminal gives the width
WIDEST, NARROWEST, HEIGHT = 60, 10, 10
LAG_COLUMNS, TICK_COLUMNS = 7, 4  # characters a lag, and the fewest for its name
LABEL = 11  # columns left of the plot: a number, a space and the axis
MARKS, SHARED = "*o+x#%", "@"

Points = Sequence[tuple[int, float]]  # a step, or a column of the plot, and a value


def columns_of(stream: TextIO | None) -> int:
    """Returns the width of the terminal behind a stream; the variable COLUMNS overrides it."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    return terminal_columns(stream) or DEFAULT_COLUMNS


def learning_curves(
    info: dict[str, Any], columns: int = DEFAULT_COLUMNS, metrics: Path | None = None
) -> Iterator[str]:
    """Plots the losses of the network over the steps, with a title; nothing for a single point.

    The training loss, with dropout, is that of each step in the file `metrics`; without one, the
    mean since the previous validation.
    """
    from charnn.runs import step_losses

    key = "lines" if (info.get("recipe") or {}).get("lines") else "cold_256"
    history = info.get("history", [])
    valid = [(row["step"], row[key]) for row in history if row[key] is not None]
    train = (step_losses(metrics) if metrics else []) or [
        (row["step"], row["train_loss"]) for row in history if row.get("train_loss") is not None
    ]
    if max(len(valid), len(train)) < 2:
        return
    # What the network is mixed with comes last, so no point includes it.
    yield f"loss over the steps ({key.replace('_', '-')}, network):"
    yield from over_steps({"validation": valid, "training": train}, columns)


def over_steps(curves: Mapping[str, Points], columns: int) -> list[str]:
    """Plots curves of (step, value) in `columns` columns, with the first and the last step.

    A column shows the mean of its values.
    """
    width = max(NARROWEST, min(WIDEST, columns - LABEL))
    steps = [step for points in curves.values() for step, _ in points]
    first, last = min(steps), max(steps)
    scale = (width - 1) / max(last - first, 1)
    placed: dict[str, Points] = {}
    for name, points in curves.items():
        values: dict[int, list[float]] = {}
        for step, value in points:
            values.setdefault(round((step - first) * scale), []).append(value)
        if points:
            placed[name] = [(column, sum(some) / len(some)) for column, some in values.items()]
    return draw(placed, width, f"{first:,}".ljust(width - len(f"{last:,}")) + f"{last:,}")


def over_lags(
    lags: Sequence[int],
    curves: Mapping[str, Any],
    logarithmic: bool = False,
    columns: int = DEFAULT_COLUMNS,
) -> list[str]:
    """Plots curves with a value for each lag, the lags at equal distances.

    In a terminal of few `columns` they are closer, and only some are named.
    """
    wide = max(1, min(LAG_COLUMNS, (columns - LABEL - 1) // len(lags)))
    placed = {
        name: [(wide * k + wide // 2, value) for k, value in enumerate(values)]
        for name, values in curves.items()
    }
    every = -(-TICK_COLUMNS // wide)
    ticks = "".join(f"{lag:{'^' if every == 1 else '<'}{wide * every}}" for lag in lags[::every])
    margin = " " * (wide // 2 if every > 1 else 0)
    return draw(placed, wide * len(lags), (margin + ticks).rstrip(), logarithmic)


def draw(
    curves: Mapping[str, Points], width: int, ticks: str, logarithmic: bool = False
) -> list[str]:
    """Draws curves above a line of ticks, with the highest and lowest value and a legend.

    Values that are not finite are left out; `logarithmic` scales by powers of ten.
    """
    every = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if not every:
        return ["(no finite number to draw)"]
    lowest = min((value for value in every if value > 0), default=1.0)

    def scaled(value: float) -> float:
        return math.log10(max(value, lowest)) if logarithmic else value

    high, low = scaled(max(every)), scaled(min(every))
    span = max(high - low, 1e-9)
    grid = [[" "] * width for _ in range(HEIGHT)]
    shared = False
    for mark, points in zip(MARKS, curves.values(), strict=False):
        for column, value in points:
            if math.isfinite(value):
                row = grid[round((high - scaled(value)) / span * (HEIGHT - 1))]
                meets = row[column] not in (" ", mark)
                row[column] = SHARED if meets else mark
                shared |= meets
    ends = (10**high, 10**low) if logarithmic else (high, low)
    labels = [_label(ends[0]), *[" " * 9] * (HEIGHT - 2), _label(ends[1])]
    rows = [f"{label} |{''.join(row)}".rstrip() for label, row in zip(labels, grid, strict=True)]
    legend = [f"{mark} {name}" for mark, name in zip(MARKS, curves, strict=False)]
    return [
        *rows,
        " " * (LABEL - 1) + "+" + "-" * width,
        (" " * LABEL + ticks).rstrip(),
        "  ".join([*legend, *[f"{SHARED} several"] * shared]),
    ]


def _label(value: float) -> str:
    return f"{value:9.2e}" if value and not 0.01 <= abs(value) < 1000 else f"{value:9.4f}"
