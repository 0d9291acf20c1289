"""What a recurrent network remembers: explicit, named, never hidden in a module.

Shapes: B streams, H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
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


class NGramState(NamedTuple):
    """Where texts stand in a tree of n-grams of K symbols: nodes (B, K), whole numbers."""

    nodes: Tensor


CellState = RNNState | GRUState | LSTMState
State = tuple[CellState | NGramState, ...]


def detach(state: State) -> State:
    """The same memory without its history: gradients stop here, memory does not."""
    return tuple(type(layer)(*(part.detach() for part in layer)) for layer in state)


def pack_state(state: State) -> dict[str, np.ndarray]:
    """The memory as named arrays, ``state.<layer>.<h|c>`` (B, H) each, copied."""
    return {
        f"state.{layer}.{name}": part.detach().cpu().numpy().copy()
        for layer, parts in enumerate(state)
        for name, part in zip(parts._fields, parts, strict=True)
    }


def unpack_state(like: State, arrays: Mapping[str, np.ndarray], device: str) -> State:
    """Inverse of `pack_state`, for a state of the same kind as `like`."""
    return tuple(
        type(parts)(
            *(
                torch.from_numpy(arrays[f"state.{layer}.{name}"].copy()).to(device)
                for name in parts._fields
            )
        )
        for layer, parts in enumerate(like)
    )
