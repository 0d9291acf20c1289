"""The streams of all commands: messages on stderr, reports and text on stdout.

Nothing heavy is imported here: `charnn --help` and the first sampled character wait for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from charnn.cli.soft_wrap import SoftWrap, Styled, folded, soft_wrapped
from charnn.errors import FileError
from charnn.portable import is_broken_pipe, prepare_stream

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from charnn.config import SamplingConfig
    from charnn.text.tokenizers import Tokenizer

QUIET = ContextVar("quiet", default=False)  # set by --quiet; silences `tell` and `note`
# True where another process prints the messages: torchrun starts a command several times on a host.
SILENT = ContextVar("silent", default=os.environ.get("LOCAL_RANK", "0") != "0")
# Bidirectional controls reorder what a terminal shows; line separators break lines.
HIDDEN = {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}

MOMENT = 2.0  # seconds; a pipe gets no line about a shorter stage
# Waking the reader of a pipe for each piece costs up to a fifth of the speed; 5 ms are invisible.
FLUSH_SECONDS = 0.005
BEGAN = time.monotonic() - time.process_time()  # a budget counts from the start of the process


def debugging() -> bool:
    """Tells whether tracebacks are wanted: --debug or CHARNN_DEBUG=1."""
    return os.environ.get("CHARNN_DEBUG", "") not in ("", "0")


def visible(text: str) -> str:
    """Returns text for a terminal, with control characters but newline and tab as escapes.

    A carriage return before a newline is left out. A lone surrogate stands for a byte that is not
    UTF-8, and is escaped as that byte.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    return "".join(c if c in "\n\t" or not _is_control(ord(c)) else _escape(ord(c)) for c in text)


def _is_control(code: int) -> bool:
    return code < 32 or 127 <= code < 160 or code in HIDDEN or 0xD800 <= code < 0xE000


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def terminal_columns(stream: TextIO | None) -> int:
    """Returns the width of a terminal in columns; 0 if it is unknown or there is no terminal."""
    if stream is None:
        return 0
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def has_colour(stream: TextIO | None) -> bool:
    """Tells whether a stream takes colour: a terminal, or by NO_COLOR, FORCE_COLOR and TERM."""
    if os.environ.get("NO_COLOR") or stream is None:
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def prepare_streams() -> None:
    """Prepares the standard streams, and opens closed ones on the null device.

    No file can then get the descriptor of a closed stream, and messages go nowhere. ``sys.stdin``
    and ``sys.stdout`` stay None, so that a command that needs one of them refuses to work.
    """
    streams = (sys.stdin, os.O_WRONLY), (sys.stdout, os.O_RDONLY), (sys.stderr, os.O_WRONLY)
    for stream, mode in streams:
        if stream is None:
            os.open(os.devnull, mode)  # takes the lowest free number, which is that of the stream
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for good
    for output in filter(None, (sys.stdout, sys.stderr)):
        prepare_stream(output)


def say(message: str, style: str = "") -> None:
    """Prints one line on stderr; `style` is an ANSI number such as "31" for red."""
    if SILENT.get():
        return
    line = folded(visible(message).replace("\n", " "), terminal_columns(sys.stderr))
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


def note(*messages: str) -> None:
    """Prints notes, one a line, unless --quiet was given."""
    for message in messages:
        tell(f"note: {message}")


def put(*lines: str) -> None:
    """Prints lines of a report on stdout, control characters as escapes; raises as `_put` does."""
    columns = terminal_columns(sys.stdout) if sys.stdout else 0
    _put("".join(f"{folded(visible(line), columns)}\n" for line in lines))


def _put(text: str) -> None:
    """Writes text on stdout.

    Raises:
        FileError: stdout is closed or full.
    """
    if sys.stdout is None:
        raise FileError("stdout is closed: redirect it, such as '> out.txt'")
    LIVE.clear()
    encoding = sys.stdout.encoding or "utf-8"
    with _writing():
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON on stdout, numpy's too; raises as `_put` does."""
    import json

    _put(visible(json.dumps(value, allow_nan=False, default=lambda value: value.tolist())) + "\n")
    flush_stdout()


def flush_stdout() -> None:
    """Flushes stdout; raises as `_put` does."""
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


class Output:
    """stdout for text from a model: a terminal gets control characters as escapes, a pipe bytes.

    A terminal of known width gets whole words, with line breaks at spaces. Other text leaves at
    once, or with the pieces that follow within milliseconds.
    """

    def __init__(self) -> None:
        """Raises FileError if stdout is closed."""
        if sys.stdout is None:
            raise FileError("stdout is closed: redirect it, such as '> poem.txt'")
        self.terminal = sys.stdout.isatty()
        self.colour = has_colour(sys.stdout)
        self._encoding = sys.stdout.encoding if self.terminal else "utf-8"
        self._last = "\n"
        self._return = ""  # until a newline follows
        self._wrap = SoftWrap()
        self._flush_at = 0.0

    def write(self, text: str, style: str = "") -> None:
        """Writes `text`, which is not empty; `style` is an ANSI number for a terminal with colour.

        Raises:
            BrokenPipeError: the reader went away.
            FileError: the system refused for another reason, such as a full disk.
        """
        LIVE.clear()
        self._last = text[-1]
        if not self.terminal:
            self._send([(text, style)])
            return
        text = self._return + text
        self._return = "\r" if text[-1] == "\r" else ""
        text = visible(text.removesuffix("\r"))
        if columns := terminal_columns(sys.stdout):
            self._send(self._wrap.push(text, style, columns))
        else:
            self._send([*self._wrap.flush(), (text, style)])

    def _send(self, parts: Iterable[Styled]) -> None:
        data = b""
        for text, style in parts:
            if self.terminal:
                word = text.encode(self._encoding, "backslashreplace")
            else:
                word = text.encode("utf-8", "surrogateescape")
            if style and self.colour:
                word = b"\x1b[%bm%b\x1b[0m" % (style.encode(), word)
            data += word
        with _writing():
            sys.stdout.buffer.write(data)
            if time.monotonic() >= self._flush_at:
                sys.stdout.buffer.flush()
                self._flush_at = time.monotonic() + FLUSH_SECONDS

    def flush(self) -> None:
        """Writes what was held back, and flushes stdout; raises as `write` does."""
        self._send([*self._wrap.flush(), (visible(self._return), "")])
        self._return = ""
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
        if is_broken_pipe(error):
            raise BrokenPipeError from None
        raise FileError(f"cannot write to stdout: {error.strerror or error}") from error


def give_up_stdout() -> None:
    """Redirects stdout to nowhere, so that Python's flush at shutdown cannot fail."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class LiveLine:
    """The last line of a terminal on stderr, which shows what a command does and for how long."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._text, self._since = "", 0.0

    @property
    def wanted(self) -> bool:
        """True if stderr is a terminal that can redraw a line."""
        there = sys.stderr is not None and sys.stderr.isatty()
        return there and not QUIET.get() and not SILENT.get() and has_colour(sys.stderr)

    def show(self, text: str, since: float) -> None:
        """Shows `text` with the time since `since` until `clear`; call it only if `wanted`."""
        self._text, self._since = visible(text), since
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False, markup=False)
            self._live = Live(
                get_renderable=self._draw,
                console=console,
                transient=True,
                redirect_stdout=False,
                refresh_per_second=4,
            )
            self._live.start()

    def clear(self) -> None:
        """Removes the line."""
        live, self._live = self._live, None
        if live:
            with suppress(OSError):  # the terminal is gone
                live.stop()

    def _draw(self) -> RenderableType:
        from rich.text import Text

        seconds = time.monotonic() - self._since
        mark = "|/-\\"[int(4 * seconds) % 4]
        return Text(f"{mark} {clock(seconds)} {self._text}", no_wrap=True, overflow="ellipsis")


LIVE = LiveLine()


def clock(seconds: float) -> str:
    """Returns seconds as a clock shows them: 0:09, 1:30, 2:05:00."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Stages:
    """Shows what a command does: a live line on a terminal, one line for each stage in a pipe."""

    def __init__(self) -> None:
        self._stage, self._began = "", 0.0

    def __call__(self, doing: str, done: int = 0, total: int = 0) -> None:
        """Shows the name of a stage, and how much of its work is done (in total 0: unknown)."""
        new, self._stage = doing != self._stage, doing
        self._began = time.monotonic() if new else self._began
        if LIVE.wanted:
            share = f" {done / total:.0%}" if total else f" {done / 1e6:,.1f} MB" if done else ""
            LIVE.show(doing + share, self._began)
        elif new:
            tell(doing)


def progress_of(doing: str) -> Callable[[int, int], None]:
    """Returns a function that shows the progress of a single stage, as `Stages` does.

    A pipe gets a line only if the stage takes more than a moment.
    """
    began, show = time.monotonic(), Stages()

    def progress(done: int, total: int) -> None:
        if LIVE.wanted or time.monotonic() - began >= MOMENT:
            show(doing, done, total)

    return progress


def show_live(doing: str) -> None:
    """Shows what a command does first on a terminal; a pipe gets nothing."""
    progress_of(doing)(0, 0)


def tell_text(title: str, text: str) -> None:
    """Prints a text of a model on stderr, between a title and a rule."""
    tell(f"--- {title}:", "2")
    for row in soft_wrapped(visible(text), terminal_columns(sys.stderr)):
        tell(row)
    tell("---", "2")


def listed(names: Sequence[str], word: str = "and") -> str:
    """Returns names as in a sentence: "a, b and c"."""
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def spelled(text: str, tokenizer: Tokenizer, show: Callable[[str], None] = note) -> str:
    """Returns a text in the Unicode form that the model knows, and notes the change."""
    form = tokenizer.spelled(text)
    if form != text:
        show("the model spells accents in another Unicode form: the text was changed to that form")
    return form


def note_unwritable(config: SamplingConfig, tokenizer: Tokenizer) -> None:
    """Notes stop strings, bans and biases with a character that the model cannot write."""
    biased = [text for text, _ in config.bias]
    for flag, texts in {"--stop": config.stop, "--ban": config.ban, "--bias": biased}.items():
        for text in texts:
            for character in list(tokenizer.unknown_in(text))[:1]:
                why = f"the model cannot write {character!r}"
                newline = "; a newline is typed $'\\n'" if "\\n" in text else ""
                note(f"{flag} {text!r} has no effect: {why}{newline}")


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
