"""`charnn plan`: the model and recipe for a text, and the loss to expect."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from charnn.cli.console import BEGAN, Stages, note, print_json, put, show_live
from charnn.cli.model import start_path
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption, TextsArgument
from charnn.cli.signals import OrderlyEnd
from charnn.config import DEFAULT_TOKENIZER, TrainOptions

if TYPE_CHECKING:
    from charnn.training.plan import Plan
    from charnn.training.trainer import Trainer


def plan(
    texts: TextsArgument,
    options: TrainOptions = TrainOptions(),
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
) -> None:
    """Print what 'charnn train' would do, and the loss to expect.

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
    show_live("loading PyTorch")
    from charnn.bases.choose import BaseChooser
    from charnn.training import launch

    if path := start_path(options.from_model, checkpoints):
        # A path, since the plan's own folder of runs is empty.
        options = replace(options, from_model=str(path))
    chooser = BaseChooser.of(options)
    with (
        tempfile.TemporaryDirectory(prefix="charnn-", ignore_cleanup_errors=True) as root,
        launch.start(
            texts,
            options,
            Path(root),
            began=BEGAN,
            notify=note,
            progress=Stages(),
            final_step=chooser.final_step,
            choose_base=chooser,
        ) as (trainer, planned),
    ):
        expected = chooser.expect(trainer, planned)
        if as_json:
            expectation = {
                "file_bytes": expected.file_bytes,
                "expected": expected.losses(trainer.validator.protocol),
                "advice": expected.advice,
            }
            print_json(_as_json(trainer, planned) | expectation)
        else:
            put(*describe(trainer, planned))
            speed, size = planned.tokens_per_second, expected.file_bytes / 1e6
            put(f"speed: {speed:,.0f} tokens/s; a model file of about {size:.1f} MB")
            put(*expected.describe())


def describe(trainer: Trainer, plan: Plan) -> list[str]:
    """Returns a line about the text and one about the plan."""
    from charnn.training.batches import LineBatches
    from charnn.training.machine import training_memory

    model, config, tokens = plan.model, plan.config, trainer.token_file
    memory = training_memory(model, config.batch_size, config.bptt)
    seconds = plan.seconds
    length = f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
    uses = {"train": "to train on", "valid": "held out", "test": "to test on"}
    sizes = ", ".join(f"{s.stop - s.start:,} {uses[name]}" for name, s in tokens.splits.items())
    count = ""
    if isinstance(trainer.batches, LineBatches):
        count = f"; {len(trainer.batches.lengths):,} lines to learn"
    kind, total = tokens.tokenizer.kind, sum(s.stop - s.start for s in tokens.splits.values())
    what = "characters" if kind == DEFAULT_TOKENIZER else f"tokens ({kind})"
    threads = f"{config.threads} thread{'s' * (config.threads > 1)}"
    if trainer.world.size > 1:
        threads = f"{trainer.world.size} processes of {threads}"
    return [
        f"text: {total:,} {what}, {model.vocab_size:,} different; {sizes}{count}",
        f"plan: {model.cell} {model.num_layers}x{model.hidden_size} ({model.parameters:,} "
        f"parameters), dropout {model.dropout:g}; {config.max_steps:,} steps of "
        f"{config.batch_size} streams x {config.bptt} tokens, {plan.epochs:.1f} passes, about "
        f"{length}; {config.precision}, {threads}, "
        f"{memory / 2**20:,.0f} MiB, seed {config.seed}",
        *trainer.final_step.describe(),
    ]


def _as_json(trainer: Trainer, plan: Plan) -> dict[str, Any]:
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
    }
