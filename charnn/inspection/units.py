"""Hidden units of a network: activations over a text, the labels they predict, gate saturation.

After Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks".

Shapes: T tokens, L layers, P parts of a state, H units, G gates, K labels, N = L P H units in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import GATE_ROLES, GATES, GOOD_AUC, STATES, ModelConfig
from charnn.engines.clamps import Unit
from charnn.errors import ConfigError, TextError
from charnn.inspection.labels import Flags, Labeller
from charnn.predictor import Predictor
from charnn.text.tokenizers import Tokenizer

Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]
Progress = Callable[[int, int], None]

MAX_ACTIVITY_BYTES = 512 << 20
FEWEST = 10  # tokens with and without a label that each half of the text needs
GATE_NAMES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}
LOW, HIGH = 0.1, 0.9  # below LOW a gate is shut, above HIGH it is open
NORM_EPSILON = 1e-5
CHUNK = 2048


class Activity(NamedTuple):
    """The states after each token: ids (T,), states (T, L, P, H)."""

    ids: NDArray[np.int64]
    states: Floats


class Ranking(NamedTuple):
    """All units by how well they predict a label, the best first; arrays are (N,).

    The first half of the text determines the order and the directions: 1 if the label has high
    values, -1 if it has low ones. ``auc`` is the area under the ROC curve on the second half,
    ``chosen_auc`` on the first. ``share`` is the share of tokens that have the label.
    """

    share: float
    units: list[Unit]
    directions: NDArray[np.int64]
    chosen_auc: Numbers
    auc: Numbers


class Detector(NamedTuple):
    """A unit as a classifier of a label, with a threshold fitted on the first half of the text.

    ``accuracy`` is the balanced accuracy on the second half; ``inside`` and ``outside`` are the
    unit's mean values with and without the label, on the first half.
    """

    threshold: float
    accuracy: float
    inside: float
    outside: float


class GateShares(NamedTuple):
    """The shares of tokens at which each gate is below `LOW` and above `HIGH`: (L, G, H) each."""

    gates: tuple[str, ...]
    low: Numbers
    high: Numbers


class Finding(NamedTuple):
    """A label, its value at each token (T,), all units ranked by it, and the best as detectors."""

    labeller: Labeller
    flags: Flags
    ranking: Ranking
    detectors: list[Detector]

    @property
    def good(self) -> list[int]:
        """Rows of the detectors with an AUC of `GOOD_AUC` or more, the highest AUC first."""
        auc = self.ranking.auc
        return sorted(
            (row for row in range(len(self.detectors)) if auc[row] >= GOOD_AUC),
            key=lambda row: -float(auc[row]),
        )


def most_tokens(config: ModelConfig) -> int:
    """Returns the number of tokens whose states fit into `MAX_ACTIVITY_BYTES`."""
    return max(1, MAX_ACTIVITY_BYTES // (4 * math.prod(config.state_shape)))


def record(
    predictor: Predictor,
    ids: NDArray[np.integer],
    newline: int | None = None,
    progress: Progress | None = None,
) -> Activity:
    """Records the state after each of ids (T,); with `newline`, each line starts a new text."""
    tokens = np.asarray(ids, np.int64)
    state = predictor.initial_state()
    states = np.empty((len(tokens), *state.shape), np.float32)
    for at, token in enumerate(tokens.tolist()):
        if token == newline:
            state = predictor.initial_state()
        _, state = predictor.step(token, state)
        states[at] = state
        if progress and not at % CHUNK:
            progress(at, len(tokens))
    return Activity(tokens, states)


def pieces_of(tokenizer: Tokenizer, ids: NDArray[np.integer]) -> list[str]:
    """Returns the text that each token completes; "" for a token inside a character."""
    decoder = tokenizer.stream_decoder()
    return [decoder.push(token) for token in ids.tolist()]


def per_token(
    tokenizer: Tokenizer, ids: NDArray[np.integer], read: Callable[[str], Flags]
) -> Flags:
    """Returns the label (T,) of each token: that of the last complete character."""
    pieces = pieces_of(tokenizer, ids)
    flags = np.concatenate([[False], read("".join(pieces))])
    return flags[np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]


def rank(
    activity: Activity,
    config: ModelConfig,
    labels: Mapping[str, Flags],
    progress: Progress | None = None,
) -> dict[str, Ranking]:
    """Ranks all units by each label (T,); labels that `is_usable` refuses are left out."""
    usable = {name: flags for name, flags in labels.items() if is_usable(flags)}
    if not usable:
        return {}
    half = len(activity.ids) // 2
    table = np.stack(list(usable.values()))
    parts = STATES[config.cell]
    units = [
        Unit(layer, number, part)
        for layer in range(config.num_layers)
        for part in parts
        for number in range(config.hidden_size)
    ]
    flat = activity.states.reshape(len(activity.ids), -1)
    firsts, seconds = np.empty((2, len(table), len(units)))
    for column in range(len(units)):
        values = np.ascontiguousarray(flat[:, column])
        firsts[:, column] = areas(values[:half], table[:, :half])
        seconds[:, column] = areas(values[half:], table[:, half:])
        if progress:
            progress(column, len(units))
    rankings = {}
    for name, first, second, flags in zip(usable, firsts, seconds, table, strict=True):
        directions = np.where(first < 0.5, -1, 1)
        first = np.where(directions < 0, 1 - first, first)
        second = np.where(directions < 0, 1 - second, second)
        order = np.argsort(-first, kind="stable")
        rankings[name] = Ranking(
            float(flags.mean()),
            [units[column] for column in order],
            directions[order],
            first[order],
            second[order],
        )
    return rankings


def find_units(
    activity: Activity,
    config: ModelConfig,
    tokenizer: Tokenizer,
    labellers: Sequence[Labeller],
    top: int,
    progress: Progress | None = None,
) -> list[Finding]:
    """Finds the `top` best units for each label that is neither too rare nor too common."""
    table = {each.name: per_token(tokenizer, activity.ids, each.read) for each in labellers}
    rankings = rank(activity, config, table, progress)
    found = []
    for each in labellers:
        if each.name in rankings:
            ranking, flags = rankings[each.name], table[each.name]
            detectors = [detector(activity, config, unit, flags) for unit in ranking.units[:top]]
            found.append(Finding(each, flags, ranking, detectors))
    return found


def best_first(found: Sequence[Finding]) -> list[Finding]:
    """Returns the labels that a unit tracks, the highest AUC first."""
    tracked = [each for each in found if each.good]
    return sorted(tracked, key=lambda each: -float(each.ranking.auc[each.good[0]]))


def distinct(units: Sequence[Unit], count: int) -> list[Unit]:
    """Returns the first `count` units; of h and c of the same hidden unit, only the first."""
    first: dict[tuple[int, int], Unit] = {}
    for unit in units:
        first.setdefault((unit.layer, unit.number), unit)
    return list(first.values())[:count]


def is_usable(flags: Flags) -> bool:
    """Tells whether both halves have at least `FEWEST` tokens with the label and without it."""
    half = len(flags) // 2
    return all(FEWEST <= part.sum() <= len(part) - FEWEST for part in (flags[:half], flags[half:]))


def areas(values: Floats, table: Flags) -> Numbers:
    """Returns the areas under the ROC curves (K,) of values (T,) for labels (K, T).

    An area is the probability that a value with the label is above one without; ties count half.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(values))
    ranks = np.repeat((starts + ends + 1) / 2, ends - starts)  # from 1; ties share their mean
    positive = table.sum(axis=1).astype(np.float64)
    sums = table[:, order] @ ranks
    area: Numbers = (sums - positive * (positive + 1) / 2) / (positive * (len(values) - positive))
    return area


def detector(activity: Activity, config: ModelConfig, unit: Unit, flags: Flags) -> Detector:
    """Fits the threshold of a unit that predicts a label (T,) best.

    Raises:
        TextError: the label is too rare or too common.
    """
    if not is_usable(flags):
        raise TextError(
            f"the label is on {flags.sum():,} of {len(flags):,} tokens, too few or too many to "
            "predict it: give more text"
        )
    values = values_of(activity, config, unit)
    half = len(values) // 2
    order = np.argsort(values[:half], kind="stable")
    ordered, known = values[:half][order], flags[:half][order]
    # At each threshold: the shares of tokens below it without the label, less those with it.
    margin = np.cumsum(~known) / (~known).sum() - np.cumsum(known) / known.sum()
    margin[:-1][ordered[1:] == ordered[:-1]] = 0.0  # no threshold separates ties
    at = int(np.abs(margin[:-1]).argmax())
    threshold = float((ordered[at].astype(np.float64) + ordered[at + 1]) / 2)
    predicted = values[half:] > threshold if margin[at] >= 0 else values[half:] < threshold
    truth = flags[half:]
    accuracy = (predicted[truth].mean() + (~predicted[~truth]).mean()) / 2
    return Detector(
        threshold,
        float(accuracy),
        float(values[:half][flags[:half]].mean()),
        float(values[:half][~flags[:half]].mean()),
    )


def values_of(activity: Activity, config: ModelConfig, unit: Unit) -> Floats:
    """Returns the values (T,) of one unit."""
    part = STATES[config.cell].index(unit.part)
    return np.ascontiguousarray(activity.states[:, unit.layer, part, unit.number])


def gate_shares(
    activity: Activity,
    config: ModelConfig,
    weights: Mapping[str, Floats],
    newline: int | None = None,
) -> GateShares:
    """Counts how often each sigmoid gate is shut and open, recomputing the gates from the states.

    Raises:
        ConfigError: the cell has no sigmoid gates.
    """
    gates = GATE_ROLES[config.cell].sigmoid
    if not gates:
        raise ConfigError(
            f"{config.cell} has no gates that open and shut: name a model of "
            f"{' or '.join(cell for cell, roles in GATE_ROLES.items() if roles.sigmoid)}"
        )
    low, high = np.zeros((2, config.num_layers, len(gates), config.hidden_size))
    for start in range(0, len(activity.ids), CHUNK):
        stop = min(start + CHUNK, len(activity.ids))
        x = weights["embedding.weight"][activity.ids[start:stop]]
        before = activity.states[max(start - 1, 0) : stop - 1, :, 0]
        if start == 0:
            before = np.concatenate([np.zeros_like(activity.states[:1, :, 0]), before])
        if newline is not None:
            fresh = activity.ids[start:stop] == newline
            before = np.where(fresh[:, None, None], np.float32(0), before)
        for layer in range(config.num_layers):
            opened = _gates(x, before[:, layer], config, weights, layer)
            for number, gate in enumerate(gates):
                low[layer, number] += (opened[gate] < LOW).sum(axis=0)
                high[layer, number] += (opened[gate] > HIGH).sum(axis=0)
            y = activity.states[start:stop, layer, 0]
            x = x + y if config.input_size(layer) == config.hidden_size else y
    return GateShares(gates, low / len(activity.ids), high / len(activity.ids))


def _gates(
    x: Floats, before: Floats, config: ModelConfig, weights: Mapping[str, Floats], layer: int
) -> dict[str, Floats]:
    """Returns the gates (T, H) of a layer that reads x (T, D) in the states h before (T, H).

    Every gate goes through the sigmoid, so the values of other gates mean nothing.
    """
    norm, cell = f"layers.{layer}.norm", f"layers.{layer}.cell"
    x = x - x.mean(axis=1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(NORM_EPSILON))
    x = x * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
    sums = x @ weights[f"{cell}.weight_ih"].T + before @ weights[f"{cell}.weight_hh"].T
    sums += weights[f"{cell}.bias"]
    opened = 0.5 * (np.tanh(0.5 * sums) + 1)
    return dict(zip(GATES[config.cell], np.split(opened, len(GATES[config.cell]), 1), strict=True))
