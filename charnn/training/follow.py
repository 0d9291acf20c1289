"""The part of a process that does not lead: it computes a share of the streams of rank 0's run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from charnn.config import ModelConfig, TrainConfig
from charnn.errors import CharnnError, DamagedFile, FileError
from charnn.runs import Run
from charnn.text.token_file import TokenFile
from charnn.training import machine
from charnn.training.trainer import Trainer
from charnn.training.world import WORLD

LAG_SECONDS = 20.0


@contextmanager
def follow(root: Path) -> Iterator[Trainer | None]:
    """Helps rank 0 to measure, and opens the run that rank 0 trains; None if it trains none.

    `root` is the folder of runs, which all hosts share.

    Raises:
        TrainingError: a process cannot take part.
    """
    world = WORLD.get()
    while "measure" in (told := world.tell()):
        machine.help_measure(told)
    if not told:
        yield None
        return
    config = TrainConfig.from_dict(told["config"])
    with machine.prepared(config.threads):
        problem = ""
        try:
            tokens = _tokens_of(Run(root, told["run"]), told["tokens"])
            if config.device == "cuda" and torch.cuda.current_device() != world.local_rank:
                problem = f"no GPU for it among {torch.cuda.device_count()}: lower --nproc-per-node"
        except CharnnError as error:
            problem = str(error)
        world.confirm(problem)
        yield Trainer(Run(root, told["run"]), tokens, ModelConfig.from_dict(told["model"]), config)


def _tokens_of(run: Run, digest: str) -> TokenFile:
    """Opens the token file of a run; waits a little for it, since network file systems lag.

    Raises:
        FileError: it is not there, damaged, or another one.
    """
    until = time.monotonic() + LAG_SECONDS
    while True:
        try:
            if not run.tokens.exists():
                raise FileError(
                    f"there is no {run.tokens}: give --checkpoints a folder that all hosts share"
                )
            tokens = TokenFile.open(run.tokens)
            if tokens.digest == digest:
                return tokens
            raise DamagedFile(
                f"{run.tokens} is not the token file of rank 0: give --checkpoints a folder that "
                "all hosts share"
            )
        except FileError:
            if time.monotonic() > until:
                raise
        time.sleep(LAG_SECONDS / 50)
