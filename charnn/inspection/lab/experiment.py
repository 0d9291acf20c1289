"""Trains every cell on a task at every size and seed, as a stream of results; prints nothing."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch import Tensor, nn

from charnn.config import GATE_ROLES, LAB_STEPS, LabOptions
from charnn.errors import TrainingError
from charnn.inspection.lab.network import LabNetwork
from charnn.inspection.lab.tasks import TASKS, Batch, Task

CHECK_EVERY = 50  # steps; each check is on sequences of its own
CHECKED, TESTED = 512, 1000  # sequences to end a training by, and to judge it by
STRICTER = 2.0  # a training ends early only when half of the allowed error is left
MEASURED_STEPS = 4
# Kinds of sequences: each training has streams of its own, none seen by another.
TRAINING, CHECKS, TESTS, WEIGHTS = range(4)


@dataclass(frozen=True)
class Row:
    """A row of the table: a cell, and whether its biases are chrono's."""

    cell: str
    chrono: bool

    @property
    def name(self) -> str:
        """As it is shown: "lstm", "lstm chrono"."""
        return self.cell + " chrono" * self.chrono


@dataclass(frozen=True)
class Trial:
    """One training: `score` on sequences that it never saw, None where it was not finite.

    ``max_steps`` was its budget, ``steps`` what it took; the norms are of the gradient before it
    was clipped, and ``clipped`` is the share of the steps in which it was.
    """

    row: Row
    size: int
    seed: int
    score: float | None
    solved: bool
    steps: int
    max_steps: int
    seconds: float
    median_norm: float | None
    largest_norm: float | None
    clipped: float


@dataclass
class Report:
    """All trials of one experiment."""

    options: LabOptions
    trials: list[Trial] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """The task that was tried."""
        return TASKS[self.options.task]

    def of(self, row: Row, size: int) -> list[Trial]:
        """The trials of a row at a size, by seed."""
        return [t for t in self.trials if (t.row, t.size) == (row, size)]

    def reach(self, row: Row) -> list[int]:
        """By seed: the largest size that it solved, with all smaller ones; 0 for none."""
        reached = []
        for seed in sorted({t.seed for t in self.trials if t.row == row}):
            largest = 0
            for size in self.options.all_sizes:
                if not any(t.solved for t in self.of(row, size) if t.seed == seed):
                    break
                largest = size
            reached.append(largest)
        return reached


def rows_of(options: LabOptions) -> list[Row]:
    """The rows: cells in the order given, each without chrono, with it, or both."""
    rows = []
    for cell in options.cells:
        gated = bool(GATE_ROLES[cell].keep or GATE_ROLES[cell].write)
        if not gated or not options.chrono:
            rows.append(Row(cell, False))
        if gated and options.chrono is not False:
            rows.append(Row(cell, True))
    return rows


def run(options: LabOptions, threads: int = 1) -> Iterator[Trial | Report]:
    """Trains all there is to train, `threads` at a time; the `Report` of it all comes last.

    A trial is the same however many are trained at a time: each has one thread to itself.
    """
    report = Report(options)
    seeds = range(options.seed, options.seed + options.seeds)
    jobs = [
        (options, row, size, seed, max_steps)
        for row in rows_of(options)
        for max_steps in [steps_for(options, row, threads)]
        for size in options.all_sizes
        for seed in seeds
    ]
    for trial in _trials(jobs, threads):
        report.trials.append(trial)
        yield trial
    yield report


Job = tuple[LabOptions, Row, int, int, int]


def _trials(jobs: list[Job], threads: int) -> Iterator[Trial]:
    threads = min(threads, len(jobs))
    if threads == 1:
        yield from map(_train_job, jobs)
        return
    before = set(multiprocessing.active_children())
    # Not forked: threads that torch may have started do not survive that.
    pool = ProcessPoolExecutor(threads, multiprocessing.get_context("spawn"), _prepare)
    workers: set[BaseProcess] = set()
    try:
        with _terminal_held():
            found = pool.map(_train_job, jobs)
            workers = {*multiprocessing.active_children()} - before
        yield from found
    except BrokenProcessPool:
        raise TrainingError(
            f"{_how_it_ended(workers)}, so the trainings cannot go on; where memory ran out, give "
            "fewer --threads, a smaller --hidden-size or --batch-size, or smaller --delays"
        ) from None
    finally:
        # At once, whatever they are training; an end may have come while they were being begun.
        for worker in {*multiprocessing.active_children()} - before:
            worker.kill()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _terminal_held() -> Iterator[None]:
    """Keeps the terminal's signals back; processes begun meanwhile never get them.

    Their parent ends them, and they have nothing to say of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how_it_ended(workers: set[BaseProcess]) -> str:
    """Which end a training process came to; the others were then ended by TERM."""
    for worker in workers:
        worker.join()
    codes = {worker.exitcode or 0 for worker in workers} - {0, -signal.SIGTERM}
    for code in codes:
        if code < 0:
            return f"a training process was killed by the system ({signal.Signals(-code).name})"
    return "a training process ended before its work was done"


def _prepare() -> None:
    """Sets up a process that trains."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was begun by one"
    parent.join()
    os._exit(1)


def _train_job(job: Job) -> Trial:
    return train(*job)


def steps_for(options: LabOptions, row: Row, threads: int = 1) -> int:
    """The steps of each training of a row: as given, or as many as its minutes hold."""
    if options.minutes is None:
        return options.max_steps or LAB_STEPS
    seconds = 0.0
    for size in options.all_sizes:
        trainer = _Trainer(options, row, size, options.seed)
        trainer.step()
        began = time.monotonic()
        for _ in range(MEASURED_STEPS):
            trainer.step()
        seconds += (time.monotonic() - began) / MEASURED_STEPS * options.seeds / threads
    return max(1, int(60 * options.minutes / seconds))


def train(options: LabOptions, row: Row, size: int, seed: int, max_steps: int) -> Trial:
    """One training, to its end or until it is solved with room to spare."""
    began = time.monotonic()
    trainer = _Trainer(options, row, size, seed)
    task = trainer.task
    check = task.make(_random(size, seed, CHECKS), CHECKED, size)
    norms: list[float] = []
    while len(norms) < max_steps:
        norms.append(trainer.step())
        if not math.isfinite(norms[-1]):
            break
        if len(norms) % CHECK_EVERY == 0 and task.solved(trainer.score(check), STRICTER):
            break
    score = trainer.score(task.make(_random(size, seed, TESTS), TESTED, size))
    finite = [norm for norm in norms if math.isfinite(norm)]
    good = math.isfinite(score) and math.isfinite(norms[-1])
    return Trial(
        row,
        size,
        seed,
        score if good else None,
        good and task.solved(score),
        len(norms),
        max_steps,
        time.monotonic() - began,
        statistics.median(finite) if finite else None,
        max(finite, default=None),
        sum(norm > (options.clip or math.inf) for norm in norms) / len(norms),
    )


def _random(size: int, seed: int, kind: int) -> np.random.Generator:
    return np.random.default_rng((seed, size, kind))


class _Trainer:
    """Adam on new sequences at every step, the same ones for every row of a seed and size."""

    def __init__(self, options: LabOptions, row: Row, size: int, seed: int) -> None:
        self.options, self.size = options, size
        self.task = TASKS[options.task]
        self.network = LabNetwork(
            row.cell, self.task.inputs, options.hidden_size, self.task.outputs
        )
        weights = int(_random(size, seed, WEIGHTS).integers(2**63))
        self.network.reset_parameters(
            torch.Generator().manual_seed(weights),
            options.orthogonal,
            round(self.task.steps(size)) if row.chrono else None,
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), options.learning_rate)
        self.random = _random(size, seed, TRAINING)

    def step(self) -> float:
        """Learns from one batch; returns the norm of the gradient before it is clipped."""
        batch = self.task.make(self.random, self.options.batch_size, self.size)
        self.optimizer.zero_grad()
        loss = loss_of(self.network(torch.from_numpy(batch.inputs)), batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        clip = self.options.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), clip))
        self.optimizer.step()
        return norm

    def score(self, batch: Batch) -> float:
        """See `score_of`."""
        with torch.no_grad():
            return score_of(self.network(torch.from_numpy(batch.inputs)), batch)


def loss_of(outputs: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy, or squared error where targets are numbers, at the places that are asked."""
    targets = torch.from_numpy(batch.targets)
    asked = targets != -1
    if targets.is_floating_point():
        return ((outputs[..., 0] - targets)[asked] ** 2).mean()
    return nn.functional.cross_entropy(outputs[asked], targets[asked])


def score_of(outputs: Tensor, batch: Batch) -> float:
    """The squared error; the share of right answers; or the share of sequences all right.

    Where several letters may follow, an answer is right if each that may is likelier than each that
    may not.
    """
    targets = torch.from_numpy(batch.targets)
    asked = targets != -1
    if targets.is_floating_point():
        return float(((outputs[..., 0] - targets)[asked] ** 2).mean())
    if batch.allowed is None:
        return float((outputs.argmax(-1) == targets)[asked].float().mean())
    allowed = torch.from_numpy(batch.allowed)
    least = outputs.masked_fill(~allowed, math.inf).amin(-1)
    most = outputs.masked_fill(allowed, -math.inf).amax(-1)
    return float(((least > most) | ~asked).all(0).float().mean())
