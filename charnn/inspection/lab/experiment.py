"""Trains every cell on a task at every size and seed, in parallel worker processes.

Shapes: T steps, B sequences, H hidden units, K outputs.
"""

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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from charnn.config import GATE_ROLES, GATES, LAB_STEPS, LabOptions
from charnn.config.analysis import can_have_chrono
from charnn.errors import TrainingError
from charnn.inspection.lab.tasks import TASKS, LabBatch, LabTask
from charnn.model.cells import CELLS
from charnn.portable import signals_blocked

CHECK_EVERY = 50  # steps
CHECKED, TESTED = 512, 1000  # sequences for early stopping, and for the score of a trial
STRICTER = 2.0  # early stopping needs half of the allowed error
MEASURED_STEPS = 4
TRAINING, CHECKS, TESTS, WEIGHTS = range(4)  # random streams of a trial


class Row(NamedTuple):
    """A row of the table: a cell, with or without chrono initialisation."""

    cell: str
    chrono: bool

    @property
    def name(self) -> str:
        """The name that people read: "lstm", "lstm chrono"."""
        return self.cell + " chrono" * self.chrono


@dataclass(frozen=True)
class Trial:
    """One trained network; `score` is on held-out sequences, None if it was not finite.

    The norms are of the gradient before clipping, ``clipped`` is the share of steps clipped.
    """

    cell: str
    chrono: bool
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

    @property
    def row(self) -> Row:
        """The row of the table that the trial belongs to."""
        return Row(self.cell, self.chrono)


@dataclass
class LabReport:
    """The trials of one experiment so far."""

    options: LabOptions
    trials: list[Trial] = field(default_factory=list)

    @property
    def task(self) -> LabTask:
        """The task of the experiment."""
        return TASKS[self.options.task]

    def of(self, row: Row, size: int) -> list[Trial]:
        """Returns the trials of a row at a size, by seed."""
        return [trial for trial in self.trials if (trial.row, trial.size) == (row, size)]

    def reach(self, row: Row) -> list[int]:
        """Returns, by seed, the largest size solved together with all smaller ones; 0 for none."""
        reached: dict[int, int] = {}
        failed: set[int] = set()
        for size in self.options.all_sizes:
            tried = self.of(row, size)
            failed |= {trial.seed for trial in tried if not trial.solved}
            for trial in tried:
                reached.setdefault(trial.seed, 0)
                if trial.seed not in failed:
                    reached[trial.seed] = size
        return [reached[seed] for seed in sorted(reached)]


def rows_of(options: LabOptions) -> list[Row]:
    """Returns the rows: each cell without chrono initialisation, with it, or both."""
    wanted = (False, True) if options.chrono is None else (options.chrono,)
    return [
        Row(cell, chrono)
        for cell in options.cells
        for chrono in (wanted if can_have_chrono(cell) else (False,))
    ]


def run_trials(options: LabOptions, threads: int = 1) -> Iterator[Trial]:
    """Trains all networks, `threads` at a time with a thread each, and yields trials in order.

    Raises:
        TrainingError: the system killed a worker process.
    """
    jobs = [
        (options, row, size, seed, max_steps)
        for row in rows_of(options)
        for max_steps in [steps_for(options, row, threads)]
        for size in options.all_sizes
        for seed in range(options.seed, options.seed + options.seeds)
    ]
    threads = min(threads, len(jobs))
    if threads == 1:
        yield from (train(*job) for job in jobs)
        return
    others = {*multiprocessing.active_children()}
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(threads, multiprocessing.get_context("spawn"), _prepare_worker)
    try:
        with signals_blocked():  # Ctrl-C reaches this process alone, which then kills the workers
            trials = pool.map(train, *zip(*jobs, strict=True))
        yield from trials
    except BrokenProcessPool:
        raise TrainingError(
            "the system killed a worker process of the lab; if memory ran out, lower --threads, "
            "--hidden-size, --batch-size or --delays"
        ) from None
    finally:
        for worker in {*multiprocessing.active_children()} - others:
            worker.kill()
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows cannot block it
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this worker when its parent has ended, even if the parent was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def steps_for(options: LabOptions, row: Row, threads: int = 1) -> int:
    """Returns the budget of each trial of a row in steps, measured if it was given in minutes."""
    if options.minutes is None:
        return options.max_steps or LAB_STEPS
    seconds = 0.0
    for size in options.all_sizes:
        trainer = LabTrainer(options, row, size, options.seed)
        trainer.step()
        began = time.monotonic()
        for _ in range(MEASURED_STEPS):
            trainer.step()
        seconds += (time.monotonic() - began) / MEASURED_STEPS * options.seeds / threads
    return max(1, int(60 * options.minutes / seconds))


def train(options: LabOptions, row: Row, size: int, seed: int, max_steps: int) -> Trial:
    """Trains one network until its budget is spent or the task is solved with a margin."""
    began = time.monotonic()
    trainer = LabTrainer(options, row, size, seed)
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
        *row,
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


def _random(size: int, seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, size, stream))


class LabTrainer:
    """Trains one recurrent layer of charnn, and a linear layer that reads it, on a task.

    Adam takes new sequences at every step; all rows of a seed and size get the same sequences.
    Recurrent matrices that are not orthogonal are normal with variance 1/H, so on average they keep
    a state's norm too.
    """

    def __init__(self, options: LabOptions, row: Row, size: int, seed: int) -> None:
        self.options, self.size = options, size
        self.task, hidden_size = TASKS[options.task], options.hidden_size
        self.random = _random(size, seed, TRAINING)
        generator = torch.Generator()
        generator.manual_seed(int(_random(size, seed, WEIGHTS).integers(2**63)))
        self.cell: Any = CELLS[row.cell](self.task.inputs, hidden_size)
        self.head = nn.Linear(hidden_size, self.task.outputs)
        self.cell.reset_parameters(generator)
        with torch.no_grad():
            if not options.orthogonal:
                self.cell.weight_hh.normal_(0.0, hidden_size**-0.5, generator=generator)
            self.head.weight.normal_(0.0, hidden_size**-0.5, generator=generator)
            self.head.bias.zero_()
            if row.chrono:
                set_chrono(self.cell, self.task.steps(size), generator)
        self.parameters = [*self.cell.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, options.learning_rate)

    def _outputs(self, batch: LabBatch) -> Tensor:
        """Returns the outputs (T, B, K) of the network for a batch."""
        inputs = torch.from_numpy(batch.inputs)
        hidden, _ = self.cell(inputs, self.cell.initial_state(inputs.shape[1]))
        outputs: Tensor = self.head(hidden)
        return outputs

    def step(self) -> float:
        """Trains on one batch; returns the norm of the gradient before clipping."""
        batch = self.task.make(self.random, self.options.batch_size, self.size)
        self.optimizer.zero_grad()
        loss_of(self._outputs(batch), batch).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip or math.inf)
        self.optimizer.step()
        return float(norm)

    @torch.no_grad()
    def score(self, batch: LabBatch) -> float:
        """Returns the score of the network on a batch."""
        return score_of(self._outputs(batch), batch)


def set_chrono(cell: Any, longest: int, generator: torch.Generator) -> None:
    """Initialises the gate biases of a layer by chrono initialisation (Tallec and Ollivier 2018).

    The gate that keeps the state gets log u, u uniform from 1 to `longest` - 1, so a unit forgets
    in about u steps; a gate that lets new values in gets -log u.
    """
    roles, gates = GATE_ROLES[cell.cell], GATES[cell.cell]
    biases = cell.bias.view(len(gates), -1)
    times = torch.empty(biases.shape[1]).uniform_(1.0, max(longest - 1.0, 1.0), generator=generator)
    if roles.keep:
        biases[gates.index(roles.keep)] = times.log()
    if roles.write:
        biases[gates.index(roles.write)] = -times.log()


def loss_of(outputs: Tensor, batch: LabBatch) -> Tensor:
    """Returns the mean loss over the targets: cross-entropy, or squared error for numbers."""
    targets = torch.from_numpy(batch.targets)
    asked = targets != -1
    if targets.is_floating_point():
        return ((outputs[..., 0] - targets)[asked] ** 2).mean()
    return nn.functional.cross_entropy(outputs[asked], targets[asked])


def score_of(outputs: Tensor, batch: LabBatch) -> float:
    """Returns the squared error, the share of right answers, or the share of right sequences.

    A sequence is right if, at every step, each allowed class is likelier than all others.
    """
    targets = torch.from_numpy(batch.targets)
    asked = targets != -1
    if targets.is_floating_point():
        return float(loss_of(outputs, batch))
    if batch.allowed is None:
        return float((outputs.argmax(-1) == targets)[asked].float().mean())
    allowed = torch.from_numpy(batch.allowed)
    lowest_allowed = outputs.masked_fill(~allowed, math.inf).amin(-1)
    highest_other = outputs.masked_fill(allowed, -math.inf).amax(-1)
    return float(((lowest_allowed > highest_other) | ~asked).all(0).float().mean())
