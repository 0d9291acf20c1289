"""`charnn write`: the desk, where a person and a model write a text together."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from charnn.cli.console import say
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EngineOption,
    Int8Option,
    MinPOption,
    ModelOption,
    OneThreadOption,
    QuietOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    UnknownOption,
)
from charnn.cli.output import Output
from charnn.cli.sample import set_threads
from charnn.config import DESK_TOKENS, SamplingConfig
from charnn.errors import CharnnError

if TYPE_CHECKING:
    from charnn.cli.desk_commands import Session

ENDING = (signal.SIGHUP, signal.SIGTERM)
RESCUED = "charnn-write.saved"  # a text that has no file yet


def write(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]", help="How the text begins; the model goes on.", show_default=False
        ),
    ] = "",
    model: ModelOption = None,
    max_tokens: Annotated[
        int,
        typer.Option("-n", "--max-tokens", metavar="N", help="Length of a continuation in tokens."),
    ] = DESK_TOKENS,
    temperature: TemperatureOption = SamplingConfig.temperature,
    top_k: TopKOption = SamplingConfig.top_k,
    top_p: TopPOption = SamplingConfig.top_p,
    min_p: MinPOption = SamplingConfig.min_p,
    repetition_penalty: RepetitionPenaltyOption = SamplingConfig.repetition_penalty,
    stop: StopOption = None,
    seed: SeedOption = None,
    unknown: UnknownOption = "error",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    threads: OneThreadOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    quiet: QuietOption = False,
) -> None:
    """Write a text together with a model: type, let it go on, take back, try again.

    At the desk, /help lists what can be said; a signal that ends it saves the text first. Where
    stdin is no terminal, its lines are taken as if they were typed, and the exit code is 1 if one
    of them went wrong.
    """
    settings = SamplingConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
    )
    output = Output()
    set_threads(threads)
    # From here on numpy is loaded, with the threads just set.
    from charnn import load
    from charnn.cli.desk_commands import Session
    from charnn.cli.desk_screen import Screen
    from charnn.cli.line_editor import has_editor
    from charnn.desk.desk import Desk
    from charnn.generation.sampler import draw_seed
    from charnn.runs import find_model

    path = find_model(model, Path(checkpoints))
    loaded = load(path, engine=engine, int8=int8)
    drawn = draw_seed() if seed is None else seed
    desk = Desk(loaded, drawn, settings, unknown)
    interactive = has_editor()
    session = Session(desk, Screen(output, quiet), str(path), interactive)
    if not quiet and interactive:
        shape = loaded.config
        say(f"{path}: {shape.cell} {shape.num_layers}x{shape.hidden_size}, seed {drawn}")
        say("Type how the text begins; Enter alone goes on, /help says what else.")
    elif not quiet and seed is None:
        say(f"seed {drawn}")
    if interactive:
        _at_a_terminal(session, prompt)
    else:
        _from_a_pipe(session, prompt)


def _at_a_terminal(session: Session, prompt: str) -> None:
    from charnn.cli.line_editor import make_editor

    for number in ENDING:
        signal.signal(number, _end)
    try:
        if prompt:
            _say(session, _as_given(prompt))
        ask = make_editor(session)
        while not session.done:
            line = _line(ask, session)
            session.screen.prompted()
            if line is not None:
                _say(session, line, as_command=True)
    except SystemExit:  # of `_end`
        _rescue(session)
        raise


def _rescue(session: Session) -> None:
    """Saves what was not saved; the terminal may be gone.

    Into its file or a new one here; where that cannot be written, into a folder for what is
    temporary, of its own, since the text is nobody else's business.
    """
    from charnn.desk.desk_file import save_desk

    if not session.unsaved:
        return
    names = itertools.chain([RESCUED], (f"{RESCUED}-{n}" for n in itertools.count(2)))
    path = session.file or Path(next(name for name in names if not os.path.lexists(name)))
    try:
        try:
            save_desk(session.desk, path, session.model_name)
        except CharnnError as error:
            say(f"error: {error}", "31")
            path = Path(tempfile.mkdtemp(prefix="charnn-"), RESCUED)
            save_desk(session.desk, path, session.model_name)
    except (CharnnError, OSError) as error:
        say(f"error: the text is lost: {error}", "31")
    else:
        say(f"saved; in 'charnn write', /load {path} opens it again")


def _line(ask: Callable[[], str], session: Session) -> str | None:
    try:
        return ask()
    except KeyboardInterrupt:
        session.screen.note("Ctrl-D or /quit leaves.")
    except EOFError:
        session.leave()
    return None


def _say(session: Session, line: str, as_command: bool = False) -> None:
    """Does what a line says; Ctrl-C ends what it does, not the desk."""
    try:
        with session.screen.stop.watching():
            session.take(line) if as_command else session.begin(line)
    except KeyboardInterrupt:
        session.screen.say("stopped")


def _from_a_pipe(session: Session, prompt: str) -> None:
    from charnn.cli.line_editor import piped_lines

    if prompt:
        session.begin(_as_given(prompt))
    for line in piped_lines():
        session.take(line)
        if session.done:
            break
    else:
        session.leave()
    if session.failed:
        raise typer.Exit(1)


def _as_given(prompt: str) -> str:
    """The prompt as UTF-8; without such a locale, Python has read its bytes as something else."""
    return os.fsencode(prompt).decode("utf-8", "surrogateescape")


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Leaves at a signal, by way of whatever sets the terminal right again and saves the text."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
