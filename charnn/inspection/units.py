"""What units do: their activity over a text, what each predicts, how its gates stand.

After Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks".

Shapes: T tokens, L layers, P parts of a state, H units, G gates, K labels, N = L P H units in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import GATE_ROLES, GATES, STATES, ModelConfig
from charnn.engines.clamps import Unit
from charnn.errors import ConfigError, TextError
from charnn.predictor import Predictor
from charnn.text.tokenizers import Tokenizer

Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Progress = Callable[[int, int], None]

MAX_ACTIVITY_BYTES = 512 << 20
FEWEST = 10  # tokens with and without the label, in each half, below which nothing can be said
LOW, HIGH = 0.1, 0.9  # where a gate counts as shut and as open
NORM_EPSILON = 1e-5
CHUNK = 2048


class Activity(NamedTuple):
    """The states after each token: ids (T,), states (T, L, P, H)."""

    ids: NDArray[np.int64]
    states: Floats


class Ranking(NamedTuple):
    """All units by how well they predict a label, the best of the first half first; (N,) each.

    ``auc`` is measured on the second half, in the direction that the first chose: 1 where the
    label goes with high values, -1 where with low ones. ``share`` is the label's in the whole.
    """

    label: str
    share: float
    tokens: int
    units: list[Unit]
    directions: NDArray[np.int64]
    chosen_auc: Numbers
    auc: Numbers


class Detector(NamedTuple):
    """A unit read as a yes or no: where it says yes, and how often it is right about each.

    ``accuracy`` is the mean of the shares of right answers with and without the label, on the half
    that did not choose the threshold; ``inside`` and ``outside`` the unit's means on the other.
    """

    threshold: float
    accuracy: float
    inside: float
    outside: float


class GateShares(NamedTuple):
    """The share of time that a gate is below `LOW` and above `HIGH`: (L, G, H) each."""

    gates: tuple[str, ...]
    low: Numbers
    high: Numbers


def most_tokens(config: ModelConfig) -> int:
    """Of how many tokens the activity is kept: as many as `MAX_ACTIVITY_BYTES` hold."""
    size = 4 * config.num_layers * len(STATES[config.cell]) * config.hidden_size
    return max(1, MAX_ACTIVITY_BYTES // size)


def record(
    network: Predictor,
    ids: NDArray[np.integer],
    newline: int | None = None,
    progress: Progress | None = None,
) -> Activity:
    """Reads ids (T,) from the start state; for a model of lines begins anew at each `newline`."""
    tokens = np.asarray(ids, np.int64)
    state = network.initial_state()
    states = np.empty((len(tokens), *state.shape), np.float32)
    for at, token in enumerate(tokens.tolist()):
        if token == newline:
            state = network.initial_state()
        _, state = network.step(token, state)
        states[at] = state
        if progress and not at % CHUNK:
            progress(at, len(tokens))
    return Activity(tokens, states)


def per_token(
    tokenizer: Tokenizer, ids: NDArray[np.integer], read: Callable[[str], Flags]
) -> Flags:
    """A label (T,) of each token: that of the last character that was whole after it."""
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in np.asarray(ids).tolist()]
    text = "".join(pieces)
    flags = np.concatenate([[False], read(text)])
    return flags[np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]


def rank(
    activity: Activity,
    config: ModelConfig,
    labels: Mapping[str, Flags],
    progress: Progress | None = None,
) -> dict[str, Ranking]:
    """Ranks all units for each label (T,) that is neither too rare nor too common for it.

    The first half of the text chooses order and direction; what is reported is the second's.
    """
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
    chosen, held = np.empty((2, len(table), len(units)))
    for column in range(len(units)):
        values = np.ascontiguousarray(flat[:, column])
        chosen[:, column] = areas(values[:half], table[:, :half])
        held[:, column] = areas(values[half:], table[:, half:])
        if progress:
            progress(column, len(units))
    rankings = {}
    for name, first, second, flags in zip(usable, chosen, held, table, strict=True):
        directions = np.where(first < 0.5, -1, 1)
        first = np.where(directions < 0, 1 - first, first)
        second = np.where(directions < 0, 1 - second, second)
        order = np.argsort(-first, kind="stable")
        rankings[name] = Ranking(
            name,
            float(flags.mean()),
            len(flags),
            [units[column] for column in order],
            directions[order],
            first[order],
            second[order],
        )
    return rankings


def first_apart(units: Sequence[Unit], count: int) -> list[Unit]:
    """The first `count` units, of which no two are h and c of the same one."""
    first: dict[tuple[int, int], Unit] = {}
    for unit in units:
        first.setdefault((unit.layer, unit.number), unit)
    return list(first.values())[:count]


def is_usable(flags: Flags) -> bool:
    """Whether both halves have enough tokens with the label, and without."""
    half = len(flags) // 2
    halves = (flags[:half], flags[half:])
    return all(FEWEST <= part.sum() <= len(part) - FEWEST for part in halves)


def areas(values: Floats, table: Flags) -> Numbers:
    """The areas under the curve (K,) of values (T,) for labels (K, T), equals counted half.

    That is the probability that a value with the label is above one without.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(values))
    ranks = np.repeat((starts + ends + 1) / 2, ends - starts)  # from 1, equals share theirs
    positive = table.sum(axis=1).astype(np.float64)
    sums = table[:, order] @ ranks
    area: Numbers = (sums - positive * (positive + 1) / 2) / (positive * (len(values) - positive))
    return area


def detector(activity: Activity, config: ModelConfig, unit: Unit, flags: Flags) -> Detector:
    """The threshold of a unit that tells a label (T,) best on the first half, tried on the second.

    Raises:
        TextError: the label is too rare.
    """
    if not is_usable(flags):
        raise TextError("the label is too rare in the text, or nearly everywhere: give more text")
    values = values_of(activity, config, unit)
    half = len(values) // 2
    order = np.argsort(values[:half], kind="stable")
    ordered, known = values[:half][order], flags[:half][order]
    below = np.cumsum(known) / known.sum()
    right = np.cumsum(~known) / (~known).sum() - below  # of "above is yes", less 1
    right[:-1][ordered[1:] == ordered[:-1]] = 0.0  # no threshold goes between equals
    at = int(np.abs(right[:-1]).argmax())
    threshold = float((ordered[at].astype(np.float64) + ordered[at + 1]) / 2)
    says = values[half:] > threshold if right[at] >= 0 else values[half:] < threshold
    truth = flags[half:]
    accuracy = (says[truth].mean() + (~says[~truth]).mean()) / 2
    return Detector(
        threshold,
        float(accuracy),
        float(values[:half][flags[:half]].mean()),
        float(values[:half][~flags[:half]].mean()),
    )


def values_of(activity: Activity, config: ModelConfig, unit: Unit) -> Floats:
    """The activity (T,) of one unit."""
    part = STATES[config.cell].index(unit.part)
    return np.ascontiguousarray(activity.states[:, unit.layer, part, unit.number])


def gate_shares(
    activity: Activity,
    config: ModelConfig,
    weights: Mapping[str, Floats],
    newline: int | None = None,
) -> GateShares:
    """How often each gate is shut and open, worked out anew from the states.

    Raises:
        ConfigError: the cell has no gates.
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
    """What the gates of a layer are, (T, H) each, reading x (T, D) in states before (T, H)."""
    norm, cell = f"layers.{layer}.norm", f"layers.{layer}.cell"
    x = x - x.mean(axis=1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(NORM_EPSILON))
    x = x * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
    sums = x @ weights[f"{cell}.weight_ih"].T + before @ weights[f"{cell}.weight_hh"].T
    sums += weights[f"{cell}.bias"]
    opened = 0.5 * (np.tanh(0.5 * sums) + 1)
    return dict(zip(GATES[config.cell], np.split(opened, len(GATES[config.cell]), 1), strict=True))
