"""Training by truncated backpropagation through time, as a generator of events.

Shapes: B streams, T steps, V symbols.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint, TrainingState
from charnn.config import ModelConfig, TrainConfig
from charnn.errors import CharnnError, ConfigError, DamagedFile, FileError, TrainingError
from charnn.evaluation import Score, predictor_of
from charnn.generation.model import Model
from charnn.model import LanguageModel, State
from charnn.model.state import map_state, pack_state, unpack_state
from charnn.runs import MetricsLog, Run
from charnn.tensor_file import LARGEST, number
from charnn.text.line_breaks import Reading
from charnn.text.token_file import TokenFile
from charnn.training.batches import LineBatches, StreamBatches
from charnn.training.events import (
    Ended,
    Event,
    Logged,
    Sampled,
    Saved,
    Stage,
    StepDone,
    Validated,
    Warned,
    log_line,
)
from charnn.training.final_step import NOTHING_DONE, Completed, FinalStep
from charnn.training.gradient import backward, begin, gradients
from charnn.training.machine import environment, whole_host
from charnn.training.optimizer import Optimizer, copied, schedule
from charnn.training.validation import Validator
from charnn.training.world import WORLD

BAD_WINDOWS = 3
MAX_HISTORY = 1000  # above this every second entry is dropped: the size of a header is limited
OVERRUN = 1.15  # of the remaining budget: an expected end beyond it is reported
SAMPLE_TOKENS, SAMPLE_LINES = 200, 10
# Attributes of a trainer that its training state holds, with their types.
PROGRESS: dict[str, type[int] | type[float]] = {
    "step": int,
    "updates": int,
    "bad_windows": int,
    "rate_scale": float,
    "seconds": float,
    "loss_sum": float,
    "loss_count": int,
    "best_loss": float,
    "finished": bool,
}


class Trainer:
    """Trains one run: `run` yields events, `stop` ends the run after the current step.

    The checkpoint holds everything that the next step depends on: weights, moments, counters, the
    rate, the carried hidden state. Dropout masks depend on the seed and the step alone, so
    validating, sampling and saving cannot change training.

    Several processes (`charnn.training.world`) each hold all weights and a share of the streams.
    All of them run this class; only rank 0 yields events, evaluates and writes.
    """

    def __init__(
        self,
        run: Run,
        tokens: TokenFile,
        model: ModelConfig,
        config: TrainConfig,
        deadline: float | None = None,
        final_step: FinalStep | None = None,
    ) -> None:
        """Prepares a run from step 0.

        A `deadline` on the clock of `time.monotonic` is not enforced: an expected overrun is
        reported once.

        Raises:
            TextError: the training text is too short for one window.
            ConfigError: there are fewer streams than processes.
        """
        self.world = WORLD.get()
        if config.batch_size < self.world.size:
            raise ConfigError(
                f"{config.batch_size} streams cannot be shared by {self.world.size} processes: "
                "raise --batch-size, or start fewer processes"
            )
        self.home, self.token_file, self.config = run, tokens, config
        self.deadline, self.final_step = deadline, final_step or FinalStep()
        self.network = LanguageModel(model)
        self.network.reset_parameters(torch.Generator().manual_seed(config.seed))
        self.network.to(config.device)
        self.network.recurrent_dtype = getattr(torch, config.precision)
        self.optimizer = Optimizer(self.network, config)
        self.mask_generator = torch.Generator(device=config.device)
        sizes = config.batch_size, config.bptt
        train = tokens.split("train")
        self.batches: StreamBatches | LineBatches = (
            LineBatches(train, *sizes, tokens.start_token, config.seed)
            if config.lines
            else StreamBatches(train, *sizes, config.seed)
        )
        self.validator = Validator(tokens, config)
        self.log = MetricsLog(run.metrics)
        self.stopping = False  # this process was asked to stop
        self.agreed = False  # all processes have heard that one of them was asked to stop
        self.state: State = self.network.initial_state(config.batch_size)  # of the own share
        self.whole_state = self.state  # of all streams when rank 0 saved last
        self.step = self.updates = self.bad_windows = 0
        self.rate_scale = 1.0
        self.seconds = 0.0
        self.loss_sum, self.loss_count = 0.0, 0  # since the last evaluation
        self.best_loss: float | None = None
        self.history: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}
        self.origin: dict[str, Any] | None = None  # facts of the base, for a fine-tuned model
        self.finished = False

    def stop(self) -> None:
        """Ends the run after the current step: it is saved, then `run` yields `Ended`."""
        self.stopping = True

    def run(self) -> Iterator[Event]:
        """Trains to the end of the budget or until `stop`, and yields events.

        Raises:
            TrainingError: the loss or its gradient was not finite three times in a row.
            FileError: a checkpoint could not be written; the previous one is intact.
        """
        self._meet()
        config, first_step, overrun_reported = self.config, self.step, False
        begin = clock = time.monotonic()
        if self.step == 0:
            yield from self._save()
            yield from self._leads(self._validate_base())
        while self.step < config.max_steps and not self._stopped():
            at, communicated = time.monotonic(), self.world.seconds
            done = self._train_window()
            now = time.monotonic()
            if self.world.size > 1:
                done["communication"] = (self.world.seconds - communicated) / max(now - at, 1e-9)
            self.seconds += now - clock
            clock = now
            read = self.batches.tokens_before
            speed = (read(self.step) - read(self.step - 1)) / max(now - at, 1e-9)
            yield from self._report(StepDone(**self._counters(), **done, tokens_per_second=speed))
            if self.bad_windows:
                yield from self._guard(done["learning_rate"])
            if self.deadline and not overrun_reported and self.step - first_step >= 50:
                pace = (now - begin) / (self.step - first_step)
                late = now + (config.max_steps - self.step) * pace - self.deadline
                if late > 5 + (OVERRUN - 1) * (self.deadline - begin):
                    overrun_reported = True
                    slow = f"slower than at the start: about {late:.0f} s over the budget"
                    yield from self._report(Warned(self.step, slow))
            last = self.step == config.max_steps
            if last or _due(self.step, config.eval_every):
                yield from self._leads(self._validate())
            if config.sample_every and (last or _due(self.step, config.sample_every)):
                yield from self._leads(self._sample())
            if not last and _due(self.step, config.save_every):
                yield from self._save()
        yield from self._end()

    def _meet(self) -> None:
        """Gives all processes the run of rank 0, each its share of the streams."""
        world = self.world
        if world.size == 1:
            return
        if world.leads:
            world.tell(
                {
                    "run": self.home.name,
                    "tokens": self.token_file.digest,
                    "model": self.network.config.to_dict(),
                    "config": self.config.to_dict(),
                }
            )
            world.confirm()
        for name, value in world.tell({name: getattr(self, name) for name in PROGRESS}).items():
            setattr(self, name, value)
        self.optimizer.updates = self.updates
        self.state = map_state(torch.clone, self.state)  # the parts of a new state are one tensor
        parts = [part for layer in self.state for part in layer]
        world.spread([*self.network.parameters(), *self.optimizer.memory(), *parts])
        share = world.share(self.config.batch_size)
        self.state = map_state(lambda part: part[share].clone(), self.state)

    def _leads(self, work: Iterator[Event]) -> Iterator[Event]:
        """Yields the events of work that rank 0 does alone while the other processes wait."""
        if self.world.leads:
            with whole_host(self.config.threads):
                yield from work
        self.world.tell()

    def _stopped(self) -> bool:
        return self.agreed if self.world.size > 1 else self.stopping

    def _train_window(self) -> dict[str, Any]:
        config, world = self.config, self.world
        window = self.batches.window(self.step, world.share(config.batch_size))
        self.state = begin(self.network, window, self.state)
        self.network.train()
        self.mask_generator.manual_seed((config.seed << 31) + self.step)
        nats, state = backward(self.network, window, self.state, self.mask_generator)
        nats, stops = world.sum(gradients(self.network), [nats, float(self.stopping)])
        if stops:
            self.agreed = self.stopping = True
        weights = self.network.parameters()
        norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
        fraction = self.rate_scale * schedule(config, self.step)
        if math.isfinite(nats) and math.isfinite(norm):
            self.optimizer.step(fraction)
            self.state = state
            self.updates += 1
            self.bad_windows = 0
            self.loss_sum += nats
            self.loss_count += 1
        else:
            self.bad_windows += 1
            self.rate_scale /= 2
        self.step += 1
        return {
            "max_steps": config.max_steps,
            "loss": nats,
            "learning_rate": fraction * config.learning_rate,
            "grad_norm": norm,
        }

    def _guard(self, rate: float) -> Iterator[Event]:
        if self.bad_windows < BAD_WINDOWS:
            skipped = "loss or gradient not finite: this window is skipped, the rate is halved"
            yield from self._report(Warned(self.step, skipped))
            return
        try:
            yield from self._save()
        except FileError as error:  # the weights themselves have overflowed, or the disk is full
            yield from self._report(Warned(self.step, str(error)))
        raise TrainingError(
            f"training stopped at step {self.step}: the loss was not finite {BAD_WINDOWS} times "
            f"in a row at learning rate {rate:.3g}; the weights before that are saved. Start again "
            "with a lower --learning-rate and --muon-rate, or with --precision float32"
        )

    def _validate(self) -> Iterator[Event]:
        if not len(self.validator.tokens):
            return
        score = self.validator.score(self.network)
        loss = score.nats_per_token
        best = math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        self.history.append(
            {
                "step": self.step,
                "tokens": self.batches.tokens_before(self.step),
                "seconds": round(self.seconds, 3),
                "train_loss": self.loss_sum / self.loss_count if self.loss_count else None,
                self.validator.protocol: loss if math.isfinite(loss) else None,
                "targets": score.targets,
            }
        )
        if len(self.history) > MAX_HISTORY:
            del self.history[1:-1:2]
        self.loss_sum, self.loss_count = 0.0, 0
        yield from self._report(Validated(self.step, score, best, self.validator.protocol))
        if best:
            self.best_loss, self.results = loss, {}
            self._write(self.home.best, self.checkpoint(training=False))
            yield from self._report(Saved(self.step, self.home.best))

    def _validate_base(self) -> Iterator[Event]:
        if self.origin is not None:  # so that `best` is never worse than the base model
            yield from self._validate()

    def _sample(self) -> Iterator[Event]:
        try:
            model = Model.from_checkpoint(self.checkpoint(training=False))
            text = model.example(SAMPLE_TOKENS, SAMPLE_LINES, self.config.seed)
        except CharnnError as error:  # the weights overflowed, which `_guard` handles
            yield from self._report(Warned(self.step, f"no sample: {error}"))
        else:
            yield from self._report(Sampled(self.step, text))

    def _write(self, path: Path, model: Checkpoint) -> None:
        self.home.relock()
        checkpoints.save(path, model)

    def _save(self) -> Iterator[Event]:
        self._gather()
        yield from self._leads(self._write_last())

    def _gather(self) -> None:
        """Collects the state of all streams for a save.

        Raises:
            TrainingError: the weights of the processes differ, by a fault of a machine.
        """
        world = self.world
        if not world.same([*self.network.parameters(), *self.optimizer.memory()]):
            raise TrainingError(
                f"the weights of the processes differ at step {self.step}: the last save is "
                "intact; look for a faulty machine, then continue with 'charnn train --resume'"
            )
        streams = self.config.batch_size
        self.whole_state = map_state(lambda part: world.gather(part, streams), self.state)

    def _write_last(self) -> Iterator[Event]:
        self._write(self.home.last, self.checkpoint())
        if not len(self.validator.tokens):
            self._write(self.home.best, self.checkpoint(training=False))
        yield from self._report(Saved(self.step, self.home.last))

    def _end(self) -> Iterator[Event]:
        """Saves, applies the final step and scores the best model, even of an interrupted run."""
        self._gather()
        yield from self._leads(self._complete())

    def _complete(self) -> Iterator[Event]:
        self._write(self.home.last, self.checkpoint())  # the rest may take long
        used_up = self.step == self.config.max_steps
        scores, completed = dict[str, Score](), NOTHING_DONE
        try:
            if self.best_loss is not None and (used_up or self.final_step.wanted):
                scores, completed = yield from self._complete_best(used_up)
        except FileError as error:
            if used_up:
                raise
            yield from self._report(Warned(self.step, f"the best model is not completed: {error}"))
        self.finished = used_up and not self.stopping
        yield from self._write_last()
        reason = "finished" if self.finished else "interrupted"
        yield from self._report(Ended(self.step, reason, scores, completed))

    def _complete_best(
        self, used_up: bool
    ) -> Generator[Event, None, tuple[dict[str, Score], Completed]]:
        best, scores = checkpoints.load(self.home.best), dict[str, Score]()
        read, device = self.validator.batches, self.config.device
        completing = self.final_step.apply(best, self.token_file, read, device)
        completed = yield from self._stages(completing)
        if used_up and len(self.validator.tokens):
            for name, batches in self.validator.final(predictor_of(best, device)).items():
                if not self.stopping:
                    yield Stage(self.step, f"scoring, {name.replace('_', '-')}")
                    scores[name] = self.validator.sizes.score(batches)
            self.results = {name: score.to_dict() for name, score in scores.items()}
            best.info["results"] = self.results
        self._write(self.home.best, best)
        return scores, completed

    def _stages(self, names: Generator[str, None, Completed]) -> Generator[Event, None, Completed]:
        """Yields the names of stages as events, and returns what was done."""
        try:
            while True:
                yield Stage(self.step, next(names))
        except StopIteration as ended:
            return cast(Completed, ended.value)

    def checkpoint(self, training: bool = True) -> Checkpoint:
        """Returns a copy of the model, and with `training` of the state of the run.

        The state of several processes is that of the last save.
        """
        tokens, config = self.token_file, self.config
        weights = {name: copied(value) for name, value in self.network.state_dict().items()}
        facts = "sha256", "bytes", "chars", *Reading._fields
        corpus = {key: tokens.source[key] for key in facts if key in tokens.source}
        corpus["tokens"] = {name: part.stop - part.start for name, part in tokens.splits.items()}
        info = {
            "corpus": corpus,
            **({"from": self.origin} if self.origin else {}),
            "recipe": config.to_dict() | self.final_step.settings,
            **self._counters(),
            "history": [dict(entry) for entry in self.history],
            "results": self.results,
        }
        training_state = None
        if training:
            progress = {
                **{name: getattr(self, name) for name in PROGRESS},
                "tokens_digest": tokens.digest,
                "environment": environment(config),
                "final_step": self.final_step.settings,
                **({"job": self.world.job} if self.world.job else {}),
            }
            state = self.whole_state if self.world.size > 1 else self.state
            arrays = self.optimizer.pack() | pack_state(state)
            training_state = TrainingState(config, progress, arrays)
        made = Checkpoint(
            self.network.config,
            tokens.tokenizer.to_dict(),
            weights,
            tokens.start_token,
            info,
            training_state,
            lines=config.lines,
            start=tokens.start,
        )
        if not training:
            self.final_step.carry_over(made)
        return made

    def restore(self, saved: Checkpoint) -> None:
        """Takes over the state of `saved`: the same bits on the same machine, torch and threads.

        Raises:
            DamagedFile: the checkpoint holds no training state, or not all of it.
        """
        if saved.training is None:
            raise DamagedFile("this checkpoint holds no training state: start a run with --from")
        progress = saved.training.progress
        most = {"step": self.config.max_steps, "updates": self.config.max_steps, "rate_scale": 1}
        try:
            for name, kind in PROGRESS.items():
                value = progress[name]
                if kind is bool:
                    value = bool(value)
                elif name != "best_loss" or value is not None:
                    value = number(value, kind, most=most.get(name, LARGEST))
                setattr(self, name, value)
            self.history, self.results = saved.info["history"], dict(saved.info["results"])
            if not isinstance(self.history, list):
                raise ValueError("its history is no list")
            self.origin = saved.info.get("from")
            for entry in self.history:
                number(entry["step"], int, most=self.step)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"the training state of {self.home.last} is damaged: {error}; start a new run"
            ) from None
        weights = {name: torch.from_numpy(a) for name, a in saved.weights.items()}
        self.network.load_state_dict(weights)
        arrays, device = saved.training.arrays, self.config.device
        self.optimizer.unpack(arrays, self.updates)
        self.state = unpack_state(self.state, arrays, device)
        self.log.cut(self.step)

    def _counters(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.batches.tokens_before(self.step),
            "epoch": self.step / self.batches.windows_per_epoch,
            "seconds": self.seconds,
        }

    def _report(self, event: Logged) -> Iterator[Event]:
        """Logs an event and yields it, on rank 0."""
        if not self.world.leads:
            return
        warning = self.log.append(log_line(event, self._counters()))
        yield event
        if warning:
            yield Warned(self.step, warning)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
