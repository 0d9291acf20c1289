"""What the desk shows: text as it is written, coloured on request, and columns side by side."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from charnn.cli.console import say, visible
from charnn.cli.marks import BITS, UNDERLINE, style_of
from charnn.cli.output import Output
from charnn.config import COPIED_SPAN

if TYPE_CHECKING:
    from charnn.desk.desk import Desk
    from charnn.desk.points import Piece, Point

# Below this many characters, columns stand below each other.
MIN_COLUMN = 24
MAX_CONTEXT = 400
OFF = "off"
OLD, TYPED = "2", "1"  # faint, bold
# Pieces of the text in their order, to ANSI numbers.
Painter = Callable[["Piece"], str]


class Show(NamedTuple):
    """A way to colour a text.

    Attributes:
        painter: makes the painter of what comes after a point of a desk; None is the beginning.
        legend: ANSI numbers, and what they mean.
    """

    painter: Callable[[Desk, Point | None], Painter]
    legend: list[tuple[str, str]]


def _surprisal(desk: Desk, point: Point | None) -> Painter:
    def style(piece: Piece) -> str:
        return style_of(piece.nats / math.log(2) / len(piece.text))

    return style


def _copied(desk: Desk, point: Point | None) -> Painter:
    from charnn.generation.guides import to_bytes

    index = desk.model.training_text
    latest = desk.tree.text(point)[-COPIED_SPAN:] if point else ""

    def style(piece: Piece) -> str:
        nonlocal latest
        latest = (latest + piece.text)[-COPIED_SPAN:]
        whole = len(latest) == COPIED_SPAN
        return UNDERLINE if whole and to_bytes(latest) in index else ""

    return style


# What `/show` can show, beside OFF.
SHOWS: dict[str, Show] = {
    "surprisal": Show(
        _surprisal,
        [("", "below 1 bit"), *((style, f"from {bits}") for bits, style in BITS.items())],
    ),
    "copied": Show(_copied, [(UNDERLINE, f"ends {COPIED_SPAN} characters of the training text")]),
}


class Stop:
    """Whether Ctrl-C was pressed since the block began; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The block in which Ctrl-C asks to stop, and does not interrupt."""
        self.asked = False
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Screen:
    """Shows a desk: the text on stdout, all else on stderr.

    On a terminal the text goes on in the line that it ended in, shown again; a pipe gets each
    character once, as long as nothing is taken back.
    """

    def __init__(self, output: Output, quiet: bool = False) -> None:
        self.output, self.quiet = output, quiet
        self.show = OFF
        self.stop = Stop()
        self._at: Point | None = None
        self._broken = False

    def say(self, message: str, style: str = "") -> None:
        """A line that is not of the text."""
        if self.output.terminal:
            self.output.end_line()
            self._broken = True
        self.output.flush()
        say(message, style)

    def note(self, message: str) -> None:
        """A line that `--quiet` leaves out."""
        if not self.quiet:
            self.say(message)

    def prompted(self) -> None:
        """To be called where a line was typed at a terminal: the text was left."""
        self._broken = True

    def go_on(self, desk: Desk, added: int, pieces: Generator[Piece], base: Point | None) -> None:
        """Shows how the text goes on after `base`, until all is drawn or Ctrl-C is pressed.

        The last `added` characters before are new, too; they were typed.
        """
        before = desk.tree.text(base)
        new = len(before) - added
        left = base.parent if base and added else base
        if self._at is left and not self._broken:
            self._write(desk, base, new, new)
        else:
            self.output.end_line()
            begin = max(before.rfind("\n", 0, new) + 1, new - MAX_CONTEXT)
            self._write(desk, base, begin, new)
        length, paint = 0, self._painter(desk, base)
        with closing(pieces):  # whatever ends it, the desk has what was drawn
            for piece in pieces:
                length += len(piece.text)
                self.output.write(piece.text, paint(piece))
                if self.stop.asked:
                    break
        if self.stop.asked:
            # What was held back, since a stop string might have begun in it.
            if rest := desk.text[len(before) + length :]:
                self.output.write(rest)
        elif length == 0 and desk.settings.stop and desk.settings.max_tokens:
            self.note("nothing was added: the continuation begins with the stop string")
        self._at, self._broken = desk.point, False
        self.settle()

    def settle(self) -> None:
        """Ends the line on a terminal, and sends what is on its way."""
        if self.output.terminal:
            self.output.end_line()
        self.output.flush()

    def look(self, desk: Desk, lines: int) -> None:
        """Shows the last lines of a text that was not on the terminal just now."""
        if not self.output.terminal:
            return
        text = desk.text
        if not text:
            self.say("(the text is empty)")
            return
        begin = len(text)
        for _ in range(lines):
            begin = max(0, text.rfind("\n", 0, max(0, begin - 1)) + 1)
        self.output.end_line()
        self._write(desk, desk.point, max(begin, len(text) - lines * MAX_CONTEXT), 0)
        self.settle()

    def whole(self, desk: Desk) -> None:
        """Shows the whole text."""
        self.output.end_line()
        self._write(desk, desk.point, 0, 0)
        self._at, self._broken = desk.point, False
        self.settle()

    def _painter(self, desk: Desk, point: Point | None) -> Painter:
        """How to colour what comes after a point."""
        if self.show == OFF or not self.output.colour:
            return lambda _: ""
        return SHOWS[self.show].painter(desk, point)

    def _write(self, desk: Desk, point: Point | None, begin: int, new: int) -> None:
        """Writes the text up to a point from place `begin` on.

        What lies before place `new` is faint, what was typed after it bold.
        """
        if not self.output.colour:
            if text := desk.tree.text(point)[begin:]:
                self.output.write(text)
            return
        paint = self._painter(desk, None)
        place = 0
        for piece in desk.tree.pieces(point):
            start, place = place, place + len(piece.text)
            style = paint(piece)
            if self.show == OFF:
                style = OLD if start < new else TYPED if piece.kind == "typed" else ""
            if place > begin:
                self.output.write(piece.text[max(0, begin - start) :], style)

    def legend(self) -> None:
        """Says what the colours mean."""
        if self.show == OFF:
            return
        if not self.output.colour:
            self.say("no colours here: stdout is no terminal, or NO_COLOR or TERM=dumb is set")
            return
        self.output.end_line()
        for style, text in SHOWS[self.show].legend:
            self.output.write(f"[{text}]", style)
            self.output.write(" ")
        self.settle()

    def columns(self, titles: list[str], texts: list[str]) -> None:
        """Texts side by side where there is room, else below each other."""
        width = shutil.get_terminal_size().columns
        if width // len(texts) >= MIN_COLUMN:
            lines = _side_by_side(titles, texts, width)
        else:
            rows = zip(titles, texts, strict=True)
            lines = [line for title, text in rows for line in (f"-- {title}", *text.split("\n"))]
        for line in lines:
            self.say(line)


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
