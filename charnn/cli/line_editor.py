"""The lines of the desk: from an editor at a terminal, or from any other stdin as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from charnn.cli.desk_commands import COMMANDS, FILE, Session, unescaped
from charnn.errors import FileError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

MAX_SHOWN_NAME = 16  # characters of a branch's name before the cursor


def piped_lines() -> Iterator[str]:
    """Yields the lines of a stdin that is no terminal.

    Raises:
        FileError: stdin is closed.
    """
    if sys.stdin is None:
        raise FileError("stdin is closed: start it at a terminal, or pipe the lines in")
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


def edited_lines(session: Session) -> Iterator[str]:
    """Yields the lines that are typed at a terminal, until Ctrl-D or the end of the terminal."""
    ask = make_editor(session)
    with suppress(EOFError):
        while True:
            line = ask()
            session.screen.at_text = False
            if line is None:
                session.screen.note("Ctrl-D or /quit leaves.")
            else:
                yield line


def make_editor(session: Session) -> Callable[[], str | None]:
    """Returns a function that asks for a line, with history and completion; None is Ctrl-C.

    Any other exception, such as EOFError, leaves the typed text in ``session.unfinished``.
    """
    # Importing it takes a seventh of a second, so only a terminal pays for it.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, PathCompleter
    from prompt_toolkit.completion import Completion as Found
    from prompt_toolkit.document import Document as Typed
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    paths = PathCompleter(expanduser=True)

    class Commands(Completer):
        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterable[Completion]:
            before = document.text_before_cursor
            if not before.startswith("/") or before.startswith("//"):
                return
            word, space, rest = before[1:].partition(" ")
            if not space:
                for name, each in COMMANDS.items():
                    if name.startswith(word):
                        yield Found(name, -len(word), display_meta=each.help)
            elif command := COMMANDS.get(word.removesuffix("!")):
                if command.argument.takes == FILE.takes:
                    yield from paths.get_completions(Typed(rest), complete_event)
                for name in command.argument.choices(session):
                    if name.startswith(rest):
                        yield Found(name, -len(rest))

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # The editor draws on stdout, unless the text goes to a file from there.
    terminal = sys.stdout if sys.stdout.isatty() else sys.stderr
    output: Any = create_output(terminal)
    # No bell; and prompt_toolkit warns about terminals that do not answer.
    output.enable_bell = output.enable_cpr = False
    editor: PromptSession[str] = PromptSession(
        completer=Commands(),
        complete_while_typing=Condition(lambda: editor.default_buffer.text.startswith("/")),
        reserve_space_for_menu=5,
        key_bindings=keys,
        output=output,
    )

    def ask() -> str | None:
        try:
            # While a line is edited, Ctrl-C arrives as a key; the signal has its own handler.
            return editor.prompt(f"{session.desk.name[:MAX_SHOWN_NAME]}> ", handle_sigint=False)
        except KeyboardInterrupt:
            return None
        except BaseException:
            line = editor.default_buffer.text
            session.unfinished = "" if line.startswith("/") else unescaped(line)
            raise

    return ask


def has_editor() -> bool:
    """Tells whether there is a terminal to type at, and one to show the text on."""
    streams = sys.stdout, sys.stderr
    seen = any(stream is not None and stream.isatty() for stream in streams)
    return seen and sys.stdin is not None and sys.stdin.isatty()
