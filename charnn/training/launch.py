"""Starts and resumes runs: from options to a `Trainer` on a locked run folder."""

from __future__ import annotations

import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from charnn import checkpoint as checkpoints
from charnn.bases import SCRATCH, base_of
from charnn.checkpoint import Checkpoint
from charnn.config import (
    DEFAULT_MINUTES,
    DEFAULT_TOKENIZER,
    MAX_SEED,
    TOKENS_SUFFIX,
    TextOptions,
    TrainOptions,
)
from charnn.config.settings import settings_of
from charnn.errors import (
    BusyError,
    ConfigError,
    DamagedFile,
    FileError,
    NewerFile,
    TextError,
    TrainingError,
)
from charnn.runs import Run, find_model, find_run, free_name, list_runs, no_run_yet
from charnn.tensor_file import file_errors, regular, replacing
from charnn.text.line_breaks import Reading
from charnn.text.list_of_lines import line_sources
from charnn.text.sources import TextSource, open_source
from charnn.text.sources import run_name as name_of_text
from charnn.text.token_file import TokenFile, check_split
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import Tokenizer, tokenizer_class
from charnn.training import machine
from charnn.training.final_step import FinalStep
from charnn.training.fine_tune import Base
from charnn.training.machine import require_memory
from charnn.training.plan import (
    FINE_TUNING,
    FINE_TUNING_UNLIKE,
    FROM_SCRATCH,
    Plan,
    Recipe,
    Text,
    make_plan,
    set_budget,
    step_shapes,
)
from charnn.training.trainer import Trainer

Notify = Callable[[str], None]
Progress = Callable[[str, int, int], None]
# Returns the model to start from, None for scratch, and a note for people.
ChooseBase = Callable[[TokenFile, TrainOptions], tuple[Base | None, str]]


@contextmanager
def start(
    texts: Sequence[str],
    options: TrainOptions,
    root: Path,
    *,
    began: float | None = None,
    notify: Notify = lambda _: None,
    progress: Progress = lambda *_: None,
    final_step: FinalStep | None = None,
    choose_base: ChooseBase | None = None,
) -> Iterator[tuple[Trainer, Plan]]:
    """Opens a new run on `texts`, locked while the block lasts and removed if nothing is trained.

    Args:
        began: start of the budget on the clock of `time.monotonic`.
        notify: called with each note for people.
        progress: called with the name of a stage, the work done and in total (0: unknown).
        final_step: completes the best model at the end; by default nothing does.
        choose_base: chooses the model to start from if the options do not name one.

    Raises:
        CharnnError: a text, an option or the machine does not allow the run.
    """
    began = time.monotonic() if began is None else began
    final_step = final_step or FinalStep()
    if not texts or "" in texts:  # an unset variable of the shell gives ""
        raise TextError("no text given: name a file, a folder, '-' for stdin, or a corpus")
    check_split(options.split)
    base = None
    if options.from_model not in (None, SCRATCH):
        path = find_model(options.from_model, root)
        shipped = base_of(path)
        base = Base(path, shipped[0] if shipped else "")
        options = base.with_shape(options)
    tokenizer = base.tokenizer if base else options.tokenizer or DEFAULT_TOKENIZER
    tokenizer_class(tokenizer, options.vocab_size)  # refuses what does not fit
    options = replace(
        options,
        seed=secrets.randbelow(MAX_SEED + 1) if options.seed is None else options.seed,
        threads=machine.default_threads() if options.threads is None else options.threads,
        device=machine.choose_device(options.device),
    )
    with machine.prepared(options.threads or 1), _new_run(texts, options, root) as (run, warnings):
        try:
            for warning in warnings:
                notify(warning)
            reading = partial(progress, "reading the text")
            tokens = _tokens_of(texts, options, tokenizer, run, reading)
            for note in tokens.notes:
                notify(note)
            if options.valid and np.array_equal(tokens.split("train"), tokens.valid):
                notify("--valid is the training text itself, so its loss is not that of new text")
            final_step.prepare(tokens)
            if base:
                notify(f"starts from the network of {base.name or base.path}")
            elif choose_base and options.from_model is None:
                progress("comparing a base with a start from scratch", 0, 0)
                base, note = choose_base(tokens, options)
                if note:
                    notify(note)
                options = base.with_shape(options) if base else options
            if base and (note := base.describe_new(tokens.tokenizer)):
                notify(note)
            text = Text.of(tokens, options.lines)
            progress("measuring this machine", 0, 0)
            elapsed, costs = time.monotonic() - began, final_step.costs(text.train)
            plan = make_plan(options, text, elapsed, costs, _recipe(base, tokens))
            for note in plan.notes:
                notify(note)
            trainer = Trainer(
                run, tokens, plan.model, plan.config, _deadline(options, began), final_step
            )
            if base:
                base.initialise(trainer.network, tokens.tokenizer)
                trainer.origin = base.origin
            yield trainer, plan
        finally:
            run.discard()


@contextmanager
def resume(
    name: str | None,
    options: TrainOptions,
    root: Path,
    *,
    began: float | None = None,
    notify: Notify = lambda _: None,
    progress: Progress = lambda *_: None,
    final_step: FinalStep | None = None,
) -> Iterator[Trainer]:
    """Continues a run, the newest unfinished one if `name` is None; locked while the block lasts.

    Uses only budget (for a finished run), threads and device of `options`. `final_step` must be of
    the class that the run started with.

    Raises:
        CharnnError: there is no such run, or it is finished, in use, or damaged.
    """
    began = time.monotonic() if began is None else began
    final_step = final_step or FinalStep()
    budget = options.given(("minutes", "epochs", "max_steps"))
    run = find_run(root, name) if name else _newest_unfinished(root, bool(budget))
    with run.lock(newest=False) as warnings, ExitStack() as settings:
        for warning in warnings:
            notify(warning)
        progress("reading the run", 0, 0)
        saved = _load_last(run)
        if saved.training is None:
            raise DamagedFile(f"{run.last} holds no training state: start a run with --from")
        config, counters = saved.training.config, saved.training.progress
        config = replace(
            config,
            threads=options.threads or config.threads,
            device=_device_for(config.device, options.device),
        )
        settings.enter_context(machine.prepared(config.threads))
        tokens = TokenFile.open(run.tokens)
        if tokens.digest != counters.get("tokens_digest"):
            raise DamagedFile(
                f"{run.tokens} is not the text of run {run.name!r}: restore that file"
            )
        final_step.restore(counters.get("final_step", {}), run.best)
        finished = bool(counters.get("finished"))
        if finished and not budget:
            raise TrainingError(
                f"run {run.name!r} is finished, after {config.max_steps:,} steps: give it a new "
                "budget, for example with --minutes 3"
            )
        if budget and not finished:
            raise TrainingError(
                f"run {run.name!r} is not finished: resume it without a new budget first"
            )
        if budget:
            config = replace(
                config, schedule_start=config.max_steps, max_steps=config.max_steps + 1
            )
            text = Text.of(tokens, config.lines)
            progress("measuring this machine", 0, 0)
            speed = machine.measure(saved.config, config, step_shapes(config, text.lengths))
            elapsed, costs = time.monotonic() - began, final_step.costs(text.train)
            config = set_budget(options, saved.config, config, speed, text, elapsed, costs).config
            counters["finished"] = False
            notify(
                "new budget: the learning rate rises again and decays over the new steps, so the "
                "loss gets worse at first"
                + ("; 'best' changes once the loss is lower than before" * (text.valid > 1))
            )
        then, now = counters.get("environment"), machine.environment(config)
        if then != now and isinstance(then, dict):
            then, now = ({"processes": "1", **each} for each in (then, now))
            changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]
            notify(f"the run will differ from an uninterrupted one: {', '.join(changed)}")
        require_memory(saved.config, config)
        deadline = _deadline(options, began) if budget else None
        trainer = Trainer(run, tokens, saved.config, config, deadline, final_step)
        trainer.restore(saved)
        run.mark_newest()  # only now: a refused resume changes nothing
        yield trainer


def _recipe(base: Base | None, tokens: TokenFile) -> Recipe:
    """Returns the recipe for a text and the model that its run starts from."""
    if base is None:
        return FROM_SCRATCH
    is_like = len(tokens.split("train")) > 1 and base.is_like(tokens)
    return FINE_TUNING if is_like else FINE_TUNING_UNLIKE


def run_of_job(root: Path, job: str) -> tuple[Run, bool] | None:
    """Returns the run that torchrun began by this job and whether it is finished, or None."""
    for run in list_runs(root) if job else []:
        with suppress(FileError):
            training = checkpoints.peek(run.last).get("training")
            if training and training["progress"].get("job") == job:
                return run, bool(training["progress"].get("finished"))
    return None


def _load_last(run: Run) -> Checkpoint:
    try:
        return checkpoints.load(run.last)
    except NewerFile:  # the best model is too new too
        raise
    except DamagedFile as error:
        if not run.best.exists():
            raise
        model = shlex.quote(str(run.folder))
        raise DamagedFile(
            f"{error}; the run cannot be resumed, but its best model exists: sample with "
            f"-m {model}, or start a new run with --from {model}"
        ) from None


@contextmanager
def _new_run(
    texts: Sequence[str], options: TrainOptions, root: Path
) -> Iterator[tuple[Run, list[str]]]:
    """Chooses a new run and locks it; yields the run and the warnings of `Run.lock`."""
    with ExitStack() as held:
        while True:
            run = Run(root, options.name or free_name(root, name_of_text(texts[0])))
            if options.name and run.exists:
                raise FileError(
                    f"run {run.name!r} exists already: continue it with 'charnn train --resume "
                    f"--name {run.name}', or choose another name"
                )
            if options.name and run.taken:
                raise FileError(f"{run.folder}/ is not a run: choose another --name")
            try:
                warnings = held.enter_context(run.lock())
                break
            except BusyError:  # two started at once chose the same free name
                if options.name:
                    raise
        yield run, warnings


def _newest_unfinished(root: Path, finished_too: bool) -> Run:
    runs = list_runs(root)
    if not runs:
        raise FileError(no_run_yet(root))
    for run in runs:
        linked = run.folder.is_symlink()  # such a run is only read
        if not linked and (finished_too or not _is_finished(run)):
            return run
    raise TrainingError(
        f"no unfinished run in {root}/: the newest, {runs[0].name!r}, is finished; give it a new "
        "budget, for example with --minutes 3"
    )


def _is_finished(run: Run) -> bool:
    with suppress(FileError):
        training = checkpoints.peek(run.last).get("training")
        return training is None or bool(training["progress"].get("finished"))
    return False


def _device_for(saved: str, wanted: str) -> str:
    if wanted != "auto":
        return machine.choose_device(wanted)
    with suppress(ConfigError):
        return machine.choose_device(saved)
    return machine.choose_device("auto")


def _deadline(options: TrainOptions, began: float) -> float | None:
    if options.minutes is None and options.given(("epochs", "max_steps")):
        return None
    return began + 60 * (options.minutes or DEFAULT_MINUTES)


def _tokens_of(
    texts: Sequence[str],
    options: TrainOptions,
    tokenizer: str | Tokenizer,
    run: Run,
    progress: Callable[[int, int], None],
) -> TokenFile:
    """Writes the token file of the run from the texts, or copies a given .tokens file."""
    if any(text.endswith(TOKENS_SUFFIX) for text in texts):
        return _copy_tokens(texts, options, run.tokens)
    if options.valid and options.split != TrainOptions.split:
        raise ConfigError("--valid and --split both choose the validation text: give one of them")
    reading = Reading(options.keep_crlf, options.unwrap)
    with ExitStack() as opened:

        def read(names: Sequence[str]) -> TextSource:
            text = open_source(names, options.encoding, run.folder, reading)
            text.notes += [] if options.lines else text.advice()
            return opened.enter_context(text)

        source = read(texts)
        valid = read([options.valid]) if options.valid else None
        test, split = None, options.split
        if options.lines:
            any_bytes = tokenizer_class(tokenizer).any_bytes
            parts = line_sources(source, options.seed or 0, split, run.folder, any_bytes, valid)
            for part in parts:
                opened.enter_context(part)
            source, *others = parts
            valid, test, split = *(*others, None, None)[:2], (100,)
        return write_token_file(
            run.tokens,
            source,
            tokenizer=tokenizer,
            vocab_size=options.vocab_size,
            split=split,
            valid=valid,
            test=test,
            progress=progress,
        )


def _copy_tokens(texts: Sequence[str], options: TrainOptions, target: Path) -> TokenFile:
    if options.lines:
        raise ConfigError(
            "--lines shuffles lines before the split, and a .tokens file is split already: give "
            "the text itself"
        )
    standard, settled = TrainOptions(), settings_of(TextOptions)
    changed = [name for name in settled if getattr(options, name) != getattr(standard, name)]
    if len(texts) > 1 or changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed) or "other texts"
        raise ConfigError(
            f"a .tokens file is tokenized and split already: give it alone, without {flags}"
        )
    TokenFile.open(texts[0])
    with (
        file_errors("read", Path(texts[0])),
        open(texts[0], "rb", opener=regular) as given,
        replacing(target) as copy,
    ):
        shutil.copyfileobj(given, copy, 1 << 20)
    return TokenFile.open(target, verify=False)  # as it was just written
