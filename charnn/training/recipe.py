"""The recipe: from a text, a machine and a budget to sizes and hyper-parameters.

Everything here is settled before step 1 and stored, so that a resumed run is the same run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from charnn.config import DEFAULT_MINUTES, TRAIN_OPTIONS, ModelConfig, TrainConfig, TrainOptions
from charnn.errors import TextError
from charnn.training.machine import Speed, measure, require_memory

# Share of the time that evaluations and samples may take, and the scores at the end.
WATCH_SHARE, FINAL_SHARE = 0.03, 0.08
MAX_EVALUATIONS, MIN_EVALUATIONS = 40, 3
SAMPLES, SAMPLE_SECONDS = 8, 10.0
SAVE_SECONDS, SAVES_SECONDS = 30.0, 1.0  # between saves; all of them together, about
STREAM_WINDOWS = 4


@dataclass(frozen=True)
class Plan:
    """What will be trained, why, and how long it should take, in seconds."""

    model: ModelConfig
    config: TrainConfig
    speed: Speed
    seconds: float
    epochs: float
    notes: list[str] = field(default_factory=list)


def choose_shape(options: TrainOptions, minutes: float) -> dict[str, Any]:
    """Size of the network by the time there is: what trains fastest early is too small later."""
    layers, hidden = (2, 256) if minutes < 0.75 else (3, 256) if minutes < 8 else (3, 384)
    shape = {"num_layers": layers, "hidden_size": hidden} | options.given(
        ("cell", "num_layers", "hidden_size", "embedding_size")
    )
    return {"embedding_size": shape["hidden_size"]} | shape


def choose_dropout(epochs: float) -> float:
    """More passes over the same text need more noise; a few need none."""
    for limit, dropout in ((4, 0.0), (8, 0.1), (16, 0.2), (32, 0.3)):
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
    options: TrainOptions, train_tokens: int, valid_tokens: int, vocab_size: int, elapsed: float
) -> Plan:
    """Settles a training of `train_tokens` ids, `elapsed` seconds after the command began.

    `options` has its seed, threads and device settled.

    Raises:
        TextError: there is nothing to learn from.
        TrainingError: it would not fit into memory.
    """
    notes = []
    if vocab_size == 1:
        notes.append("the text is one symbol over and over: that is all there is to learn from it")
    shape = choose_shape(options, options.minutes or DEFAULT_MINUTES)
    model = ModelConfig(vocab_size=vocab_size, **shape)
    wanted = TrainConfig(
        **{"max_steps": 1, "device": options.device, **options.given(TRAIN_OPTIONS)}
    )
    batch_size, bptt = fit_windows(train_tokens, wanted.batch_size, wanted.bptt)
    if (batch_size, bptt) != (wanted.batch_size, wanted.bptt):
        notes.append(
            f"the text is small: {batch_size} streams of {bptt} instead of "
            f"{wanted.batch_size} of {wanted.bptt}"
        )
    config = replace(wanted, batch_size=batch_size, bptt=bptt)
    require_memory(model, config)
    plan = set_budget(options, model, config, train_tokens, valid_tokens, elapsed)
    dropout = choose_dropout(plan.epochs) if options.dropout is None else options.dropout
    return replace(plan, model=replace(model, dropout=dropout), notes=notes)


def set_budget(
    options: TrainOptions,
    model: ModelConfig,
    config: TrainConfig,
    train_tokens: int,
    valid_tokens: int,
    elapsed: float,
) -> Plan:
    """Turns the budget of `options` into steps, counted from ``config.schedule_start``.

    Minutes are everything from the start of the command to the last save. What a step and the
    scoring of a token take is measured here; evaluations, samples and the scores at the end get a
    share of the time, and as many tokens as fit into it.
    """
    begin = time.monotonic()
    speed = measure(model, config, options.precision)
    elapsed += time.monotonic() - begin
    epoch_steps = (train_tokens - 1) // config.batch_size // config.bptt
    scoring = speed.cold_token + speed.carried_token
    final_tokens, watched = valid_tokens, min(valid_tokens, TrainConfig.valid_tokens)
    if options.max_steps is not None:
        steps = options.max_steps
    elif options.epochs is not None:
        steps = max(1, math.ceil(options.epochs * epoch_steps))
    else:
        whole = 60 * (options.minutes or DEFAULT_MINUTES)
        left = max(whole - elapsed - SAVES_SECONDS, 0.2 * whole)
        final_tokens = int(min(valid_tokens, FINAL_SHARE * left / scoring))
        watched = int(min(watched, WATCH_SHARE * left / MIN_EVALUATIONS / speed.cold_token))
        left = (left - final_tokens * scoring) * (1 - WATCH_SHARE)
        steps = max(1, int(left / speed.step))
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
        precision=speed.precision,
        **{name: n for name, n in automatic.items() if name not in kept},
    )
    seconds = training + evaluations * evaluation + settled.final_tokens * scoring
    return Plan(model, settled, speed, seconds, steps / epoch_steps)
