"""The facts of a report: everything that is measured on a model, as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charnn import evaluation
from charnn.bases import base_of
from charnn.checkpoint import Checkpoint
from charnn.config import LABELS, LAGS, SHOWN_UNITS, LineConfig, SamplingConfig
from charnn.engines import make_predictor
from charnn.engines.compiled import kernels
from charnn.errors import CharnnError, ConfigError
from charnn.evaluation import Score, TextSizes, token_losses
from charnn.generation import Model
from charnn.inspection import units
from charnn.inspection.horizon import Horizon, measure_horizon
from charnn.inspection.labels import Flags, make_labeller
from charnn.runs import step_losses
from charnn.scoring.baselines import baseline_rows
from charnn.scoring.breakdown import PositionLosses, bits_of_characters, by_position, class_rows
from charnn.scoring.surprisal import Array
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import Tokenizer

Progress = Callable[[str, int, int], None]

# Sizes with which a report on three layers of 256 units takes about a minute.
HELD_OUT_TOKENS = 50_000  # the first tokens of the validation split
LINE_TOKENS = 20_000  # the same for a model of lines
TRAIN_TOKENS = 1_000_000  # the last training tokens, which baselines learn from
UNIT_TOKENS = 12_000  # tokens that units are ranked on
PLACES, GRADIENT_PLACES, JACOBIAN_PLACES = (
    48,
    12,
    2,
)  # positions at which the memory horizon is measured
PASSAGE_CHARS = 1_200  # characters coloured by surprisal
UNIT_PASSAGE_CHARS = 420  # characters coloured by a unit, for each label
TEMPERATURES = (0.5, 0.8, 1.1)
SAMPLE_CHARS = 600  # about this many characters
SAMPLE_LINES = 12
SEED = 1


class Sample(NamedTuple):
    """A text that the model wrote at a temperature."""

    temperature: float
    text: str


class HeldOut(NamedTuple):
    """The first tokens of the validation split, its size, and the last training tokens."""

    tokens: Array
    whole: int
    train: Array
    is_text: bool


class Scores(NamedTuple):
    """Scores on held-out text: by protocol, baselines, by kind of character and by position.

    ``trained_on`` is the number of training tokens that the baselines learn from;
    ``passage`` holds characters with their bits.
    """

    protocols: dict[str, Score]
    baselines: list[dict[str, Any]]
    trained_on: int
    classes: list[dict[str, Any]]
    positions: PositionLosses
    passage: list[tuple[str, float]]


class LabelledUnits(NamedTuple):
    """The best units for a label, and a passage of (text, value of the best unit, has the label).

    The values are h, or tanh(c) of an LSTM: -1 to 1.
    """

    finding: units.Finding
    passage: list[tuple[str, float, bool]]


class Inside(NamedTuple):
    """Hidden units over a number of tokens; ``gates`` is None for a cell without gates.

    ``labels`` holds those that a unit tracks, the best tracked first, ``untracked`` names the
    others, and ``rare`` those that too few or too many tokens have.
    """

    tokens: int
    gates: units.GateShares | None
    labels: list[LabelledUnits]
    untracked: list[str]
    rare: list[str]


@dataclass
class Facts:
    """All facts of a report; a fact is None if `left_out` says why its section is left out.

    `name` is shown to people; `name_in_commands` is the MODEL of a command, without its folder.
    `steps` holds the training loss of each step.
    """

    model: Checkpoint
    name: str
    name_in_commands: str
    size: int
    tokenizer: Tokenizer
    samples: list[Sample]
    tokens_per_second: float
    chars_per_second: float
    engine: str
    held_out: HeldOut | None = None
    scores: Scores | None = None
    inside: Inside | None = None
    memory: Horizon | None = None
    steps: list[tuple[int, float]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find_facts(saved: Checkpoint, path: Path, name: str, progress: Progress | None = None) -> Facts:
    """Measures all facts of the model that is stored at `path`.

    Raises:
        CharnnError: the model cannot write, or its tokenizer is damaged.
    """
    report = progress or (lambda _what, _done, _total: None)
    model = Model.from_checkpoint(saved)
    tokenizer = model.tokenizer
    facts = Facts(
        saved,
        name,
        name if path.stem in ("best", "last") or base_of(path) else path.name,
        path.stat().st_size,
        tokenizer,
        *write_samples(model, report),
        f"native, {kernels()[0]}" if kernels() else "numpy",
    )
    if path.stem in ("best", "last"):
        facts.steps = step_losses(path.with_name("metrics.jsonl"))
    found = find_held_out(path.parent / "tokens", tokenizer, saved.lines)
    if isinstance(found, str):
        facts.left_out = dict.fromkeys(("held-out", "passage", "units", "horizon"), found)
        return facts
    facts.held_out = found
    try:
        facts.scores = score(saved, tokenizer, found, report)
    except CharnnError as error:
        facts.left_out |= dict.fromkeys(("held-out", "passage"), f"Left out: {error}.")
    facts.inside = look_inside(model, saved, found.tokens, report)
    try:
        facts.memory = measure_horizon(
            evaluation.network_of(saved),
            found.tokens,
            SEED,
            PLACES,
            LAGS,
            report,
            saved.start_token if saved.lines else None,
            GRADIENT_PLACES,
            JACOBIAN_PLACES,
        )
    except CharnnError as error:
        facts.left_out["horizon"] = f"Left out: {error}."
    return facts


def find_held_out(path: Path, tokenizer: Tokenizer, of_lines: bool) -> HeldOut | str:
    """Returns the run's held-out text, or a sentence that says why there is none."""
    if not path.exists():
        return "The run's file of tokens is not beside the model, so this is left out."
    try:
        file = TokenFile.open(path, tokenizer)
    except CharnnError:  # its message names a path, which a page must not show
        return "The run's file of tokens is damaged or has another tokenizer: this is left out."
    if "valid" not in file.splits:
        return "The run has no validation split, so there is no held-out text."
    valid, train = file.split("valid"), np.array(file.split("train")[-TRAIN_TOKENS:])
    tokens = np.array(valid[: LINE_TOKENS if of_lines else HELD_OUT_TOKENS])
    if len(tokens) < 2:
        return f"The validation split has {len(tokens)} token(s), at least 2 are needed."
    return HeldOut(tokens, len(valid), train, file.source["chars"] is not None)


def write_samples(model: Model, report: Progress) -> tuple[list[Sample], float, float]:
    """Writes a sample at each temperature.

    Returns the samples, and the tokens and characters a second of the fastest one.
    """
    samples, rates = [], []
    for number, temperature in enumerate(TEMPERATURES):
        report("writing", number, len(TEMPERATURES))
        start = time.perf_counter()
        if model.of_lines:
            config = SamplingConfig(temperature=temperature)
            wanted = LineConfig(SAMPLE_LINES)
            drawn = list(model.lines(wanted, config, SEED))
            text = "\n".join(line.text for line in drawn)
            count = sum(line.tokens for line in drawn)
        else:
            count = round(SAMPLE_CHARS / model.tokenizer.chars_per_id)
            config = SamplingConfig(max_tokens=count, temperature=temperature)
            text = "".join(model.write("", config, SEED))
        seconds = max(time.perf_counter() - start, 1e-9)
        rates.append((count / seconds, len(text) / seconds))
        samples.append(Sample(temperature, text))
    return samples, *max(rates)


def score(saved: Checkpoint, tokenizer: Tokenizer, held_out: HeldOut, report: Progress) -> Scores:
    """Scores the held-out text as `charnn eval --baselines --classes --positions` does.

    Raises:
        CharnnError: there is nothing to score.
    """
    predictor, tokens = evaluation.predictor_of(saved), held_out.tokens
    sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, held_out.is_text)
    report("held-out text", 0, 3)
    if saved.lines:
        newline, before = saved.start_token, "\n"
        losses = token_losses(evaluation.line_batches(predictor, tokens, newline))
        by_protocol = {"lines": losses}
        positions = by_position(losses, newline)
    else:
        losses = token_losses(evaluation.carried_batches(predictor, tokens))
        before = tokenizer.decode(tokens[:1])
        report("held-out text", 1, 3)
        cold = token_losses(evaluation.cold_batches(predictor, tokens))
        by_protocol = {"carried": losses, "cold-256": cold}
        positions = by_position(cold)
    report("baselines", 2, 3)
    text, bits = bits_of_characters(tokenizer, losses)
    shown = _spaced_lines(text) if saved.lines else _passage(text)
    return Scores(
        {
            name: sizes.add(evaluation.NOTHING, float(nats.sum()), targets)
            for name, (targets, nats) in by_protocol.items()
        },
        baseline_rows(tokenizer, tokens, sizes, held_out.train),
        len(held_out.train),
        class_rows(text, bits, before),
        positions,
        [(text[at], float(bits[at])) for at in shown],
    )


def look_inside(model: Model, saved: Checkpoint, tokens: Array, report: Progress) -> Inside:
    """Measures gates, and the best units for each label, over the first tokens of a text."""
    config, tokenizer = saved.config, model.tokenizer
    ids = tokens[: min(UNIT_TOKENS, units.most_tokens(config))]
    newline = saved.start_token if saved.lines else None
    network = make_predictor(config, saved.weights)
    activity = units.record(network, ids, newline, lambda a, b: report("reading", a, b))
    try:
        gates = units.gate_shares(activity, config, saved.weights, newline)
    except ConfigError:  # the cell has no gates
        gates = None
    text = tokenizer.decode(ids)
    labellers = [make_labeller(name, text) for name in LABELS]
    pieces = units.pieces_of(tokenizer, ids)
    ranking = partial(report, "ranking units")
    found = units.find_units(activity, config, tokenizer, labellers, SHOWN_UNITS, ranking)
    tracked = []
    for each in units.best_first(found):
        best = each.ranking.units[each.good[0]]
        values = units.values_of(activity, config, best)
        values = np.tanh(values) if best.part == "c" else values
        part = _busiest_passage(each.flags, len(text))
        passage = zip(pieces[part], values[part].tolist(), each.flags[part].tolist(), strict=True)
        tracked.append(LabelledUnits(each, list(passage)))
    untracked = [each.labeller.name for each in found if not each.good]
    rare = [name for name in LABELS if name not in {each.labeller.name for each in found}]
    return Inside(len(ids), gates, tracked, untracked, rare)


def _passage(text: str) -> range:
    """Returns the indices of a passage from a paragraph or line after 500 characters."""
    start = 0
    for mark in ("\n\n", "\n", " "):
        at = text.find(mark, 500)
        if at >= 0 and at + len(mark) + PASSAGE_CHARS <= len(text):
            start = at + len(mark)
            break
    return range(start, min(start + PASSAGE_CHARS, len(text)))


def _spaced_lines(text: str) -> list[int]:
    """Returns the indices of evenly spaced lines: lists are often sorted."""
    ends = np.flatnonzero(np.array(list(text)) == "\n") + 1
    lines = list(pairwise([0, *ends.tolist()]))
    every = max(1, -(-len(text) // PASSAGE_CHARS))
    shown = [at for start, end in lines[::every] for at in range(start, end)]
    return shown[:PASSAGE_CHARS]


def _busiest_passage(flags: Flags, chars: int) -> slice:
    """Returns the tokens of the passage in which a label starts and ends most often."""
    size = max(1, round(UNIT_PASSAGE_CHARS * len(flags) / max(1, chars)))
    changes = np.concatenate([[0], np.cumsum(flags[1:] != flags[:-1])])
    starts = np.arange(0, max(1, len(flags) - size), max(1, size // 4))
    ends = np.minimum(starts + size, len(flags)) - 1
    start = int(starts[np.argmax(changes[ends] - changes[starts])])
    return slice(start, start + size)
