"""The recipe: from a text, a machine and a budget to sizes and hyper-parameters.

Everything here is settled before step 1 and stored, so that a resumed run is the same run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from charnn.config import (
    BATCH_SIZES,
    DEFAULT_MINUTES,
    DEFAULT_NGRAM,
    TRAIN_OPTIONS,
    ModelConfig,
    TrainConfig,
    TrainOptions,
)
from charnn.errors import TextError
from charnn.ngrams.tree import MAX_TOKENS
from charnn.training.line_batches import Ids, LineLayout
from charnn.training.line_recipe import fit_lines, line_shapes
from charnn.training.machine import Speed, has_bfloat16, measure, require_memory

# Share of the time that evaluations and samples may take, and the scores at the end.
WATCH_SHARE, FINAL_SHARE = 0.03, 0.05
MAX_EVALUATIONS, MIN_EVALUATIONS = 40, 3
# Layers and units up to a limit of work: tokens read, times weights that each of them meets.
SHAPES: tuple[tuple[float, int, int], ...] = (
    (4e12, 2, 256),
    (1.2e13, 3, 256),
    (1e14, 3, 384),
    (math.inf, 3, 512),
)
USUAL_WORK = 5e10  # a second, of two ordinary cores; a first guess
SAMPLES, SAMPLE_SECONDS = 8, 10.0
SAVE_SECONDS, SAVES_SECONDS = 30.0, 1.0  # between saves; all of them together, about
# Counting n-grams, seconds a token and a length, and asking them at the end, seconds a target.
COUNTED_TOKEN, COUNTED_TARGET = 1.5e-7, 1.5e-5
WEIGHING_TOKENS = 100  # n-grams are weighed by at least so many, where nobody asked for them
STREAM_WINDOWS = 4
# Muon learns faster, and learns a text by heart sooner: beyond so many passes, AdamW ends lower.
FEW_PASSES = 10.0
# What a text bears: more passes, once there are this many steps, only learn it by heart.
MOST_PASSES, ENOUGH_STEPS = 16, 1000
ENOUGH_LINE_STEPS = 300  # lists are learnt by heart sooner: 16 passes ended lower than 40
# Batch and window where there would be fewer steps than so many: more steps are worth more than
# their speed, and a higher rate of Muon then too.
SHORT_WINDOWS = ((300, 32, 32), (600, 32, 64))
SHORT_MUON_RATE = 0.06


class Text(NamedTuple):
    """What of a text matters here: tokens of its splits, symbols, and for lines their lengths."""

    train: int
    valid: int
    vocab_size: int
    lengths: Ids | None = None


@dataclass(frozen=True)
class Plan:
    """What will be trained, why, and how long it should take, in seconds."""

    model: ModelConfig
    config: TrainConfig
    speed: Speed
    seconds: float
    epochs: float
    step_tokens: float
    notes: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Speed of training, without evaluations."""
        return self.step_tokens / self.speed.step


def choose_shape(options: TrainOptions, vocab_size: int, work: float) -> ModelConfig:
    """Size of the network by the work that will be done: what learns fastest is too small later.

    `work` is the number of tokens read, times the number of weights that each of them meets.
    """
    layers, hidden = next(shape for limit, *shape in SHAPES if work < limit)
    shape = {"num_layers": layers, "hidden_size": hidden} | options.given(
        ("cell", "num_layers", "hidden_size", "embedding_size")
    )
    return ModelConfig(vocab_size, **{"embedding_size": shape["hidden_size"]} | shape)


def choose_dropout(epochs: float) -> float:
    """More passes over the same text need more noise; a few need none."""
    for limit, dropout in ((3.5, 0.0), (6, 0.1), (16, 0.2), (60, 0.3)):
        if epochs <= limit:
            return dropout
    return 0.4


def fit_windows(tokens: int, batch_size: int, bptt: int) -> tuple[int, int]:
    """Batch and window for a text: smaller where the text would not fill a few windows a stream.

    Raises:
        TextError: there is nothing to predict.
    """
    if tokens < 2:
        raise TextError(
            f"nothing to learn from: the training text has {tokens} token(s), at least 2 are needed"
        )
    while batch_size > 1 and (tokens - 1) // batch_size < STREAM_WINDOWS * bptt:
        batch_size = (batch_size + 1) // 2
    return batch_size, min(bptt, tokens - 1)


def make_plan(
    options: TrainOptions,
    train_tokens: int,
    valid_tokens: int,
    vocab_size: int,
    elapsed: float,
    lengths: Ids | None = None,
) -> Plan:
    """Settles a training of `train_tokens` ids, `elapsed` seconds after the command began.

    `options` has its seed, threads and device settled. `lengths` are those of the lines, (N,), for
    a training of lines.

    Raises:
        TextError: there is nothing to learn from.
        TrainingError: it would not fit into memory.
    """
    began = time.monotonic() - elapsed
    text = Text(train_tokens, valid_tokens, vocab_size, lengths)
    plan = _plan_with(options, text, began)
    better, step_tokens = _second_thoughts(options, plan)
    if (better, step_tokens) != (options, None):
        plan = _plan_with(better, text, began, step_tokens)
    dropout = choose_dropout(plan.epochs) if options.dropout is None else options.dropout
    if vocab_size == 1:
        plan.notes.append(
            "the text is one symbol over and over: that is all there is to learn from it"
        )
    return replace(plan, model=replace(plan.model, dropout=dropout))


def _second_thoughts(options: TrainOptions, plan: Plan) -> tuple[TrainOptions, int | None]:
    """What the length of a plan says about optimizer, batch and window, where nobody else does.

    Of lines, a batch and a window are told as the tokens of a step.
    """
    if options.optimizer is None and options.muon_rate is None and plan.epochs > FEW_PASSES:
        return replace(options, optimizer="adamw"), None
    silent = options.batch_size is None and options.bptt is None and options.max_steps is None
    if silent and plan.config.optimizer == "muon":
        for enough, batch_size, bptt in SHORT_WINDOWS:
            if plan.config.max_steps < enough and plan.step_tokens >= batch_size * TrainConfig.bptt:
                rate = options.muon_rate or SHORT_MUON_RATE
                if options.lines:
                    return replace(options, muon_rate=rate), batch_size * bptt
                return replace(options, batch_size=batch_size, bptt=bptt, muon_rate=rate), None
    return options, None


def _plan_with(
    options: TrainOptions, text: Text, began: float, step_tokens: int | None = None
) -> Plan:
    """A plan with the optimizer of `options`, or the default, and all but dropout settled."""
    optimizer = options.optimizer or TrainConfig.optimizer
    wanted = TrainConfig(
        **{
            "max_steps": 1,
            "device": options.device,
            "precision": choose_precision(options),
            "batch_size": BATCH_SIZES[optimizer],
            "lines": options.lines,
            "ngram": DEFAULT_NGRAM if text.valid >= WEIGHING_TOKENS else 0,
            **options.given(TRAIN_OPTIONS),
        }
    )
    notes: list[str] = []
    if text.lengths is not None:
        step_tokens = step_tokens or BATCH_SIZES[optimizer] * TrainConfig.bptt
        batch_size, bptt, notes = fit_lines(text.lengths, options, step_tokens)
    else:
        batch_size, bptt = fit_windows(text.train, wanted.batch_size, wanted.bptt)
        if (batch_size, bptt) != (wanted.batch_size, wanted.bptt):
            notes.append(
                f"the text is small: {batch_size} streams of {bptt} fit, not {wanted.batch_size} "
                f"of {wanted.bptt}"
            )
    config = replace(wanted, batch_size=batch_size, bptt=bptt)
    model, speed = fit_shape(options, config, text)
    elapsed = time.monotonic() - began
    plan = set_budget(options, model, config, speed, text.train, text.valid, elapsed, text.lengths)
    return replace(plan, notes=notes + plan.notes)


def epoch_steps(config: TrainConfig, train_tokens: int, lengths: Ids | None = None) -> int:
    """Steps in a pass over the text."""
    if lengths is not None:
        return LineLayout(lengths, config.batch_size, config.bptt).windows
    return (train_tokens - 1) // config.batch_size // config.bptt


def step_shapes(config: TrainConfig, lengths: Ids | None = None) -> list[tuple[int, int]]:
    """Steps and streams of what a step reads, one after another."""
    if lengths is None:
        return [(config.bptt, config.batch_size)]
    return line_shapes(lengths, config.batch_size, config.bptt)


def choose_precision(options: TrainOptions) -> str:
    """The precision that was asked for, or the faster one: bfloat16 where the hardware has it."""
    if options.precision != "auto":
        return options.precision
    return "bfloat16" if has_bfloat16(options.device) else "float32"


def fit_shape(options: TrainOptions, config: TrainConfig, text: Text) -> tuple[ModelConfig, Speed]:
    """The network for the work that the budget allows on this machine, and how fast it trains.

    Raises:
        TrainingError: it would not fit into memory.
    """
    tokens_per_step = text.train / epoch_steps(config, text.train, text.lengths)
    shapes = step_shapes(config, text.lengths)
    seconds = 60 * (options.minutes or DEFAULT_MINUTES)
    guess = choose_shape(options, text.vocab_size, seconds * USUAL_WORK)
    require_memory(guess, config)
    speed = measure(guess, config, shapes)
    if options.max_steps is not None:
        tokens = float(options.max_steps * tokens_per_step)
    elif options.epochs is not None:
        tokens = options.epochs * text.train
    else:
        tokens = seconds / speed.step * tokens_per_step
    work = tokens * guess.parameters
    if options.max_steps is None and options.epochs is None:
        # Time that a text cannot use makes no network larger than the second of `SHAPES`: the
        # third ended higher on small texts (NOTES.md).
        bears = max(ENOUGH_STEPS * tokens_per_step, MOST_PASSES * text.train)
        smallest = choose_shape(options, text.vocab_size, 0)
        work = min(work, max(bears * smallest.parameters, SHAPES[0][0]))
    model = choose_shape(options, text.vocab_size, work)
    if model != guess:
        require_memory(model, config)
        speed = measure(model, config, shapes)
    return model, speed


def set_budget(
    options: TrainOptions,
    model: ModelConfig,
    config: TrainConfig,
    speed: Speed,
    train_tokens: int,
    valid_tokens: int,
    elapsed: float,
    lengths: Ids | None = None,
) -> Plan:
    """Turns the budget of `options` into steps, counted from ``config.schedule_start``.

    Minutes are everything from the start of the command, `elapsed` seconds ago, to the last save.
    Evaluations, samples and the scores at the end get a share of the time, and as many tokens as
    fit into it.
    """
    pass_steps = epoch_steps(config, train_tokens, lengths)
    scoring = speed.cold_token + (0.0 if config.lines else speed.carried_token)
    counting, weighing = 0.0, 0.0
    if config.ngram:
        counting = COUNTED_TOKEN * config.ngram * min(train_tokens, MAX_TOKENS)
        weighing = speed.cold_token + COUNTED_TARGET
        scoring += COUNTED_TARGET * (1 if config.lines else 2)
    final_tokens, watched = valid_tokens, min(valid_tokens, TrainConfig.valid_tokens)
    bears = math.inf
    if options.max_steps is not None:
        steps = options.max_steps
    elif options.epochs is not None:
        steps = max(1, math.ceil(options.epochs * pass_steps))
    else:
        whole = 60 * (options.minutes or DEFAULT_MINUTES)
        left = max(whole - elapsed - SAVES_SECONDS - counting, 0.2 * whole)
        final_tokens = int(min(valid_tokens, FINAL_SHARE * left / scoring))
        watched = int(min(watched, WATCH_SHARE * left / MIN_EVALUATIONS / speed.cold_token))
        left = (left - final_tokens * scoring - watched * weighing) * (1 - WATCH_SHARE)
        steps = max(1, int(left / speed.step))
        if not config.schedule_start:
            enough = ENOUGH_LINE_STEPS if config.lines else ENOUGH_STEPS
            bears = max(enough, MOST_PASSES * pass_steps)
    ends_early = steps > bears
    steps = int(min(steps, bears))
    training = steps * speed.step
    evaluation = watched * speed.cold_token
    evaluations = int(WATCH_SHARE * training / max(evaluation, 1e-9))
    evaluations = max(MIN_EVALUATIONS, min(MAX_EVALUATIONS, evaluations))
    automatic: dict[str, Any] = {
        "eval_every": math.ceil(steps / evaluations),
        "sample_every": math.ceil(max(steps / SAMPLES, SAMPLE_SECONDS / speed.step)),
        "save_every": max(1, min(steps, int(SAVE_SECONDS / speed.step))),
    }
    # What was asked for is kept, and what a resumed run had turned off.
    off = {name for name in automatic if config.schedule_start and not getattr(config, name)}
    kept = off | options.given(tuple(automatic)).keys()
    settled = replace(
        config,
        max_steps=config.schedule_start + steps,
        warmup_steps=min(TrainConfig.warmup_steps, steps // 10),
        final_tokens=max(2, min(final_tokens, TrainConfig.final_tokens)),
        valid_tokens=max(2, watched),
        **{name: n for name, n in automatic.items() if name not in kept},
    )
    counting += settled.valid_tokens * weighing
    seconds = training + evaluations * evaluation + settled.final_tokens * scoring + counting
    step_tokens = config.batch_size * config.bptt if lengths is None else train_tokens / pass_steps
    plan = Plan(model, settled, speed, seconds, steps / pass_steps, step_tokens)
    if ends_early:
        plan.notes.append(
            f"{plan.epochs:,.0f} passes, about {seconds / 60:.1f} min, are what this text bears: "
            "more would learn it by heart (--epochs says otherwise)"
        )
    return plan
