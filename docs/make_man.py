"""Prints the manual page of charnn, made from the help of its commands.

python docs/make_man.py > docs/charnn.1
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from charnn.cli import app
from charnn.version import __version__

EVERYWHERE = ("-q, --quiet", "-h, --help")  # options of every command
END = r"""
.SH EXIT STATUS
0: done. 1: an error, with a line that says what to do. 2: a usage error.
129, 130 and 143: ended by HUP, Ctrl\-C or TERM; a run is saved.
.SH ENVIRONMENT
.TP
.B CHARNN_CHECKPOINTS
The folder that holds the runs, as \-\-checkpoints.
.TP
.B CHARNN_DEBUG
1 shows tracebacks, as \-\-debug.
.TP
.B NO_COLOR, FORCE_COLOR
Turn colours off, and on.
""".strip()


class Page:
    """The lines of a page in the macros of man(7); stands in for the formatter of click."""

    width = 1000  # wraps nothing

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, macro: str, text: str = "") -> None:
        self.lines.append(f"{macro} {escaped(text)}".rstrip())

    def write_text(self, text: str) -> None:
        lines = textwrap.wrap(text, 70, break_long_words=False, break_on_hyphens=False)
        self.lines += map(escaped, lines)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self.write(".PP")
        self.write(".I", f"{name}:")
        yield

    def write_dl(self, rows: Iterable[tuple[str, str]], **_: Any) -> None:
        for flags, text in rows:
            if flags not in EVERYWHERE:
                self.write(".TP")
                self.write(".B", flags)
                self.write_text(text)

    def write_help(self, text: str) -> None:
        r"""Writes paragraphs; those that begin with a \b are examples."""
        for place, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
            if place:
                self.write(".PP")
            if paragraph.startswith("\b\n"):
                self.write(".EX")
                self.lines += map(escaped, paragraph[2:].splitlines())
                self.write(".EE")
            else:
                self.write_text(" ".join(paragraph.split()))


def escaped(text: str) -> str:
    """Returns text that roff shows as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{text}" if text.startswith(".") else text


def manual() -> str:
    """Returns the page."""
    page, group = Page(), typer.main.get_command(app)
    context = typer.Context(group, info_name="charnn", **group.context_settings)
    about = group.help or ""
    page.write(f'.TH CHARNN 1 "" "charnn {__version__}" "User Commands"')
    page.write(".SH NAME")
    page.write_text(f"charnn - {about[:1].lower()}{about[1:].rstrip('.')}")
    page.write(".SH SYNOPSIS")
    page.write(".B", "charnn COMMAND [OPTIONS] ...")
    page.write(".SH OPTIONS")
    page.write_dl(record for each in group.params if (record := each.get_help_record(context)))
    page.write(".PP")
    page.write_text(f"Every command has {' and '.join(EVERYWHERE)} too.")
    page.write(".SH COMMANDS")
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # it is a group
        inner = typer.Context(command, info_name=name, parent=context)
        usage = " ".join(["charnn", name, *command.collect_usage_pieces(inner)])
        page.write(".SS", usage)
        page.write_help(command.help)
        command.format_options(inner, page)
    return "\n".join([*page.lines, END, ""])


if __name__ == "__main__":
    sys.stdout.write(manual())
