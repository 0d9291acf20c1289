"""`charnn write`: the desk, where a person and a model write a text together."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from charnn.cli.console import Output, note_unwritable, say, tell
from charnn.cli.model import note_needless_network_only, open_model
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EngineOption,
    Int8Option,
    ModelOption,
    NetworkOnlyOption,
    OneThreadOption,
    PromptArgument,
    SeedOption,
    UnknownOption,
)
from charnn.config import SamplingConfig
from charnn.portable import SIGNALS, restored_terminal
from charnn.threads import set_numpy_threads

if TYPE_CHECKING:
    from charnn.cli.desk_commands import Session

DESK_TOKENS = 200  # of one continuation: a paragraph to look at
RESCUED = "charnn-write.saved"  # for a desk that has no file


def write(
    prompt: PromptArgument = "",
    settings: SamplingConfig = SamplingConfig(max_tokens=DESK_TOKENS),
    model: ModelOption = None,
    seed: SeedOption = None,
    unknown: UnknownOption = "error",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    network_only: NetworkOnlyOption = False,
    threads: OneThreadOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Write a text together with a model, at an interactive desk.

    /help lists the commands of the desk. Ctrl-D, a signal or an error saves the text before the
    desk ends; only /quit does not. If stdin is not a terminal, its lines are read as if they were
    typed, and the exit code is 1 if one of them failed.

    \b
    charnn write
    charnn write "It was " -m english -t 0.5
    """
    output = Output()
    set_numpy_threads(threads)  # before numpy is loaded
    from charnn.cli.desk_commands import Session
    from charnn.cli.desk_screen import Screen
    from charnn.cli.line_editor import has_editor
    from charnn.desk.desk import Desk
    from charnn.generation.sampler import draw_seed

    path, loaded = open_model(model, checkpoints, engine=engine, int8=int8)
    note_unwritable(settings, loaded.tokenizer)
    drawn = draw_seed() if seed is None else seed
    desk = Desk(loaded, drawn, settings, unknown)
    if network_only and not desk.set_network_only(True):
        note_needless_network_only()
    interactive = has_editor()
    session = Session(desk, Screen(output), str(path), interactive)
    if interactive:
        shape = loaded.predictor.config
        tell(f"{path}: {shape.cell} {shape.num_layers}x{shape.hidden_size}, seed {drawn}")
        if os.path.lexists(RESCUED):
            tell(f"A text was rescued here: /load {RESCUED} opens it.")
        tell("Type a beginning; Enter alone lets the model continue; /help lists the commands.")
    elif seed is None:
        tell(f"seed {drawn}")
    _converse(session, prompt)
    if session.failed and not interactive:
        raise typer.Exit(1)


class Signals:
    """Handles all signals from its construction to the end of the process.

    HUP and TERM, and in a pipe Ctrl-C, end the desk by SystemExit with ``code``. At a terminal
    Ctrl-C sets `Screen.interrupted`; a second one stops what `work` does. Ctrl-C never raises
    anything elsewhere, however often it is pressed.
    """

    def __init__(self, session: Session) -> None:
        self.code = 0
        self._session, self._working = session, False
        self._set(self._handle)

    def ignore(self) -> None:
        """Ignores all signals from now on."""
        self._set(signal.SIG_IGN)

    def work(self, act: Callable[[str], None], text: str) -> None:
        """Calls `act` with `text`; a second Ctrl-C stops the call."""
        try:
            self._session.screen.interrupted, self._working = False, True
            act(text)
            self._working = False
        except KeyboardInterrupt:
            self._session.screen.say("stopped")
        finally:
            self._working = False

    def _set(self, handler: signal.Handlers | Callable[[int, FrameType | None], None]) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        screen, working = self._session.screen, self._working
        if number == signal.SIGINT and self._session.interactive:
            if not (working and screen.interrupted):
                screen.interrupted = True
                return
            self._working = False
            raise KeyboardInterrupt
        self.ignore()
        self._working, self.code = False, 128 + number
        raise SystemExit(self.code)


def _converse(session: Session, prompt: str) -> None:
    """Executes line after line; saves unsaved text whatever ends the desk."""
    from charnn.cli.line_editor import edited_lines, piped_lines

    signals, settings = Signals(session), ExitStack()
    if session.interactive:
        settings.enter_context(restored_terminal())
    try:
        if prompt:
            signals.work(session.begin, prompt)
        for line in edited_lines(session) if session.interactive else piped_lines():
            signals.work(session.take, line)
            if session.done:
                return
        if session.interactive:
            rescue(session)
        else:
            session.leave()
    except BaseException as error:
        signals.ignore()
        # A reader that closes the pipe, such as head, has read all that it needs.
        if session.interactive or not isinstance(error, BrokenPipeError):
            rescue(session)
        if signals.code:  # the terminal may be gone, so that leaving the editor failed as well
            raise typer.Exit(signals.code) from None
        raise
    finally:
        settings.close()


def rescue(session: Session) -> None:
    """Saves unsaved text and prints the file; the terminal may be gone.

    The file is the desk's own or a new one in the working folder, or else in a private temporary
    folder.
    """
    from charnn.desk.desk_file import save_desk

    desk = session.desk
    with suppress(Exception):
        desk.unknown = "replace"
        desk.type(session.unfinished)
    if not session.unsaved:
        return
    names = itertools.chain([RESCUED], (f"{RESCUED}-{n}" for n in itertools.count(2)))
    path = session.file or Path(next(name for name in names if not os.path.lexists(name)))
    try:
        try:
            save_desk(desk, path, session.model_name)
        except Exception as error:
            say(f"error: {error}", "31")
            path = Path(tempfile.mkdtemp(prefix="charnn-"), RESCUED)
            save_desk(desk, path, session.model_name)
    except Exception as error:
        say(f"error: the text could not be saved: {error}; here it is:", "31")
        for line in desk.text.split("\n"):
            say(line)
    else:
        say(f"saved; in 'charnn write', /load {path} opens it again")
