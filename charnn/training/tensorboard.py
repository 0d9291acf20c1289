"""Writes the numbers of a run for TensorBoard from its events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from charnn.errors import FileError, needed
from charnn.runs import Run
from charnn.tensor_file import os_error_line
from charnn.training.events import Ended, Event, StepDone, Validated, Warned

FOLDER = "tensorboard"  # inside the folder of the run
STEP_SCALARS = {
    "loss/train": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "communication": "communication",
}


def writer_class() -> Any:
    """Returns torch's writer class, which needs the optional package tensorboard.

    Raises:
        MissingPackage: the package is not installed.
    """
    with needed("--tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


def recorded(events: Iterator[Event], run: Run, step: int) -> Iterator[Event]:
    """Yields the events, and writes their numbers into the folder of the run.

    Hides numbers of an earlier session for steps after `step`, where this session begins. A full
    disk ends the record with one warning, but not the run.

    Raises:
        MissingPackage: the package tensorboard is not installed.
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
                    failed, line = True, os_error_line(error, folder, "write")
                    yield Warned(step, f"{line}; the run continues without --tensorboard")
            yield event
    finally:
        if writer and not failed:
            writer.close()


def scalars_of(event: Event) -> Iterator[tuple[str, float, int]]:
    """Yields name, value and step of each number in an event."""
    if isinstance(event, StepDone):
        for name, attribute in STEP_SCALARS.items():
            if (value := getattr(event, attribute)) is not None:
                yield name, value, event.step
    elif isinstance(event, Validated):
        yield f"loss/{event.protocol}", event.score.nats_per_token, event.step
    elif isinstance(event, Ended):
        for protocol, score in event.scores.items():
            yield f"best/{protocol}", score.nats_per_token, event.step
