"""The lines that are typed at the desk: text, and commands that begin with a slash.

To add a command, add a function and its line in `COMMANDS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from charnn.cli.console import note_unknown, spelled
from charnn.cli.desk_screen import COLOURINGS, OFF, Screen
from charnn.config import SamplingConfig
from charnn.config.settings import settings_of
from charnn.desk.desk import Desk
from charnn.desk.desk_file import load_desk, save_desk
from charnn.errors import CharnnError, ConfigError, FileError, UnknownCharacter, did_you_mean
from charnn.tensor_file import replacing

TEMPERATURES = [0.5, 0.8, 1.1]
MAX_COLUMNS = 9
LOOK_BACK = 8  # lines of a text that was not on the screen before
HELP = {
    "TEXT": "add it to the text as it is; the model continues",
    "Enter alone": "let the model continue",
    "TEXT\\": "add it and a newline; for a \\ type \\\\",
    "//TEXT": "add a text that begins with /",
    "Alt-Enter": "a newline within the line",
    "Ctrl-C": "stop the model",
    "Ctrl-D": "save the text and leave",
}


class Session:
    """A desk, its screen and its file, and what each typed line does to them.

    Attributes:
        file: where the desk was saved to or loaded from; None while it has no file.
        done: set by the command that leaves.
        failed: set by every line that ended with an error.
        unfinished: text that was typed and is not yet part of the desk.
    """

    def __init__(self, desk: Desk, screen: Screen, model_name: str, interactive: bool) -> None:
        self.desk, self.screen, self.model_name = desk, screen, model_name
        self.interactive = interactive
        self.file: Path | None = None
        self.done = self.failed = False
        self.unfinished = ""
        self._warned_at: object = self  # the passage at which leaving was refused once

    def take(self, line: str) -> None:
        """Executes a command or adds a line of text; an error is shown as one red line."""
        if line.startswith("/") and not line.startswith("//"):
            self._trying(self._command, line)
        else:
            self.begin(unescaped(line))

    def begin(self, text: str) -> None:
        """Adds text as it is and continues it; an error is shown as one red line."""
        self._trying(self._write, text)

    def _trying(self, act: Callable[[str], None], line: str) -> None:
        self.unfinished = ""
        try:
            act(line)
        except CharnnError as error:
            self.failed, self.unfinished = True, ""
            hint = "; start charnn write with --unknown skip to leave it out, or with replace"
            unknown = isinstance(error, UnknownCharacter)
            self.screen.say(f"error: {error}{hint * unknown}", "31")

    def _write(self, text: str) -> None:
        desk, before = self.desk, len(self.desk.text)
        self.unfinished = text
        tokenizer = desk.model.tokenizer
        text = spelled(text, tokenizer, self.screen.note)
        desk.type(text)
        self.unfinished = ""
        note_unknown(tokenizer.unknown_in(text), tokenizer.known, desk.unknown, self.screen.note)
        typed = len(desk.text) - before
        self.screen.show_continuation(desk, desk.passage, desk.draw(), typed)

    def _command(self, line: str) -> None:
        word, _, rest = (part.strip() for part in line[1:].strip().partition(" "))
        name = word.removesuffix("!")
        command = COMMANDS.get(name)
        if command is None or (word != name and not command.can_force):
            known = (f"/{each}" for each in COMMANDS)
            hint = did_you_mean(f"/{name}", known, "/help lists the commands")
            raise ConfigError(f"there is no command /{word[:80]}: {hint}")
        usage, takes, parse, _ = command.argument
        try:
            value = parse(rest)
        except (ValueError, OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            why = "" if isinstance(error, ValueError) else f" ({reason})"
            raise ConfigError(
                f"/{word} takes {takes}, got {rest[:80]!r}{why}: type /{word} {usage}".rstrip()
            ) from None
        command.run(self, value, *[word != name] * command.can_force)

    @property
    def unsaved(self) -> bool:
        """True if there is text that was not saved."""
        return self.desk.changed and any(branch.passage for branch in self.desk.branches.values())

    def leave(self) -> None:
        """Leaves; at a terminal, the first try with unsaved text only says so."""
        if self.unsaved and self._warned_at is not self.desk.passage:
            self._warned_at = self.desk.passage
            how = "/save FILE keeps everything, /export FILE only this text"
            if self.interactive:
                self.screen.say(f"The text is not saved: {how}; /quit again drops it.")
                return
            self.screen.note(f"note: the text was not saved: {how}")
        self.done = True


def unescaped(line: str) -> str:
    """Returns the text that a typed line stands for."""
    line = line.removeprefix("/") if line.startswith("//") else line
    if line.endswith("\\\\"):
        return line[:-1]
    return line[:-1] + "\n" if line.endswith("\\") else line


class Argument(NamedTuple):
    """The argument of a command: its name in help, its kind, and the words that complete it.

    `parse` makes its value from text and may raise CharnnError, ValueError, OSError, RuntimeError.
    """

    usage: str
    takes: str
    parse: Callable[[str], Any] = str
    choices: Callable[[Session], Iterable[str]] = lambda session: ()


def _require(condition: object) -> None:
    if not condition:
        raise ValueError


def _nothing(rest: str) -> None:
    _require(not rest)


def _word(rest: str) -> str:
    _require(rest)
    return rest


def _count(rest: str) -> int | None:
    count = int(rest) if rest else None
    _require(count is None or count > 0)
    return count


def _temperatures(rest: str) -> list[float]:
    values = [float(word) for word in rest.split()]
    _require(len(values) <= MAX_COLUMNS)
    for value in values:  # refused before anything is drawn
        SamplingConfig(temperature=value)
    return values or TEMPERATURES


def _switch(rest: str) -> bool | None:
    _require(rest in ("on", OFF, ""))
    return None if not rest else rest != OFF


def _colouring(rest: str) -> str:
    _require(rest in (*COLOURINGS, OFF, ""))
    return rest


def _path(rest: str) -> Path:
    path = Path(_word(rest)).expanduser()
    with suppress(FileNotFoundError):
        path.stat()  # raises if the path is impossible, such as a name that is too long
    return path


NOTHING = Argument("", "no argument", _nothing)
COUNT = Argument("[N]", "a whole number from 1 on", _count)
COLUMN = Argument("N", "the number of a column", lambda rest: _count(_word(rest)))
NEW_NAME = Argument("NAME", "a new name", _word)
NAME = Argument("NAME", "the name of a text", _word, lambda session: session.desk.branches)
FILE = Argument("FILE", "the name of a file", _path)
OWN_FILE = FILE._replace(usage="[FILE]", parse=lambda rest: _path(rest) if rest else None)
COLOURING = Argument(
    f"[{'|'.join([*COLOURINGS, OFF])}]",
    "the name of a colouring",
    _colouring,
    lambda session: [*COLOURINGS, OFF],
)
SWITCH = Argument(f"[on|{OFF}]", f"on or {OFF}", _switch, lambda session: ["on", OFF])
SETTING = Argument("[NAME VALUE]", "a setting", choices=lambda session: vars(session.desk.settings))
SEVERAL = Argument("[T ...]", f"up to {MAX_COLUMNS} temperatures", _temperatures)


def _changing(change: Callable[[Desk, Any], object], lines: int) -> Callable[..., None]:
    """Returns a command that changes the text or its name and shows the last lines."""

    def run(session: Session, argument: Any) -> None:
        change(session.desk, argument)
        session.screen.show_end(session.desk, lines)

    return run


def _more(session: Session, tokens: int | None) -> None:
    desk = session.desk
    session.screen.show_continuation(desk, desk.passage, desk.draw(tokens))


def _retry(session: Session, _: None) -> None:
    desk = session.desk
    base = desk.passage.previous if desk.passage else None
    session.screen.show_continuation(desk, base, desk.retry())


def _fork(session: Session, name: str) -> None:
    before = session.desk.name
    session.desk.fork(name)
    session.screen.note(f"now writing {name!r}; /switch {before} goes back")


def _list(session: Session, _: None) -> None:
    desk = session.desk
    width = max(map(len, desk.branches))
    for name, branch in desk.branches.items():
        text = desk.tree.text(branch.passage)
        row = f"{'*' if name == desk.name else ' '} {name:<{width}}  {len(text):>7,} characters  "
        room = max(1, min(31, shutil.get_terminal_size().columns - len(row))) - 1
        session.screen.say(row + (" ".join(text[-200:].split())[-room:] if room else ""))


def _text(session: Session, _: None) -> None:
    session.screen.show_all(session.desk)


def _set(session: Session, rest: str) -> None:
    desk, (name, _, value) = session.desk, rest.partition(" ")
    settings, name, value = vars(desk.settings), name.replace("-", "_"), value.strip()
    if name and name not in settings:
        hint = did_you_mean(name, settings, f"choose from {', '.join(settings)}")
        raise ConfigError(f"there is no setting {name[:80]!r}: {hint}")
    if value:
        desk.set(name, _setting(name, value))
    for each in [name] if name else settings:
        session.screen.say(f"{each:<19} {_spelt(getattr(desk.settings, each))}")


def _setting(name: str, word: str) -> Any:
    """Returns the value of a setting of `SamplingConfig`."""
    default, setting = getattr(SamplingConfig, name), settings_of(SamplingConfig)[name]
    if word == OFF:
        return default
    try:
        value = setting.read(word.replace("\\n", "\n"))
    except ConfigError as error:
        raise ConfigError(f"{name} {error}: type /set {name} {_spelt(default)}") from None
    return (value,) if setting.several else value


def _spelt(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(repr, value)) or OFF
    return OFF if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _show(session: Session, name: str) -> None:
    screen = session.screen
    if not name:
        screen.say(f"/show is {screen.colouring}; choose from {', '.join([*COLOURINGS, OFF])}")
        return
    if name in COLOURINGS:
        COLOURINGS[name].painter(session.desk, None)  # raises if the colouring is not available
    screen.colouring = name
    screen.show_legend()
    if screen.output.colour:
        screen.show_end(session.desk, LOOK_BACK)


def _network(session: Session, on: bool | None) -> None:
    desk = session.desk
    differs = desk.set_network_only(desk.tree.network_only if on is None else on)
    state = "on" if desk.tree.network_only else OFF
    alone = "" if differs else "; the model is a network alone already"
    session.screen.say(f"/network is {state}{alone}")


def _columns(session: Session, temperatures: list[float]) -> None:
    desk, screen = session.desk, session.screen
    first = len(desk.columns) + 1 if desk.base is desk.passage else 1
    line = desk.text[desk.text.rfind("\n") + 1 :]
    begin = f"...{line[-20:]}" if len(line) > 20 else line
    titles: list[str] = []
    texts: list[str] = []
    for number, temperature in enumerate(temperatures, first):
        if screen.interrupted:
            break
        titles.append(f"{number}: temperature {temperature:g}")
        pieces = screen.until_interrupted(desk.column(temperature))
        texts.append(begin + "".join(piece.text for piece in pieces))
    screen.show_columns(titles, texts)
    screen.note(f"/take {first} continues the text with the first of them")


def _refuse_existing(path: Path, command: str) -> None:
    if path.exists():
        raise FileError(f"{path} exists: /{command}! {path} overwrites it")


def _save(session: Session, path: Path | None, forced: bool) -> None:
    path = path or session.file
    if path is None:
        raise ConfigError("the desk has no file yet: type /save FILE")
    if not forced and path != session.file:
        _refuse_existing(path, "save")
    save_desk(session.desk, path, session.model_name)
    session.file, session.desk.changed = path, False
    session.screen.note(f"saved; /load {path} opens it again")


def _load(session: Session, path: Path, forced: bool) -> None:
    if session.unsaved and not forced:
        raise FileError(f"the text is not saved: /save it first, or /load! {path} drops it")
    session.desk, session.file = load_desk(path, session.desk.model, session.desk.unknown), path
    session.screen.show_end(session.desk, LOOK_BACK)


def _export(session: Session, path: Path, forced: bool) -> None:
    if not forced:
        _refuse_existing(path, "export")
    with replacing(path) as file:
        file.write(session.desk.text.encode("utf-8", "surrogateescape"))
    session.screen.note(f"wrote {len(session.desk.text):,} characters to {path}")


def _help(session: Session, _: None) -> None:
    commands = {f"/{name} {each.argument.usage}": each.help for name, each in COMMANDS.items()}
    wide = shutil.get_terminal_size().columns >= 72
    for left, right in {**HELP, **commands}.items():
        for line in [f"{left:<30}{right}"] if wide else [left, f"    {right}"]:
            session.screen.say(line)


class Command(NamedTuple):
    """A command; `run` gets the session, the argument and, if `can_force`, true for a "!"."""

    run: Callable[..., None]
    argument: Argument
    help: str
    can_force: bool = False


COMMANDS: dict[str, Command] = {
    "more": Command(_more, COUNT, "let the model continue, by N tokens"),
    "retry": Command(_retry, NOTHING, "draw the last continuation anew"),
    "undo": Command(_changing(Desk.undo, 1), COUNT, "take back the last step, or N characters"),
    "redo": Command(
        _changing(lambda desk, _: desk.redo(), LOOK_BACK),
        NOTHING,
        "bring back what /undo or /retry removed",
    ),
    "fork": Command(_fork, NEW_NAME, "copy the text; go on with the copy as NAME"),
    "switch": Command(_changing(Desk.switch, LOOK_BACK), NAME, "go to the text NAME"),
    "list": Command(_list, NOTHING, "list the texts"),
    "text": Command(_text, NOTHING, "show the whole text"),
    "set": Command(_set, SETTING, "show the settings; /set top-k off resets one"),
    "network": Command(_network, SWITCH, "let the network write alone, or not"),
    "show": Command(_show, COLOURING, "colour surprising text, underline copied text"),
    "columns": Command(_columns, SEVERAL, "show continuations at several temperatures"),
    "take": Command(
        _changing(Desk.take, LOOK_BACK), COLUMN, "go on with the continuation in column N"
    ),
    "save": Command(_save, OWN_FILE, "save all texts; /save! replaces FILE", True),
    "load": Command(_load, FILE, "open saved texts; /load! drops the present ones", True),
    "export": Command(_export, FILE, "write this text to FILE; /export! replaces it", True),
    "help": Command(_help, NOTHING, "show this list"),
    "quit": Command(lambda session, _: session.leave(), NOTHING, "leave"),
}
