"""Truncated backpropagation through time, as a generator of events that can stop and go on.

Shapes: B streams, T steps, V symbols.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint, TrainingState
from charnn.config import ModelConfig, TrainConfig
from charnn.errors import CharnnError, DamagedFile, FileError, TrainingError
from charnn.evaluation import Score, predictor_of
from charnn.generation.model import Model
from charnn.model import LanguageModel, State
from charnn.model.state import pack_state, unpack_state
from charnn.ngrams.fit import count
from charnn.ngrams.section import NGramSection
from charnn.runs import MetricsLog, Run
from charnn.text.token_file import TokenFile
from charnn.training.batches import StreamBatches
from charnn.training.events import (
    Ended,
    Evaluated,
    Event,
    Sampled,
    Saved,
    StepDone,
    Warned,
    log_line,
)
from charnn.training.gradient import backward, begin
from charnn.training.line_batches import LineBatches
from charnn.training.machine import environment
from charnn.training.optimizer import Optimizer, copied, schedule
from charnn.training.samples import written
from charnn.training.scoring import Scorer

BAD_WINDOWS = 3
MAX_HISTORY = 1000  # then every second entry goes: a header has its limit
OVERRUN = 1.15


class Trainer:
    """Trains one run; `run` yields what happens, `stop` ends it after the step at hand.

    Everything that the next step depends on is in the checkpoint: weights, moments, counters, the
    rate, the carried hidden state. Dropout masks depend on the seed and the step alone, so
    validating, sampling and saving cannot change training.
    """

    def __init__(
        self,
        run: Run,
        tokens: TokenFile,
        model: ModelConfig,
        config: TrainConfig,
        deadline: float | None = None,
    ) -> None:
        """`deadline`, on the clock of `time.monotonic`, is not enforced: a risk is reported.

        Raises:
            TextError: the text is too short, or has no validation split to weigh n-grams by.
        """
        self.home, self.token_file, self.config = run, tokens, config
        self.deadline = deadline
        self.network = LanguageModel(model)
        self.network.reset_parameters(torch.Generator().manual_seed(config.seed))
        self.network.to(config.device)
        self.network.recurrent_dtype = getattr(torch, config.precision)
        self.optimizer = Optimizer(self.network, config)
        self.mask_generator = torch.Generator(device=config.device)
        sizes = config.batch_size, config.bptt, model.vocab_size
        train = tokens.split("train")
        self.batches: StreamBatches | LineBatches = (
            LineBatches(train, *sizes, tokens.start_token, config.seed)
            if config.lines
            else StreamBatches(train, *sizes, config.seed)
        )
        valid = tokens.split("valid") if "valid" in tokens.splits else None
        self.valid = valid if valid is not None and len(valid) > 1 else None
        self.scorer = Scorer(tokens, config)
        self.log = MetricsLog(run.metrics)
        self.stopping = False
        self.state: State = self.network.initial_state(config.batch_size)
        self.step = self.updates = self.bad_windows = 0
        self.rate_scale = 1.0
        self.seconds = 0.0
        self.loss_sum, self.loss_count = 0.0, 0  # since the last evaluation
        self.best_loss: float | None = None
        self.history: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}
        self.ngrams: NGramSection | None = None  # of an earlier budget, till weighed anew
        self.origin: dict[str, Any] | None = None  # of a fine-tuned run: the model it began as
        self.finished = False

    def stop(self) -> None:
        """Asks for an end: the step at hand is finished, the run saved, and the events end."""
        self.stopping = True

    def run(self) -> Iterator[Event]:
        """Trains to the end of the budget, or until `stop`.

        Raises:
            TrainingError: the loss or its gradient was not finite three times in a row.
            FileError: a checkpoint could not be written; the older one stands.
        """
        config, first_step, overrun_told = self.config, self.step, False
        begin = clock = time.monotonic()
        if self.step == 0:
            yield from self._save()
            if self.origin is not None and self.valid is not None:  # `best` is never worse
                yield from self._evaluate(self.valid)
        while self.step < config.max_steps and not self.stopping:
            at = time.monotonic()
            done = self._train_window()
            now = time.monotonic()
            self.seconds += now - clock
            clock = now
            read = self.batches.tokens_before
            speed = (read(self.step) - read(self.step - 1)) / max(now - at, 1e-9)
            yield from self._report(StepDone(**self._counters(), **done, tokens_per_second=speed))
            if self.bad_windows:
                yield from self._guard(done["learning_rate"])
            if self.deadline and not overrun_told and self.step - first_step >= 50:
                pace = (now - begin) / (self.step - first_step)
                late = now + (config.max_steps - self.step) * pace - self.deadline
                if late > 5 + (OVERRUN - 1) * (self.deadline - begin):
                    overrun_told = True
                    slow = f"slower than measured at the start: about {late:.0f} s over the budget"
                    yield from self._report(Warned(self.step, slow))
            last = self.step == config.max_steps
            if self.valid is not None and (last or _due(self.step, config.eval_every)):
                yield from self._evaluate(self.valid)
            if config.sample_every and (last or _due(self.step, config.sample_every)):
                yield from self._sample()
            if not last and _due(self.step, config.save_every):
                yield from self._save()
        yield from self._end()

    def _train_window(self) -> dict[str, Any]:
        config = self.config
        window = self.batches.window(self.step)
        self.state = begin(self.network, window, self.state)
        self.network.train()
        self.mask_generator.manual_seed((config.seed << 31) + self.step)
        nats, state = backward(self.network, window, self.state, self.mask_generator)
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
            skipped = "a loss or gradient is not finite: the window is skipped, the rate halved"
            yield from self._report(Warned(self.step, skipped))
            return
        try:
            yield from self._save()
        except FileError as error:  # the weights themselves have overflowed, or the disk is full
            yield from self._report(Warned(self.step, str(error)))
        raise TrainingError(
            f"training stopped at step {self.step}: the loss was not finite {BAD_WINDOWS} times "
            f"in a row, at learning rate {rate:.3g}; what was learnt before is saved. Start again "
            "with a lower --learning-rate and --muon-rate, or with --precision float32"
        )

    def _evaluate(self, valid: Any) -> Iterator[Event]:
        score = self.scorer.watch(self.network, valid)
        loss = score.nats_per_token
        best = math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        self.history.append(
            {
                "step": self.step,
                "tokens": self.batches.tokens_before(self.step),
                "seconds": round(self.seconds, 3),
                "train_loss": self.loss_sum / self.loss_count if self.loss_count else None,
                self.scorer.protocol: loss if math.isfinite(loss) else None,
                "targets": score.targets,
            }
        )
        if len(self.history) > MAX_HISTORY:
            del self.history[1:-1:2]
        self.loss_sum, self.loss_count = 0.0, 0
        yield from self._report(Evaluated(self.step, score, best, self.scorer.protocol))
        if best:
            self.best_loss, self.results = loss, {}
            checkpoints.save(self.home.best, self.checkpoint(training=False))
            yield from self._report(Saved(self.step, self.home.best))

    def _sample(self) -> Iterator[Event]:
        try:
            text = written(Model.from_checkpoint(self.checkpoint(training=False)), self.config)
        except CharnnError as error:  # the network has overflowed: training has its own guard
            yield from self._report(Warned(self.step, f"no sample: {error}"))
        else:
            yield from self._report(Sampled(self.step, text))

    def _save(self) -> Iterator[Event]:
        checkpoints.save(self.home.last, self.checkpoint())
        if self.valid is None:
            checkpoints.save(self.home.best, self.checkpoint(training=False))
        yield from self._report(Saved(self.step, self.home.last))

    def _end(self) -> Iterator[Event]:
        """Saves, and completes the best model; an interrupted run may end without that."""
        checkpoints.save(self.home.last, self.checkpoint())  # what follows may take long
        used_up = self.step == self.config.max_steps
        scores, mixed_in = dict[str, Score](), None
        try:
            if self.best_loss is not None and (used_up or self.config.ngram):
                scores, mixed_in = self._complete_best(used_up)
        except FileError as error:
            if used_up:
                raise
            yield from self._report(Warned(self.step, f"no n-grams are mixed in: {error}"))
        self.finished = used_up and not self.stopping
        yield from self._save()
        reason = "finished" if self.finished else "interrupted"
        yield from self._report(Ended(self.step, reason, scores, mixed_in))

    def _complete_best(self, used_up: bool) -> tuple[dict[str, Score], Any]:
        """Mixes n-grams into the best model; scores it at the end. Returns what `Ended` tells."""
        best, scores = checkpoints.load(self.home.best), dict[str, Score]()
        if self.config.ngram:
            best.ngrams = count(best, self.token_file, self.scorer)
        if used_up and self.valid is not None:
            predictor = predictor_of(best, self.config.device)
            final = self.scorer.final(self.valid).items()
            scores = {name: score(predictor) for name, score in final if not self.stopping}
            self.results = {name: score.to_dict() for name, score in scores.items()}
            best.info["results"] = self.results
        checkpoints.save(self.home.best, best)
        return scores, best.ngram_facts()

    def checkpoint(self, training: bool = True) -> Checkpoint:
        """The run as it stands: a copy that later steps do not touch."""
        tokens, config = self.token_file, self.config
        weights = {name: copied(value) for name, value in self.network.state_dict().items()}
        source = {key: tokens.source[key] for key in ("sha256", "bytes", "chars")}
        info = {
            "corpus": {
                **source,
                "tokens": {name: split.stop - split.start for name, split in tokens.splits.items()},
            },
            **({"from": self.origin} if self.origin else {}),
            "recipe": config.to_dict(),
            **self._counters(),
            "history": [dict(entry) for entry in self.history],
            "results": self.results,
        }
        state = None
        if training:
            progress = {
                "step": self.step,
                "updates": self.updates,
                "bad_windows": self.bad_windows,
                "rate_scale": self.rate_scale,
                "seconds": self.seconds,
                "loss_sum": self.loss_sum,
                "loss_count": self.loss_count,
                "best_loss": self.best_loss,
                "finished": self.finished,
                "tokens_digest": tokens.digest,
                "environment": environment(config),
            }
            arrays = self.optimizer.pack() | pack_state(self.state)
            state = TrainingState(config, progress, arrays)
        return Checkpoint(
            self.network.config,
            tokens.tokenizer.to_dict(),
            weights,
            tokens.start_token,
            info,
            state,
            lines=config.lines,
            ngrams=None if training else self.ngrams,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Continues where `saved` stood, bit for bit on the same machine, torch and threads.

        Raises:
            DamagedFile: the checkpoint does not hold a training, or not all of it.
        """
        if saved.training is None:
            raise DamagedFile("this checkpoint holds a model only, no training that could go on")
        progress = saved.training.progress
        try:
            self.step, self.updates = int(progress["step"]), int(progress["updates"])
            self.bad_windows = int(progress["bad_windows"])
            self.rate_scale = float(progress["rate_scale"])
            self.seconds = float(progress["seconds"])
            self.loss_sum, self.loss_count = progress["loss_sum"], progress["loss_count"]
            self.best_loss, self.finished = progress["best_loss"], progress["finished"]
            self.history, self.results = saved.info["history"], saved.info["results"]
            self.origin = saved.info.get("from")
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"the training state is damaged: {error!r}") from None
        weights = {name: torch.from_numpy(a) for name, a in saved.weights.items()}
        self.network.load_state_dict(weights)
        arrays, device = saved.training.arrays, self.config.device
        self.optimizer.unpack(arrays, self.updates)
        self.state = unpack_state(self.state, arrays, device)
        if self.config.ngram and self.home.best.exists():
            self.ngrams = checkpoints.load(self.home.best).ngrams
        self.log.cut(self.step)

    def _counters(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.batches.tokens_before(self.step),
            "epoch": self.step / self.batches.windows_per_epoch,
            "seconds": self.seconds,
        }

    def _report(self, event: Event) -> Iterator[Event]:
        """Logs an event, then hands it to whoever watches."""
        warning = self.log.append(log_line(event, self._counters()))
        yield event
        if warning:
            yield Warned(self.step, warning)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
