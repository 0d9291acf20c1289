"""The charts of a report as PNG, drawn by resvg from the very SVG of the page.

It takes the extra ``plots``. The page's style sheet speaks of colours as variables, which resvg
does not know, so those of the light page are put in for them; the paper is white, as in print.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from charnn.errors import CharnnError, ConfigError, FileError
from charnn.tensor_file import os_error_line, replacing

CHART = re.compile(r'<svg class="chart".*?</svg>', re.DOTALL)
KEY = re.compile(r'<title id="([a-z-]+)-title">')
VARIABLE = re.compile(r"var\(--([\w-]+)\)")
FONTS = "DejaVu Sans, Noto Sans, Liberation Sans, Helvetica, Arial"  # with ⁻⁸ and the like first
PIXELS = 1440  # across: three for one of the page


def require_resvg() -> Any:
    """The module that draws.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("resvg_py")
    except ImportError:
        raise ConfigError(
            "--png needs the package resvg-py: pip install 'charnn[plots]', or leave --png out"
        ) from None


def require_folder(folder: Path) -> None:
    """Raises FileError where charts cannot be put into `folder`, which may be yet to be made."""
    if folder.exists() and not folder.is_dir():
        raise FileError(f"--png {folder} is a file: name a folder for the charts")


def write_charts(page: str, style: str, folder: Path) -> list[Path]:
    """Writes each chart of a page to `folder`, named by its key: whole or not at all, each.

    Raises:
        FileError: the folder or a file cannot be written.
        CharnnError: there is no font to write with.
    """
    resvg = require_resvg()
    require_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(os_error_line(error, folder, "make the folder")) from error
    plain = plain_style(style)
    _require_font(resvg)
    written = []
    for chart in CHART.findall(page):
        found = KEY.search(chart)
        assert found, "every chart has a title"
        path = folder / f"{found[1]}.png"
        with replacing(path) as file:
            file.write(_draw(resvg, _whole(chart), plain))
        written.append(path)
    return written


def plain_style(style: str) -> str:
    """The rules of a style sheet that are for charts, with the colours of the light page."""
    light = style[: style.index("@media")]
    values = dict(re.findall(r"--([\w-]+):\s*([^;]+);", light))
    rules = re.findall(r"^\.[^{}\n]*\{[^{}]*\}.*$", style, re.MULTILINE)
    wanted = (".chart", ".grid", ".axis", ".line", ".mark", ".trough")
    kept = [rule for rule in rules if rule.startswith(wanted)]
    text = VARIABLE.sub(lambda match: values[match[1]], "\n".join(kept))
    # Families by name, since resvg knows no system-ui; the first is wide, so a little smaller.
    named = rf"font-size: 14px; font-family: {FONTS}, sans-serif;"
    return re.sub(r"font: \d+px [^;]+;", named, text)


def _whole(chart: str) -> str:
    """A chart as a document of its own."""
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def _draw(resvg: Any, svg: str, style: str) -> bytes:
    return bytes(
        resvg.svg_to_bytes(svg_string=svg, style_sheet=style, background="white", width=PIXELS)
    )


def _require_font(resvg: Any) -> None:
    """Raises CharnnError where no font is installed: a chart would come out without its words."""
    sizes = 'viewBox="0 0 40 20" width="40" height="20"'
    blank, written = (
        bytes(
            resvg.svg_to_bytes(
                svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" {sizes}>'
                f'<text x="2" y="15" font-family="{FONTS}, sans-serif">{text}</text></svg>',
                background="white",
            )
        )
        for text in ("", "0")
    )
    if blank == written:
        raise CharnnError(
            "no font was found to write on charts with: install one, such as DejaVu Sans"
        )
