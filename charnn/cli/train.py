"""`charnn train`: text in, a run out."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import (
    BEGAN,
    describe_ngrams,
    no_talk,
    note,
    print_json,
    progress_lines,
    say,
    warn,
)
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    LinesOption,
    NgramOption,
    PrecisionOption,
    QuietOption,
    SplitOption,
    ThreadsOption,
    TokenizerOption,
    ValidOption,
    VocabSizeOption,
    option,
)
from charnn.cli.plan import describe, show_plan
from charnn.cli.plot import columns_of, learning_curves
from charnn.cli.signals import OrderlyEnd
from charnn.config import (
    BATCH_SIZES,
    DEFAULT_MINUTES,
    OPTIMIZERS,
    ModelConfig,
    TrainConfig,
    TrainOptions,
)
from charnn.errors import ConfigError

if TYPE_CHECKING:
    from charnn.training.events import Ended
    from charnn.training.trainer import Trainer

ENOUGH_POINTS = 4  # validations that make a curve
BUDGET = ("minutes", "epochs", "max_steps")
ALSO_ON_RESUME = ("threads", "device", "tensorboard", "checkpoints", "json", "quiet")
ON_RESUME = (*BUDGET, "resume", "name", *ALSO_ON_RESUME)


def train(
    context: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Files, folders, '-' for stdin, one .tokens file, or a corpus by name.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, option("--name", text="Name of the run. [default: after the text]", auto=False)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Budget in minutes, everything included, from start to the last save. "
            f"[default: {DEFAULT_MINUTES:g}]",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Budget in passes over the text.", show_default=False)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Budget in optimizer steps.", show_default=False)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the newest unfinished run, or the one that --name names; "
            "with a budget, train a finished one further.",
        ),
    ] = False,
    from_model: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Fine-tune this model: a run's name, its folder or a file. Shape and tokenizer "
            "are its own; characters new to it are added.",
            show_default=False,
        ),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            help=f"Recurrent cell: lstm, gru or rnn. [default: {ModelConfig.cell}]",
            show_default=False,
        ),
    ] = None,
    num_layers: Annotated[int | None, option("--num-layers", text="Recurrent layers.")] = None,
    hidden_size: Annotated[int | None, option("--hidden-size", text="Units a layer.")] = None,
    embedding_size: Annotated[
        int | None, option("--embedding-size", text="Features a symbol; as the units if auto.")
    ] = None,
    dropout: Annotated[
        float | None, option("--dropout", text="Share of the units dropped, 0 to 0.95.")
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "--batch-size",
            text="Parallel streams, "
            + ", ".join(f"{n} with {name}" for name, n in BATCH_SIZES.items())
            + ", or as fit.",
        ),
    ] = None,
    bptt: Annotated[
        int | None,
        option(
            "--bptt", text=f"Window of backpropagation, in tokens, {TrainConfig.bptt} or as fit."
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        option(
            "--optimizer",
            text=f"{' or '.join(OPTIMIZERS)}; muon for input and recurrent matrices, adamw for "
            f"the rest, or adamw for all, {TrainConfig.optimizer}.",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        option("--learning-rate", text=f"Peak rate of AdamW, {TrainConfig.learning_rate:g}."),
    ] = None,
    muon_rate: Annotated[
        float | None,
        option("--muon-rate", text=f"Peak rate of Muon, {TrainConfig.muon_rate:g}."),
    ] = None,
    weight_decay: Annotated[
        float | None,
        option("--weight-decay", text=f"Decay of the matrices, {TrainConfig.weight_decay:g}."),
    ] = None,
    precision: PrecisionOption = TrainOptions.precision,
    tokenizer: TokenizerOption = None,
    vocab_size: VocabSizeOption = None,
    split: SplitOption = ",".join(map(str, TrainOptions.split)),
    valid: ValidOption = None,
    encoding: EncodingOption = TrainOptions.encoding,
    lines: LinesOption = False,
    ngram: NgramOption = None,
    eval_every: Annotated[
        int | None, option("--eval-every", text="Steps between validations; 0: at the end only.")
    ] = None,
    sample_every: Annotated[
        int | None, option("--sample-every", text="Steps between samples; 0: none.")
    ] = None,
    save_every: Annotated[
        int | None, option("--save-every", text="Steps between saves; 0: at the end only.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of all randomness. [default: drawn]", show_default=False)
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = TrainOptions.device,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be trained, and leave nothing behind."),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write the losses for TensorBoard too, into the run's folder; give it again with "
            "--resume. Needs 'charnn[tensorboard]'.",
        ),
    ] = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn from a text; Ctrl-C saves, --resume goes on.

    \b
    charnn train book.txt
    charnn train book.txt --minutes 10 --cell gru --name book-gru
    charnn train chapter.txt --from book --minutes 0.5
    charnn train names.txt --lines
    charnn train --resume
    """
    values = {key: value for key, value in locals().items() if key in TrainOptions.__annotations__}
    options = TrainOptions(**{**values, "split": parse_split(split)})
    if resume:
        _require_nothing_else(context, texts)
    elif not texts:
        raise ConfigError(
            "no text given: 'charnn train TEXT' learns from one, 'charnn train --resume' goes on"
        )
    elif from_model is not None:
        from charnn.runs import find_model

        # A path, since a dry run looks for names in a folder of its own.
        options = replace(options, from_model=str(find_model(from_model, checkpoints)))
    if tensorboard and dry_run:
        raise ConfigError("--dry-run trains nothing that --tensorboard could write: leave one out")
    with OrderlyEnd() as end:
        from charnn.training import launch

        if tensorboard:
            from charnn.training.tensorboard import writer_class

            writer_class()  # before the text is read: it may not be installed

        notify = no_talk if quiet else note
        if resume:
            with launch.resume(name, options, checkpoints, began=BEGAN, notify=notify) as trainer:
                _run(trainer, end, json, quiet, tensorboard)
        elif dry_run:
            show_plan(texts or [], options, json, quiet)
        else:
            progress = None if quiet else progress_lines("reading the text")
            with launch.start(
                texts or [], options, checkpoints, began=BEGAN, notify=notify, progress=progress
            ) as (trainer, plan):
                if not quiet:
                    for line in describe(trainer, plan):
                        say(line)
                _run(trainer, end, json, quiet, tensorboard)
    if end.code:
        raise typer.Exit(end.code)


def parse_split(text: str) -> tuple[int, ...]:
    """A split such as "90,10" as numbers.

    Raises:
        ConfigError: it is not a list of whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--split takes whole percentages that add up to 100, such as 90,10; got {text!r}"
        ) from None


def _require_nothing_else(context: typer.Context, texts: list[str] | None) -> None:
    if texts:
        raise ConfigError("--resume takes no TEXT: a run keeps its own; name the run with --name")
    flags = {option.name: option.opts[0] for option in context.command.params if option.name}
    other = [flags[n] for n in flags if n not in ON_RESUME and _was_given(context, n)]
    if other:
        raise ConfigError(f"--resume keeps the settings of the run: leave out {', '.join(other)}")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _run(trainer: Trainer, end: OrderlyEnd, json: bool, quiet: bool, tensorboard: bool) -> None:
    from charnn.cli.watch import watch
    from charnn.training.events import Ended, Warned

    end.stop = trainer.stop
    ended = None
    events = trainer.run()
    if tensorboard:
        from charnn.training.tensorboard import recorded

        events = recorded(events, trainer.home, trainer.step)
    for event in events if quiet else watch(events, trainer):
        if isinstance(event, Ended):
            ended = event
        elif isinstance(event, Warned) and quiet:
            warn(event.message)
    assert ended is not None, "the events of a training end with Ended"
    if json:
        print_json(_result(trainer, ended))
    if not quiet:
        if not json:
            info = {"recipe": trainer.config.to_dict(), "history": trainer.history}
            for line in learning_curves(info, columns_of(sys.stderr), ENOUGH_POINTS):
                say(line)
        _say_what_next(trainer, ended)


def _result(trainer: Trainer, ended: Ended) -> dict[str, Any]:
    folder = trainer.home
    return {
        "run": folder.name,
        "best": str(folder.best if folder.best.exists() else folder.last),
        "last": str(folder.last),
        "reason": ended.reason,
        "step": ended.step,
        "max_steps": trainer.config.max_steps,
        "tokens": trainer.batches.tokens_before(ended.step),
        "seconds": trainer.seconds,
        "parameters": trainer.network.config.parameters,
        "seed": trainer.config.seed,
        **({"ngrams": ended.ngrams} if ended.ngrams else {}),
        **{key: score.to_dict() for key, score in ended.scores.items()},
    }


def _say_what_next(trainer: Trainer, ended: Ended) -> None:
    run = trainer.home
    where = (
        "" if run.root == DEFAULT_CHECKPOINTS else f" --checkpoints {shlex.quote(str(run.root))}"
    )
    if ended.ngrams:
        say(f"mixed in: {describe_ngrams(ended.ngrams)}")
    if ended.reason == "interrupted":
        say(f"saved at step {ended.step:,} of {trainer.config.max_steps:,}; go on with:")
        say(f"  charnn train --resume --name {run.name}{where}")
        return
    if trainer.config.ngram and ended.scores and not ended.ngrams:
        say("n-grams: left out, since they hardly lower the loss")
    whole = len(trainer.valid) if trainer.valid is not None else 0
    for key, score in ended.scores.items():
        bits = f", {score.bits_per_char:.3f} bits/char" if score.bits_per_char else ""
        label = key.replace("_", "-")
        say(f"validation, {label}: {score.nats_per_token:.4f} nats/token{bits}")
    if ended.scores and trainer.config.final_tokens < whole:
        say(
            f"  of the first {trainer.config.final_tokens:,} tokens of {whole:,}; "
            "'charnn eval' scores them all"
        )
    say(f"done: {run.folder}/; let it write with:")
    many = " --lines 20" if trainer.config.lines else ""
    say(f"  charnn sample{many} -m {run.name}{where}")
