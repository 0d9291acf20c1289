"""The layout of a text: line ends other than LF, and prose that is wrapped at a fixed width.

CRLF becomes LF unless it is kept; on request, the lines of wrapped prose are joined into
paragraphs. Both work on a stream, file by file; the first 128 KiB of a file decide its layout.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

SAMPLE_BYTES = 128 << 10  # the start of a file that tells its layout
BINARY_BYTES = 8 << 10  # a file is binary if these hold a NUL; its bytes are never changed
FEW_NEWLINES = 50  # a CR ends lines in a file with at least this many for each newline
WIDTHS = range(30, 121)  # characters of the lines of wrapped prose
ENOUGH_BREAKS = 6  # between lines of one paragraph, to recognise wrapped prose
WRAPPED_SHARE, CONTINUING_SHARE = 0.65, 0.4
LABEL_CHARACTERS = 24
# The start of a list item, a heading, a quotation or a table row, as in Markdown.
ITEM = re.compile(r"[-*+•]\s|#+\s|[|>]|\(?(?:\d{1,3}|[A-Za-z])[.)]\s")
GAP = re.compile(r"\t|   ")  # between the columns of a table


class Reading(NamedTuple):
    """Choices of reading a text: whether CRLF is kept, and whether wrapped lines are joined."""

    keep_crlf: bool = False
    unwrap: bool = False

    @classmethod
    def of_model(cls, info: Mapping[str, Any], knows_returns: bool) -> Reading:
        """Returns how the training text of a model was read; `info` is that of its checkpoint.

        An older file does not tell: its text was read with CRLF, and had some if `knows_returns`.
        """
        corpus = info.get("corpus")
        facts = corpus if isinstance(corpus, dict) else {}
        return cls(facts.get("keep_crlf", knows_returns) is True, facts.get("unwrap") is True)


DEFAULT_READING = Reading()
UNCHANGED = Reading(keep_crlf=True)


class Layout(NamedTuple):
    """The changes that a file needs.

    Attributes:
        folds: CRLF becomes LF.
        cr_ends_lines: a CR alone becomes LF too.
        width: the width at which the prose is wrapped, if its lines are to be joined.
    """

    folds: bool = False
    cr_ends_lines: bool = False
    width: int | None = None

    @classmethod
    def of(cls, sample: bytes, reading: Reading) -> Layout:
        """Returns the layout of a file that begins with `sample`."""
        if b"\0" in sample[:BINARY_BYTES]:
            return cls()
        pairs, newlines = sample.count(b"\r\n"), sample.count(b"\n")
        alone = sample.count(b"\r") - pairs
        ends = not reading.keep_crlf and alone > FEW_NEWLINES * newlines
        made = cls(not reading.keep_crlf, ends)
        return made._replace(width=wrap_width(made.fold(sample)) if reading.unwrap else None)

    def fold(self, data: bytes) -> bytes:
        """Returns data, which splits no CRLF, with the line ends of the layout."""
        if self.folds and b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
            if self.cr_ends_lines:
                data = data.replace(b"\r", b"\n")
        return data


def wrap_width(sample: bytes) -> int | None:
    """Returns the width at which the prose of a text is wrapped; None if it is not wrapped prose.

    Nearly no line is longer than the width, most breaks between two lines of a paragraph stand
    where the next word did not fit, and enough of these words begin in lower case, or have no case.
    """
    lines = [line.rstrip() for line in sample.decode("utf-8", "replace").split("\n")[:-1]]
    lengths = sorted(len(line) for line in lines if line)
    breaks = [(a, b) for a, b in pairwise(lines) if a and b]
    if len(breaks) < ENOUGH_BREAKS:
        return None
    width = lengths[len(lengths) * 99 // 100]
    if width not in WIDTHS:
        return None
    words = [b for a, b in breaks if _is_wrapped(a, b, width, width // 10)]
    continuing = sum(_continues(word) for word in words)
    wrapped = len(words) >= WRAPPED_SHARE * len(breaks)
    return width if wrapped and continuing >= CONTINUING_SHARE * len(words) else None


def join_lines(data: bytes, following: bytes, width: int) -> tuple[bytes, int]:
    """Joins the lines of paragraphs that are wrapped at `width`; returns the number of joins too.

    Blank and indented lines, list items, headings, table rows, lines that begin with a speaker's
    name and a colon, and lines with room for the next word keep their breaks. Where both sides are
    Chinese or Japanese, or the line ends with a hyphen or dash, no space is put in.

    Args:
        following: what follows `data`, at least its first line.
    """
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if not lines[-1]:  # the break at the end of data is decided by the next line
        lines[-1] = following.partition(b"\n")[0].decode("utf-8", "surrogateescape")
        last = ""
    else:
        last = lines[-1]
    parts: list[str] = []
    joined = 0
    for line, after in pairwise(lines):
        slack = width // 4 if after[:1].islower() else width // 10
        if _is_wrapped(line.rstrip(), after, width, slack):
            line = line.rstrip()
            parts += line, _separator(line, after)
            joined += 1
        else:
            parts += line, "\n"
    return "".join([*parts, last]).encode("utf-8", "surrogateescape"), joined


def _is_wrapped(line: str, after: str, width: int, slack: int) -> bool:
    """Tells whether a line ends because the first word of the next one did not fit."""
    if not line or not after or after[0].isspace() or ITEM.match(after):
        return False
    word = after[0] if _is_wide(after[0]) else after.split(maxsplit=1)[0]
    if len(line) + 1 + len(word) <= width - slack or len(word) > width // 3:
        return False
    if GAP.search(line.strip()) or GAP.search(after) or not any(map(str.isalpha, line)):
        return False
    if word[-1] in ",:" and line.startswith(word):  # an inventory: "Item, ...", "Item, ..."
        return False
    label, colon, _ = after[: LABEL_CHARACTERS + 1].partition(":")
    return not (colon and all(part[0].isupper() for part in label.split()))


def _continues(line: str) -> bool:
    return line[0].isalpha() and not line[0].isupper()


def _is_wide(character: str) -> bool:
    """Tells whether a character belongs to a script without spaces: Chinese or Japanese."""
    return unicodedata.east_asian_width(character) in "WF" and not "가" <= character <= "힣"


def _separator(line: str, after: str) -> str:
    if _is_wide(line[-1]) and _is_wide(after[0]):
        return ""
    dash = line[-1] in "-‐—–" and line[-2:-1] not in ("", " ")
    return "" if dash else " "
