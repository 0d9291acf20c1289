"""The streams of all commands: messages on stderr, reports and text on stdout.

Nothing heavy is imported here: `charnn --help` and the first sampled character wait for it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from charnn.errors import FileError

QUIET = ContextVar("quiet", default=False)  # set by --quiet; silences `tell` and `note`
# Bidirectional controls reorder what a terminal shows; line separators break lines.
HIDDEN = {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}

SECONDS_BETWEEN_LINES = 2.0
# Waking the reader of a pipe for each piece costs up to a fifth of the speed; 5 ms are invisible.
FLUSH_SECONDS = 0.005
BEGAN = time.monotonic() - time.process_time()  # a budget counts from the start of the process


def visible(text: str) -> str:
    """Returns text for a terminal, with control characters but newline and tab as escapes.

    A lone surrogate stands for a byte that is not UTF-8, and is escaped as that byte.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _is_control(ord(c)) else _escape(ord(c)) for c in text)


def _is_control(code: int) -> bool:
    return code < 32 or 127 <= code < 160 or code in HIDDEN or 0xD800 <= code < 0xE000


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def has_colour(stream: TextIO) -> bool:
    """Tells whether a stream takes colour: a terminal, or by NO_COLOR, FORCE_COLOR and TERM."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(message: str, style: str = "") -> None:
    """Prints one line on stderr; `style` is an ANSI number such as "31" for red."""
    line = visible(message).replace("\n", " ")
    if style and has_colour(sys.stderr):
        line = f"\x1b[{style}m{line}\x1b[0m"
    try:
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # stderr is closed or full
        pass


def warn(message: str) -> None:
    """Prints a warning, in yellow."""
    say(f"warning: {message}", "33")


def tell(message: str, style: str = "") -> None:
    """Prints as `say` does, unless --quiet was given."""
    if not QUIET.get():
        say(message, style)


def note(message: str) -> None:
    """Prints a note, unless --quiet was given."""
    tell(f"note: {message}")


def put(*lines: str) -> None:
    """Prints lines of a report on stdout, control characters as escapes.

    Raises:
        FileError: stdout is closed or full.
    """
    if sys.stdout is None:
        raise FileError("stdout is closed: redirect it, such as '> out.txt'")
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{visible(line)}\n" for line in lines)
    with _writing():
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON on stdout, numpy's too; raises as `put` does."""
    import json

    put(json.dumps(value, allow_nan=False, default=lambda value: value.tolist()))
    flush_stdout()


def flush_stdout() -> None:
    """Flushes stdout; raises as `put` does."""
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


class Output:
    """stdout for text from a model: a terminal gets control characters as escapes, a pipe bytes.

    Text leaves at once, or with the pieces that follow within milliseconds.
    """

    def __init__(self) -> None:
        """Raises FileError if stdout is closed."""
        if sys.stdout is None:
            raise FileError("stdout is closed: redirect it, such as '> poem.txt'")
        self.terminal = sys.stdout.isatty()
        self.colour = has_colour(sys.stdout)
        self._encoding = sys.stdout.encoding if self.terminal else "utf-8"
        self._last = "\n"
        self._flush_at = 0.0

    def write(self, text: str, style: str = "") -> None:
        """Writes `text`, which is not empty; `style` is an ANSI number for a terminal with colour.

        Raises:
            BrokenPipeError: the reader went away.
            FileError: the system refused for another reason, such as a full disk.
        """
        self._last = text[-1]
        if self.terminal:
            data = visible(text).encode(self._encoding, "backslashreplace")
        else:
            data = text.encode("utf-8", "surrogateescape")
        if style and self.colour:
            data = b"\x1b[%bm%b\x1b[0m" % (style.encode(), data)
        with _writing():
            sys.stdout.buffer.write(data)
            if time.monotonic() >= self._flush_at:
                sys.stdout.buffer.flush()
                self._flush_at = time.monotonic() + FLUSH_SECONDS

    def flush(self) -> None:
        """Flushes stdout; raises as `write` does."""
        with _writing():
            sys.stdout.buffer.flush()

    def end_line(self) -> None:
        """Begins a new line, unless the text is at the beginning of one."""
        if self._last != "\n":
            self.write("\n")


@contextmanager
def _writing() -> Iterator[None]:
    """Turns an OSError on stdout into a FileError; BrokenPipeError passes."""
    try:
        yield
    except OSError as error:
        give_up_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise FileError(f"cannot write to stdout: {error.strerror or error}") from error


def give_up_stdout() -> None:
    """Redirects stdout to nowhere, so that Python's flush at shutdown cannot fail."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def progress_lines(doing: str) -> Callable[[int, int], None]:
    """Returns a function that shows long work, given work done and in total (0: unknown).

    A terminal gets a line at times, a pipe or a file a single one.
    """
    last, terminal = time.monotonic(), sys.stderr is not None and sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_LINES:
            return
        if not terminal:
            tell(doing)
            last = math.inf
            return
        last = time.monotonic()
        tell(f"{doing}: {done / total:.0%}" if total else f"{doing}: {done / 1e6:,.1f} MB")

    return progress


def progress_of_tasks() -> Callable[[str, int, int], None]:
    """Returns a function that names each task once, and shows its progress on a terminal."""
    lines: dict[str, Callable[[int, int], None]] = {}
    terminal = sys.stderr is not None and sys.stderr.isatty()

    def progress(doing: str, done: int, total: int) -> None:
        if doing not in lines:
            tell(doing)
            lines[doing] = progress_lines(doing)
        elif terminal:
            lines[doing](done, total)

    return progress


def joined(names: Sequence[str], word: str = "and") -> str:
    """Returns names as in a sentence: "a, b and c"."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def note_unknown(
    missing: Mapping[str, int],
    known: Collection[str],
    unknown: str,
    show: Callable[[str], None] = note,
) -> None:
    """Notes what --unknown skip or replace changed, if it changed anything."""
    if missing and unknown != "error":
        from charnn.text.unknown_characters import what_changed

        show(what_changed(missing, known, unknown))
