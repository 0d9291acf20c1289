"""Line breaks of a terminal at spaces, for text that streams in pieces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

Styled = tuple[str, str]  # text and an ANSI style, "" for none

TAB = 8
PARTS = re.compile(r"\n|\t| +|[^\n\t ]+")


class SoftWrap:
    """Breaks lines before a word that would not fit; holds a word back until it is complete.

    A word longer than a line is broken by the terminal. Chinese and Japanese break anywhere.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word: list[Styled] = []
        self._word_columns = 0

    def push(self, text: str, style: str, columns: int) -> Iterator[Styled]:
        """Takes the next piece; yields what is now known to be shown on a line of `columns`."""
        for part in PARTS.findall(text):
            if part == "\n":
                yield from self.flush()
                yield part, style
                self._column = 0
            elif part == "\t":
                yield from self.flush()
                yield part, style
                self._column += TAB - self._column % TAB
            elif part[0] == " ":
                yield from self.flush()
                shown = part[: max(0, columns - self._column)]
                if shown:
                    yield shown, style
                self._column += len(shown)
            else:
                yield from self._push_word(part, style, columns)

    def _push_word(self, text: str, style: str, columns: int) -> Iterator[Styled]:
        for piece in re.findall("[ -~]+|[^ -~]", text):
            size = len(piece) if piece.isascii() else _width(piece)
            if size == 2:
                yield from self.flush()
            self._word.append((piece, style))
            self._word_columns += size
            if self._column and self._column + self._word_columns > columns:
                yield "\n", ""
                self._column = 0
            if size == 2 or self._word_columns > columns:
                yield from self.flush()
                self._column = (self._column - 1) % columns + 1  # a full line is not left yet

    def flush(self) -> Iterator[Styled]:
        """Yields the word that was held back."""
        yield from self._word
        self._column += self._word_columns
        self._word, self._word_columns = [], 0


def soft_wrapped(text: str, columns: int) -> list[str]:
    """Returns the lines of a whole text on a terminal; those of the text if `columns` is 0."""
    wrap = SoftWrap()
    parts = [*wrap.push(text, "", columns), *wrap.flush()] if columns else [(text, "")]
    return "".join(part for part, _ in parts).split("\n")


def folded(line: str, columns: int) -> str:
    """Breaks a line of a message at spaces; what follows is indented by two columns more.

    A line with a tab is a row of a table for programs, and stays whole.
    """
    if not columns or "\t" in line or len(soft_wrapped(line, columns)) == 1:
        return line
    text = line.lstrip(" ")
    margin = " " * (len(line) - len(text) + 2)
    rows = soft_wrapped(text, max(1, columns - len(margin)))
    return "\n".join([margin[2:] + rows[0].rstrip(), *(margin + row.rstrip() for row in rows[1:])])


def _width(character: str) -> int:
    """Returns how many columns a character takes: 0, 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
