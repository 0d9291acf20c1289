"""Filters of the choice of the next token: pure functions on logits.

A filter takes logits (V,) in float64, its setting and the recent ids (which only penalties use); it
returns new logits, -inf for a token that it rules out. No filter rules out every token.

A new filter needs a function and a line in `FILTERS` here, a field of `SamplingConfig` by the same
name, a test, and a paragraph in docs/sampling.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from charnn.config import SamplingConfig
from charnn.errors import ConfigError
from charnn.predictor import LOWEST_TEMPERATURE

Logits = NDArray[np.float64]
Filter = Callable[[Logits, float, Collection[int]], Logits]


def repetition_penalty(logits: Logits, penalty: float, recent: Collection[int] = ()) -> Logits:
    """Multiplies the log-probabilities of the `recent` ids by `penalty`, each once.

    After Keskar et al. 2019 (CTRL, section 4.1), who divide logits; on log-probabilities, which
    are never positive, multiplying has that effect whatever constant the logits contain.
    """
    most = logits.max()
    penalised: Logits = logits - (most + math.log(np.exp(logits - most).sum()))
    penalised[list(set(recent))] *= penalty
    return penalised


def frequency_penalty(logits: Logits, penalty: float, recent: Collection[int] = ()) -> Logits:
    """Subtracts `penalty` times its count in `recent` from each logit: l - f c (OpenAI's API)."""
    return logits - penalty * np.bincount(_array(recent), minlength=logits.size)


def presence_penalty(logits: Logits, penalty: float, recent: Collection[int] = ()) -> Logits:
    """Subtracts `penalty` from the logit of each id in `recent`: l - p [c > 0] (OpenAI's API)."""
    return logits - penalty * (np.bincount(_array(recent), minlength=logits.size) > 0)


def temperature(logits: Logits, value: float, recent: Collection[int] = ()) -> Logits:
    """Divides by the temperature; 0 keeps only the likeliest token, the lowest id of equals."""
    if value == 0:
        return _only(logits, np.argmax(logits, keepdims=True))
    return logits / max(value, LOWEST_TEMPERATURE)


def top_k(logits: Logits, k: float, recent: Collection[int] = ()) -> Logits:
    """Keeps the `k` likeliest tokens (Fan et al. 2018); ties keep the lowest ids."""
    k = int(k)
    if k >= logits.size:
        return logits
    edge = np.partition(logits, -k)[-k]
    above = np.flatnonzero(logits > edge)
    equal = np.flatnonzero(logits == edge)[: k - above.size]
    return _only(logits, np.concatenate([above, equal]))


def typical_p(logits: Logits, p: float, recent: Collection[int] = ()) -> Logits:
    """Keeps the tokens nearest to the expected surprisal that have probability `p` together.

    Locally typical sampling (Meister et al. 2023, equations 10 and 11): the fewest tokens, in the
    order of |H + log q| for a distribution q of entropy H, that reach `p`, at least one; ties are
    in the order of the ids.
    """
    possible = np.flatnonzero(logits > -np.inf)
    shifted = logits[possible] - logits.max()
    weights = np.exp(shifted)
    total = weights.sum()
    # |H + log q| is the distance of log q, or of logits, to its mean.
    distance = np.abs(shifted - weights.dot(np.where(weights > 0, shifted, 0)) / total)
    order = distance.argsort(kind="stable")
    count = weights[order].cumsum().searchsorted(p * total) + 1
    return _only(logits, possible[order[:count]])


def top_p(logits: Logits, p: float, recent: Collection[int] = ()) -> Logits:
    """Keeps the fewest likeliest tokens that have probability `p` together, at least one.

    Nucleus sampling (Holtzman et al. 2020); ties are in the order of the ids.
    """
    order = (-logits).argsort(kind="stable")
    cumulative = np.exp(logits[order] - logits[order[0]]).cumsum()
    count = cumulative.searchsorted(p * cumulative[-1]) + 1
    return _only(logits, order[:count])


def min_p(logits: Logits, p: float, recent: Collection[int] = ()) -> Logits:
    """Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al. 2024)."""
    return _only(logits, np.flatnonzero(logits >= logits.max() + math.log(p)))


def _array(recent: Collection[int]) -> NDArray[np.int64]:
    return np.fromiter(recent, np.int64, len(recent))


def _only(logits: Logits, ids: NDArray[np.integer]) -> Logits:
    kept = np.full_like(logits, -np.inf)
    kept[ids] = logits[ids]
    return kept


# Filters in the order in which they apply, each with the setting that means "off". Guides apply
# after the penalties.
FILTERS: dict[str, tuple[Filter, float]] = {
    "repetition_penalty": (repetition_penalty, 1.0),
    "frequency_penalty": (frequency_penalty, 0.0),
    "presence_penalty": (presence_penalty, 0.0),
    "temperature": (temperature, 1.0),
    "top_k": (top_k, 0),
    "typical_p": (typical_p, 1.0),
    "top_p": (top_p, 1.0),
    "min_p": (min_p, 0.0),
}
PENALTIES: frozenset[Filter] = frozenset({repetition_penalty, frequency_penalty, presence_penalty})


def filter_settings(config: SamplingConfig) -> dict[str, float]:
    """Returns the settings of all filters, by name."""
    return {name: getattr(config, name) for name in FILTERS}


def active_filters(settings: Mapping[str, float]) -> list[tuple[Filter, float]]:
    """Returns the filters that `settings` switches on, in order, each with its setting.

    Raises:
        ConfigError: a filter is unknown, or a setting out of range.
    """
    for name in settings:
        if name not in FILTERS:
            raise ConfigError(f"unknown filter {name!r}; choose from {', '.join(FILTERS)}")
    SamplingConfig.from_dict(settings)
    return [
        (apply, settings[name])
        for name, (apply, off) in FILTERS.items()
        if settings.get(name, off) != off
    ]
