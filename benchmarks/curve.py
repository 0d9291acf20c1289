"""The quality curve: losses against seconds, as a small SVG, whole and in its first tenth.

Colours are of medium lightness and the background is left out, so that it reads on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]  # seconds, loss: in the order of time

WIDTH, HEIGHT = 985, 390
LEFTS, PLOT_WIDTH = (52, 532), 250  # of the two panels; labels stand to the right of a panel
TOP, PLOT_HEIGHT = 78, 255
LINE = 15  # labels keep this distance
COLOURS = ("#3b7dd8", "#c8641b", "#2c9464", "#b0559c", "#8a7a1e")
GREY = "#777"
STYLE = (
    f"text {{ font: 12px system-ui, sans-serif; fill: {GREY} }} .title {{ font-size: 15px }} "
    f".end {{ text-anchor: end }} .middle {{ text-anchor: middle }} "
    f"path {{ fill: none; stroke: {GREY} }} .grid {{ stroke-opacity: .3 }} "
    ".mark { stroke-dasharray: 6 4 } .line { stroke-width: 1.8 }"
)
LEGEND = "lines: the network's validation while one trains; dots: whole trainings, with n-grams"


class Trace(NamedTuple):
    """One cell: a line of what one training saw of itself, and a dot for each budget."""

    line: Points
    dots: Points


def draw(title: str, traces: Mapping[str, Trace], marks: Mapping[str, float]) -> str:
    """Draws named traces, and named losses to compare them with as dashed lines."""
    end = max(seconds for trace in traces.values() for points in trace for seconds, _ in points)
    told = [f"{name} ends at {trace.line[-1][1]:.3f}" for name, trace in traces.items()]
    told += [f"{name} is published at {loss:.4f}" for name, loss in marks.items()]
    legend = LEGEND + "; dashed: published" * bool(marks)
    about = f"Nats a character, cold-256, against seconds; {legend}. {'; '.join(told)}."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(about)}</desc>',
            f"<style>{STYLE}</style>",
            words(LEFTS[0], 20, title, "title"),
            words(LEFTS[0], 40, legend),
            *panel("nats a character", LEFTS[0], 1.06 * end, traces, marks),
            *panel("its first tenth", LEFTS[1], 1.06 * end / 10, traces, marks),
            "</svg>\n",
        ]
    )


def panel(
    name: str, left: int, end: float, traces: Mapping[str, Trace], marks: Mapping[str, float]
) -> list[str]:
    """One pair of axes, from second 0 to `end`, and what lies between them."""
    low, high = bounds(end, [points for trace in traces.values() for points in trace], marks)
    right, bottom, clip = left + PLOT_WIDTH, TOP + PLOT_HEIGHT, f"clip-{left}"

    def x(seconds: float) -> float:
        return left + PLOT_WIDTH * seconds / end

    def y(loss: float) -> float:
        return bottom - PLOT_HEIGHT * (loss - low) / (high - low)

    parts = [
        f'<clipPath id="{clip}"><rect x="{left}" y="{TOP}" width="{PLOT_WIDTH}" '
        f'height="{PLOT_HEIGHT}"/></clipPath>',
        words(left, TOP - 12, name),
        f'<path d="M{left} {TOP}V{bottom}H{right}"/>',
        words((left + right) / 2, bottom + 40, "seconds", "middle"),
    ]
    for value in ticks(0, end):
        parts.append(f'<path d="M{x(value):.1f} {bottom}v5"/>')
        parts.append(words(x(value), bottom + 20, f"{value:g}", "middle"))
    for value in ticks(low, high):
        parts.append(f'<path class="grid" d="M{left} {y(value):.1f}H{right}"/>')
        parts.append(words(left - 7, y(value) + 4, f"{value:g}", "end"))
    labels = []
    for label, loss in marks.items():
        parts.append(f'<path class="mark" d="M{left} {y(loss):.1f}H{right}"/>')
        labels.append((y(loss), f"{label} {loss:.4f}", GREY))
    for colour, (label, trace) in zip(COLOURS, traces.items(), strict=False):
        line = "L".join(f"{x(seconds):.1f} {y(loss):.1f}" for seconds, loss in trace.line)
        parts.append(
            f'<g clip-path="url(#{clip})"><path class="line" d="M{line}" style="stroke: {colour}"/>'
        )
        parts += [
            f'<circle cx="{x(seconds):.1f}" cy="{y(loss):.1f}" r="4" fill="{colour}"/>'
            for seconds, loss in trace.dots
        ]
        parts.append("</g>")
        shown = sorted((at, loss) for points in trace for at, loss in points if at <= end)
        if shown:
            labels.append((y(shown[-1][1]), label, colour))
    level = -math.inf
    for wanted, label, colour in sorted(labels):
        level = max(wanted + 4, level + LINE)
        parts.append(words(right + 7, level, label, style=f"fill: {colour}"))
    return parts


def bounds(end: float, lines: Sequence[Points], marks: Mapping[str, float]) -> tuple[float, float]:
    """The losses at the bottom and at the top: what is there after a twentieth of the time."""
    losses = [loss for line in lines for seconds, loss in line if end / 20 <= seconds <= end]
    losses = [*losses, *marks.values()] or [loss for line in lines for _, loss in line]
    margin = 0.05 * (max(losses) - min(losses)) or 0.1
    return min(losses) - margin, max(losses) + margin


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, some four to ten of them."""
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = unit * max(factor for factor in (1, 2, 5) if factor * unit <= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(step * index, 10) for index in range(first, last + 1)]


def words(x: float, y: float, said: str, kind: str = "", style: str = "") -> str:
    """A line of text whose foot is at (x, y)."""
    given = {"class": kind, "style": style}
    attributes = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(said)}</text>'
