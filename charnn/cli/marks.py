"""Marks of `charnn sample --show`: colours for surprisal, underlines for copied spans."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from charnn.generation import Model, Writing
    from charnn.generation.copies import CopyFinder

Styled = tuple[str, str]  # text and an ANSI style, "" for none

COPIED_SPAN = 20  # characters from which on a span of the training text counts as copied
# Styles by the lowest number of bits. The colours have a contrast of 3.4 or more (WCAG) to black
# and to white; bold is for people who do not tell colours apart.
BITS = {1: "38;5;28", 2: "38;5;130", 4: "38;5;160", 8: "1;38;5;127"}
LEGEND = "bits: below 1 plain, from 1 green, from 2 brown, from 4 red, from 8 bold magenta"
UNDERLINE = "4"


class Marks(Protocol):
    """Adds styles to the pieces of a text."""

    def push(self, piece: str) -> list[Styled]:
        """Returns the parts that can be shown now."""

    def flush(self) -> list[Styled]:
        """Returns the parts that were held back, after the last piece."""


class SurprisalMarks:
    """Colours each character by its surprisal under the unfiltered model."""

    def __init__(self, writing: Writing, prompted: bool) -> None:
        self._writing, self._prompted = writing, prompted
        self._shown = 0

    def push(self, piece: str) -> list[Styled]:
        """Returns the piece, coloured; the prompt is not coloured, since nothing was chosen."""
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
        """Returns nothing: no part is held back."""
        return []


class CopyMarks:
    """Underlines the spans that occur in the training text."""

    def __init__(self, finder: CopyFinder, prompt: str, prompted: bool) -> None:
        self._finder, self._prompted = finder, prompted
        finder.feed(prompt)

    def push(self, piece: str) -> list[Styled]:
        """Returns whole spans; the prompt is not underlined, but may begin a span."""
        if self._prompted:
            self._prompted = False
            return [(piece, "")]
        return [(text, UNDERLINE if copied else "") for text, copied in self._finder.push(piece)]

    def flush(self) -> list[Styled]:
        """Returns the end of the text, too short for a span."""
        return [(text, "") for text, _ in self._finder.flush()]


def style_of(bits: float) -> str:
    """Returns the style of a character with a surprisal of `bits`."""
    return next((style for least, style in reversed(BITS.items()) if bits >= least), "")


class Copies:
    """Counts how much of a command's texts is copied from the training text."""

    def __init__(self, model: Model, span: int) -> None:
        """Raises CharnnError if the training text is missing."""
        self.span, self._index = span, model.training_text
        self._copied = self._all = 0

    def finder(self) -> CopyFinder:
        """Returns a new finder of the copied spans of one text."""
        from charnn.generation.copies import CopyFinder

        return CopyFinder(self._index, self.span)

    def share(self, writing: Writing) -> float | None:
        """Returns the share of a text's characters in copied spans; None for an empty text."""
        finder = self.finder()
        finder.feed(writing.prompt)
        finder.push(writing.text)
        finder.flush()
        self._copied += finder.copied
        self._all += finder.all
        return finder.copied / finder.all if finder.all else None

    def report(self) -> str:
        """Returns one line about all texts so far."""
        share = self._copied / self._all if self._all else 0
        return (
            f"copied: {share:.1%} of {self._all:,} characters, in spans of {self.span} or more "
            "of the training text"
        )


def marks_for(
    show: str | None, writing: Writing, prompted: bool, copies: Copies | None
) -> Marks | None:
    """Returns the marks for `--show`; `prompted`: the first piece is the prompt."""
    if show == "surprisal":
        return SurprisalMarks(writing, prompted)
    if show == "copied" and copies:
        return CopyMarks(copies.finder(), writing.prompt, prompted)
    return None
