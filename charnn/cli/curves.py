"""Learning curves in plain characters: training and validation loss over the steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

WIDEST, NARROWEST, HEIGHT = 60, 10, 10
LABEL = 10  # columns left of the plot: a number, a space and the axis
DEFAULT_COLUMNS = 80  # where nobody says how wide the output is
TRAINING, VALIDATION, BOTH = "o", "*", "@"

Points = list[tuple[int, float]]


def columns_of(stream: TextIO) -> int:
    """How wide the terminal is that a stream leads to; COLUMNS says otherwise."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    return DEFAULT_COLUMNS


def learning_curves(
    info: dict[str, Any], columns: int = DEFAULT_COLUMNS, at_least: int = 2
) -> Iterator[str]:
    """The losses of a model's history, with a title and a legend, in so many columns.

    Nothing, if there are fewer than `at_least` points. The training loss is the mean since the
    validation before, dropout included.
    """
    lines = (info.get("recipe") or {}).get("lines")
    key = "lines" if lines else "cold_256"
    history = info.get("history", [])
    valid = [(h["step"], h[key]) for h in history if h[key] is not None]
    train = [(h["step"], h["train_loss"]) for h in history if h.get("train_loss") is not None]
    if len(valid) < at_least:
        return
    yield f"loss over the steps ({key.replace('_', '-')}):"
    yield from plot(train, valid, columns)


def plot(train: Points, valid: Points, columns: int = DEFAULT_COLUMNS) -> list[str]:
    """Two curves with their highest and lowest value and their first and last step, and a legend.

    Takes (step, loss), in the order of the steps; there is at least one.
    """
    width = max(NARROWEST, min(WIDEST, columns - LABEL))
    points = [*train, *valid]
    high, low = max(y for _, y in points), min(y for _, y in points)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    span_x, span_y = max(last - first, 1), max(high - low, 1e-9)

    def places(curve: Points) -> set[tuple[int, int]]:
        return {
            (
                round((high - y) / span_y * (HEIGHT - 1)),
                round((x - first) / span_x * (width - 1)),
            )
            for x, y in curve
        }

    grid = [[" "] * width for _ in range(HEIGHT)]
    trained, validated = places(train), places(valid)
    for row, column in trained | validated:
        both = (row, column) in trained & validated
        one = VALIDATION if (row, column) in validated else TRAINING
        grid[row][column] = BOTH if both else one
    labels = [f"{high:8.4f}", *[" " * 8] * (HEIGHT - 2), f"{low:8.4f}"]
    rows = [
        f"{label} |{''.join(cells)}".rstrip() for label, cells in zip(labels, grid, strict=True)
    ]
    end = f"{last:,}"
    rows.append(" " * (LABEL - 1) + "+" + "-" * width)
    rows.append(" " * LABEL + f"{first:,}".ljust(width - len(end)) + end)
    legend = [f"{TRAINING} training"] * bool(train) + [f"{VALIDATION} validation"]
    rows.append("  ".join([*legend, *[f"{BOTH} both"] * bool(trained & validated)]))
    return rows
