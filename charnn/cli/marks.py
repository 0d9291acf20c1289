"""How `charnn sample --show` marks text on a terminal, while it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from charnn.generation import Model, Writing
    from charnn.generation.copies import CopyFinder

# Text and an ANSI style; "" is none.
Styled = tuple[str, str]

# From so many bits on. Of the 256 colours those that stand out from black and from white alike, by
# a contrast of 3.4 or more (WCAG), and bold for who tells no colours apart.
BITS = {1: "38;5;28", 2: "38;5;130", 4: "38;5;160", 8: "1;38;5;127"}
LEGEND = "bits: below 1 plain, from 1 green, from 2 brown, from 4 red, from 8 bold magenta"
UNDERLINE = "4"


class Marks(Protocol):
    """Takes the pieces of a text, and gives them back with styles."""

    def push(self, piece: str) -> list[Styled]:
        """What can be shown now."""

    def flush(self) -> list[Styled]:
        """What was held back, once no more text comes."""


class SurprisalMarks:
    """Colours each character by its surprisal under the unfiltered model."""

    def __init__(self, writing: Writing, prompted: bool) -> None:
        self._writing, self._prompted = writing, prompted
        self._shown = 0

    def push(self, piece: str) -> list[Styled]:
        """See `Marks`; the prompt, which comes first where there is one, was not chosen."""
        if self._prompted:
            self._prompted = False
            return [(piece, "")]
        assert self._writing.surprisals is not None
        bits = self._writing.surprisals[self._shown : self._shown + len(piece)]
        self._shown += len(piece)
        pairs = zip(piece, map(style_of, bits), strict=True)
        return [
            ("".join(text for text, _ in run), style)
            for style, run in groupby(pairs, key=lambda pair: pair[1])
        ]

    def flush(self) -> list[Styled]:
        """Nothing is held back."""
        return []


class CopyMarks:
    """Underlines the spans that stand in the training text."""

    def __init__(self, finder: CopyFinder, prompt: str, prompted: bool) -> None:
        self._finder, self._prompted = finder, prompted
        finder.feed(prompt)

    def push(self, piece: str) -> list[Styled]:
        """See `Marks`; the prompt is shown as it is, and counts as the beginning of a span."""
        if self._prompted:
            self._prompted = False
            return [(piece, "")]
        return [(text, UNDERLINE if copied else "") for text, copied in self._finder.push(piece)]

    def flush(self) -> list[Styled]:
        """What might have become a span."""
        return [(text, "") for text, _ in self._finder.flush()]


def style_of(bits: float) -> str:
    """The style of a character of so many bits."""
    return next((style for least, style in reversed(BITS.items()) if bits >= least), "")


class Copies:
    """How much of the texts of one command is copied from the text that the model learnt from."""

    def __init__(self, model: Model, span: int) -> None:
        """Raises CharnnError where that text is not there."""
        self.span, self._index = span, model.training_text
        self._copied = self._all = 0

    def finder(self) -> CopyFinder:
        """Finds the copied spans of one text."""
        from charnn.generation.copies import CopyFinder

        return CopyFinder(self._index, self.span)

    def share(self, writing: Writing) -> float | None:
        """The share of a text's characters that stand in copied spans; None of no text."""
        finder = self.finder()
        finder.feed(writing.prompt)
        finder.push(writing.text)
        finder.flush()
        self._copied += finder.copied
        self._all += finder.all
        return finder.copied / finder.all if finder.all else None

    def report(self) -> str:
        """One line on all texts so far."""
        share = self._copied / self._all if self._all else 0
        return (
            f"copied: {share:.1%} of {self._all:,} characters, in spans of {self.span} or more "
            "that stand in the training text"
        )


def marks_for(
    show: str | None, writing: Writing, prompted: bool, copies: Copies | None
) -> Marks | None:
    """The marks that `show` asks for; `prompted` says whether the first piece is the prompt."""
    if show == "surprisal":
        return SurprisalMarks(writing, prompted)
    if show == "copied" and copies:
        return CopyMarks(copies.finder(), writing.prompt, prompted)
    return None


def likeliest(first: Writing, others: Iterable[Writing]) -> tuple[Writing, Iterable[str]]:
    """The text of fewest bits per character, the first of equals, and its pieces.

    Of one alone the pieces come as it writes them, of several when all are written.
    """
    best: tuple[Writing, list[str]] | None = None
    for other in others:
        best = best or (first, list(first))
        pieces = list(other)
        if _bits(other) < _bits(best[0]):
            best = other, pieces
    return best or (first, first)


def _bits(writing: Writing) -> float:
    return math.inf if writing.bits_per_char is None else writing.bits_per_char
