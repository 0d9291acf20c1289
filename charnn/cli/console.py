"""What all commands share: streams, colours, errors in one line.

Nothing heavy is imported here: `charnn --help` and the first sampled character wait for it.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, get_args, get_type_hints

import typer

from charnn.errors import CharnnError, ConfigError, FileError, UnknownCharacter

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint

# Bidirectional controls reorder what a terminal shows; line separators break lines.
HIDDEN = {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}

# Variables that the linear algebra libraries under numpy read when they are loaded.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
SECONDS_BETWEEN_LINES = 2.0
BEGAN = time.monotonic() - time.process_time()  # a budget counts from the start of the process


def visible(text: str) -> str:
    """Text for a terminal: control characters are shown as escapes, never sent.

    Newline and tab pass. A lone surrogate stands for a byte that is not UTF-8, and is shown so.
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
    """Whether a stream takes colour: a terminal, unless the environment says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(message: str, style: str = "") -> None:
    """One line of talk on stderr; `style` is an ANSI number such as "31" for red."""
    line = visible(message).replace("\n", " ")
    if style and has_colour(sys.stderr):
        line = f"\x1b[{style}m{line}\x1b[0m"
    try:
        encoding = sys.stderr.encoding or "utf-8"
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # stderr is closed or full: there is nobody to talk to
        pass


def warn(message: str) -> None:
    """A warning: one yellow line on stderr."""
    say(f"warning: {message}", "33")


def note(message: str) -> None:
    """Says something that a person should know."""
    say(f"note: {message}")


def no_talk(_: str) -> None:
    """Says nothing: for --quiet."""


def fail(message: str, code: int = 1) -> NoReturn:
    """An error: one red line on stderr, and the exit code."""
    say(f"error: {message}", "31")
    raise typer.Exit(code)


def put(line: str) -> None:
    """One line of a report on stdout; what a terminal must not get is shown as an escape.

    Raises:
        FileError: stdout is closed, or full.
    """
    if sys.stdout is None:
        raise FileError("stdout is closed: give the output somewhere to go, such as '> out.txt'")
    encoding = sys.stdout.encoding or "utf-8"
    shown = visible(line).encode(encoding, "backslashreplace").decode(encoding)
    with _writing():
        sys.stdout.write(shown + "\n")


def print_json(value: Any) -> None:
    """One JSON value as one line on stdout."""
    import json

    put(json.dumps(value, ensure_ascii=True, allow_nan=False))
    flush_stdout()


def progress_lines(doing: str) -> Callable[[int, int], None]:
    """A line on stderr now and then, for what takes long: called with done and all (0: unknown)."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{doing}: {done / total:.0%}" if total else f"{doing}: {done / 1e6:,.1f} MB")

    return progress


def set_threads(threads: int | None) -> None:
    """Sets how many threads numpy uses; numpy must not be loaded yet.

    The default is one, unless the environment says otherwise: a second thread that shares its core
    with another program makes a step several times slower.
    """
    for name in THREAD_VARIABLES:
        if threads is not None:
            os.environ[name] = str(threads)
        else:
            os.environ.setdefault(name, "1")


def progress_of_tasks() -> Callable[[str, int, int], None]:
    """Returns a function that names each task on stderr, and prints lines for those that last."""
    lines: dict[str, Callable[[int, int], None]] = {}

    def progress(doing: str, done: int, total: int) -> None:
        if doing not in lines:
            say(doing)
            lines[doing] = progress_lines(doing)
        lines[doing](done, total)

    return progress


def debugging() -> bool:
    """Whether tracebacks are wanted: --debug or CHARNN_DEBUG=1."""
    return os.environ.get("CHARNN_DEBUG", "") not in ("", "0")


def give_up_stdout() -> None:
    """Sends the rest of stdout nowhere, so that Python does not complain of it at shutdown."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def leave_quietly() -> NoReturn:
    """Ends after the reader of stdout went away: exit 0, and no complaint at shutdown."""
    give_up_stdout()
    raise typer.Exit(0)


@contextmanager
def _writing() -> Iterator[None]:
    """Names stdout where the system refuses it; a reader that went away is another matter."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        raise FileError(
            f"the report could not be written to stdout: {error.strerror or error}; "
            "what it reports on is done"
        ) from error


def flush_stdout() -> None:
    """Sends the report on its way; raises as `put` does."""
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what a person can cause into one line and an exit code, whatever the command does."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            flush_stdout()
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            leave_quietly()
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            if debugging():
                traceback.print_exc()
            message, code = _explain(error)
            if isinstance(error, UnknownCharacter):
                message += remedy(command)
            fail(message, code)

    return run


def remedy(command: Callable[..., None]) -> str:
    """What a command can do about a character that its model does not know."""
    hint = get_type_hints(command).get("unknown")
    said = {"skip": "--unknown skip leaves it out", "replace": "--unknown replace puts the nearest"}
    can = [words for choice, words in said.items() if choice in get_args(hint)]
    return f"; {', '.join(can) or 'leave it out of the text'}"


def note_alone(saved: Checkpoint, what: str) -> None:
    """Says of what leaves n-grams out that it does, where a model has some."""
    if saved.ngrams is not None:
        note(f"{what} is of the network alone, without the n-grams that it is mixed with")


def note_unknown(
    missing: Mapping[str, int],
    known: Collection[str],
    unknown: str,
    say_it: Callable[[str], None] = note,
) -> None:
    """Says what --unknown changed, if it changed anything."""
    if missing and unknown != "error":
        from charnn.text.unknown_characters import what_changed

        say_it(what_changed(missing, known, unknown))


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, CharnnError):
        return str(error), 1
    # torch has no error of its own for it.
    no_memory = isinstance(error, RuntimeError) and "memory" in str(error)
    if no_memory or isinstance(error, MemoryError):
        return "out of memory: use a smaller model, batch or text", 1
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"the system refused{where}: {error.strerror or error}", 1
    kind = type(error).__name__
    return (
        f"charnn has a fault: {kind}: {error}; run again with --debug and report what it prints",
        1,
    )
