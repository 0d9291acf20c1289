"""The desk's display: text as it is written, coloured on request, and columns side by side."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from charnn.cli.console import QUIET, Output, say, visible
from charnn.cli.marks import (
    BITS,
    COPIED_SPAN,
    UNDERLINE,
    copied_line,
    count_copied,
    finder_after,
    style_of,
    underlined,
)
from charnn.cli.soft_wrap import Styled, soft_wrapped

if TYPE_CHECKING:
    from charnn.desk.desk import Desk
    from charnn.desk.passages import Passage
    from charnn.generation.writer import TextPiece

MIN_COLUMN = 24  # characters; narrower columns are shown below each other
MAX_CONTEXT = 400  # characters of the text that are shown again
OFF = "off"
FAINT, BOLD = "2", "1"
Painter = Callable[[Iterable["TextPiece"]], Iterator[Styled]]  # of the pieces of a text


class Colouring(NamedTuple):
    """A way to colour the text that follows a passage; `legend` is ANSI numbers and meanings."""

    painter: Callable[[Desk, Passage | None], Painter]
    legend: list[tuple[str, str]]


def _surprisal(desk: Desk, passage: Passage | None) -> Painter:
    return lambda pieces: (
        (piece.text, style_of(piece.nats / math.log(2) / len(piece.text))) for piece in pieces
    )


def _copied(desk: Desk, passage: Passage | None) -> Painter:
    finder = finder_after(desk.model.training_text, desk.tree.text(passage))
    return lambda pieces: underlined((piece.text for piece in pieces), finder)


COLOURINGS: dict[str, Colouring] = {
    "surprisal": Colouring(
        _surprisal,
        [("", "below 1 bit"), *((style, f"from {bits}") for bits, style in BITS.items())],
    ),
    "copied": Colouring(
        _copied, [(UNDERLINE, f"{COPIED_SPAN} or more characters in a row from the training text")]
    ),
}


class Screen:
    """Shows a desk: the text on stdout, messages on stderr.

    On a terminal a continuation is shown in the line that it belongs to, which is repeated if
    anything else was shown since. A pipe receives each character once, unless something is undone.

    Attributes:
        colouring: a key of `COLOURINGS`, or `OFF`.
        interrupted: set by Ctrl-C; whatever is being drawn then stops.
        at_text: whether the cursor is still where the text ended when it was last shown.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.colouring = OFF
        self.interrupted = self.at_text = False
        self._shown_to: Passage | None = None

    def say(self, message: str, style: str = "") -> None:
        """Shows a message."""
        if self.output.terminal:
            self.output.end_line()
            self.at_text = False
        self.output.flush()
        say(message, style)

    def note(self, message: str) -> None:
        """Shows a message that `--quiet` leaves out."""
        if not QUIET.get():
            self.say(message)

    def until_interrupted(self, pieces: Iterable[TextPiece]) -> Iterator[TextPiece]:
        """Yields pieces until Ctrl-C is pressed."""
        for piece in pieces:
            yield piece
            if self.interrupted:
                return

    def show_continuation(
        self, desk: Desk, base: Passage | None, pieces: Generator[TextPiece], typed: int = 0
    ) -> None:
        """Shows what follows `base` while it is drawn, until it is complete or interrupted.

        The last `typed` characters of `base` are new, too.
        """
        before = desk.tree.text(base)
        new = len(before) - typed
        begin = new
        if not self.at_text or self._shown_to is not (base.parent if base and typed else base):
            self.output.end_line()
            begin = max(before.rfind("\n", 0, new) + 1, new - MAX_CONTEXT)
        self._write(desk, base, begin, new)
        length, paint = 0, self._painter(desk, base)
        with closing(pieces):  # the desk then has everything that was drawn
            for text, style in paint(self.until_interrupted(pieces)):
                length += len(text)
                self.output.write(text, style)
        if self.interrupted:
            if rest := desk.text[len(before) + length :]:  # held back for a possible stop string
                self.output.write(rest)
        elif length == 0 and desk.settings.max_tokens:
            self.note("nothing was added: stop, until or regex (see /set) ends it at once")
        self._end_at(desk)
        if self.colouring == "copied" and (new_text := desk.text[len(before) :]):
            self.note(copied_line(*count_copied(desk.model.training_text, before, new_text)))

    def show_end(self, desk: Desk, lines: int) -> None:
        """Shows the last lines of a text on a terminal."""
        if not self.output.terminal:
            return
        text = desk.text
        if not text:
            self.say("(the text is empty)")
            return
        begin = len(text)
        for _ in range(lines):
            begin = text.rfind("\n", 0, max(0, begin - 1)) + 1
        self.output.end_line()
        self._write(desk, desk.passage, max(begin, len(text) - lines * MAX_CONTEXT))
        self.finish_line()

    def show_all(self, desk: Desk) -> None:
        """Shows the whole text."""
        self.output.end_line()
        self._write(desk, desk.passage)
        self._end_at(desk)

    def _end_at(self, desk: Desk) -> None:
        self._shown_to, self.at_text = desk.passage, True
        self.finish_line()

    def finish_line(self) -> None:
        """Ends the line on a terminal and flushes the output."""
        if self.output.terminal:
            self.output.end_line()
        self.output.flush()

    def _painter(self, desk: Desk, passage: Passage | None) -> Painter:
        if self.colouring == OFF or not self.output.colour:
            return lambda pieces: ((piece.text, "") for piece in pieces)
        return COLOURINGS[self.colouring].painter(desk, passage)

    def _write(self, desk: Desk, passage: Passage | None, begin: int = 0, new: int = 0) -> None:
        """Writes the text that ends with a passage from character `begin` on.

        Without a colouring, text before character `new` is faint and typed text after it bold.
        """
        if not self.output.colour:
            if text := desk.tree.text(passage)[begin:]:
                self.output.write(text)
            return
        pieces, stop = desk.tree.pieces(passage), 0
        if self.colouring == OFF:
            parts = _by_origin(pieces, new)
        else:
            parts = self._painter(desk, None)(piece for _, piece in pieces)
        for text, style in parts:
            start, stop = stop, stop + len(text)
            if stop > begin:
                self.output.write(text[max(0, begin - start) :], style)

    def show_legend(self) -> None:
        """Explains the colours."""
        if self.colouring == OFF:
            return
        if not self.output.colour:
            self.say("no colours: stdout is no terminal, or NO_COLOR or TERM=dumb is set")
            return
        self.output.end_line()
        for style, text in COLOURINGS[self.colouring].legend:
            self.output.write(f"[{text}]", style)
            self.output.write(" ")
        self.finish_line()

    def show_columns(self, titles: list[str], texts: list[str]) -> None:
        """Shows texts side by side where there is room, or else below each other."""
        width = shutil.get_terminal_size().columns
        if texts and width // len(texts) >= MIN_COLUMN:
            lines = _side_by_side(titles, texts, width)
        else:
            lines = []
            for title, text in zip(titles, texts, strict=True):
                lines += f"-- {title}", *soft_wrapped(visible(text), width)
        for line in lines:
            self.say(line)


def _by_origin(pieces: Iterable[tuple[str, TextPiece]], new: int) -> Iterator[Styled]:
    """Yields pieces with their styles: faint before character `new`, after it bold if typed."""
    start = 0
    for kind, piece in pieces:
        yield piece.text, FAINT if start < new else BOLD if kind == "typed" else ""
        start += len(piece.text)


def _side_by_side(titles: list[str], texts: list[str], width: int) -> list[str]:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, width=width)
    for title in titles:
        table.add_column(title, overflow="fold", ratio=1)
    table.add_row(*(Text(visible(text).expandtabs(4)) for text in texts))
    file = StringIO()
    Console(file=file, width=width, color_system=None, legacy_windows=False).print(table)
    return [line.rstrip() for line in file.getvalue().split("\n")[:-1]]
