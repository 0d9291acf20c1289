"""Marks of `charnn sample --show`: colours for surprisal, underlines for copied spans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING

from charnn.cli.soft_wrap import Styled
from charnn.config import SURPRISAL_BITS
from charnn.errors import CharnnError

if TYPE_CHECKING:
    from charnn.generation import Model, Writing
    from charnn.generation.copies import CopyFinder
    from charnn.text.text_index import TextIndex


COPIED_SPAN = 20  # characters from which on a span of the training text counts as copied
# ANSI styles of the steps of `SURPRISAL_BITS`. The colours have a contrast of 3.4 or more (WCAG) to
# black and to white; bold is for people who do not tell colours apart.
COLOURS = {"green": "38;5;28", "brown": "38;5;130", "red": "38;5;160", "bold magenta": "1;38;5;127"}
BITS = dict(zip(SURPRISAL_BITS, COLOURS.values(), strict=True))
LEGEND = f"bits: below {SURPRISAL_BITS[0]} plain" + "".join(
    f", from {bits} {colour}" for bits, colour in zip(SURPRISAL_BITS, COLOURS, strict=True)
)
UNDERLINE = "4"


def style_of(bits: float) -> str:
    """Returns the style of a character with a surprisal of `bits`."""
    return next((style for least, style in reversed(BITS.items()) if bits >= least), "")


def coloured_text(text: str, bits: Iterable[float]) -> Iterator[Styled]:
    """Yields a text in parts, coloured by the surprisal of each character."""
    pairs = zip(text, map(style_of, bits), strict=True)
    for style, part in groupby(pairs, key=lambda pair: pair[1]):
        yield "".join(character for character, _ in part), style


class Copies:
    """Counts how much of a command's texts is copied from the training text."""

    def __init__(self, model: Model) -> None:
        """Raises CharnnError if the training text is missing."""
        self.index = model.training_text
        self._copied = self._all = 0

    def share(self, writing: Writing) -> float | None:
        """Returns the share of a text's characters in copied spans; None for an empty text."""
        copied, count = count_copied(self.index, writing.prompt, writing.text)
        self._copied += copied
        self._all += count
        return copied / count if count else None

    def report(self) -> str:
        """Returns one line about all texts so far."""
        return copied_line(self._copied, self._all)


def finder_after(index: TextIndex, before: str) -> CopyFinder:
    """Returns a finder of the copied spans of a text; the first may begin in the text `before`."""
    from charnn.generation.copies import CopyFinder

    finder = CopyFinder(index, COPIED_SPAN)
    finder.feed(before[-COPIED_SPAN:])
    return finder


def count_copied(index: TextIndex, before: str, text: str) -> tuple[int, int]:
    """Returns how many characters of a text that follows `before` are copied, and how many all."""
    finder = finder_after(index, before)
    finder.push(text)
    finder.flush()
    return finder.copied, finder.all


def copied_line(copied: int, count: int) -> str:
    """Returns a line about the share of copied characters."""
    return (
        f"copied: {copied / max(1, count):.1%} of {count:,} characters, in spans of {COPIED_SPAN} "
        "or more of the training text"
    )


def marked(
    pieces: Iterable[str], writing: Writing, show: str | None, prompted: bool, copies: Copies | None
) -> Iterator[Styled]:
    """Yields the pieces of a text with the marks of `--show`.

    With `prompted` the first piece is the prompt, which gets no marks: the model did not choose it.
    """
    pieces = iter(pieces)
    if prompted:
        yield from ((piece, "") for piece in islice(pieces, 1))
    if copies and show == "copied":
        yield from underlined(pieces, finder_after(copies.index, writing.prompt))
        return
    shown = 0
    for piece in pieces:
        if writing.surprisals is not None and show:
            yield from coloured_text(piece, writing.surprisals[shown : shown + len(piece)])
            shown += len(piece)
        else:
            yield piece, ""


def underlined(texts: Iterable[str], finder: CopyFinder) -> Iterator[Styled]:
    """Yields texts in parts, each copied span underlined as a whole, also after Ctrl-C."""
    try:
        for text in texts:
            yield from _styled(finder.push(text))
    except (KeyboardInterrupt, CharnnError):
        yield from _styled(finder.flush())
        raise
    yield from _styled(finder.flush())


def _styled(spans: Iterable[tuple[str, bool]]) -> Iterator[Styled]:
    return ((text, UNDERLINE if copied else "") for text, copied in spans)
