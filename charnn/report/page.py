"""One page about a trained model, to be read and printed: facts, curves, samples, a look inside.

The page holds no script and asks nothing of any network, which its Content-Security-Policy says
too. No path and no name of a machine goes in; what a model brings is escaped.
"""

from __future__ import annotations

import html
import re
from importlib import resources
from pathlib import Path

from charnn.pages import style_sheet
from charnn.report import measured_sections as measured
from charnn.report import sections as parts
from charnn.report.facts import Facts
from charnn.report.html import name_shown, paragraph
from charnn.tensor_file import replacing
from charnn.version import __version__

FIELD = re.compile(r"\{\{(\w+)\}\}")
# Section: its title, and what makes it. Those that `Facts.left_out` names are a sentence instead.
SECTIONS = {
    "model": ("What it is", parts.what_it_is),
    "data": ("What it learnt from", parts.data),
    "recipe": ("How it was trained", parts.recipe),
    "curves": ("Learning curves", parts.curves),
    "held-out": ("On held-out text", measured.held_out),
    "samples": ("What it writes", measured.samples),
    "passage": ("What surprises it", measured.passage),
    "gates": ("Its gates", measured.gates),
    "units": ("What its units do", measured.units_of_labels),
    "horizon": ("How far back it looks", measured.memory),
    "speed": ("Speed and size", parts.speed),
    "again": ("Run it again", parts.again),
}


def write_report(facts: Facts, output: Path) -> None:
    """Writes the page to `output`, whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    text = make_report(facts)
    with replacing(output) as file:
        file.write(text.encode())


def make_report(facts: Facts) -> str:
    """The page of a model."""
    sections, contents = [], []
    for key, (title, make) in SECTIONS.items():
        why_not = facts.left_out.get("units" if key == "gates" else key)
        body = paragraph(why_not, "note") if why_not else make(facts)
        sections.append(
            f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{title}</h2>\n{body}\n'
            "</section>"
        )
        contents.append(f'<li><a href="#{key}">{title}</a></li>')
    fields = {
        "title": html.escape(name_shown(facts.name)),
        "lead": html.escape(parts.in_one_sentence(facts)),
        "style": style_sheet(_part("report.css")),
        "contents": "\n".join(contents),
        "sections": "\n".join(sections),
        "version": html.escape(__version__),
    }
    return FIELD.sub(lambda match: fields[match[1]], _part("report.html"))


def _part(name: str) -> str:
    return resources.files("charnn.report").joinpath(name).read_text("utf-8")
