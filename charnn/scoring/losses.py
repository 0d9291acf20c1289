"""The loss of each token under the stream protocols: where in a window it lies, and of what it is.

Shapes: N tokens, W windows, S steps of a window, C characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from charnn.errors import DamagedFile, TextError
from charnn.evaluation import (
    CARRIED_WINDOW,
    COLD_WINDOW,
    IGNORED,
    Predictor,
    evaluating,
    evaluation_batch,
    placed_line_batches,
)
from charnn.scoring.surprisal import Array

Progress = Callable[[int, int], None]


class Positions(NamedTuple):
    """Mean bits of a token at places (P,) of a cold window or a line, from 1.

    Means are over `windows` windows, or over the lines that reach so far, `counts` (P,).
    """

    positions: Array
    bits: Array
    windows: int
    counts: Array


@torch.inference_mode()
def cold_losses(model: Predictor, tokens: Array, progress: Progress | None = None) -> Array:
    """The nats (W, S) of each token of windows that begin at the start state."""
    require_targets(tokens)
    window = min(COLD_WINDOW, len(tokens) - 1)
    count = (len(tokens) - 1) // window
    found = np.empty((count, window))
    batch = evaluation_batch(model.config.vocab_size)
    with evaluating(model):
        for start in range(0, count, batch):
            places = np.arange(start, min(start + batch, count))
            ids = as_tensor(tokens[places[:, None] * window + np.arange(window + 1)].T, model)
            logits, _ = model(ids[:-1], model.initial_state(len(places)))
            found[places] = token_nats(logits, ids[1:]).T.cpu().numpy()
            if progress:
                progress(int(places[-1]) + 1, count)
    return found


@torch.inference_mode()
def carried_losses(model: Predictor, tokens: Array, progress: Progress | None = None) -> Array:
    """The nats (N - 1,) of every token but the first, in one pass that carries its state."""
    require_targets(tokens)
    parts = []
    with evaluating(model):
        state = model.initial_state(1)
        for start in range(0, len(tokens) - 1, CARRIED_WINDOW):
            ids = as_tensor(tokens[start : start + CARRIED_WINDOW + 1][:, None], model)
            logits, state = model(ids[:-1], state)
            parts.append(token_nats(logits, ids[1:])[:, 0].cpu().numpy())
            if progress:
                progress(start + len(ids) - 1, len(tokens) - 1)
    return np.concatenate(parts).astype(np.float64)


@torch.inference_mode()
def line_losses(model: Predictor, tokens: Array, newline: int) -> tuple[Array, Array]:
    """The tokens of all lines that are not empty, newlines among them, and the nats of each.

    Each line begins at the start state after a newline; its state is carried to its end.

    Raises:
        TextError: there is no line that is not empty.
    """
    targets, nats, places = [], [], []
    for batch, stand in placed_line_batches(model, tokens, newline):
        counted = batch.targets != IGNORED
        wanted = torch.from_numpy(np.maximum(batch.targets, 0)).to(batch.logits.device)
        nats.append(token_nats(batch.logits, wanted).cpu().numpy()[counted])
        targets.append(batch.targets[counted])
        places.append(stand[counted])
    order = np.argsort(np.concatenate(places))
    return np.concatenate(targets)[order], np.concatenate(nats).astype(np.float64)[order]


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


def token_nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The nats (T, B) of targets (T, B) by logits (T, B, V)."""
    flat = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def as_tensor(ids: Array, model: Predictor) -> torch.Tensor:
    """Ids where the model is; raises DamagedFile for one outside the vocabulary."""
    wide = np.ascontiguousarray(ids, dtype=np.int64)
    if wide.size and wide.max() >= model.config.vocab_size:
        raise DamagedFile("the tokens hold an id outside the vocabulary: tokenize the text again")
    return torch.from_numpy(wide).to(next(model.parameters()).device)


def require_targets(tokens: Array) -> None:
    """Raises TextError where nothing is to be predicted."""
    if len(tokens) < 2:
        raise TextError(
            f"nothing to score: the text has {len(tokens)} token(s), at least 2 are needed"
        )
