"""What a recurrent network remembers: explicit, named, never hidden in a module.

Shapes: B streams, H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RNNState(NamedTuple):
    """Memory of a vanilla RNN layer: h (B, H)."""

    h: Tensor


class GRUState(NamedTuple):
    """Memory of a GRU layer: h (B, H)."""

    h: Tensor


class LSTMState(NamedTuple):
    """Memory of an LSTM layer: what it shows, h (B, H), and what it keeps, c (B, H)."""

    h: Tensor
    c: Tensor


CellState = RNNState | GRUState | LSTMState
State = tuple[CellState, ...]


def detach(state: State) -> State:
    """The same memory without its history: gradients stop here, memory does not."""
    return tuple(type(layer)(*(part.detach() for part in layer)) for layer in state)
