"""The recurrent state of a network: explicit, named, never hidden in a module.

Shapes: B streams, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class HiddenState(NamedTuple):
    """The state of an RNN or GRU layer: h (B, H), which is also its output."""

    h: Tensor


class LSTMState(NamedTuple):
    """The state of an LSTM layer: the output h (B, H) and the cell c (B, H)."""

    h: Tensor
    c: Tensor


# A named tuple for each layer: one of these, or another that its cell defines.
State = tuple[Any, ...]


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Applies a function to each tensor of a state, or to the matching tensors of several."""
    return tuple(type(layers[0])(*map(function, *layers)) for layers in zip(*states, strict=True))


def detach(state: State) -> State:
    """Cuts the history off a state: gradients stop here, memory does not."""
    return map_state(Tensor.detach, state)


def pack_state(state: State) -> dict[str, np.ndarray]:
    """Copies a state into named arrays, ``state.<layer>.<h|c>`` (B, H) each."""
    return {
        f"state.{layer}.{name}": part.detach().cpu().numpy().copy()
        for layer, parts in enumerate(state)
        for name, part in parts._asdict().items()
    }


def unpack_state(like: State, arrays: Mapping[str, np.ndarray], device: str) -> State:
    """Restores a packed state of the same kind as `like`."""
    names = (f"state.{layer}.{name}" for layer, parts in enumerate(like) for name in parts._fields)
    return map_state(lambda _: torch.from_numpy(arrays[next(names)].copy()).to(device), like)
