"""Two ways to drive a trainer."""

from __future__ import annotations

from charnn.training import events


def finish(trainer) -> None:
    for _ in trainer.run():
        pass


def stop_after(trainer, step: int) -> None:
    for event in trainer.run():
        if isinstance(event, events.StepDone) and event.step == step:
            trainer.stop()
