"""Progress of a run on stderr: one live line on a terminal, a line at times elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from charnn.cli.console import LIVE, Stages, clock, tell, tell_text, warn
from charnn.training.events import Ended, Event, Sampled, Stage, StepDone, Validated, Warned

if TYPE_CHECKING:
    from charnn.training.trainer import Trainer

LINE_SECONDS = 10.0
SMOOTHING = 0.98


def is_watched() -> bool:
    """Tells whether somebody reads stderr: it is a terminal, or this is a notebook."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def watch(events: Iterator[Event], trainer: Trainer) -> Iterator[Event]:
    """Prints events on stderr and yields them."""
    line = ProgressLine(trainer)
    began = shown = time.monotonic()
    stage = Stages()
    stage("training")
    for event in events:
        if isinstance(event, StepDone):
            text = line.after(event)
            if LIVE.wanted:
                LIVE.show(text, began)
            elif time.monotonic() - shown >= LINE_SECONDS:
                shown = time.monotonic()
                tell(text)
        elif isinstance(event, Validated):
            score = event.score
            bits = f", {score.bits_per_char:.3f} bits/char" if score.bits_per_char else ""
            star = " (best)" if event.best else ""
            loss = f"validation loss {score.nats_per_token:.4f}{bits}{star}"
            tell(f"step {event.step:,}: {loss}")
        elif isinstance(event, Sampled) and event.step < trainer.config.max_steps:
            tell_text(f"sample after step {event.step:,}", event.text)
        elif isinstance(event, Warned):
            warn(event.message)
        elif isinstance(event, Stage):
            stage(event.doing)
        elif isinstance(event, Ended):
            LIVE.clear()
            if event.completed.note:
                tell(event.completed.note)
            for warning in event.completed.warnings:
                warn(warning)
        yield event


class ProgressLine:
    """One line with the smoothed loss, the speed and the time left."""

    def __init__(self, trainer: Trainer) -> None:
        self.loss: float | None = None
        self.steps = 0
        self.speed = 0.0
        # By the tokenizer's tokens: bits per character mean the same for every tokenizer.
        train = trainer.token_file.splits["train"]
        self.chars_per_token = train.chars / (train.stop - train.start) if train.chars else None

    def describe(self, loss: float) -> str:
        """Returns a loss in nats per token, for text in bits per character too."""
        bits = ""
        if self.chars_per_token:
            bits = f", {loss / math.log(2) / self.chars_per_token:.3f} bits/char"
        return f"loss {loss:.4f}{bits}"

    def after(self, done: StepDone) -> str:
        """Returns the line after one more step."""
        if math.isfinite(done.loss):
            keep = min(SMOOTHING, self.steps / (self.steps + 1))
            self.loss = (
                done.loss if self.loss is None else keep * self.loss + (1 - keep) * done.loss
            )
        keep = min(SMOOTHING, self.steps / (self.steps + 1))
        # An average of times, since the speed of a single step may be any number.
        pace = 1 / done.tokens_per_second
        self.speed = 1 / (keep / self.speed + (1 - keep) * pace) if self.speed else 1 / pace
        self.steps += 1
        per_step = done.tokens / done.step
        left = (done.max_steps - done.step) * per_step / self.speed
        percent = 100 * done.step // done.max_steps
        loss = self.describe(self.loss) if self.loss is not None else "loss not finite"
        return (
            f"{percent:3d}% step {done.step:,}/{done.max_steps:,} {loss}, "
            f"{self.speed:,.0f} tokens/s, {clock(left)} left"
        )
