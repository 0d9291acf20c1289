"""Where the desk's lines come from: an editor at a terminal, or any other stdin as it comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from charnn.cli.desk_commands import COMMANDS, Session
from charnn.cli.desk_screen import OFF, SHOWS
from charnn.errors import FileError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

MAX_SHOWN_NAME = 16


def piped_lines() -> Iterator[str]:
    """The lines of a stdin that is no terminal.

    Raises:
        FileError: stdin is closed.
    """
    if sys.stdin is None:
        raise FileError("stdin is closed: start it at a terminal, or pipe the lines in")
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")


def make_editor(session: Session) -> Callable[[], str]:
    """A function that asks for a line, with history and completion.

    It raises KeyboardInterrupt at Ctrl-C and EOFError at Ctrl-D.
    """
    # A seventh of a second, which only those who type wait for.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, PathCompleter
    from prompt_toolkit.completion import Completion as Found
    from prompt_toolkit.document import Document as Typed
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output.vt100 import Vt100_Output

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
                for name, command in COMMANDS.items():
                    if name.startswith(word):
                        yield Found(name, -len(word), display_meta=command.text)
            elif word.removesuffix("!") in ("save", "load", "export"):
                yield from paths.get_completions(Typed(rest), complete_event)
            else:
                for name in choices(session, word):
                    if name.startswith(rest):
                        yield Found(name, -len(rest))

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    output = Vt100_Output.from_pty(_terminal(), term=os.environ.get("TERM"), enable_bell=False)
    output.enable_cpr = False  # terminals that do not answer would be complained of
    editor: PromptSession[str] = PromptSession(
        completer=Commands(),
        complete_while_typing=Condition(lambda: editor.default_buffer.text.startswith("/")),
        reserve_space_for_menu=5,
        key_bindings=keys,
        output=output,
    )
    return lambda: editor.prompt(f"{session.desk.name[:MAX_SHOWN_NAME]}> ")


def choices(session: Session, command: str) -> Iterable[str]:
    """What may follow a command."""
    if command == "switch":
        return session.desk.branches
    if command == "set":
        return vars(session.desk.settings)
    return (*SHOWS, OFF) if command == "show" else ()


def has_editor() -> bool:
    """Whether there is a terminal to type at, and one to see it on."""
    streams = sys.stdout, sys.stderr
    seen = any(stream is not None and stream.isatty() for stream in streams)
    return seen and sys.stdin is not None and sys.stdin.isatty()


def _terminal() -> TextIO:
    """Where the editor draws: stdout, unless the text goes to a file from there."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr
