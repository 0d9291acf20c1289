"""The quality curve: loss over seconds as SVG, of the whole time and of its first tenth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from charnn.pages.charts import HEIGHT, LEGEND_ROW, WIDTH, Series, line_chart, standalone

Points = Sequence[tuple[float, float]]  # (seconds, loss), in the order of time


class Trace(NamedTuple):
    """One cell: the validation losses of one run, and a dot for the result of each budget."""

    line: Points
    dots: Points


def draw(title: str, traces: Mapping[str, Trace], published: Mapping[str, float]) -> str:
    """Draws named traces, and published losses as dashed lines."""
    lines = [points for trace in traces.values() for points in trace]
    end = 1.06 * max(seconds for line in lines for seconds, _ in line)
    results = [f"{name} ends at {trace.line[-1][1]:.3f}" for name, trace in traces.items()]
    results += [f"{name} is published at {loss:.4f}" for name, loss in published.items()]
    about = "Lines: the network's validation during one run; dots: whole runs, with n-grams."
    description = f"Nats a character, cold-256, against seconds. {about} {'; '.join(results)}."
    series = [Series(name, trace.line, trace.dots) for name, trace in traces.items()]
    panels = [
        line_chart(
            key,
            f"{title}, {extent}",
            description,
            series,
            f"seconds, {extent}",
            "nats a character",
            x_range=(0, seconds),
            y_range=bounds(seconds, lines, published),
            levels=published,
        )
        for key, extent, seconds in (
            ("whole", "the whole time", end),
            ("tenth", "its first tenth", end / 10),
        )
    ]
    width, height = len(panels) * WIDTH, HEIGHT + LEGEND_ROW
    placed = "".join(
        f'<svg x="{i * WIDTH}" width="{WIDTH}" height="{height}">{panel}</svg>'
        for i, panel in enumerate(panels)
    )
    return standalone(placed, width, height)


def bounds(
    end: float, lines: Sequence[Points], published: Mapping[str, float]
) -> tuple[float, float]:
    """Returns the range of losses to draw: those after a twentieth of the time, with a margin."""
    losses = [loss for line in lines for seconds, loss in line if end / 20 <= seconds <= end]
    losses = [*losses, *published.values()] or [loss for line in lines for _, loss in line]
    margin = 0.05 * (max(losses) - min(losses)) or 0.1
    return min(losses) - margin, max(losses) + margin
