"""Words, lines and documents with their bits, put together from characters as they come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from charnn.scoring.blocks import Block
from charnn.scoring.surprisal import Array

TEXT_KEPT = 10_000  # characters of a unit; a longer one is counted whole, and its text cut
TOKENS = re.compile(r"\S+|\s+")


class Unit(NamedTuple):
    """A word, line or document.

    Attributes:
        kind: "word", "line" or "document".
        document: which file, from 0.
        line, char: where it begins in its document, from 1.
        text: its characters, a line's without the newline; cut after `TEXT_KEPT`.
        chars, bits: all its characters, and their bits together; a line's with the newline.
        after, after_bits: the white space after a word, which belongs to no other unit.
    """

    kind: str
    document: int
    line: int
    char: int
    text: str
    chars: int
    bits: float
    after: str = ""
    after_bits: float = 0.0


def units(blocks: Iterable[Block], kind: str) -> Iterator[Unit]:
    """The words, lines or documents of a text; their bits add up to those of its characters.

    A word is what stands between white space, and owns what comes after it; white space that a
    document begins with comes after an empty word.
    """
    split = {"word": _words, "line": _lines, "document": _whole}[kind]
    unit: Unit | None = None
    line = char = 1
    for block in blocks:
        if unit is None or block.document != unit.document:
            if unit is not None and (unit.chars or unit.after or kind == "document"):
                yield unit
            line = char = 1
            unit = Unit(kind, block.document, line, char, "", 0, 0.0)
        for text, bits, closes in split(block.text, block.char_bits):
            if kind == "word" and unit.after and not text.isspace():
                yield unit
                unit = Unit(kind, block.document, line, char, "", 0, 0.0)
            unit = _longer(unit, text, bits)
            line, char = line + text.count("\n"), char + len(text)
            if closes:
                yield unit
                unit = Unit(kind, block.document, line, char, "", 0, 0.0)
    if unit is not None and (unit.chars or unit.after or kind == "document"):
        yield unit


def _longer(unit: Unit, text: str, bits: float) -> Unit:
    if unit.kind == "word" and text.isspace():
        after = (unit.after + text)[:TEXT_KEPT]
        return unit._replace(after=after, after_bits=unit.after_bits + bits)
    kept = text if unit.kind != "line" else text.removesuffix("\n")
    if unit.kind == "document":
        kept = ""
    text_kept = unit.text + kept[: TEXT_KEPT - len(unit.text)]
    return unit._replace(text=text_kept, chars=unit.chars + len(text), bits=unit.bits + bits)


def _words(text: str, bits: Array) -> Iterator[tuple[str, float, bool]]:
    yield from _parts(text, bits, [match.end() for match in TOKENS.finditer(text)], False)


def _lines(text: str, bits: Array) -> Iterator[tuple[str, float, bool]]:
    ends = [match.end() for match in re.finditer("\n", text)]
    if text and not text.endswith("\n"):
        ends.append(len(text))
    yield from _parts(text, bits, ends, True)


def _whole(text: str, bits: Array) -> Iterator[tuple[str, float, bool]]:
    if text:
        yield text, float(bits.sum()), False


def _parts(
    text: str, bits: Array, ends: list[int], by_line: bool
) -> Iterator[tuple[str, float, bool]]:
    if not ends:
        return
    starts = [0, *ends[:-1]]
    sums = np.add.reduceat(bits, starts).tolist()
    for start, end, total in zip(starts, ends, sums, strict=True):
        part = text[start:end]
        yield part, total, by_line and part.endswith("\n")
