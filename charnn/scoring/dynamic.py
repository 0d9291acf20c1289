"""Dynamic evaluation: the weights follow the text while it is read.

B. Krause, E. Kahembwe, I. Murray, S. Renals: Dynamic Evaluation of Neural Sequence Models (ICML
2018). Each segment is scored first and learnt from afterwards, so no token is known before it is
judged. What comes out is another number than that of fixed weights, and is named so.

In a model of lines the weights are carried on from line to line, while the state begins anew with
each; a segment then ends where its line does. N-grams that are mixed in stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from charnn.config import DynamicConfig
from charnn.errors import CharnnError, ConfigError
from charnn.evaluation import Predictor, as_tensor, require_targets
from charnn.model import LanguageModel
from charnn.model.state import State, detach
from charnn.ngrams.mixture_torch import MixedLanguageModel
from charnn.scoring.losses import whole_lines
from charnn.scoring.surprisal import Array

Progress = Callable[[int, int], None]

EPSILON = 1e-8
SQUARES_SEGMENTS = 500  # of the training text, whose gradients tell how far each weight moves


def dynamic_losses(
    model: Predictor,
    tokens: Array,
    config: DynamicConfig,
    train: Array | None = None,
    progress: Progress | None = None,
    newline: int | None = None,
) -> Array:
    """The nats (N - 1,) of every token but the first; the model itself stays as it is.

    For a model of lines, which has a `newline`, those of the tokens that `line_losses` scores.

    With rule "sgd" a weight moves by `rate` times its gradient. With "rms" that is divided by the
    root of the mean square that its gradients have on the training text `train`, and the way back
    to where it began is longer where that root is large.

    Raises:
        ConfigError: the rule is "rms", and there is no training text.
        CharnnError: the weights have run away.
    """
    segments = list(_segments(tokens, config.segment, newline))
    predictor: Predictor
    if isinstance(model, MixedLanguageModel):
        network = deepcopy(model.network).eval()
        predictor = MixedLanguageModel(network, model.tree, model.powers)
    else:
        network = predictor = deepcopy(model).eval()
    weights: list[torch.Tensor] = [each.requires_grad_() for each in network.parameters()]
    origin = [weight.detach().clone() for weight in weights]
    scales = [torch.ones(()) for _ in weights]
    pulls = [torch.tensor(config.decay) for _ in weights]
    if config.rule == "rms":
        if train is None or len(train) < 2:
            raise ConfigError("the rule rms needs the training text of the run: use the rule sgd")
        roots = _root_mean_squares(network, weights, train, config.segment, newline)
        mean = float(sum(root.sum() for root in roots)) / sum(root.numel() for root in roots)
        scales = [1 / (root + EPSILON) for root in roots]
        pulls = [(config.decay * root / max(mean, EPSILON)).clamp(max=1) for root in roots]
    found, done, total = [], 0, sum(len(ids) - 1 for ids, _ in segments)
    state = predictor.initial_state(1)
    for ids, begins in segments:
        if begins:
            state = predictor.initial_state(1)
        read = as_tensor(ids[:, None], network)
        nats, gradients, state = _segment(predictor, weights, read, state, config.segment)
        found.append(nats)
        with torch.no_grad():
            for weight, gradient, scale, pull, first in zip(
                weights, gradients, scales, pulls, origin, strict=True
            ):
                back = (first - weight) * pull.to(weight)
                weight.add_(back - config.rate * gradient * scale.to(weight))
        done += len(nats)
        if progress:
            progress(done, total)
    every = np.concatenate(found).astype(np.float64)
    if not np.isfinite(every).all():
        raise CharnnError("the weights ran away while they adapted: give a lower --dynamic-rate")
    return every


def _segments(tokens: Array, size: int, newline: int | None) -> Iterator[tuple[Array, bool]]:
    """Pieces: a token and at most `size` targets after it, and whether the state begins anew."""
    if newline is None:
        require_targets(tokens)
        texts = [tokens]
    else:
        texts = [np.append(newline, line) for line in whole_lines(tokens, newline)]
    for text in texts:
        for start in range(0, len(text) - 1, size):
            yield text[start : start + size + 1], start == 0


def _segment(
    network: Predictor,
    weights: list[torch.Tensor],
    ids: torch.Tensor,
    state: State,
    size: int,
) -> tuple[Array, tuple[torch.Tensor, ...], State]:
    """Nats of each target, the gradients of their sum over `size`, and the state after.

    In a segment of that size it is their mean; the tokens of a short one count as much as others.
    """
    logits, state = network(ids[:-1], detach(state))
    nats = cross_entropy(logits[:, 0], ids[1:, 0], reduction="none")
    gradients = torch.autograd.grad(nats.sum() / size, weights)
    return nats.detach().cpu().numpy(), gradients, detach(state)


def _root_mean_squares(
    network: LanguageModel,
    weights: list[torch.Tensor],
    train: Array,
    segment: int,
    newline: int | None,
) -> list[torch.Tensor]:
    """How large the gradients of each weight are, over segments spread over the training text."""
    squares = [torch.zeros_like(weight) for weight in weights]
    if newline is None:
        count = max(1, min(SQUARES_SEGMENTS, (len(train) - 1) // segment))
        places = np.linspace(0, max(0, len(train) - 1 - segment), count).astype(np.int64)
    else:  # the beginnings of lines, with the newline before
        lines = np.flatnonzero((train[:-1] == newline) & (train[1:] != newline))
        if not len(lines):
            raise ConfigError("the rule rms needs two lines of training text: use the rule sgd")
        count = min(SQUARES_SEGMENTS, len(lines))
        places = lines[np.linspace(0, len(lines) - 1, count).astype(np.int64)]
    for place in places:
        some = train[place : place + segment + 1]
        if newline is not None:
            ends = np.flatnonzero(some[1:] == newline)
            some = some[: ends[0] + 2] if len(ends) else some
        ids = as_tensor(some[:, None], network)
        _, gradients, _ = _segment(network, weights, ids, network.initial_state(1), segment)
        for square, gradient in zip(squares, gradients, strict=True):
            square.add_(gradient.square() / count)
    return [square.sqrt() for square in squares]
