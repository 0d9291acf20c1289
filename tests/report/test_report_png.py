"""Charts as pictures: drawn from the page's own, in its colours, on white paper."""

from __future__ import annotations

import re
import struct
import sys
import zlib
from importlib import resources

import numpy as np
import pytest
from typer.testing import CliRunner

import charnn.cli
from charnn.errors import CharnnError, ConfigError, FileError
from charnn.pages import style_sheet
from charnn.report import png
from charnn.report.charts import Bar, Series, bar_chart, line_chart

OWN = resources.files("charnn.report").joinpath("report.css").read_text("utf-8")
STYLE = style_sheet(OWN)
LINES = line_chart("two", "t", "d", [Series("a", [(1, 1), (2, 2)]), Series("b", [(1, 2), (2, 1)])],
                   "x", "y")  # fmt: skip
BARS = bar_chart("bars", "t", "d", [Bar("a", [(0.5, 0), (0.5, 1)], "half")], 1.0)
COLOURS = {
    name: bytes.fromhex(value) for name, value in re.findall(r"--(\w+): #(\w{6});", STYLE[:900])
}


def pixels(data):
    """(height, width, 4) of a PNG of eight bits that is not interlaced."""
    assert b"\x89PNG\r\n\x1a\n" == data[:8]
    at, packed = 8, b""
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        packed += body * (kind == b"IDAT")
        at += size + 12
    assert 8 == depth
    channels = {2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    image, above = np.zeros((height, width * channels), np.uint8), np.zeros(width * channels, int)
    for y, (kind, *_) in enumerate(rows[:, :1].tolist()):
        row = rows[y, 1:].astype(int)
        if kind in (1, 3, 4):
            for x in range(len(row)):
                left = row[x - channels] if x >= channels else 0
                corner = above[x - channels] if x >= channels else 0
                if kind == 1:
                    guess = left
                elif kind == 3:
                    guess = (left + above[x]) // 2
                else:
                    near = left + above[x] - corner
                    guess = min((left, above[x], corner), key=lambda v, near=near: abs(v - near))
                row[x] = (row[x] + guess) % 256
        elif kind == 2:
            row = (row + above) % 256
        image[y], above = row, row
    return image.reshape(height, width, channels)[:, :, :3]


def share(image, colour):
    return float((image == np.frombuffer(colour, np.uint8)).all(axis=2).mean())


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(png, "PIXELS", 240)


def test_charts_are_drawn_in_the_colours_of_the_page_on_white(tmp_path, small):
    written = png.write_charts(f"<p>{LINES}</p>{BARS}", STYLE, tmp_path / "a" / "plots")
    assert ["two.png", "bars.png"] == [path.name for path in written]
    assert {"two.png", "bars.png"} == {path.name for path in (tmp_path / "a" / "plots").iterdir()}
    lines, bars = (pixels(path.read_bytes()) for path in written)
    assert (240, 240) == (lines.shape[1], bars.shape[1])
    assert share(lines, b"\xff\xff\xff") > 0.8
    assert b"\xff\xff\xff" == lines[0, 0].tobytes() == lines[-1, -1].tobytes()
    for colour in ("c0", "c1"):
        assert share(lines, COLOURS[colour]) > 0.0003
        assert share(bars, COLOURS[colour]) > 0.1
    assert (lines.astype(int).sum(axis=2) < 300).sum() > 20  # letters


def test_no_variable_and_no_layout_is_left_in_the_style():
    plain = png.plain_style(STYLE)
    assert "var(" not in plain
    assert "font-size: 14px" in plain
    assert {"chart", "grid", "axis", "line", "mark", "trough"} == set(
        re.findall(r"^\.(\w+)", plain, re.MULTILINE)
    )


def test_a_picture_is_replaced_and_a_file_is_no_folder(tmp_path, small):
    (tmp_path / "two.png").write_text("old")
    png.write_charts(LINES, STYLE, tmp_path)
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileError, match="is a file"):
        png.write_charts(LINES, STYLE, tmp_path / "two.png")
    with pytest.raises(FileError, match="cannot make the folder"):
        png.write_charts(LINES, STYLE, tmp_path / "two.png" / "plots")


def test_without_a_font_there_are_no_charts_without_words(tmp_path, monkeypatch):
    class Bare:
        @staticmethod
        def svg_to_bytes(**_):
            return b"white"

    monkeypatch.setattr(png, "require_resvg", lambda: Bare)
    with pytest.raises(CharnnError, match="no font was found"):
        png.write_charts(LINES, STYLE, tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_what_is_missing_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    def report(*words):
        return CliRunner().invoke(
            charnn.cli.app, ["report", "-o", str(tmp_path / "a.html"), *words]
        )

    (tmp_path / "file").touch()
    found = report("--png", str(tmp_path / "file"))
    assert (1, True) == (found.exit_code, "is a file" in found.stderr)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    found = report("--png", str(tmp_path / "plots"))
    assert 2 == found.exit_code
    assert "pip install 'charnn[plots]'" in found.stderr
    with pytest.raises(ConfigError):
        png.require_resvg()
