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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from charnn.errors import CharnnError
from charnn.threads import set_defaults
from charnn.version import __version__

if TYPE_CHECKING:
    from charnn.generation import Model
    from charnn.runs import Run

set_defaults()

__all__ = ["CharnnError", "__version__", "load", "train"]


def load(
    model: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] = "checkpoints",
    engine: str = "auto",
    int8: bool = False,
    clamps: Iterable[str] = (),
    network_only: bool = False,
) -> Model:
    """Loads a model: a run's name, a run's folder, a file, or None for the newest run's best.

    `engine` is native, numpy, or auto: native if it was built. `int8` rounds the weights to 8 bits:
    faster, and the same text on every machine. `clamps` keep units of the state at a value,
    written LAYER:UNIT=VALUE, such as "0:37=1". `network_only` leaves out what `train` mixed into
    the network. Several threads may use one model.

    Raises:
        CharnnError: the model does not exist, or its file is damaged.
    """
    from charnn.generation import Model
    from charnn.runs import find_model

    path = find_model(None if model is None else os.fspath(model), Path(checkpoints))
    loaded = Model.load(path, engine, int8, clamps)
    return loaded.network_only() if network_only else loaded


def train(
    *texts: str | os.PathLike[str],
    checkpoints: str | os.PathLike[str] = "checkpoints",
    **options: Any,
) -> Run:
    """Trains on texts and prints nothing; returns the run. `options` are `TrainOptions`.

    Ctrl-C, or the stop button of a notebook, saves the run before KeyboardInterrupt is raised.

    To watch, iterate over the events of `charnn.training.start` (docs/python.md).

    Raises:
        CharnnError: a text, an option or the machine does not allow it.
    """
    from charnn.bases.choose import BaseChooser
    from charnn.config import TrainOptions
    from charnn.training.launch import start

    names, asked = [os.fspath(text) for text in texts], TrainOptions.from_dict(options)
    root, chooser = Path(checkpoints), BaseChooser.of(asked)
    with start(names, asked, root, final_step=chooser.final_step, choose_base=chooser) as (
        trainer,
        _,
    ):
        with _interruptible(trainer.stop):
            for _event in trainer.run():
                pass
        return trainer.home


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


def __getattr__(name: str) -> Any:
    """Imports `charnn.training` on first use."""
    if name == "training":
        return importlib.import_module("charnn.training")
    raise AttributeError(f"module 'charnn' has no attribute {name!r}")
