"""stdout as a place for text that a model writes."""

from __future__ import annotations

import sys
import time

from charnn.cli.console import give_up_stdout, has_colour, visible
from charnn.errors import FileError

# How long a piece may wait for the next: waking the reader of a pipe for each one takes up to a
# fifth of the speed, and nobody sees five milliseconds.
FLUSH_SECONDS = 0.005


class Output:
    """stdout for text that nobody has looked at: a terminal is shown it, a pipe gets its bytes.

    What is written leaves at once, or with the next pieces where they come within milliseconds.
    """

    def __init__(self) -> None:
        """Raises FileError if stdout is closed."""
        if sys.stdout is None:
            raise FileError("stdout is closed: give the text somewhere to go, such as '> poem.txt'")
        self.terminal = sys.stdout.isatty()
        self.colour = has_colour(sys.stdout)
        self._encoding = sys.stdout.encoding if self.terminal else "utf-8"
        self._last = "\n"
        self._flush_at = 0.0

    def write(self, text: str, style: str = "") -> None:
        """Writes `text`, which is not empty; `style` is an ANSI number, where there are colours.

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
        try:
            sys.stdout.buffer.write(data)
            if time.monotonic() >= self._flush_at:
                sys.stdout.buffer.flush()
                self._flush_at = time.monotonic() + FLUSH_SECONDS
        except OSError as error:
            raise _refused(error) from error

    def flush(self) -> None:
        """Sends what is still on its way; raises as `write` does."""
        try:
            sys.stdout.buffer.flush()
        except OSError as error:
            raise _refused(error) from error

    def end_line(self) -> None:
        """Begins a new line, unless one has just begun."""
        if self._last != "\n":
            self.write("\n")


def _refused(error: OSError) -> Exception:
    give_up_stdout()
    if isinstance(error, BrokenPipeError):
        return error
    return FileError(f"cannot write to stdout: {error.strerror or error}")
