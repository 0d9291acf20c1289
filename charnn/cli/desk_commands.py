"""What can be said at the desk: lines of text, and commands that begin with a slash.

To add a command, add a function and its line in `COMMANDS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from charnn.cli.console import note_unknown
from charnn.cli.desk_screen import OFF, SHOWS, Screen
from charnn.config import SamplingConfig
from charnn.errors import CharnnError, ConfigError, FileError, UnknownCharacter

if TYPE_CHECKING:
    from charnn.desk.desk import Desk

TEMPERATURES = (0.5, 0.8, 1.1)
MAX_COLUMNS = 9
# How many lines of a text are shown when it was not on the screen before.
LOOK_BACK = 8
HELP = """\
A line that does not begin with / is added to the text as it stands, and the model goes on.
  Enter alone     goes on
  a \\ at the end  puts a newline there, and a \\ alone is one; in a line, Alt-Enter is one
  //              at the start of a line is a / in the text; \\\\ at its end is a \\
  Ctrl-C          stops what is being written; Ctrl-D leaves"""


class Session:
    """A desk, the screen it is shown on, and the file it is kept in."""

    def __init__(self, desk: Desk, screen: Screen, model_name: str, interactive: bool) -> None:
        self.desk, self.screen, self.model_name = desk, screen, model_name
        self.interactive = interactive
        self.file: Path | None = None
        self.done = self.failed = self._warned = False

    def take(self, line: str) -> None:
        """Does what a line says; what goes wrong is one red line."""
        if line.startswith("/") and not line.startswith("//"):
            self._trying(self._command, line)
        else:
            self.begin(typed(line))

    def begin(self, text: str) -> None:
        """Adds text as it stands, and goes on with it; what goes wrong is one red line."""
        self._trying(self.write, text)

    def _trying(self, act: Callable[[str], None], words: str) -> None:
        try:
            act(words)
        except CharnnError as error:
            self.failed = True
            known = isinstance(error, UnknownCharacter)
            hint = "; 'charnn write --unknown skip' leaves it out, replace puts the nearest"
            self.screen.say(f"error: {error}{hint * known}", "31")

    def write(self, text: str) -> None:
        """Adds text and goes on with it."""
        desk, before = self.desk, len(self.desk.text)
        desk.type(text)
        tokenizer = desk.model.tokenizer
        missing = tokenizer.unknown_in(text)
        note_unknown(missing, tokenizer.known, desk.unknown, self.screen.note)
        self.screen.go_on(desk, len(desk.text) - before, desk.draw(), desk.point)

    def _command(self, line: str) -> None:
        word, _, rest = line[1:].strip().partition(" ")
        forced = word.endswith("!")
        word = word.removesuffix("!")
        if word not in COMMANDS or (forced and not COMMANDS[word].can_force):
            near = difflib.get_close_matches(word, COMMANDS, n=2, cutoff=0.5)
            hint = " or ".join(f"/{name}" for name in near)
            raise ConfigError(
                f"there is no command /{word}{'!' if forced else ''}"
                + (f": did you mean {hint}?" if hint and not forced else ": /help lists them")
            )
        command, rest = COMMANDS[word], rest.strip()
        if rest and not command.takes:
            raise ConfigError(f"/{word} takes nothing after it, got {rest!r}")
        if command.can_force:
            command.run(self, rest, forced)
        else:
            command.run(self, rest)

    @property
    def unsaved(self) -> bool:
        """Whether there is text that was not saved."""
        written = any(branch.point for branch in self.desk.branches.values())
        return self.desk.changed and written

    def leave(self) -> None:
        """Leaves; where there is text that was not saved, not before this was said once."""
        if self.unsaved and not self._warned:
            self._warned = True
            how = "/save FILE keeps it with all its branches, /export FILE the text alone"
            if self.interactive:
                self.screen.say(f"The text is not saved: {how}; /quit again leaves.")
                return
            self.screen.note(f"note: the text was not saved: {how}")
        self.done = True


def typed(line: str) -> str:
    """The text that a line stands for."""
    line = line.removeprefix("/") if line.startswith("//") else line
    if line.endswith("\\\\"):
        return line[:-1]
    return line[:-1] + "\n" if line.endswith("\\") else line


def _number(word: str, kind: type[int] | type[float], what: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        raise ConfigError(f"{what}, got {word!r}") from None


def _count(rest: str, command: str) -> int | None:
    """A number of things, 1 or more; None where none is given."""
    if not rest:
        return None
    count = _number(rest, int, f"/{command} takes a whole number")
    if count < 1:
        raise ConfigError(f"/{command} takes a whole number from 1 on, got {rest!r}")
    return int(count)


def _more(session: Session, rest: str) -> None:
    desk = session.desk
    session.screen.go_on(desk, 0, desk.draw(_count(rest, "more")), desk.point)


def _retry(session: Session, rest: str) -> None:
    desk = session.desk
    session.screen.go_on(desk, 0, desk.retry(), desk.before)


def _undo(session: Session, rest: str) -> None:
    session.desk.undo(_count(rest, "undo"))
    session.screen.look(session.desk, 1)


def _redo(session: Session, rest: str) -> None:
    session.desk.redo()
    session.screen.look(session.desk, LOOK_BACK)


def _need(rest: str, usage: str) -> str:
    if not rest:
        raise ConfigError(f"something is missing: {usage}")
    return rest


def _fork(session: Session, rest: str) -> None:
    before = session.desk.name
    session.desk.fork(_need(rest, "/fork NAME"))
    session.screen.note(f"now writing {session.desk.name!r}; /switch {before} goes back")


def _switch(session: Session, rest: str) -> None:
    session.desk.switch(_need(rest, "/switch NAME, one of " + ", ".join(session.desk.branches)))
    session.screen.look(session.desk, LOOK_BACK)


def _list(session: Session, rest: str) -> None:
    desk = session.desk
    width = max(map(len, desk.branches))
    for name, branch in desk.branches.items():
        text = desk.tree.text(branch.point)
        mark = "*" if name == desk.name else " "
        end = " ".join(text[-200:].split())[-30:]
        session.screen.say(f"{mark} {name:<{width}}  {len(text):>7,} characters  {end}")


def _set(session: Session, rest: str) -> None:
    desk, (name, _, value) = session.desk, rest.partition(" ")
    settings = asdict(desk.settings)
    if not rest:
        for key, now in settings.items():
            session.screen.say(f"{key:<19} {_spelt(now)}")
        return
    name = name.replace("-", "_")
    if name not in settings:
        near = difflib.get_close_matches(name, settings, n=1)
        known = f"did you mean {near[0]}?" if near else "there are " + ", ".join(settings)
        raise ConfigError(f"there is no setting {name!r}: {known}")
    value = value.strip()
    if value:
        if name == "stop":
            new: Any = () if value == OFF else (value.replace("\\n", "\n"),)
        else:
            whole = isinstance(getattr(SamplingConfig, name), int)
            kind = "whole number" if whole else "number"
            new = _number(value, int if whole else float, f"{name} takes a {kind}")
        desk.set(name, new)
    session.screen.note(f"{name} {_spelt(getattr(desk.settings, name))}")


def _spelt(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(repr, value)) or OFF
    return f"{value:g}" if isinstance(value, float) else str(value)


def _show(session: Session, rest: str) -> None:
    screen = session.screen
    if rest and rest != OFF and rest not in SHOWS:
        raise ConfigError(f"/show takes {', '.join(SHOWS)} or {OFF}, got {rest!r}")
    if not rest:
        screen.say(f"showing {screen.show}; there is {', '.join([*SHOWS, OFF])}")
        return
    if rest in SHOWS:
        SHOWS[rest].painter(session.desk, None)  # raises where it cannot be had
    screen.show = rest
    screen.legend()
    if screen.output.colour:
        screen.look(session.desk, LOOK_BACK)


def _text(session: Session, rest: str) -> None:
    session.screen.whole(session.desk)


def _columns(session: Session, rest: str) -> None:
    desk = session.desk
    wanted = [
        _number(word, float, "/columns takes temperatures") for word in rest.split()
    ] or TEMPERATURES
    if len(wanted) > MAX_COLUMNS:
        raise ConfigError(f"/columns takes up to {MAX_COLUMNS} temperatures, got {len(wanted)}")
    for temperature in wanted:  # refused before anything is drawn
        SamplingConfig(temperature=temperature)
    already = len(desk.columns) if desk.base is desk.point else 0
    base = desk.text
    titles: list[str] = []
    texts: list[str] = []
    for temperature in wanted:
        if session.screen.stop.asked:
            break
        drawn = "".join(_until_stopped(session, desk.column(temperature)))
        line = base[base.rfind("\n") + 1 :][-20:]
        titles.append(f"{already + len(titles) + 1}: temperature {temperature:g}")
        texts.append(("..." if len(line) == 20 else "") + line + drawn)
    if titles:
        session.screen.columns(titles, texts)
        session.screen.note(f"/take {titles[0].split(':')[0]} goes on with the first of them")


def _until_stopped(session: Session, pieces: Iterable[Any]) -> Iterable[str]:
    for piece in pieces:
        yield piece.text
        if session.screen.stop.asked:
            return


def _take(session: Session, rest: str) -> None:
    number = _count(_need(rest, "/take NUMBER of a column"), "take")
    session.desk.take(number or 1)
    session.screen.look(session.desk, LOOK_BACK)


def _path(session: Session, rest: str, forced: bool, command: str, own: bool) -> Path:
    """The file to write to; one that exists only if it is the desk's own, or forced."""
    path = Path(_need(rest, f"/{command} FILE")).expanduser()
    if path.exists() and not forced and not (own and path == session.file):
        raise FileError(f"{path} exists: /{command}! {rest} overwrites it")
    return path


def _save(session: Session, rest: str, forced: bool) -> None:
    from charnn.desk.desk_file import save_desk

    rest = rest or (str(session.file) if session.file else "")
    path = _path(session, rest, forced, "save", own=True)
    save_desk(session.desk, path, session.model_name)
    session.file, session.desk.changed = path, False
    session.screen.note(f"saved; /load {path} opens it again")


def _load(session: Session, rest: str, forced: bool) -> None:
    from charnn.desk.desk_file import load_desk

    path = Path(_need(rest, "/load FILE")).expanduser()
    desk = session.desk
    if desk.changed and desk.text and not forced:
        raise FileError(f"the text here is not saved: /save it first, or /load! {rest} drops it")
    session.desk, session.file = load_desk(path, desk.model, desk.unknown), path
    session.screen.look(session.desk, LOOK_BACK)


def _export(session: Session, rest: str, forced: bool) -> None:
    from charnn.tensor_file import replacing

    path = _path(session, rest, forced, "export", own=False)
    data = session.desk.text.encode("utf-8", "surrogateescape")
    with replacing(path) as file:
        file.write(data)
    session.screen.note(f"wrote {len(session.desk.text):,} characters to {path}")


def _help(session: Session, rest: str) -> None:
    for line in HELP.splitlines():
        session.screen.say(line)
    for name, command in COMMANDS.items():
        session.screen.say(f"  {f'/{name} {command.takes}':<24} {command.text}")


def _quit(session: Session, rest: str) -> None:
    session.leave()


class Command(NamedTuple):
    """A function, what is written after its name, and its line of help."""

    run: Callable[..., None]
    takes: str
    text: str
    can_force: bool = False


COMMANDS: dict[str, Command] = {
    "more": Command(_more, "[N]", "go on, for N tokens"),
    "retry": Command(_retry, "", "draw the last continuation another way; /redo brings it back"),
    "undo": Command(_undo, "[N]", "take back N characters, or the last thing done"),
    "redo": Command(_redo, "", "bring back what was undone"),
    "fork": Command(_fork, "NAME", "write on under another name; the old text stays"),
    "switch": Command(_switch, "NAME", "go to another text"),
    "list": Command(_list, "", "all texts"),
    "text": Command(_text, "", "show the whole text"),
    "set": Command(_set, "[NAME VALUE]", "show or change the settings"),
    "show": Command(_show, f"[{'|'.join([*SHOWS, OFF])}]", "colour the text"),
    "columns": Command(_columns, "[T ...]", "continuations at several temperatures"),
    "take": Command(_take, "N", "go on with one of the columns"),
    "save": Command(_save, "FILE", "keep everything in a file; /save! overwrites", True),
    "load": Command(_load, "FILE", "open a saved file; /load! drops what is here", True),
    "export": Command(_export, "FILE", "write the text to a file; /export! overwrites", True),
    "help": Command(_help, "", "this"),
    "quit": Command(_quit, "", "leave"),
}
