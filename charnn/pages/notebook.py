"""HTML for notebooks: the card of a model, and a text coloured by surprisal.

Notebooks have their own themes and may drop style sheets, so all styles are inline.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from charnn.config import SURPRISAL_BITS
from charnn.pages import level, plain_name, read, records, render, visible
from charnn.pages.charts import HEIGHT, LEGEND_ROW, WIDTH, line_chart, standalone

MAX_SHOWN = 20_000  # characters of a coloured text


def card(title: str, rows: records.Rows, info: dict[str, Any], protocol: str) -> str:
    """Returns facts about a model as a table, and its learning curve under a protocol."""
    series = records.losses(info, protocol)
    drawn = line_chart("curve", "Loss over the steps", "", series, "step", "loss, nats a token")
    picture = standalone(drawn, WIDTH, HEIGHT + LEGEND_ROW) if drawn else ""
    values = {
        "title": plain_name(title),
        "rows": rows,
        "curve": base64.b64encode(picture.encode()).decode("ascii"),
    }
    return render(read("charnn.pages", "card.html"), values)


def coloured(text: str, bits: Iterable[float]) -> str:
    """Returns a text coloured by surprisal, in the light colours of the pages."""
    style = read("charnn.pages", "base.css")
    colours = [re.findall(rf"--s{number}: (#\w+)", style)[0] for number in (1, 2, 3, 4)]
    ink = re.findall(r"--ink: (#\w+)", style)[0]
    parts = []
    for character, each in zip(text[:MAX_SHOWN], bits, strict=False):
        reached = level(each, SURPRISAL_BITS)
        look = f"background: {colours[reached - 1]}; color: {ink}" if reached else ""
        shown = escape(visible(character))
        parts.append(f'<span style="{look}" title="{each:.2f} bits">{shown}</span>')
    more = f"\n… and {len(text) - MAX_SHOWN:,} more characters" if len(text) > MAX_SHOWN else ""
    return f'<pre style="white-space: pre-wrap">{"".join(parts)}{more}</pre>'
