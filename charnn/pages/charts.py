"""SVG charts from plain data: lines over two axes, and horizontal bars.

A chart has a title and a description for screen readers. `charts.css` colours its classes with the
variables of pages/base.css; lines also differ in their dashes and marks.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from charnn.pages import read

Point = tuple[float, float]

WIDTH, HEIGHT = 480, 300  # size of a line chart without a legend
LEFT, RIGHT, BOTTOM = 58, 22, 46  # margins around the plot
LETTER = 8.4  # approximate width of a letter in the font of charts.css
LEGEND_ROW, BAR, BAR_GAP = 22, 16, 10
MAX_MARKS = 40  # a line of more points has no marks
SMALLEST, LARGEST = 1e-100, 1e15  # larger values are not drawn, nor smaller ones on log axes
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Colours of medium lightness are readable on light and dark grounds.
PALETTE = (
    ":root { --ink: #777; --soft: #777; --line: #7774; --edge: #777; --sans: system-ui; "
    "--c0: #3b7dd8; --c1: #c8641b; --c2: #2c9464; --c3: #b0559c }"
)
MARKS = {  # corners of the marks of lines 1 to 3; line 0 has circles
    1: ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
    2: ((0, -4.5), (4, 3.5), (-4, 3.5)),
    3: ((0, -5), (5, 0), (0, 5), (-5, 0)),
}


class Series(NamedTuple):
    """A line through points from left to right; marks at `dots`, or at every point."""

    name: str
    points: Sequence[Point]
    dots: Sequence[Point] = ()


class Bar(NamedTuple):
    """A bar of (length, colour number) parts in a row, with its value in words."""

    name: str
    parts: Sequence[tuple[float, int]]
    value: str


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x_range: Point | None = None,
    y_range: Point | None = None,
    levels: Mapping[str, float] | None = None,
) -> str:
    """Draws lines over two axes, with a legend; returns "" if no point can be drawn.

    `key` begins the ids of the chart's elements. `log_x` has ticks at powers of 2, `log_y` at
    powers of 10. An axis covers its range, or else all points; `levels` are named horizontal lines.
    """
    series = [
        Series(name, *(_drawable(points, log_x, log_y) for points in (line, dots)))
        for name, line, dots in series
    ]
    points = [point for _, line, dots in series for point in (*line, *dots)]
    if not points:
        return ""
    xs = _axis(x_range or [x for x, _ in points], 2 if log_x else 0, exact=True)
    ys = _axis(y_range or [y for _, y in points], 10 if log_y else 0, exact=bool(y_range))
    legend, rows = _legend([each.name for each in series])
    top, height = 34 + rows * LEGEND_ROW, HEIGHT + rows * LEGEND_ROW
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def across(x: float) -> float:
        return LEFT + xs.share(x) * (right - LEFT)

    def down(y: float) -> float:
        return bottom - ys.share(y) * (bottom - top)

    parts = [legend]
    for value in ys.ticks:
        y = down(value)
        parts.append(_element("line", class_="grid", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(_text(LEFT - 8, y + 5, _tick_label(value, log_y), "end"))
    for value in xs.ticks:
        x = across(value)
        parts.append(_element("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 5))
        parts.append(_text(x, bottom + 20, _tick_label(value, False), "middle"))
    parts.append(_element("line", class_="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom))
    parts.append(_text(4, top - 16, y_label, "start", "label"))
    parts.append(_text((LEFT + right) / 2, height - 6, x_label, "middle", "label"))
    for name, value in (levels or {}).items():
        y = down(value)
        parts.append(_element("line", class_="level", x1=LEFT, x2=right, y1=y, y2=y))
        parts.append(_text(right, y - 5, f"{name} {value:.4f}", "end", "label"))
    lines = []
    for number, (_, line, dots) in enumerate(series):
        corners = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        lines.append(_element("polyline", class_=f"line c{number % 4}", points=corners))
        marked = dots or (line if len(line) <= MAX_MARKS else ())
        lines += [_mark(across(x), down(y), number) for x, y in marked]
    if x_range or y_range:
        area = _element("rect", x=LEFT, y=top, width=right - LEFT, height=bottom - top)
        parts.append(f'<clipPath id="{key}-clip">{area}</clipPath>')
        lines = [f'<g clip-path="url(#{key}-clip)">', *lines, "</g>"]
    return _svg(key, title, description, [*parts, *lines], height)


def bar_chart(key: str, title: str, description: str, bars: Sequence[Bar], whole: float) -> str:
    """Draws bars one below the other; a bar of length `whole` takes the full width."""
    left = max((len(bar.name) for bar in bars), default=0) * LETTER + 10
    right = max((len(bar.value) for bar in bars), default=0) * LETTER + 12
    room = WIDTH - left - right
    parts, y = [], 4.0
    for bar in bars:
        x = left
        parts.append(_text(left - 8, y + 13, bar.name, "end"))
        parts.append(_element("rect", class_="trough", x=left, y=y, width=room, height=BAR))
        for length, number in bar.parts:
            share = length / whole if whole and math.isfinite(length) else 0.0
            width = min(max(share, 0.0), 1.0) * room
            kind = f"fill f{number % 4}"
            parts.append(_element("rect", class_=kind, x=x, y=y, width=width, height=BAR))
            x += width
        parts.append(_text(WIDTH - 2, y + 13, bar.value, "end"))
        y += BAR + BAR_GAP
    return _svg(key, title, description, parts, math.ceil(y))


def standalone(charts: str, width: int, height: int) -> str:
    """Returns charts as an SVG file with its own style, without a background."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return f"{head}<style>{PALETTE}{read('charnn.pages', 'charts.css')}</style>{charts}</svg>\n"


class _Axis(NamedTuple):
    low: float  # the lowest value, or its logarithm
    high: float
    ticks: list[float]
    base: int  # base of the logarithm; 0 for a linear axis

    def share(self, value: float) -> float:
        """Returns the position of a value: 0 at the low end, 1 at the high end."""
        scaled = math.log(value, self.base) if self.base else value
        return (scaled - self.low) / (self.high - self.low)


def _axis(values: Sequence[float], base: int, exact: bool) -> _Axis:
    """Returns an axis over all values; unless `exact`, a linear one ends at ticks beyond them."""
    low, high = min(values), max(values)
    if base:
        first, last = math.log(low, base), math.log(high, base)
        if base == 10:
            first, last = float(math.floor(first)), float(math.ceil(last))
        last = max(last, first + 1)
        every = math.ceil((last - first + 1) / 10) if base == 2 else math.ceil((last - first) / 6)
        powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1, every)
        return _Axis(first, last, [float(base) ** power for power in powers], base)
    span = high - low
    if span <= 1e-9 * max(1.0, abs(low), abs(high)):  # a single value, apart from rounding
        span = max(1.0, abs(high))
        low, high = low - span / 2, high + span / 2
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= 5)
    numbers = range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    ticks = [round(step * number, 12) for number in numbers]
    if exact:
        return _Axis(low, high, [tick for tick in ticks if low <= tick <= high], 0)
    return _Axis(ticks[0], ticks[-1], ticks, 0)


def _drawable(points: Sequence[Point], log_x: bool, log_y: bool) -> list[Point]:
    low_x, low_y = (SMALLEST if logarithmic else -LARGEST for logarithmic in (log_x, log_y))
    return [(x, y) for x, y in points if low_x <= x <= LARGEST and low_y <= y <= LARGEST]


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """Returns names beside samples of their lines, and the number of rows; none for one line."""
    if len(names) < 2:
        return "", 0
    parts, x, row = [], 4.0, 0
    for number, name in enumerate(names):
        width = 44 + len(name) * LETTER
        if x > 4 and x + width > WIDTH:
            x, row = 4.0, row + 1
        y = 12 + row * LEGEND_ROW
        parts.append(
            _element("line", class_=f"line c{number % 4}", x1=x, x2=x + 26, y1=y, y2=y)
            + _mark(x + 13, y, number)
            + _text(x + 32, y + 5, name, "start")
        )
        x += width + 8
    return "".join(parts), row + 1


def _mark(x: float, y: float, number: int) -> str:
    kind = f"mark c{number % 4}"
    if number % 4 == 0:
        return _element("circle", class_=kind, cx=x, cy=y, r=3.5)
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in MARKS[number % 4])
    return _element("polygon", class_=kind, points=corners)


def _tick_label(value: float, power_of_ten: bool) -> str:
    if power_of_ten:
        exponent = round(math.log10(value))
        return f"{value:g}" if -3 < exponent < 4 else "10" + str(exponent).translate(SUPERSCRIPTS)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "value") -> str:
    return _element("text", text, class_=kind, x=x, y=y, text_anchor=anchor)


def _element(name: str, text: str = "", **attributes: str | float) -> str:
    """Returns an SVG element; "_" in an attribute's name becomes "-", at its end nothing."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="'
        f'{f"{value:.1f}" if isinstance(value, float) else html.escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{html.escape(text)}</{name}>"


def _svg(key: str, title: str, description: str, parts: Sequence[str], height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc">'
        + _element("title", title, id=f"{key}-title")
        + _element("desc", description, id=f"{key}-desc")
        + "".join(parts)
        + "</svg>"
    )
