"""A training's numbers as TensorBoard reads them; they pass by, and training is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charnn.errors import CharnnError, FileError
from charnn.runs import Run
from charnn.tensor_file import os_error_line
from charnn.training.events import Ended, Event, StepDone, Validated, Warned

FOLDER = "tensorboard"  # in the run's
OF_A_STEP = {
    "loss/train": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
}


def writer_class() -> Any:
    """Torch's writer of event files, which needs a package that charnn does without.

    Raises:
        CharnnError: that package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise CharnnError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "pip install 'charnn[tensorboard]'"
        ) from None
    return SummaryWriter


def recorded(events: Iterator[Event], run: Run, step: int) -> Iterator[Event]:
    """Hands the events on, and writes their numbers into the run's folder.

    What an earlier session wrote of steps after `step`, at which this one begins, is hidden. A
    full disk costs the record, not the training: it is told once.

    Raises:
        CharnnError: the package tensorboard is not installed.
        FileError: the run's folder holds a link where the record would be.
    """
    make, folder = writer_class(), run.folder / FOLDER
    if folder.is_symlink():
        raise FileError(f"{folder} is a link that leads elsewhere; remove it")
    writer: Any = None
    failed = False
    try:
        for event in events:
            if not failed:
                try:
                    # The first event says that something is saved: a run's folder is then its own.
                    writer = writer or make(str(folder), purge_step=step + 1)
                    for name, value, at in scalars_of(event):
                        writer.add_scalar(name, value, at)
                except OSError as error:
                    failed = True
                    yield Warned(step, _without(error, folder))
            yield event
    finally:
        if writer and not failed:
            writer.close()


def _without(error: OSError, folder: Path) -> str:
    return f"{os_error_line(error, folder, 'write')}; training goes on without --tensorboard"


def scalars_of(event: Event) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of each number in an event."""
    if isinstance(event, StepDone):
        for name, attribute in OF_A_STEP.items():
            yield name, getattr(event, attribute), event.step
    elif isinstance(event, Validated):
        yield f"loss/{event.protocol}", event.score.nats_per_token, event.step
    elif isinstance(event, Ended):
        for protocol, score in event.scores.items():
            yield f"best/{protocol}", score.nats_per_token, event.step
