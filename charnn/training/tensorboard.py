"""Writes the numbers of a run for TensorBoard from its events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charnn.errors import CharnnError, FileError
from charnn.runs import Run
from charnn.tensor_file import os_error_line
from charnn.training.events import Ended, Event, StepDone, Validated, Warned

FOLDER = "tensorboard"  # inside the folder of the run
OF_A_STEP = {
    "loss/train": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
}


def writer_class() -> Any:
    """Returns torch's writer class, which needs the optional package tensorboard.

    Raises:
        CharnnError: the package is not installed.
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
    """Yields the events, and writes their numbers into the folder of the run.

    Hides what an earlier session wrote for steps after `step`, where this one begins. A full disk
    stops the record but not the run, with one warning.

    Raises:
        CharnnError: the package tensorboard is not installed.
        FileError: the folder of the record is a link.
    """
    make, folder = writer_class(), run.folder / FOLDER
    if folder.is_symlink():
        raise FileError(f"{folder} is a link to another folder; remove it")
    writer: Any = None
    failed = False
    try:
        for event in events:
            if not failed:
                try:
                    # From the first event on, the folder belongs to a saved run.
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
    return f"{os_error_line(error, folder, 'write')}; the run continues without --tensorboard"


def scalars_of(event: Event) -> Iterator[tuple[str, float, int]]:
    """Yields name, value and step of each number in an event."""
    if isinstance(event, StepDone):
        for name, attribute in OF_A_STEP.items():
            yield name, getattr(event, attribute), event.step
    elif isinstance(event, Validated):
        yield f"loss/{event.protocol}", event.score.nats_per_token, event.step
    elif isinstance(event, Ended):
        for protocol, score in event.scores.items():
            yield f"best/{protocol}", score.nats_per_token, event.step
