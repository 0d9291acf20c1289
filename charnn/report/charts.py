"""Plain SVG for a page: lines and bars, with a text alternative, without colours of their own.

The style sheet colours them by class; lines differ in their dashes and marks as well.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, BOTTOM = 58, 22, 46
LETTER = 8.4  # how wide one is, about, in the size of the style sheet
LEGEND_ROW, BAR, BAR_GAP = 22, 16, 10
MOST_MARKS = 40
LEAST, MOST = 1e-100, 1e15  # what can be drawn; the least where an axis is logarithmic
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Series(NamedTuple):
    """A line: its name, and its points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


class Bar(NamedTuple):
    """A bar of parts that lie one after another, each a length and the number of its colour."""

    name: str
    parts: Sequence[tuple[float, int]]
    says: str


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Lines over two axes, with a legend; "" where no point can be drawn.

    `key` begins the ids, which are unique on a page. `log_x` is in powers of 2, `log_y` of 10.
    """
    kept = [Series(name, _usable(points, log_x, log_y)) for name, points in series]
    points = [point for each in kept for point in each.points]
    if not points:
        return ""
    xs = _axis([x for x, _ in points], log_x, 2, snug=True)
    ys = _axis([y for _, y in points], log_y, 10)
    legend, rows = _legend([each.name for each in kept])
    top = 34 + rows * LEGEND_ROW
    height = HEIGHT + rows * LEGEND_ROW
    right, base = WIDTH - RIGHT, height - BOTTOM

    def across(x: float) -> float:
        return LEFT + xs.place(x) * (right - LEFT)

    def up(y: float) -> float:
        return base - ys.place(y) * (base - top)

    drawn = [legend]
    for value in ys.ticks:
        y = up(value)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(_text(LEFT - 8, y + 5, _number(value, log_y), "end"))
    for value in xs.ticks:
        x = across(value)
        drawn.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 5}"/>')
        drawn.append(_text(x, base + 20, _number(value, False), "middle"))
    drawn.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    drawn.append(_text(4, top - 16, y_label, "start", "label"))
    drawn.append(_text((LEFT + right) / 2, height - 6, x_label, "middle", "label"))
    for number, each in enumerate(kept):
        places = [(across(x), up(y)) for x, y in each.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="line c{number % 4}" points="{path}"/>')
        if len(places) <= MOST_MARKS:
            drawn += [_mark(x, y, number) for x, y in places]
    return _svg(key, title, description, drawn, height)


def bar_chart(key: str, title: str, description: str, bars: Sequence[Bar], most: float) -> str:
    """Bars one below the other, each with what it says in words; a length of `most` is all."""
    wide = max((len(bar.name) for bar in bars), default=0) * LETTER + 10
    said = max((len(bar.says) for bar in bars), default=0) * LETTER + 12
    room = WIDTH - wide - said
    drawn, y = [], 4.0
    for bar in bars:
        x = wide
        drawn.append(_text(wide - 8, y + 13, bar.name, "end"))
        drawn.append(
            f'<rect class="trough" x="{wide:.1f}" y="{y:.1f}" width="{room:.1f}" height="{BAR}"/>'
        )
        for length, number in bar.parts:
            share = length / most if most and math.isfinite(length) else 0.0
            width = min(max(share, 0.0), 1.0) * room
            drawn.append(
                f'<rect class="fill f{number % 4}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{BAR}"/>'
            )
            x += width
        drawn.append(_text(WIDTH - 2, y + 13, bar.says, "end"))
        y += BAR + BAR_GAP
    return _svg(key, title, description, drawn, math.ceil(y))


class _Axis(NamedTuple):
    low: float
    high: float
    ticks: list[float]
    base: int  # of its logarithm; 0 for none

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.base:
            value = math.log(value, self.base)
        return (value - self.low) / (self.high - self.low)


def _axis(values: Sequence[float], logarithmic: bool, base: int, snug: bool = False) -> _Axis:
    """From the least value to the most, and to whole ticks beyond them unless `snug`."""
    low, high = min(values), max(values)
    if logarithmic:
        first, last = math.log(low, base), math.log(high, base)
        if base == 10:
            first, last = float(math.floor(first)), float(math.ceil(last))
        last = max(last, first + 1)
        every = math.ceil((last - first + 1) / 10) if base == 2 else math.ceil((last - first) / 6)
        powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1, every)
        return _Axis(first, last, [float(base) ** power for power in powers], base)
    span = high - low
    if span <= 1e-9 * max(1.0, abs(low), abs(high)):  # as good as one value
        span = max(1.0, abs(high))
        low, high = low - span / 2, high + span / 2
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next(m for m in (1, 2, 5, 10, 20) if span / (step * m) <= 5)
    numbers = range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ticks = [step * number for number in numbers]
    if snug:
        return _Axis(low, high, [tick for tick in ticks if low <= tick <= high], 0)
    return _Axis(ticks[0], ticks[-1], ticks, 0)


def _usable(
    points: Sequence[tuple[float, float]], log_x: bool, log_y: bool
) -> list[tuple[float, float]]:
    least_x, least_y = (LEAST if logarithmic else -MOST for logarithmic in (log_x, log_y))
    return [(x, y) for x, y in points if least_x <= x <= MOST and least_y <= y <= MOST]


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """The names beside a piece of their lines, and how many rows they take."""
    if len(names) < 2:
        return "", 0
    drawn, x, row = [], 4.0, 0
    for number, name in enumerate(names):
        width = 44 + len(name) * LETTER
        if x > 4 and x + width > WIDTH:
            x, row = 4.0, row + 1
        y = 12 + row * LEGEND_ROW
        drawn.append(
            f'<line class="line c{number % 4}" x1="{x:.1f}" x2="{x + 26:.1f}" y1="{y}" y2="{y}"/>'
        )
        drawn.append(_mark(x + 13, y, number))
        drawn.append(_text(x + 32, y + 5, name, "start"))
        x += width + 8
    return "".join(drawn), row + 1


def _mark(x: float, y: float, number: int) -> str:
    kind = number % 4
    name = f'class="mark c{kind}"'
    if kind == 0:
        return f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    shape = {1: "-3.5,-3.5 3.5,-3.5 3.5,3.5 -3.5,3.5", 2: "0,-4.5 4,3.5 -4,3.5"}.get(
        kind, "0,-5 5,0 0,5 -5,0"
    )
    corners = [tuple(map(float, corner.split(","))) for corner in shape.split()]
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon {name} points="{places}"/>'


def _number(value: float, power: bool) -> str:
    if power:
        exponent = round(math.log10(value))
        return f"{value:g}" if -3 < exponent < 4 else "10" + str(exponent).translate(SUPERSCRIPTS)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str, name: str = "") -> str:
    kind = f' class="{name}"' if name else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(key: str, title: str, description: str, drawn: Sequence[str], height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{html.escape(title)}'
        f'</title><desc id="{key}-desc">{html.escape(description)}</desc>{"".join(drawn)}</svg>'
    )
