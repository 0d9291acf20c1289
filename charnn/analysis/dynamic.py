"""Dynamic evaluation: the weights follow the text while it is read.

B. Krause, E. Kahembwe, I. Murray, S. Renals: Dynamic Evaluation of Neural Sequence Models (ICML
2018). Each segment is scored first and learnt from afterwards, so no token is known before it is
judged. What comes out is another number than that of fixed weights, and is named so.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch

from charnn.analysis.losses import as_tensor, require_targets, token_nats
from charnn.analysis.surprisal import Array
from charnn.config import DynamicConfig
from charnn.errors import CharnnError, ConfigError
from charnn.model import LanguageModel
from charnn.model.state import State, detach

Progress = Callable[[int, int], None]

EPSILON = 1e-8
SQUARES_SEGMENTS = 500  # of the training text, whose gradients tell how far each weight moves


def dynamic_losses(
    model: LanguageModel,
    tokens: Array,
    config: DynamicConfig,
    train: Array | None = None,
    progress: Progress | None = None,
) -> Array:
    """The nats (N - 1,) of every token but the first; the model itself stays as it is.

    With rule "sgd" a weight moves by `rate` times its gradient. With "rms" that is divided by the
    root of the mean square that its gradients have on the training text `train`, and the way back
    to where it began is longer where that root is large.

    Raises:
        ConfigError: the rule is "rms", and there is no training text.
        CharnnError: the weights have run away.
    """
    require_targets(tokens)
    network = deepcopy(model).eval()
    weights: list[torch.Tensor] = [each.requires_grad_() for each in network.parameters()]
    origin = [weight.detach().clone() for weight in weights]
    scales = [torch.ones(()) for _ in weights]
    pulls = [torch.tensor(config.decay) for _ in weights]
    if config.rule == "rms":
        if train is None or len(train) < 2:
            raise ConfigError("the rule rms needs the training text of the run: use the rule sgd")
        roots = _root_mean_squares(network, weights, train, config.segment)
        mean = float(sum(root.sum() for root in roots)) / sum(root.numel() for root in roots)
        scales = [1 / (root + EPSILON) for root in roots]
        pulls = [(config.decay * root / max(mean, EPSILON)).clamp(max=1) for root in roots]
    found = np.empty(len(tokens) - 1)
    state = network.initial_state(1)
    for start in range(0, len(tokens) - 1, config.segment):
        ids = as_tensor(tokens[start : start + config.segment + 1][:, None], network)
        nats, gradients, state = _segment(network, weights, ids, state)
        found[start : start + len(nats)] = nats
        with torch.no_grad():
            for weight, gradient, scale, pull, first in zip(
                weights, gradients, scales, pulls, origin, strict=True
            ):
                back = (first - weight) * pull.to(weight)
                weight.add_(back - config.rate * gradient * scale.to(weight))
        if progress:
            progress(start + len(nats), len(found))
    if not np.isfinite(found).all():
        raise CharnnError("the weights ran away while they adapted: give a lower --dynamic-rate")
    return found


def _segment(
    network: LanguageModel, weights: list[torch.Tensor], ids: torch.Tensor, state: State
) -> tuple[Array, tuple[torch.Tensor, ...], State]:
    """Nats of each target, the gradients of their mean, and the state after, without history."""
    logits, state = network(ids[:-1], detach(state))
    nats = token_nats(logits, ids[1:])[:, 0]
    gradients = torch.autograd.grad(nats.mean(), weights)
    return nats.detach().cpu().numpy(), gradients, detach(state)


def _root_mean_squares(
    network: LanguageModel, weights: list[torch.Tensor], train: Array, segment: int
) -> list[torch.Tensor]:
    """How large the gradients of each weight are, over segments spread over the training text."""
    squares = [torch.zeros_like(weight) for weight in weights]
    count = max(1, min(SQUARES_SEGMENTS, (len(train) - 1) // segment))
    for place in np.linspace(0, max(0, len(train) - 1 - segment), count).astype(np.int64):
        ids = as_tensor(train[place : place + segment + 1][:, None], network)
        _, gradients, _ = _segment(network, weights, ids, network.initial_state(1))
        for square, gradient in zip(squares, gradients, strict=True):
            square.add_(gradient.square() / count)
    return [square.sqrt() for square in squares]
