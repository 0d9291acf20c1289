"""Computes the gradient of a window of streams or lines, and the state after it.

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
from charnn.training.batches import Window
from charnn.training.line_batches import LineWindow


def begin(network: LanguageModel, window: Window | LineWindow, state: State) -> State:
    """Returns the state that a window starts from: `state`, or the initial state for a new text.

    The state is carried over without its gradient.
    """
    if isinstance(window, Window):
        return network.initial_state(window.inputs.shape[1]) if window.first else detach(state)
    fresh = window.fresh.to(network.embedding.weight.device)[:, None]
    return map_state(lambda part: part.masked_fill(fresh, 0.0), detach(state))


def backward(
    network: LanguageModel,
    window: Window | LineWindow,
    state: State,
    generator: torch.Generator | None = None,
) -> tuple[float, State]:
    """Sets the gradient of the network to that of the mean loss.

    Returns the loss in nats per target and the state after the window. `state` comes from `begin`;
    `generator` draws the dropout masks.
    """
    network.zero_grad()
    if isinstance(window, LineWindow):
        return _of_lines(network, window, state, generator)
    device = network.embedding.weight.device
    inputs, targets = window.inputs.to(device), window.targets.to(device)
    logits, state = network(inputs, state, generator)
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
    return float(loss.detach()), state


def _of_lines(
    network: LanguageModel, window: LineWindow, state: State, generator: torch.Generator | None
) -> tuple[float, State]:
    device = network.embedding.weight.device
    nats, after = 0.0, state
    for streams, inputs, targets in window.parts:
        rows = streams.to(device)
        logits, new = network(inputs.to(device), map_state(itemgetter(rows), state), generator)
        loss = cross_entropy(
            logits.flatten(0, 1),
            targets.to(device).flatten(),
            reduction="sum",
            ignore_index=IGNORED,
        )
        (loss / window.size).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        nats += float(loss.detach())
        after = map_state(partial(_replace_rows, rows), after, detach(new))
    return nats / window.size, after


def _replace_rows(rows: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return old.index_copy(0, rows, new)
