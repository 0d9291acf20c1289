"""Tiny options, and two ways to drive a trainer."""

from __future__ import annotations

from charnn.config import TrainOptions
from charnn.training import events

TINY = TrainOptions(
    max_steps=20,
    num_layers=2,
    hidden_size=12,
    batch_size=4,
    bptt=16,
    dropout=0.1,
    eval_every=7,
    sample_every=9,
    save_every=5,
    seed=3,
    threads=1,
    precision="float32",
)


def finish(trainer) -> None:
    for _ in trainer.run():
        pass


def stop_after(trainer, step: int) -> None:
    for event in trainer.run():
        if isinstance(event, events.StepDone) and event.step == step:
            trainer.stop()
