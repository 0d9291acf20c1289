"""Dynamic evaluation: the weights adapt to the text while it is scored.

B. Krause, E. Kahembwe, I. Murray, S. Renals: Dynamic Evaluation of Neural Sequence Models (ICML
2018). Each segment is scored before the weights learn from it. The loss cannot be compared with the
loss of fixed weights.

In a model of lines the weights adapt from line to line; each line starts from the initial state,
and no segment crosses the end of a line. Only the network adapts, not the rest of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from charnn.config import DynamicConfig
from charnn.errors import CharnnError, ConfigError, TextError
from charnn.evaluation import (
    Predictor,
    Progress,
    TokenLosses,
    as_tensor,
    evaluating,
    require_targets,
)
from charnn.model import LanguageModel
from charnn.model.state import State, detach
from charnn.scoring.surprisal import Array

EPSILON = 1e-8
RMS_SEGMENTS = 500  # segments of the training text on which rule "rms" measures gradients


def dynamic_losses(
    model: Predictor,
    tokens: Array,
    config: DynamicConfig,
    train: Array | None = None,
    progress: Progress | None = None,
    newline: int | None = None,
) -> TokenLosses:
    """Scores every token but the first; given `newline`, the tokens of all non-empty lines.

    Rule "sgd" moves each weight by -`rate` times its gradient g, plus `decay` times the difference
    to its original value. Rule "rms" divides the first term by the root mean square r of g on the
    training text `train`, and multiplies the second by r over the mean of r. The weights are
    restored at the end.

    Raises:
        ConfigError: the rule is "rms", and `train` is too short.
        TextError: the text has nothing to score.
        CharnnError: the weights diverged.
    """
    network = next(part for part in model.modules() if isinstance(part, LanguageModel))
    weights = list(network.parameters())
    first = [weight.detach().clone() for weight in weights]
    scales = [torch.ones_like(weight) for weight in first]
    pulls = [torch.full_like(weight, config.decay) for weight in first]
    segments = list(_segments(tokens, config.segment, newline))
    targets = np.concatenate([segment[1:] for segment, _ in segments])
    found: list[Array] = []
    with evaluating(model):
        if config.rule == "rms":
            roots = _root_mean_squares(network, weights, train, config.segment, newline)
            mean = float(sum(root.sum() for root in roots)) / sum(root.numel() for root in roots)
            scales = [1 / (root + EPSILON) for root in roots]
            pulls = [(config.decay * root / max(mean, EPSILON)).clamp(max=1) for root in roots]
        state, done = model.initial_state(1), 0
        try:
            for segment, begins in segments:
                if begins:
                    state = model.initial_state(1)
                nats, gradients, state = _read(model, weights, segment, state, config.segment)
                found.append(nats)
                with torch.no_grad():
                    for weight, gradient, scale, pull, start in zip(
                        weights, gradients, scales, pulls, first, strict=True
                    ):
                        weight.add_((start - weight) * pull - config.rate * gradient * scale)
                done += len(nats)
                if progress:
                    progress(done, len(targets))
        finally:
            with torch.no_grad():
                for weight, start in zip(weights, first, strict=True):
                    weight.copy_(start)
    losses = np.concatenate(found).astype(np.float64)
    if not np.isfinite(losses).all():
        raise CharnnError(
            f"the weights diverged at rate {config.rate:g}: give a lower --dynamic-rate"
        )
    return TokenLosses(targets, losses)


def _segments(tokens: Array, size: int, newline: int | None) -> Iterator[tuple[Array, bool]]:
    """Yields segments, a token and at most `size` targets, and True where a text begins."""
    if newline is None:
        require_targets(tokens)
        texts = [tokens]
    else:
        lines = np.split(tokens, np.flatnonzero(tokens == newline) + 1)
        bare = [line[line != newline] for line in lines]
        texts = [np.concatenate([[newline], line, [newline]]) for line in bare if len(line)]
        if not texts:
            raise TextError("nothing to score: the text has only empty lines; give more text")
    for text in texts:
        for start in range(0, len(text) - 1, size):
            yield text[start : start + size + 1], start == 0


def _read(
    model: Predictor, weights: list[torch.nn.Parameter], segment: Array, state: State, size: int
) -> tuple[Array, tuple[torch.Tensor, ...], State]:
    """Returns the nats of each target, the gradients of their sum over `size`, and the state.

    The divisor is `size` for a short segment too, so that all tokens have the same weight.
    """
    ids = as_tensor(segment[:, None], model)
    logits, state = model(ids[:-1], detach(state))
    nats = cross_entropy(logits[:, 0], ids[1:, 0], reduction="none")
    gradients = torch.autograd.grad(nats.sum() / size, weights)
    return nats.detach().cpu().numpy(), gradients, detach(state)


def _root_mean_squares(
    network: LanguageModel,
    weights: list[torch.nn.Parameter],
    train: Array | None,
    size: int,
    newline: int | None,
) -> list[torch.Tensor]:
    """Returns the root mean square of each gradient over segments spread over the training text."""
    if train is None or len(train) < 2:
        raise ConfigError("rule rms needs the training text of the run: use --dynamic-rule sgd")
    if newline is None:
        count = max(1, min(RMS_SEGMENTS, (len(train) - 1) // size))
        starts = np.linspace(0, max(0, len(train) - 1 - size), count).astype(np.int64)
    else:  # the newlines before non-empty lines
        starts = np.flatnonzero((train[:-1] == newline) & (train[1:] != newline))
        if not len(starts):
            raise ConfigError(
                "rule rms needs a training text of at least two lines: use --dynamic-rule sgd"
            )
        chosen = np.linspace(0, len(starts) - 1, min(RMS_SEGMENTS, len(starts)))
        starts = starts[chosen.astype(np.int64)]
    squares = [torch.zeros_like(weight) for weight in weights]
    for start in starts:
        segment = train[start : start + size + 1]
        if newline is not None:
            ends = np.flatnonzero(segment[1:] == newline)
            segment = segment[: ends[0] + 2] if len(ends) else segment
        _, gradients, _ = _read(network, weights, segment, network.initial_state(1), size)
        for square, gradient in zip(squares, gradients, strict=True):
            square.add_(gradient.square() / len(starts))
    return [square.sqrt() for square in squares]
