"""Curves over lags in plain characters: several in one plot, each with its mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COLUMNS, HEIGHT = 7, 9  # characters a lag, lines a plot
MARKS = "*o+x#@"


def curves(
    lags: Sequence[int], series: Mapping[str, Sequence[float]], logarithmic: bool = False
) -> list[str]:
    """Lines of a plot; where curves meet, the first has the place. Logarithmic: by powers of 10.

    What is not finite has no place in it; where nothing is finite, a line says so.
    """
    least = min((v for ys in series.values() for v in ys if 0 < v < math.inf), default=1.0)

    def scaled(value: float) -> float:
        return math.log10(max(value, least)) if logarithmic and math.isfinite(value) else value

    heights = {name: [scaled(value) for value in ys] for name, ys in series.items()}
    every = [value for ys in heights.values() for value in ys if math.isfinite(value)]
    if not every:
        return ["(no finite number to draw)"]
    low, high = min(every), max(every)
    span = max(high - low, 1e-9)
    grid = [[" "] * (COLUMNS * len(lags)) for _ in range(HEIGHT)]
    for mark, ys in reversed(list(zip(MARKS, heights.values(), strict=False))):
        for number, value in enumerate(ys):
            if math.isfinite(value):
                row = round((high - value) / span * (HEIGHT - 1))
                grid[row][number * COLUMNS + 3] = mark
    top, bottom = (10**high, 10**low) if logarithmic else (high, low)
    labels = [_label(top), *[" " * 9] * (HEIGHT - 2), _label(bottom)]
    lines = [
        f"{label} |{''.join(cells).rstrip()}" for label, cells in zip(labels, grid, strict=True)
    ]
    lines.append(" " * 10 + "+" + "-" * (COLUMNS * len(lags)))
    lines.append(" " * 11 + "".join(f"{lag:^{COLUMNS}}" for lag in lags).rstrip())
    if len(series) > 1:
        lines.append(" " * 11 + "  ".join(f"{m} {n}" for m, n in zip(MARKS, series, strict=False)))
    return lines


def _label(value: float) -> str:
    return f"{value:9.2e}" if value and not 0.01 <= abs(value) < 1000 else f"{value:9.3f}"
