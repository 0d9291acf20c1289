"""Charts: well-formed SVG inside its frame, with words for screen readers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.pages.charts import Bar, Series, bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def parse(drawn):
    return ElementTree.fromstring(drawn)  # noqa: S314 - charnn's own


def numbers(element, name):
    return [[float(n) for n in pair.split(",")] for pair in element.get(name).split()]


@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(allow_nan=True)), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_all_drawable_points_lie_inside_the_chart(points, log_x, log_y):
    series = [Series("<e>", points)]
    drawn = line_chart("k", "a<b", "c&d", series, "x", "y", log_x=log_x, log_y=log_y)
    if drawn:
        (line,) = parse(drawn).iterfind("polyline")
        for x, y in numbers(line, "points"):
            assert 0 <= x <= 480
            assert 0 <= y <= 330


def test_a_chart_without_drawable_points_is_empty():
    assert "" == line_chart("k", "t", "d", [Series("a", [(0, float("nan"))])], "x", "y")


def test_bars_are_as_long_as_their_shares():
    bars = [Bar("a", [(0.25, 0), (0.75, 1)], "x"), Bar("b", [(0.5, 0)], "y")]
    rects = parse(bar_chart("k", "t", "d", bars, 1.0)).findall("rect")
    room = float(rects[0].get("width"))
    lengths = [float(each.get("width")) / room for each in rects if "fill" in each.get("class")]
    assert [0.25, 0.75, 0.5] == pytest.approx(lengths, abs=1e-3)


@pytest.mark.parametrize(("low", "high"), [(0, 618.0), (1.39, 2.13), (0.0, 0.07), (1.5, 1.50001)])
def test_ticks_are_round_and_inside_the_range(low, high):
    points = [(low, 0.0), (high, 1.0)]
    root = parse(line_chart("k", "t", "d", [Series("a", points)], "x", "y", x_range=(low, high)))
    labels = [t.text for t in root.iterfind("text") if t.get("text-anchor") == "middle"]
    ticks = [float(label) for label in labels if label != "x"]
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)


def test_a_range_clips_lines_and_draws_named_levels():
    line = Series("a", [(0, 5), (1, 1), (9, 0)], dots=[(1, 1)])
    options = {"x_range": (0, 2), "y_range": (0, 2), "levels": {"other": 0.5}}
    root = parse(line_chart("k", "t", "d", [line], "x", "y", **options))
    (clipped,) = root.iterfind("g")
    assert "url(#k-clip)" == clipped.get("clip-path")
    assert "k-clip" == root.find("clipPath").get("id")
    assert 1 == len(clipped.findall("circle"))
    assert "other 0.5000" in [text.text for text in root.iterfind("text")]
