"""`charnn train`: a run from a text."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from charnn.cli.console import (
    BEGAN,
    LIVE,
    QUIET,
    SILENT,
    Stages,
    note,
    print_json,
    show_live,
    tell,
    tell_text,
    warn,
)
from charnn.cli.model import start_path
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    JsonOption,
    OptionalTextsArgument,
    given_flags,
)
from charnn.cli.plan import describe, show_plan
from charnn.cli.plot import columns_of, learning_curves
from charnn.cli.signals import OrderlyEnd
from charnn.cli.write import write
from charnn.config import TrainOptions
from charnn.config.settings import Config, require, switch
from charnn.config.training import COMMON, PROGRESS
from charnn.errors import CharnnError, ConfigError

if TYPE_CHECKING:
    from charnn.runs import Run
    from charnn.training.events import Ended
    from charnn.training.trainer import Trainer

SAMPLE_CHARS, SAMPLE_LINES = 300, 10  # of the sample at the end
ON_RESUME = {
    *("resume", "name", "minutes", "epochs", "max_steps", "threads", "device"),
    *("tensorboard", "checkpoints", "json", "quiet"),
}


@dataclass(frozen=True)
class TrainFlags(Config):
    """Flags of `charnn train` alone."""

    resume: bool = switch(
        "Continue the newest unfinished run, or the one that --name names; with a budget, train a "
        "finished run further.",
        section=COMMON,
    )
    dry_run: bool = switch("Print what would be trained, and leave nothing behind.", section=COMMON)
    write: bool = switch(
        "Afterwards, open the desk of 'charnn write' with the model.", section=COMMON
    )
    tensorboard: bool = switch(
        "Also write the losses for TensorBoard into the run's folder. "
        'Needs: pip install "charnn[tensorboard]".',
        section=PROGRESS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.tensorboard and self.dry_run),
            "--dry-run trains nothing that --tensorboard could show: leave one out",
        )
        require(
            not (self.write and self.dry_run),
            "--dry-run trains nothing to --write with: leave one out",
        )


def train(
    context: typer.Context,
    texts: OptionalTextsArgument = None,
    options: TrainOptions = TrainOptions(),
    flags: TrainFlags = TrainFlags(),
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
) -> None:
    """Learn from a text; Ctrl-C saves, --resume continues.

    \b
    charnn train book.txt
    charnn train book.txt --minutes 10 --cell gru --name book-gru
    charnn train chapter.txt --from book --minutes 0.5
    charnn train names.txt --lines
    charnn train --resume
    """
    if flags.resume:
        _require_nothing_else(context, texts)
    elif not texts:
        raise ConfigError(
            "no text given: start with 'charnn train TEXT' or continue with 'charnn train --resume'"
        )
    run = None
    with OrderlyEnd() as end:
        show_live("loading PyTorch")
        from charnn.training.world import joined

        with joined(shlex.join(sys.argv[1:])) as world:
            end.patient = world.size > 1
            if world.leads:
                run = _lead(texts or [], options, flags, checkpoints, json, end)
            else:
                _follow(checkpoints, end)
            end.code = next(filter(None, world.exchange(end.code)), 0)
    if end.code:
        raise typer.Exit(end.code)
    if flags.write and run:
        write(model=str(run.folder), checkpoints=checkpoints)


def _lead(
    texts: list[str],
    options: TrainOptions,
    flags: TrainFlags,
    checkpoints: Path,
    json: bool,
    end: OrderlyEnd,
) -> Run | None:
    """Does the command, as rank 0 of all processes; returns the run if it is finished."""
    from charnn.bases.choose import BaseChooser
    from charnn.ngrams.add import NGramStep
    from charnn.training import launch
    from charnn.training.world import WORLD

    how: dict[str, Any] = {"began": BEGAN, "notify": note, "progress": Stages()}
    world = WORLD.get()
    if flags.tensorboard:
        from charnn.training.tensorboard import writer_class

        writer_class()  # before the text is read: it may not be installed
    if flags.dry_run:
        show_plan(texts, options, checkpoints, json)
        world.tell({})
        return None
    if found := launch.run_of_job(checkpoints, world.job):
        run, finished = found
        if finished:  # torchrun restarted the job after its last save
            note(f"run {run.name!r} of this job is finished")
            world.tell({})
            return run
        options = replace(options, name=run.name, minutes=None, epochs=None, max_steps=None)
    if found or flags.resume:
        step = NGramStep()
        with launch.resume(options.name, options, checkpoints, final_step=step, **how) as trainer:
            most = trainer.config.max_steps
            _tell_run(trainer, f"continues at step {trainer.step:,} of {most:,}")
            return _run(trainer, end, json, flags.tensorboard)
    start_path(options.from_model, checkpoints)  # for its note
    chooser = BaseChooser.of(options)
    how |= {"final_step": chooser.final_step, "choose_base": chooser}
    with launch.start(texts, options, checkpoints, **how) as (trainer, plan):
        _tell_run(trainer, f"starts from {_start_of(trainer, options)}")
        for line in describe(trainer, plan):
            tell(line)
        return _run(trainer, end, json, flags.tensorboard)


def _follow(checkpoints: Path, end: OrderlyEnd) -> None:
    """Computes a share of the streams of the run that rank 0 leads."""
    from charnn.training.follow import follow

    LIVE.clear()
    SILENT.set(True)
    with follow(checkpoints) as trainer:
        if trainer:
            end.stop = trainer.stop
            for _ in trainer.run():
                pass


def _require_nothing_else(context: typer.Context, texts: list[str] | None) -> None:
    if texts:
        raise ConfigError("--resume takes no TEXT, since a run keeps its own: name it with --name")
    other = [flag for name, flag in given_flags(context).items() if name not in ON_RESUME]
    if other:
        raise ConfigError(f"--resume keeps the settings of the run: leave out {', '.join(other)}")


def _start_of(trainer: Trainer, options: TrainOptions) -> str:
    """Returns the name of what a new run starts from."""
    if not trainer.origin:
        return "scratch"
    name = trainer.origin.get("name")
    return f"the base {name!r}" if name else f"the network of {options.from_model}"


def _tell_run(trainer: Trainer, start: str) -> None:
    tell(f"run: {trainer.home.name}, in {trainer.home.folder}/, {start}")


def _run(trainer: Trainer, end: OrderlyEnd, json: bool, tensorboard: bool) -> Run | None:
    """Trains, tells the result, and returns the run if it is finished."""
    from charnn.cli.watch import watch
    from charnn.training.events import Ended

    end.stop = trainer.stop
    ended = None
    events = trainer.run()
    if tensorboard:
        from charnn.training.tensorboard import recorded

        events = recorded(events, trainer.home, trainer.step)
    for event in watch(events, trainer):
        if isinstance(event, Ended):
            ended = event
    assert ended is not None, "the events of a run end with Ended"
    if json:
        print_json(_result(trainer, ended))
    else:
        info = {"recipe": trainer.config.to_dict(), "history": trainer.history}
        for line in learning_curves(info, columns_of(sys.stderr), trainer.home.metrics):
            tell(line)
    _tell_what_next(trainer, ended)
    return trainer.home if ended.reason == "finished" else None


def _result(trainer: Trainer, ended: Ended) -> dict[str, Any]:
    folder = trainer.home
    return {
        "run": folder.name,
        "best": str(folder.model),
        "last": str(folder.last),
        "reason": ended.reason,
        "step": ended.step,
        "max_steps": trainer.config.max_steps,
        "tokens": trainer.batches.tokens_before(ended.step),
        "seconds": trainer.seconds,
        "parameters": trainer.network.config.parameters,
        "seed": trainer.config.seed,
        **({"from": trainer.origin} if trainer.origin else {}),
        **ended.completed.facts,
        **{key: score.to_dict() for key, score in ended.scores.items()},
    }


def _tell_what_next(trainer: Trainer, ended: Ended) -> None:
    run = trainer.home
    where = (
        "" if run.root == DEFAULT_CHECKPOINTS else f" --checkpoints {shlex.quote(str(run.root))}"
    )
    if ended.reason == "interrupted":
        tell(f"saved at step {ended.step:,} of {trainer.config.max_steps:,}; continue with:")
        tell(f"  charnn train --resume --name {run.name}{where}")
        return
    whole = len(trainer.validator.tokens)
    for key, score in ended.scores.items():
        bits = f", {score.bits_per_char:.3f} bits/char" if score.bits_per_char else ""
        label = key.replace("_", "-")
        tell(f"validation, {label}: {score.nats_per_token:.4f} nats/token{bits}")
    if ended.scores and trainer.config.final_tokens < whole:
        tell(
            f"  on the first {trainer.config.final_tokens:,} of {whole:,} held-out tokens, to stay "
            "within the time; 'charnn eval' scores all"
        )
    _tell_a_sample(trainer)
    tell(f"Done. Saved in {run.folder}/. Now try:")
    many = " --lines 20" if trainer.config.lines else ""
    tell(f"  charnn sample{many} -m {run.name}{where}")
    if not trainer.config.lines:
        tell(f"  charnn write -m {run.name}{where}")


def _tell_a_sample(trainer: Trainer) -> None:
    """Prints what `charnn sample` writes with the best model and the seed of the run."""
    from charnn.generation import Model

    if QUIET.get():
        return
    seed = trainer.config.seed
    try:
        model = Model.load(trainer.home.model)
        text = model.example(SAMPLE_CHARS, SAMPLE_LINES, seed)
        text = text if model.of_lines else text[:SAMPLE_CHARS]
    except CharnnError as error:
        warn(f"no sample: {error}")
        return
    tell_text(f"the finished model writes (seed {seed})", text)
