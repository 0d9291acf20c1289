"""What a report tells of a model: everything that is measured for it, as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charnn import evaluation
from charnn.checkpoint import Checkpoint
from charnn.config import LABELS, LAGS, SHOWN_UNITS, LineConfig, SamplingConfig
from charnn.engines import make_predictor
from charnn.engines.compiled import kernels
from charnn.errors import CharnnError, ConfigError
from charnn.evaluation import Score, TextSizes, token_losses
from charnn.generation import Model
from charnn.inspection import units
from charnn.inspection.horizon import Horizon, measure_horizon
from charnn.inspection.labels import Flags, Labeller, make_labeller
from charnn.model import LanguageModel
from charnn.scoring.baselines import baseline_rows
from charnn.scoring.breakdown import PositionLosses, bits_of_characters, by_position, class_rows
from charnn.scoring.surprisal import Array
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict

Progress = Callable[[str, int, int], None]

# Sizes with which a report on three layers of 256 units takes about a minute.
REPORT_HELD_OUT = 50_000  # tokens of the validation split, from its beginning
REPORT_LINES = 20_000  # the same for a model of lines, which is read line by line
REPORT_TRAIN = 1_000_000  # tokens of the training text that n-grams are counted on, the latest
REPORT_UNITS = 12_000  # tokens that units are ranked on
REPORT_PLACES = 48  # of the text, whose losses are averaged to see how far back matters
REPORT_GRADIENTS = 12  # of these, for gradients
REPORT_JACOBIANS = 2  # of these, for singular values
REPORT_PASSAGE = 1_200  # characters
REPORT_UNIT_PASSAGE = 420  # characters for each label
REPORT_TEMPERATURES = (0.5, 0.8, 1.1)
REPORT_SAMPLE = 600  # characters, roughly
REPORT_SAMPLE_LINES = 12
REPORT_SEED = 1


class Sample(NamedTuple):
    """A text that the model wrote."""

    temperature: float
    text: str


class Held(NamedTuple):
    """The beginning of the validation split, of `whole` tokens, and the latest training text."""

    tokens: Array
    whole: int
    train: Array | None
    is_text: bool


class Scores(NamedTuple):
    """A model on its held-out text: protocols, baselines, kinds of characters, a passage."""

    protocols: dict[str, Score]
    baselines: list[dict[str, Any]]
    trained_on: int
    classes: list[dict[str, Any]]
    positions: PositionLosses
    passage: list[tuple[str, float]]


class LabelledUnits(NamedTuple):
    """The best units for a label, and a passage: each piece, the best one's value, the label.

    `most` is what the best one hardly goes beyond, up or down: 98% of its values are below it.
    """

    labeller: Labeller
    ranking: units.Ranking
    detectors: list[units.Detector]
    passage: list[tuple[str, float, bool]]
    most: float


class Inside(NamedTuple):
    """What units do over so many tokens; `gates` is None for a cell without any."""

    tokens: int
    gates: units.GateShares | None
    labels: list[LabelledUnits]
    rare: list[str]


@dataclass
class Facts:
    """All of it. What is None was left out, and `left_out` says why, in a sentence by section.

    `name` is the model's for people, `called` what a command would take for it, without a folder.
    """

    model: Checkpoint
    name: str
    called: str
    size: int
    tokenizer: Tokenizer
    samples: list[Sample]
    tokens_per_second: float
    chars_per_second: float
    engine: str
    held: Held | None = None
    scores: Scores | None = None
    inside: Inside | None = None
    memory: Horizon | None = None
    left_out: dict[str, str] = field(default_factory=dict)


NO_TEXT = "The text that this model learnt from is not beside it, so it is not told here."


def find_facts(saved: Checkpoint, path: Path, name: str, progress: Progress | None = None) -> Facts:
    """Measures everything on the model of the file `path`.

    Raises:
        CharnnError: it cannot write, or its tokenizer is damaged.
    """
    say = progress or (lambda _what, _done, _all: None)
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    model = Model.from_checkpoint(saved)
    samples, per_second, chars = write_samples(model, say)
    engine = f"native, {kernels()[0]}" if kernels() else "numpy"
    called = name if path.stem in ("best", "last") else path.name
    size = path.stat().st_size
    facts = Facts(saved, name, called, size, tokenizer, samples, per_second, chars, engine)
    found = find_held_out(path.parent / "tokens", tokenizer, saved.lines)
    if isinstance(found, str):
        facts.left_out = dict.fromkeys(("held-out", "passage", "units", "horizon"), found)
        return facts
    facts.held = found
    network = evaluation.network_of(saved)
    try:
        facts.scores = score(saved, evaluation.predictor_of(saved), tokenizer, found, say)
    except CharnnError as error:
        facts.left_out |= dict.fromkeys(("held-out", "passage"), _sentence(error))
    facts.inside = look_inside(model, saved, found.tokens, say)
    newline = saved.start_token if saved.lines else None
    try:
        facts.memory = measure_memory(network, found.tokens, newline, say)
    except CharnnError as error:
        facts.left_out["horizon"] = _sentence(error)
    return facts


def find_held_out(path: Path, tokenizer: Tokenizer, of_lines: bool) -> Held | str:
    """The run's own held-out text, or a sentence that says why there is none."""
    if not path.exists():
        return NO_TEXT
    try:
        file = TokenFile.open(path, tokenizer)
        file.verify()
    except CharnnError:  # whose message names a path, which a page that is passed on must not show
        return "The run's tokens cannot be read, or belong to another tokenizer: left out."
    if "valid" not in file.splits:
        return "The run has no validation split, so there is no held-out text to tell of."
    valid, train = file.split("valid"), None
    tokens = np.array(valid[: REPORT_LINES if of_lines else REPORT_HELD_OUT])
    if "train" in file.splits:
        train = np.array(file.split("train")[-REPORT_TRAIN:])
    if len(tokens) < 2:
        return f"The validation split has {len(tokens)} token(s), at least 2 are needed."
    return Held(tokens, len(valid), train, file.source["chars"] is not None)


def write_samples(model: Model, say: Progress) -> tuple[list[Sample], float, float]:
    """A sample at each temperature, and the tokens and characters a second of the fastest."""
    samples, rates = [], []
    for number, temperature in enumerate(REPORT_TEMPERATURES):
        say("writing", number, len(REPORT_TEMPERATURES))
        began = time.perf_counter()
        if model.of_lines:
            wanted = LineConfig(REPORT_SAMPLE_LINES)
            config = SamplingConfig(temperature=temperature)
            drawn = list(model.lines(wanted, config, REPORT_SEED))
            text = "\n".join(line.text for line in drawn)
            count = sum(line.tokens for line in drawn)
        else:
            count = round(REPORT_SAMPLE / model.tokenizer.chars_per_id)
            config = SamplingConfig(max_tokens=count, temperature=temperature)
            text = "".join(model.write("", config, REPORT_SEED))
        seconds = max(time.perf_counter() - began, 1e-9)
        rates.append((count / seconds, len(text) / seconds))
        samples.append(Sample(temperature, text))
    return samples, *max(rates)


def score(
    saved: Checkpoint,
    network: evaluation.Predictor,
    tokenizer: Tokenizer,
    held: Held,
    say: Progress,
) -> Scores:
    """The scores of the held-out text, as `charnn eval --baselines --classes --positions` has them.

    Raises:
        TextError: there is nothing to score.
    """
    tokens = held.tokens
    sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, held.is_text)
    say("held-out text", 0, 3)
    if saved.lines:
        newline, before = saved.start_token, "\n"
        protocols = {"lines": evaluation.lines(network, tokens, newline, sizes)}
        losses = token_losses(evaluation.line_batches(network, tokens, newline))
        positions = by_position(losses, newline)
    else:
        losses = token_losses(evaluation.carried_batches(network, tokens))
        before = tokenizer.decode(tokens[:1])
        nats = float(losses.nats.sum())
        protocols = {
            "carried": sizes.add(evaluation.NOTHING, nats, losses.targets),
            "cold-256": evaluation.cold(network, tokens, sizes),
        }
        say("held-out text", 1, 3)
        positions = by_position(token_losses(evaluation.cold_batches(network, tokens)))
    say("baselines", 2, 3)
    rows = baseline_rows(tokenizer, tokens, sizes, held.train)
    text, bits = bits_of_characters(tokenizer, losses)
    kinds = class_rows(text, bits, before)
    trained_on = 0 if held.train is None else len(held.train)
    shown = _some_lines(text) if saved.lines else _one_place(text)
    passage = [(text[at], float(bits[at])) for at in shown]
    return Scores(protocols, rows, trained_on, kinds, positions, passage)


def look_inside(model: Model, saved: Checkpoint, tokens: Array, say: Progress) -> Inside:
    """Gates, and the best units for each label, over the beginning of a text."""
    config, tokenizer = saved.config, model.tokenizer
    ids = tokens[: min(REPORT_UNITS, units.most_tokens(config))]
    newline = saved.start_token if saved.lines else None
    network = make_predictor(config, saved.weights)
    activity = units.record(network, ids, newline, lambda a, b: say("reading", a, b))
    try:
        gates = units.gate_shares(activity, config, saved.weights, newline)
    except ConfigError:  # a vanilla RNN has none
        gates = None
    text = tokenizer.decode(ids)
    labellers = [make_labeller(name, text) for name in LABELS]
    pieces = units.pieces_of(tokenizer, ids)
    found = []
    for labeller, flags, ranking, detectors in units.find_units(
        activity, config, tokenizer, labellers, SHOWN_UNITS, lambda a, b: say("ranking units", a, b)
    ):
        values = units.values_of(activity, config, ranking.units[0])
        some = _liveliest(flags, len(text))
        rows = zip(pieces[some], values[some].tolist(), flags[some].tolist(), strict=True)
        most = float(np.quantile(np.abs(values), 0.98))
        found.append(LabelledUnits(labeller, ranking, detectors, list(rows), most))
    rare = [name for name in LABELS if name not in {each.labeller.name for each in found}]
    return Inside(len(ids), gates, found, rare)


def measure_memory(
    network: LanguageModel, tokens: Array, newline: int | None, say: Progress
) -> Horizon:
    """What `charnn horizon` measures, at fewer places.

    Raises:
        TextError: the text is too short to look back.
    """
    return measure_horizon(
        network,
        tokens,
        REPORT_SEED,
        REPORT_PLACES,
        LAGS,
        say,
        newline,
        REPORT_GRADIENTS,
        REPORT_JACOBIANS,
    )


def _one_place(text: str) -> range:
    """Where a passage lies: from a paragraph or line on, where the model has read a while."""
    start = 0
    for mark in ("\n\n", "\n", " "):
        at = text.find(mark, 500)
        if at >= 0 and at + len(mark) + REPORT_PASSAGE <= len(text):
            start = at + len(mark)
            break
    return range(start, min(start + REPORT_PASSAGE, len(text)))


def _some_lines(text: str) -> list[int]:
    """The characters of lines that lie evenly over a text, since lists are often in order."""
    ends = np.flatnonzero(np.array(list(text)) == "\n") + 1
    lines = list(pairwise([0, *ends.tolist()]))
    every = max(1, -(-len(text) // REPORT_PASSAGE))
    return [at for start, end in lines[::every] for at in range(start, end)][:REPORT_PASSAGE]


def _liveliest(flags: Flags, chars: int) -> slice:
    """The tokens of a passage in which a label begins and ends most often."""
    size = max(1, round(REPORT_UNIT_PASSAGE * len(flags) / max(1, chars)))
    changes = np.concatenate([[0], np.cumsum(flags[1:] != flags[:-1])])
    starts = np.arange(0, max(1, len(flags) - size), max(1, size // 4))
    ends = np.minimum(starts + size, len(flags)) - 1
    start = int(starts[np.argmax(changes[ends] - changes[starts])])
    return slice(start, start + size)


def _sentence(error: CharnnError) -> str:
    return f"Left out: {error}."
