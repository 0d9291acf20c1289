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

from charnn.analysis.surprisal import Array
from charnn.errors import DamagedFile, TextError
from charnn.evaluation import CARRIED_WINDOW, COLD_WINDOW, Predictor, evaluating, evaluation_batch

Progress = Callable[[int, int], None]


class Positions(NamedTuple):
    """Mean bits of a token at places (P,) of a cold window, from 1, over `windows` of them."""

    positions: Array
    bits: Array
    windows: int


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
    """
    ends = np.flatnonzero(tokens == newline) + 1
    targets, parts = [], []
    with evaluating(model):
        for line in np.split(tokens, ends):
            if len(line) < 2 and (not len(line) or line[0] == newline):
                continue
            whole = line if line[-1] == newline else np.append(line, newline)
            ids = as_tensor(np.concatenate([[newline], whole])[:, None], model)
            logits, _ = model(ids[:-1], model.initial_state(1))
            targets.append(whole)
            parts.append(token_nats(logits, ids[1:])[:, 0].cpu().numpy())
    if not parts:
        raise TextError("nothing to score: the text has no line that is not empty")
    return np.concatenate(targets), np.concatenate(parts).astype(np.float64)


def by_position(losses: Array) -> Positions:
    """The mean bits at places 1, 2, 4 and so on of windows, from their nats (W, S)."""
    places = 2 ** np.arange(int(math.log2(losses.shape[1])) + 1)
    return Positions(places, losses.mean(axis=0)[places - 1] / math.log(2), len(losses))


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
