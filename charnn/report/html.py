"""The pieces of HTML that a report is made of; whatever comes in is escaped here.

What is not printable, and what would reorder a line, is shown as an escape.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import pairwise

SURPRISAL_STEPS = (1.0, 2.0, 4.0, 8.0)  # bits, from which on the ground is another
ACTIVITY_STEPS = (0.2, 0.5, 0.8)  # of the most that a unit does
MAX_NAME = 80


def shown(text: str) -> str:
    """Text as HTML, newlines and tabs as they are."""
    return html.escape("".join(c if c in "\n\t" or c.isprintable() else _sign(c) for c in text))


def name_shown(name: str) -> str:
    """A name on one line, cut, not yet HTML."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name[:MAX_NAME]).strip() or "charnn"


def number(value: float | None, style: str = ",.4f") -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, style)


def paragraph(text: str, name: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(name)}>{shown(text)}</p>"


def facts_list(facts: Iterable[tuple[str, str]]) -> str:
    """Names with what they are."""
    rows = "".join(f"<dt>{shown(a)}</dt><dd>{shown(b)}</dd>" for a, b in facts)
    return f"<dl>{rows}</dl>"


def in_columns(facts: Iterable[tuple[str, str]]) -> str:
    """Many short names with what they are."""
    rows = "".join(f"<div><dt>{shown(a)}</dt><dd>{shown(b)}</dd></div>" for a, b in facts)
    return f'<dl class="columns">{rows}</dl>'


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], own: Sequence[str] = ()
) -> str:
    """A table whose first column names the rows; those that begin with one of `own` are bold."""
    top = "".join(f'<th scope="col">{shown(head)}</th>' for head in heads)
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td>{shown(cell)}</td>" for cell in rest)
        name = _class("own" if first in own else "")
        body.append(f'<tr{name}><th scope="row">{shown(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><caption>{shown(caption)}</caption><thead><tr>{top}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(chart: str, caption: str) -> str:
    """A chart with its caption; "" for none."""
    return f"<figure>{chart}<figcaption>{shown(caption)}</figcaption></figure>" if chart else ""


def by_surprisal(passage: Iterable[tuple[str, float]], of_lines: bool = False) -> str:
    """Characters on grounds by their bits, which each has as its title; short lines in columns."""
    parts = []
    for character, bits in passage:
        level = sum(bits >= step for step in SURPRISAL_STEPS)
        kind = f' class="s{level}"' if level else ""
        parts.append(f'<span{kind} title="{bits:.2f} bits">{_with_signs(character)}</span>')
    return _text(parts, of_lines)


def surprisal_legend() -> str:
    """What the grounds of `by_surprisal` mean."""
    bounds = [f"{step:g}" for step in SURPRISAL_STEPS]
    names = [
        f"below {bounds[0]} bit",
        *(f"{a} to {b} bits" for a, b in pairwise(bounds)),
        f"{bounds[-1]} bits or more",
    ]
    return _legend([(f"s{level}" if level else "", name) for level, name in enumerate(names)])


def by_activity(
    passage: Iterable[tuple[str, float, bool]], most: float, says: str, of_lines: bool = False
) -> str:
    """Pieces on grounds by a unit's value, which each has as its title; labelled: underlined."""
    parts = []
    for piece, value, labelled in passage:
        level = sum(abs(value) >= step * most > 0 for step in ACTIVITY_STEPS)
        names = [f"{'n' if value < 0 else 'p'}{level}"] * bool(level) + ["in"] * labelled
        kind = f' class="{" ".join(names)}"' if names else ""
        title = f"{value:+.2f}" + (f", {says}" if labelled else "")
        if piece:
            parts.append(f'<span{kind} title="{shown(title)}">{_with_signs(piece)}</span>')
    return _text(parts, of_lines)


def activity_legend() -> str:
    """What the grounds of `by_activity` mean."""
    a, b, c = (f"{step:.0%}" for step in ACTIVITY_STEPS)
    rows = [(f"n{k}", f"−{step} or less") for k, step in ((3, c), (2, b), (1, a))]
    rows += [("", "between")]
    rows += [(f"p{k}", f"{step} or more") for k, step in ((1, a), (2, b), (3, c))]
    return _legend([*rows, ("in", "has the label")])


def _text(parts: Sequence[str], of_lines: bool) -> str:
    return f'<p class="text{" of-lines" if of_lines else ""}">{"".join(parts)}</p>'


def _legend(rows: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<li><span{_class(name)}>abc</span> {shown(text)}</li>" for name, text in rows)
    return f'<ul class="legend">{items}</ul>'


def _with_signs(text: str) -> str:
    """With a sign where a line ends, since that is something to predict as well."""
    return shown(text).replace("\n", "<b class='sign'>↵</b>\n")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _sign(character: str) -> str:
    code = ord(character)
    if character == " " or code == 0xA0:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # stands for a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
