"""The loss of each token under the stream protocols: where in a window it lies, and of what it is.

Shapes: N tokens, W windows, S steps of a window, C characters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from charnn.errors import TextError
from charnn.evaluation import (
    COLD_WINDOW,
    Predictor,
    Progress,
    carried_batches,
    cold_batches,
    line_batches,
    token_losses,
)
from charnn.scoring.surprisal import Array


class Positions(NamedTuple):
    """Mean bits of a token at places (P,) of a cold window or a line, from 1.

    Means are over `windows` windows, or over the lines that reach so far, `counts` (P,).
    """

    positions: Array
    bits: Array
    windows: int
    counts: Array


def cold_losses(model: Predictor, tokens: Array, progress: Progress | None = None) -> Array:
    """Returns the nats (W, S) of each token of windows that begin at the initial state."""
    nats = token_losses(cold_batches(model, tokens), progress).nats
    return nats.reshape(-1, min(COLD_WINDOW, len(tokens) - 1))


def carried_losses(model: Predictor, tokens: Array, progress: Progress | None = None) -> Array:
    """Returns the nats (N - 1,) of every token but the first, with the state carried."""
    return token_losses(carried_batches(model, tokens), progress).nats


def line_losses(model: Predictor, tokens: Array, newline: int) -> tuple[Array, Array]:
    """Returns the tokens of all non-empty lines, newlines among them, and the nats of each.

    Raises:
        TextError: every line is empty.
    """
    return token_losses(line_batches(model, tokens, newline))


def whole_lines(tokens: Array, newline: int) -> list[Array]:
    """The lines of a text that are not empty, each with the newline that ends it.

    Raises:
        TextError: there is none.
    """
    lines = [
        line if line[-1] == newline else np.append(line, newline)
        for line in np.split(tokens, np.flatnonzero(tokens == newline) + 1)
        if len(line) > 1 or (len(line) and line[0] != newline)
    ]
    if not lines:
        raise TextError("nothing to score: the text has no line that is not empty")
    return lines


def by_position(losses: Array) -> Positions:
    """The mean bits at places 1, 2, 4 and so on of windows, from their nats (W, S)."""
    places = 2 ** np.arange(int(math.log2(losses.shape[1])) + 1)
    counts = np.full(len(places), len(losses))
    return Positions(places, losses.mean(axis=0)[places - 1] / math.log(2), len(losses), counts)


def by_place_in_line(targets: Array, losses: Array, newline: int) -> Positions:
    """The same at places of lines, up to `COLD_WINDOW`, from what `line_losses` returns.

    The newline that ends a line has a place in it too. Further places have fewer lines, the long
    ones, so it is not one set of lines that is followed.
    """
    ends = np.flatnonzero(targets == newline) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    last = min(COLD_WINDOW, int(lengths.max()))
    places = 2 ** np.arange(int(math.log2(last)) + 1)
    reach = [starts[lengths >= place] + place - 1 for place in places]
    bits = np.array([losses[each].mean() / math.log(2) for each in reach])
    return Positions(places, bits, len(starts), np.array([len(each) for each in reach]))
