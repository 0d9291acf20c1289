"""Computes the gradient of a window, and the state after it.

Shapes: B streams, T steps, V symbols.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.evaluation import IGNORED
from charnn.model import LanguageModel, State, detach, map_state
from charnn.model.language_model import Masks
from charnn.training.batches import Window


def begin(network: LanguageModel, window: Window, state: State) -> State:
    """Returns the state that a window starts from: zeros in fresh streams, `state` in the others.

    The state is carried over without its gradient.
    """
    fresh = window.fresh.to(network.embedding.weight.device)[:, None]
    return map_state(lambda part: part.masked_fill(fresh, 0.0), detach(state))


def backward(
    network: LanguageModel,
    window: Window,
    state: State,
    generator: torch.Generator | None = None,
) -> tuple[float, State]:
    """Sets the gradient of the network to that of the mean loss.

    Returns the loss in nats per target and the state after the window. `state` comes from `begin`;
    `generator` draws the dropout masks. For a share of the streams, loss and gradient are their
    part of the sum over all streams.
    """
    network.zero_grad()
    device = network.embedding.weight.device
    nats, after = 0.0, state
    for streams, inputs, targets, kept, size in window.parts:
        rows = streams.to(device)
        masks = Masks(generator, size, kept.to(device)) if generator else None
        if not len(rows):  # every stream of this part is computed elsewhere
            if masks:
                network.skip_masks(masks)
            continue
        logits, new = network(inputs.to(device), map_state(itemgetter(rows), state), masks)
        flat = logits.flatten(0, 1), targets.to(device).flatten()
        loss = cross_entropy(*flat, reduction="sum", ignore_index=IGNORED) / window.size
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        nats += float(loss.detach())
        after = map_state(partial(_replace_rows, rows), after, detach(new))
    return nats, after


def gradients(network: LanguageModel) -> list[Tensor]:
    """Returns the gradient of each weight, zeros where no stream was computed."""
    weights = list(network.parameters())
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in weights if weight.grad is not None]


def _replace_rows(rows: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return old.index_copy(0, rows, new)
