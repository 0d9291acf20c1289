"""Begins and resumes trainings: from what a person asks to a `Trainer` on a locked run."""

from __future__ import annotations

import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint
from charnn.config import (
    DEFAULT_MINUTES,
    DEFAULT_TOKENIZER,
    MAX_SEED,
    TOKENS_SUFFIX,
    TrainOptions,
)
from charnn.errors import (
    ConfigError,
    DamagedFile,
    FileError,
    NewerFile,
    TextError,
    TrainingError,
)
from charnn.runs import Run, find_model, find_run, free_name, list_runs
from charnn.tensor_file import os_error_line, replacing
from charnn.text.list_of_lines import line_sources
from charnn.text.sources import TextSource, open_source
from charnn.text.sources import run_name as name_of_text
from charnn.text.splits import check_split
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import Ids, Tokenizer, tokenizer_class
from charnn.training import machine
from charnn.training.fine_tune import Base
from charnn.training.line_batches import line_lengths
from charnn.training.machine import require_memory
from charnn.training.plan import Plan, make_plan, set_budget, step_shapes
from charnn.training.trainer import Trainer

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]


def _ignore(_: str) -> None:
    """Notes go nowhere unless the caller wants them."""


def settle(options: TrainOptions) -> TrainOptions:
    """The same options with seed, threads and device decided.

    Raises:
        ConfigError: the device is not there.
    """
    return replace(
        options,
        seed=secrets.randbelow(MAX_SEED + 1) if options.seed is None else options.seed,
        threads=machine.default_threads() if options.threads is None else options.threads,
        device=machine.choose_device(options.device),
    )


@contextmanager
def start(
    texts: Sequence[str],
    options: TrainOptions,
    root: Path,
    *,
    began: float | None = None,
    notify: Notify = _ignore,
    progress: Progress | None = None,
) -> Iterator[tuple[Trainer, Plan]]:
    """A new run on `texts`, locked while the block lasts; removed again if nothing is trained.

    Args:
        began: when the budget started, on the clock of `time.monotonic`.
        notify: called with each thing that a person should know.
        progress: called with bytes done and bytes in all while the text is read.

    Raises:
        CharnnError: a text, an option or the machine does not allow it.
    """
    began = time.monotonic() if began is None else began
    if not texts:
        raise TextError("no text given: name a file, a folder, '-' for stdin, or a corpus")
    check_split(options.split)
    base = Base(find_model(options.from_model, root)) if options.from_model is not None else None
    if base:
        options = base.settle(options)
    tokenizer = base.tokenizer if base else options.tokenizer or DEFAULT_TOKENIZER
    tokenizer_class(tokenizer, options.vocab_size)  # refuses what does not fit
    options = settle(options)
    run = _new_run(texts, options, root)
    with machine.prepared(options.threads or 1), run.lock() as warnings:
        try:
            for warning in warnings:
                notify(warning)
            tokens = _tokens_of(texts, options, tokenizer, run, progress)
            for note in [*tokens.notes, *(base.meet(tokens.tokenizer) if base else [])]:
                notify(note)
            plan = make_plan(
                options,
                len(tokens.split("train")),
                _valid_tokens(tokens),
                tokens.tokenizer.vocab_size,
                time.monotonic() - began,
                _lengths(tokens) if options.lines else None,
            )
            for note in plan.notes:
                notify(note)
            trainer = Trainer(run, tokens, plan.model, plan.config, _deadline(options, began))
            if base:
                base.give_to(trainer.network, tokens.tokenizer)
                trainer.origin = {"digest": base.digest}
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
    notify: Notify = _ignore,
) -> Iterator[Trainer]:
    """Continues a run, the newest unfinished one if `name` is None; locked while the block lasts.

    Of `options` only the budget counts, for a finished run, and threads and device.

    Raises:
        CharnnError: there is no such run, it is finished, in use, or damaged.
    """
    began = time.monotonic() if began is None else began
    budget = options.given(("minutes", "epochs", "max_steps"))
    run = find_run(root, name) if name else _newest_unfinished(root, bool(budget))
    with run.lock(newest=False) as warnings, ExitStack() as settings:
        for warning in warnings:
            notify(warning)
        saved = _load_last(run)
        if saved.training is None:
            raise DamagedFile(f"{run.last} holds a model only, no training that could go on")
        config, progress = saved.training.config, saved.training.progress
        config = replace(
            config,
            threads=options.threads or config.threads,
            device=_device_for(config.device, options.device),
        )
        settings.enter_context(machine.prepared(config.threads))
        tokens = TokenFile.open(run.tokens)
        tokens.verify()
        if tokens.digest != progress.get("tokens_digest"):
            raise DamagedFile(f"{run.tokens} is not the text that run {run.name!r} was trained on")
        finished = bool(progress.get("finished"))
        if finished and not budget:
            raise TrainingError(
                f"run {run.name!r} is finished, after {config.max_steps:,} steps: give it a new "
                "budget to train on, such as --minutes 3"
            )
        if budget and not finished:
            raise TrainingError(
                f"run {run.name!r} is not finished: resume it without a new budget first"
            )
        if budget:
            config = replace(
                config, schedule_start=config.max_steps, max_steps=config.max_steps + 1
            )
            lengths = _lengths(tokens) if config.lines else None
            config = set_budget(
                options,
                saved.config,
                config,
                machine.measure(saved.config, config, step_shapes(config, lengths)),
                len(tokens.split("train")),
                _valid_tokens(tokens),
                time.monotonic() - began,
                lengths,
            ).config
            progress["finished"] = False
            has_valid = _valid_tokens(tokens) > 1
            notify(
                "a new budget: the learning rate rises to what it would have been here had the "
                "whole been known, and falls again, so the loss first gets worse"
                + ("; until it is lower than before, 'best' stays as it is" * has_valid)
            )
        then, now = progress.get("environment"), machine.environment(config)
        if then != now and isinstance(then, dict):
            changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]
            notify(f"not the same bits as without the pause: {', '.join(changed)}")
        require_memory(saved.config, config)
        deadline = _deadline(options, began) if budget else None
        trainer = Trainer(run, tokens, saved.config, config, deadline)
        trainer.restore(saved)
        run.mark_newest()  # not before: a resume that is refused changes nothing
        yield trainer


def _load_last(run: Run) -> Checkpoint:
    try:
        return checkpoints.load(run.last)
    except NewerFile:  # and so is the best model
        raise
    except DamagedFile as error:
        if not run.best.exists():
            raise
        model = shlex.quote(str(run.folder))  # which is found wherever runs are looked for
        raise DamagedFile(
            f"{error}; this training cannot go on, but its best model is there: sample with "
            f"-m {model}, or begin a new run as it with --from {model}"
        ) from None


def _new_run(texts: Sequence[str], options: TrainOptions, root: Path) -> Run:
    if options.name is None:
        return Run(root, free_name(root, name_of_text(texts[0])))
    run = Run(root, options.name)
    if run.exists:
        raise FileError(
            f"run {run.name!r} is there already: continue it with 'charnn train --resume --name "
            f"{run.name}', or choose another name"
        )
    if run.taken:
        raise FileError(f"{run.folder}/ holds something else: choose another name for the run")
    return run


def _newest_unfinished(root: Path, finished_too: bool) -> Run:
    runs = list_runs(root)
    if not runs:
        return find_run(root, None)  # which says what to do first
    for run in runs:
        if finished_too or not _is_finished(run):
            return run
    raise TrainingError(
        f"no unfinished run in {root}/: the newest, {runs[0].name!r}, is finished; give it a new "
        "budget to train on, such as --minutes 3"
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


def _valid_tokens(tokens: TokenFile) -> int:
    return len(tokens.split("valid")) if "valid" in tokens.splits else 0


def _lengths(tokens: TokenFile) -> Ids:
    return line_lengths(tokens.split("train"), tokens.start_token)


def _deadline(options: TrainOptions, began: float) -> float | None:
    if options.minutes is None and options.given(("epochs", "max_steps")):
        return None
    return began + 60 * (options.minutes or DEFAULT_MINUTES)


def _tokens_of(
    texts: Sequence[str],
    options: TrainOptions,
    tokenizer: str | Tokenizer,
    run: Run,
    progress: Progress | None,
) -> TokenFile:
    """The run's own token file: written from the texts, or a copy of the one that was given."""
    if any(text.endswith(TOKENS_SUFFIX) for text in texts):
        if options.lines:
            raise ConfigError(
                "--lines mixes the lines before it sets some apart to validate on, and a .tokens "
                "file is cut already: give the text itself"
            )
        standard = TrainOptions()
        settled = ("tokenizer", "vocab_size", "split", "valid", "encoding")
        other = [
            f"--{n.replace('_', '-')}"
            for n in settled
            if getattr(options, n) != getattr(standard, n)
        ]
        if len(texts) > 1 or other:
            raise ConfigError(
                "a .tokens file is a whole corpus, tokenized and split: give it alone, without "
                f"{', '.join(other) or 'other texts'}"
            )
        given = TokenFile.open(texts[0])
        given.verify()
        try:
            with open(texts[0], "rb") as given_file, replacing(run.tokens) as copy:
                shutil.copyfileobj(given_file, copy, 1 << 20)
        except OSError as error:
            raise FileError(os_error_line(error, Path(texts[0]), "read")) from error
        return TokenFile.open(run.tokens)
    if options.valid and options.split != TrainOptions.split:
        raise ConfigError("--valid and --split both choose what to validate on: give one of them")
    with ExitStack() as opened:

        def read(names: Sequence[str]) -> TextSource:
            return opened.enter_context(open_source(names, options.encoding, run.folder))

        source = read(texts)
        valid = read([options.valid]) if options.valid else None
        test, split = None, options.split
        if options.lines:
            any_bytes = tokenizer_class(tokenizer).any_bytes
            parts = line_sources(source, options.seed or 0, split, run.folder, any_bytes, valid)
            for part in parts:
                opened.enter_context(part)
            source, *others = parts
            valid, test = (*others, None, None)[:2]
            split = (100,)
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
