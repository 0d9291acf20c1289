"""charnn learns to write from a text, character by character, with recurrent networks.

    import charnn

    model = charnn.load("checkpoints/book")
    for piece in model.stream("ROMEO:", max_tokens=200, temperature=0.8, seed=1):
        print(piece, end="")
    run = charnn.train("book.txt", minutes=2)

Importing charnn imports neither torch nor numpy; `load` needs numpy, `train` torch.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from charnn.errors import CharnnError, needed
from charnn.threads import set_defaults
from charnn.version import __version__

if TYPE_CHECKING:
    from charnn.generation import Model
    from charnn.scoring.surprisal import ScoredText
    from charnn.training.trained_run import TrainedRun

set_defaults()

__all__ = ["CharnnError", "__version__", "load", "score", "train", "training"]

StrPath = str | bytes | os.PathLike[str]


def load(
    model: StrPath | None = None,
    checkpoints: StrPath = "checkpoints",
    engine: str = "auto",
    int8: bool = False,
    clamps: Iterable[str] = (),
    network_only: bool = False,
) -> Model:
    """Loads a model: a run, its name or folder, a file, a base, or None for the newest run's best.

    `engine` is native, numpy, or auto: native if it was built. `int8` rounds the weights to 8 bits:
    faster, and the same text on every machine. `clamps` keep units of the state at a value,
    written LAYER:UNIT=VALUE, such as "0:37=1". `network_only` leaves out what `train` mixed into
    the network. Several threads may use one model.

    Raises:
        CharnnError: the model does not exist, or its file is damaged.
    """
    from charnn.generation import Model
    from charnn.runs import find_model

    name = None if model is None else os.fsdecode(model)
    path = find_model(name, Path(os.fsdecode(checkpoints)))
    return Model.load(path, engine, int8, clamps, network_only)


def score(text: str, model: Model, unknown: str = "error") -> ScoredText:
    """Returns the surprisal of each token and each character of a string, in bits.

    The model reads the text from its initial state; a model of lines reads each line so.
    `unknown` is "error", or "skip" to leave out characters that the model does not know.

    Raises:
        CharnnError: the text is empty, or has unknown characters.
    """
    from charnn.scoring.surprisal import score_string

    return score_string(
        text, model.predictor, model.tokenizer, model.start_token, model.of_lines, unknown
    )


@needed("charnn.train")
def train(
    *texts: StrPath | Iterable[StrPath],
    checkpoints: StrPath = "checkpoints",
    progress: bool | None = None,
    **options: Any,
) -> TrainedRun:
    """Trains on texts and returns the run. `options` are `TrainOptions`.

    `texts` are files, folders or corpora, or lists of them. `progress` prints losses, speed and
    samples on stderr; None: only in a terminal or a notebook. Ctrl-C, or the stop button of a
    notebook, saves the run as `charnn train` does, then raises KeyboardInterrupt.

    To watch, iterate over the events of `charnn.training.start` (docs/python.md).

    Raises:
        CharnnError: a text, an option or the machine does not allow it.
    """
    from charnn.bases.choose import BaseChooser
    from charnn.cli.console import LIVE, Stages, note
    from charnn.cli.watch import is_watched, watch
    from charnn.config import TrainOptions
    from charnn.training.launch import start
    from charnn.training.trained_run import TrainedRun

    several = ([text] if isinstance(text, (str, bytes, os.PathLike)) else text for text in texts)
    names = [os.fsdecode(name) for some in several for name in some]
    asked, root = TrainOptions.from_dict(options), Path(os.fsdecode(checkpoints))
    chooser, shown = BaseChooser.of(asked), is_watched() if progress is None else progress
    how: dict[str, Any] = {"notify": note, "progress": Stages()} if shown else {}
    how |= {"final_step": chooser.final_step, "choose_base": chooser}
    with ExitStack() as opened:
        opened.callback(LIVE.clear)
        trainer, _ = opened.enter_context(start(names, asked, root, **how))
        opened.enter_context(_interruptible(trainer.stop))
        events = trainer.run()
        for _ in watch(events, trainer) if shown else events:
            pass
    return TrainedRun(root, trainer.home.name)


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Turns a first Ctrl-C into a call of `stop`, and raises KeyboardInterrupt after the block."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop()

    if threading.current_thread() is not threading.main_thread():  # only there Ctrl-C arrives
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Imports `charnn.training` on first use."""
    if name == "training":
        return importlib.import_module("charnn.training")
    raise AttributeError(f"module 'charnn' has no attribute {name!r}")
