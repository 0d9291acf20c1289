"""`charnn plan`: the model and recipe for a text, and the loss to expect."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from charnn.cli.console import BEGAN, note, print_json, progress_lines, put
from charnn.cli.model import model_path
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    JsonOption,
    TextsArgument,
)
from charnn.cli.signals import OrderlyEnd
from charnn.config import TrainOptions

if TYPE_CHECKING:
    from charnn.ngrams.expected_loss import ExpectedLoss
    from charnn.training.plan import Plan
    from charnn.training.trainer import Trainer


def plan(
    texts: TextsArgument,
    options: TrainOptions = TrainOptions(),
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
) -> None:
    """Print what 'charnn train' would do with a text, and the loss to expect.

    Measures this machine and the text for a few seconds; nothing is trained or kept.

    \b
    charnn plan book.txt
    charnn plan book.txt --minutes 10
    """
    with OrderlyEnd() as end:
        show_plan(texts, replace(options, seed=options.seed or 0), checkpoints, as_json)
    if end.code:
        raise typer.Exit(end.code)


def show_plan(texts: list[str], options: TrainOptions, checkpoints: Path, as_json: bool) -> None:
    """Prints what would be trained and what to expect, and leaves nothing behind."""
    from charnn.bases import SCRATCH
    from charnn.bases.choose import BaseChooser
    from charnn.ngrams.add import NGramStep
    from charnn.ngrams.expected_loss import expect
    from charnn.training import launch

    if options.from_model not in (None, SCRATCH):
        # A path, since the plan's own folder of runs is empty.
        options = replace(options, from_model=str(model_path(options.from_model, checkpoints)))
    step = NGramStep(options.ngram)
    chooser = BaseChooser(step)
    with (
        tempfile.TemporaryDirectory(prefix="charnn-") as root,
        launch.start(
            texts,
            options,
            Path(root),
            began=BEGAN,
            notify=note,
            progress=progress_lines("reading the text"),
            final_step=step,
            choose_base=chooser,
        ) as (trainer, planned),
    ):
        expected = expect(trainer.token_file, planned.model, planned.epochs, step.order or 0)
        # The rule is that of running text, trained from scratch.
        if trainer.origin is not None or options.lines:
            known = expected.ngrams is not None and not options.lines
            loss = chooser.choice.fine_tuned if known else None
            expected = replace(expected, cold_256=loss)
        if as_json:
            print_json(_as_json(trainer, planned, expected))
        else:
            for line in [*describe(trainer, planned), *_expectation(planned, expected)]:
                put(line)


def describe(trainer: Trainer, plan: Plan) -> list[str]:
    """Returns a line about the text and one about the plan."""
    from charnn.training.batches import LineBatches
    from charnn.training.machine import training_memory

    model, config, tokens = plan.model, plan.config, trainer.token_file
    memory = training_memory(model, config.batch_size, config.bptt)
    sizes = ", ".join(f"{s.stop - s.start:,} {name}" for name, s in tokens.splits.items())
    count = ""
    if isinstance(trainer.batches, LineBatches):
        count = f" in {len(trainer.batches.lengths):,} lines to learn"
    return [
        f"text: {sizes} tokens{count}, {model.vocab_size:,} different ({tokens.tokenizer.kind})",
        f"plan: {model.cell} {model.num_layers}x{model.hidden_size} ({model.parameters:,} "
        f"parameters), dropout {model.dropout:g}; {config.max_steps:,} steps of "
        f"{config.batch_size}x{config.bptt}, {plan.epochs:.1f} passes, about "
        f"{plan.seconds / 60:.1f} min; {config.precision}, {config.threads} threads, "
        f"{memory / 2**20:,.0f} MiB, seed {config.seed}",
        *trainer.final_step.describe(),
    ]


def _expectation(plan: Plan, expected: ExpectedLoss) -> list[str]:
    lines = [
        f"speed: {plan.tokens_per_second:,.0f} tokens/s; "
        f"a model file of about {expected.file_bytes / 1e6:.1f} MB"
    ]
    if expected.cold_256 is not None:
        lines.append(
            f"expected: validation loss {expected.cold_256:.1f} nats/token, give or take 0.1"
        )
    if expected.ngrams is not None:
        lines.append(f"n-grams alone: {expected.ngrams:.2f} nats/token (order {expected.order})")
    return lines + [f"advice: {line}" for line in expected.advice]


def _as_json(trainer: Trainer, plan: Plan, expected: ExpectedLoss) -> dict[str, Any]:
    from charnn.training.machine import training_memory

    model, config = plan.model, plan.config
    return {
        "model": model.to_dict(),
        "parameters": model.parameters,
        "recipe": config.to_dict() | trainer.final_step.settings,
        "tokens": {name: s.stop - s.start for name, s in trainer.token_file.splits.items()},
        "epochs": plan.epochs,
        "seconds": plan.seconds,
        "tokens_per_second": plan.tokens_per_second,
        "memory_bytes": training_memory(model, config.batch_size, config.bptt),
        "file_bytes": expected.file_bytes,
        "expected": {trainer.validator.protocol: expected.cold_256, "ngram": expected.ngrams},
        "advice": expected.advice,
    }
