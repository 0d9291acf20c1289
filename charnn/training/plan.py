"""The plan of a run: from a text, a machine and a budget to sizes and hyper-parameters.

Everything here is decided before step 1 and stored, so a resumed run is the same run.

Shapes: N lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from charnn.config import (
    BATCH_SIZES,
    DEFAULT_MINUTES,
    TRAIN_OPTIONS,
    ModelConfig,
    TrainConfig,
    TrainOptions,
)
from charnn.errors import TextError
from charnn.evaluation import Ids
from charnn.text.token_file import TokenFile
from charnn.training.batches import PARTS, LineLayout, line_lengths
from charnn.training.final_step import NO_COSTS, FinalCosts
from charnn.training.machine import Speed, has_bfloat16, measure, require_memory

# Share of the time that evaluations and samples may take, and the scores at the end.
WATCH_SHARE, FINAL_SHARE = 0.03, 0.05
MAX_EVALUATIONS, MIN_EVALUATIONS = 40, 3
# Layers and hidden units up to a limit of work: tokens read times weights applied to each.
SHAPES: tuple[tuple[float, int, int], ...] = (
    (4e12, 2, 256),
    (1.2e13, 3, 256),
    (1e14, 3, 384),
    (math.inf, 3, 512),
)
USUAL_WORK = 5e10  # per second on two ordinary cores; a first guess
SAMPLES, SAMPLE_SECONDS = 8, 10.0
SAVE_SECONDS, SAVES_SECONDS = 30.0, 1.0  # between saves; all saves together, about
STREAM_WINDOWS = 4
ENOUGH_LINE_STEPS = 300  # lists overfit sooner: 16 passes ended lower than 40
# Lines up to this length are read whole; longer lines are cut into windows of the usual size.
WHOLE_LINE = 128
FEWEST_WINDOWS = 4  # in a pass; a smaller list takes fewer lines at once


LOWEST_SHARE = 0.25


class Recipe(NamedTuple):
    """Choices that depend on where a run starts; the values are measured (NOTES.md).

    Attributes:
        few_passes: the most passes for Muon, which learns faster; after more, AdamW ends lower.
        most_passes: pairs of a number of tokens of text and the passes for texts up to that. A
            run stops after these, but not before ``enough_steps``; more overfit.
        dropouts: pairs of a number of passes and the dropout up to that number.
        short_windows: (steps, batch size, window) for runs of fewer steps. Smaller windows are
            slower per token, but give a short run from scratch more steps, which lowers the loss
            more.
        batch_sizes: streams by optimizer; a short text has fewer.
        full_rate_tokens: learning rates are lower in proportion for a text with fewer tokens, but
            not below `LOWEST_SHARE` of them.
    """

    learning_rate: float
    muon_rate: float
    short_muon_rate: float
    few_passes: float
    most_passes: tuple[tuple[float, int], ...]
    enough_steps: int
    dropouts: tuple[tuple[float, float], ...]
    short_windows: tuple[tuple[int, int, int], ...]
    batch_sizes: Mapping[str, int] = BATCH_SIZES
    full_rate_tokens: int = 1

    def dropout(self, epochs: float) -> float:
        """Returns the dropout for a number of passes: more passes need more."""
        return next(dropout for limit, dropout in self.dropouts if epochs <= limit)

    def passes(self, tokens: int) -> int:
        """Returns the most passes over a text of so many tokens."""
        return next(passes for limit, passes in self.most_passes if tokens <= limit)

    def for_text(self, tokens: int) -> Recipe:
        """Returns the recipe with the learning rates for a text of this size."""
        share = min(1.0, max(LOWEST_SHARE, tokens / self.full_rate_tokens))
        return self._replace(
            learning_rate=share * self.learning_rate,
            muon_rate=share * self.muon_rate,
            short_muon_rate=share * self.short_muon_rate,
        )


FROM_SCRATCH = Recipe(
    learning_rate=TrainConfig.learning_rate,
    muon_rate=TrainConfig.muon_rate,
    short_muon_rate=0.06,
    few_passes=10.0,
    most_passes=((math.inf, 16),),
    enough_steps=1000,
    dropouts=((3.5, 0.0), (6, 0.1), (16, 0.2), (60, 0.3), (math.inf, 0.4)),
    short_windows=((300, 32, 32), (600, 32, 64)),
)
FINE_TUNING = Recipe(
    learning_rate=2e-3,
    muon_rate=0.02,
    short_muon_rate=0.02,
    few_passes=10.0,
    most_passes=((500_000, 6), (math.inf, 3)),
    enough_steps=25,
    dropouts=((3, 0.0), (math.inf, 0.1)),
    short_windows=(),
    batch_sizes={**BATCH_SIZES, "muon": 128},
    full_rate_tokens=100_000,
)
# For a text unlike those that the model has read (`Base.is_like`).
FINE_TUNING_UNLIKE = FINE_TUNING._replace(
    few_passes=1.5,
    most_passes=((math.inf, 6),),
    enough_steps=50,
    short_windows=((600, 32, 64),),
    batch_sizes=BATCH_SIZES,
)


class Text(NamedTuple):
    """Sizes of a text in tokens; ``lengths`` (N,) are those of its lines, for a list of lines."""

    train: int
    valid: int
    vocab_size: int
    lengths: Ids | None = None

    @classmethod
    def of(cls, tokens: TokenFile, lines: bool) -> Text:
        """Returns the sizes of a token file."""
        train = tokens.split("train")
        lengths = line_lengths(train, tokens.start_token) if lines else None
        return cls(len(train), len(tokens.valid), tokens.tokenizer.vocab_size, lengths)


@dataclass(frozen=True)
class Plan:
    """A network, its hyper-parameters, and the seconds that the run should take."""

    model: ModelConfig
    config: TrainConfig
    speed: Speed
    seconds: float
    epochs: float
    step_tokens: float
    notes: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Training speed without evaluations."""
        return self.step_tokens / self.speed.step


def choose_shape(options: TrainOptions, vocab_size: int, work: float) -> ModelConfig:
    """Chooses the size of the network by `work`: tokens read times weights applied to each.

    The size that learns fastest at first is too small for a long run.
    """
    layers, hidden = next(shape for limit, *shape in SHAPES if work < limit)
    shape = {"num_layers": layers, "hidden_size": hidden} | options.given(
        ("cell", "num_layers", "hidden_size", "embedding_size")
    )
    return ModelConfig(vocab_size, **{"embedding_size": shape["hidden_size"]} | shape)


def fit_windows(tokens: int, batch_size: int, bptt: int) -> tuple[int, int]:
    """Returns batch size and window, reduced until each stream fills a few windows.

    Raises:
        TextError: there are fewer than two tokens.
    """
    if tokens < 2:
        raise TextError(
            f"nothing to learn from: the training text has {tokens} token(s); give at least 2"
        )
    while batch_size > 1 and (tokens - 1) // batch_size < STREAM_WINDOWS * bptt:
        batch_size = (batch_size + 1) // 2
    return batch_size, min(bptt, tokens - 1)


def fit_lines(lengths: Ids, options: TrainOptions, step_tokens: int) -> tuple[int, int, list[str]]:
    """Returns batch size, window and notes for lines of these lengths (N,).

    A step reads about `step_tokens`; fewer if one line is so long that the other streams would be
    idle while it is read.
    """
    longest = int(lengths.max())
    usual = longest if longest <= WHOLE_LINE else TrainConfig.bptt
    bptt = min(options.bptt or usual, longest)
    pieces = -(-lengths // bptt)
    total = int(pieces.sum())
    wanted = options.batch_size or max(1, round(step_tokens * total / int(lengths.sum())))
    most = max(1, total // FEWEST_WINDOWS)
    side_by_side = max(1, total // int(pieces.max()))
    notes = []
    if side_by_side < min(wanted, most) and len(lengths) > 1:
        notes.append(
            f"one line has {longest:,} tokens, which limits a batch to {side_by_side:,} lines: "
            "remove such lines to train faster"
        )
    return min(wanted, most, side_by_side), bptt, notes


def make_plan(
    options: TrainOptions,
    text: Text,
    elapsed: float,
    costs: FinalCosts = NO_COSTS,
    recipe: Recipe = FROM_SCRATCH,
) -> Plan:
    """Plans a run on `text`, `elapsed` seconds after the command began.

    Seed, threads and device of `options` are decided; `costs` are those of the final step.

    Raises:
        TextError: there is nothing to learn from.
        TrainingError: the run would not fit into memory.
    """
    began = time.monotonic() - elapsed
    recipe = recipe.for_text(text.train)
    plan = _plan_with(options, text, began, costs, recipe)
    # Optimizer, batch and window depend on the length of the run, so the plan may change once.
    if options.optimizer is None and options.muon_rate is None and plan.epochs > recipe.few_passes:
        plan = _plan_with(replace(options, optimizer="adamw"), text, began, costs, recipe)
    elif plan.config.optimizer == "muon" and not options.given(("batch_size", "bptt", "max_steps")):
        for enough, batch_size, bptt in recipe.short_windows:
            if plan.config.max_steps < enough and plan.step_tokens >= batch_size * TrainConfig.bptt:
                rate = options.muon_rate or recipe.short_muon_rate
                short = replace(options, muon_rate=rate)
                if not options.lines:
                    short = replace(short, batch_size=batch_size, bptt=bptt)
                plan = _plan_with(short, text, began, costs, recipe, batch_size * bptt)
                break
    dropout = recipe.dropout(plan.epochs) if options.dropout is None else options.dropout
    if text.vocab_size == 1:
        plan.notes.append("the text repeats a single symbol: there is nothing else to learn")
    return replace(plan, model=replace(plan.model, dropout=dropout))


def _plan_with(
    options: TrainOptions,
    text: Text,
    began: float,
    costs: FinalCosts,
    recipe: Recipe,
    step_tokens: int | None = None,
) -> Plan:
    """Plans everything but dropout; `step_tokens` is the size of a step for a list of lines."""
    optimizer = options.optimizer or TrainConfig.optimizer
    wanted = TrainConfig(
        **{
            "max_steps": 1,
            "device": options.device,
            "precision": choose_precision(options),
            "batch_size": recipe.batch_sizes[optimizer],
            "lines": options.lines,
            "learning_rate": recipe.learning_rate,
            "muon_rate": recipe.muon_rate,
            **options.given(TRAIN_OPTIONS),
        }
    )
    notes: list[str] = []
    if text.lengths is not None:
        step_tokens = step_tokens or recipe.batch_sizes[optimizer] * TrainConfig.bptt
        batch_size, bptt, notes = fit_lines(text.lengths, options, step_tokens)
    else:
        batch_size, bptt = fit_windows(text.train, wanted.batch_size, wanted.bptt)
        if (batch_size, bptt) != (wanted.batch_size, wanted.bptt):
            notes.append(
                f"the text is small: {batch_size} streams of {bptt} tokens instead of "
                f"{wanted.batch_size} of {wanted.bptt}"
            )
    config = replace(wanted, batch_size=batch_size, bptt=bptt)
    model, speed = fit_shape(options, config, text, recipe)
    elapsed = time.monotonic() - began
    plan = set_budget(options, model, config, speed, text, elapsed, costs, recipe)
    return replace(plan, notes=notes + plan.notes)


def epoch_steps(config: TrainConfig, text: Text) -> int:
    """Returns the number of steps in a pass over the text."""
    if text.lengths is not None:
        return LineLayout(text.lengths, config.batch_size, config.bptt).windows
    return (text.train - 1) // config.batch_size // config.bptt


def step_shapes(config: TrainConfig, lengths: Ids | None = None) -> list[tuple[int, int]]:
    """Returns (steps, streams) of each part of a window; a list of lines has several parts."""
    if lengths is None:
        return [(config.bptt, config.batch_size)]
    pieces = -(-lengths // config.bptt)
    rest = lengths - (pieces - 1) * config.bptt
    counts = np.sort(np.concatenate([rest, np.full(int((pieces - 1).sum()), config.bptt)]))
    share = -(-config.batch_size // PARTS)
    ends = [
        min(1.0, (k + 1) * share / config.batch_size) for k in range(-(-config.batch_size // share))
    ]
    longest = [int(counts[min(len(counts) - 1, int(end * len(counts)))]) for end in ends]
    return [(steps, share) for steps in longest]


def choose_precision(options: TrainOptions) -> str:
    """Returns the chosen precision; auto is bfloat16 if the hardware supports it."""
    if options.precision != "auto":
        return options.precision
    return "bfloat16" if has_bfloat16(options.device) else "float32"


def fit_shape(
    options: TrainOptions, config: TrainConfig, text: Text, recipe: Recipe = FROM_SCRATCH
) -> tuple[ModelConfig, Speed]:
    """Chooses the network that the budget allows on this machine, and measures its speed.

    Raises:
        TrainingError: the run would not fit into memory.
    """
    tokens_per_step = text.train / epoch_steps(config, text)
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
        # A small text cannot use a long budget: the third of `SHAPES` ended higher than the
        # second there (NOTES.md).
        useful = max(recipe.enough_steps * tokens_per_step, recipe.passes(text.train) * text.train)
        smallest = choose_shape(options, text.vocab_size, 0)
        work = min(work, max(useful * smallest.parameters, SHAPES[0][0]))
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
    text: Text,
    elapsed: float,
    costs: FinalCosts = NO_COSTS,
    recipe: Recipe = FROM_SCRATCH,
) -> Plan:
    """Turns the budget of `options` into steps, counted from ``config.schedule_start``.

    Minutes cover everything from the start of the command, `elapsed` seconds ago, to the last save.
    Evaluations, samples and the scores at the end get a share of the time, and the number of tokens
    that fits into it.
    """
    pass_steps = epoch_steps(config, text)
    valid_tokens = text.valid
    scoring = speed.cold_token + (0.0 if config.lines else speed.carried_token)
    scoring += costs.per_token * (1 if config.lines else 2)
    completing = speed.cold_token + costs.per_token if costs.per_token else 0.0
    final_tokens, watched = valid_tokens, min(valid_tokens, TrainConfig.valid_tokens)
    limit = math.inf
    if options.max_steps is not None:
        steps = options.max_steps
    elif options.epochs is not None:
        steps = max(1, math.ceil(options.epochs * pass_steps))
    else:
        whole = 60 * (options.minutes or DEFAULT_MINUTES)
        left = max(whole - elapsed - SAVES_SECONDS - costs.seconds, 0.2 * whole)
        final_tokens = int(min(valid_tokens, FINAL_SHARE * left / scoring))
        watched = int(min(watched, WATCH_SHARE * left / MIN_EVALUATIONS / speed.cold_token))
        left = (left - final_tokens * scoring - watched * completing) * (1 - WATCH_SHARE)
        steps = max(1, int(left / speed.step))
        if not config.schedule_start:
            enough = ENOUGH_LINE_STEPS if config.lines else recipe.enough_steps
            limit = max(enough, recipe.passes(text.train) * pass_steps)
    ends_early = steps > limit
    steps = int(min(steps, limit))
    training = steps * speed.step
    evaluation = watched * speed.cold_token
    evaluations = int(WATCH_SHARE * training / max(evaluation, 1e-9))
    evaluations = max(MIN_EVALUATIONS, min(MAX_EVALUATIONS, evaluations))
    automatic: dict[str, Any] = {
        "eval_every": math.ceil(steps / evaluations),
        "sample_every": math.ceil(max(steps / SAMPLES, SAMPLE_SECONDS / speed.step)),
        "save_every": max(1, min(steps, int(SAVE_SECONDS / speed.step))),
    }
    # Given values stay, and so do those that a resumed run had turned off.
    off = {name for name in automatic if config.schedule_start and not getattr(config, name)}
    kept = off | options.given(tuple(automatic)).keys()
    config = replace(
        config,
        max_steps=config.schedule_start + steps,
        warmup_steps=min(TrainConfig.warmup_steps, steps // 10),
        final_tokens=max(2, min(final_tokens, TrainConfig.final_tokens)),
        valid_tokens=max(2, watched),
        **{name: n for name, n in automatic.items() if name not in kept},
    )
    seconds = training + evaluations * evaluation + config.final_tokens * scoring
    seconds += costs.seconds + config.valid_tokens * completing
    step_tokens = float(config.batch_size * config.bptt)
    if text.lengths is not None:
        step_tokens = text.train / pass_steps
    plan = Plan(model, config, speed, seconds, steps / pass_steps, step_tokens)
    if ends_early:
        plan.notes.append(
            f"stops after {plan.epochs:,.0f} passes ({seconds / 60:.1f} min), since more would "
            "overfit so small a text; --epochs N trains longer"
        )
    return plan
