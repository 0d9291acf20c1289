"""The trained network as a step function in numpy, made for one stream of tokens.

What training writes as layer norm, gates and residual path is rearranged once, when a model is
loaded, so that a step is a few products of a matrix and a vector and as little else as possible:

- A layer norm's weight and bias are folded into the input weights that follow it. What is left of
  the norm is the mean, taken out of the residual stream for good, and one factor, 1/std.
- sigmoid(a) = (tanh(a/2) + 1) / 2, with the first half folded into the rows of the gate, so that
  one call of tanh serves all gates.
- What layer 0 reads depends on the token alone: it is worked out once a token and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from charnn.config import ModelConfig

Array = NDArray[np.float32]
NORM_EPSILON = 1e-5
# Layer 0's products are kept up to this size in bytes, beyond it made anew at each step.
MAX_TABLE_BYTES = 64 << 20


class RNNState(NamedTuple):
    """State of one vanilla layer: h (H,)."""

    h: Array


class GRUState(NamedTuple):
    """State of one GRU layer: h (H,)."""

    h: Array


class LSTMState(NamedTuple):
    """State of one LSTM layer: h (H,) and c (H,)."""

    h: Array
    c: Array


LayerState = RNNState | GRUState | LSTMState
State = tuple[LayerState, ...]


class Cell(Protocol):
    """One recurrent layer: what it reads comes in already multiplied by W_ih, bias added."""

    state_type: type[Any]

    def __init__(self, weights: Mapping[str, NDArray[np.float64]]) -> None: ...

    @staticmethod
    def arrange(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights or a bias, (gates * H, ...), as `step` wants its rows."""
        ...

    def step(self, inputs: Array, state: Any) -> Any:
        """One step: inputs (gates * H,) and a state to a new state, nothing mutated."""
        ...


class RNNCell:
    """h' = tanh(W_ih x + W_hh h + b) (Elman 1990)."""

    state_type = RNNState

    def __init__(self, weights: Mapping[str, NDArray[np.float64]]) -> None:
        self.weight_hh = _float32(weights["weight_hh"])

    @staticmethod
    def arrange(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows

    def step(self, inputs: Array, state: RNNState) -> RNNState:
        h = self.weight_hh.dot(state.h)
        h += inputs
        return RNNState(np.tanh(h, h))


class GRUCell:
    """Gated recurrent unit (Cho et al. 2014), in torch's form.

    r, z = sigmoid(W_ih x + W_hh h + b);  n = tanh(W_in x + b_n + r (W_hn h + b_hn));
    h' = (1 - z) n + z h.
    """

    state_type = GRUState

    def __init__(self, weights: Mapping[str, NDArray[np.float64]]) -> None:
        self.weight_hh = _float32(self.arrange(weights["weight_hh"]))
        self.bias_hn = _float32(weights["bias_hn"])
        self.size = size = self.bias_hn.size
        self.gates = np.empty(3 * size, np.float32)
        self.rz, self.n = self.gates[: 2 * size], self.gates[2 * size :]
        self.r, self.z = self.gates[:size], self.gates[size : 2 * size]

    @staticmethod
    def arrange(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        r, z, n = np.split(rows, 3)
        return np.concatenate([0.5 * r, 0.5 * z, n])

    def step(self, inputs: Array, state: GRUState) -> GRUState:
        rz, n = self.rz, self.n
        self.weight_hh.dot(state.h, self.gates)
        rz += inputs[: 2 * self.size]
        np.tanh(rz, rz)
        rz *= 0.5
        rz += 0.5
        n += self.bias_hn
        n *= self.r
        n += inputs[2 * self.size :]
        np.tanh(n, n)
        h = state.h - n
        h *= self.z
        h += n
        return GRUState(h)


class LSTMCell:
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    i, f, o = sigmoid(a); g = tanh(a) of their rows of a = W_ih x + W_hh h + b;
    c' = f c + i g;  h' = o tanh(c').
    """

    state_type = LSTMState

    def __init__(self, weights: Mapping[str, NDArray[np.float64]]) -> None:
        self.weight_hh = _float32(self.arrange(weights["weight_hh"]))
        size = self.weight_hh.shape[1]
        self.gates = np.empty(4 * size, np.float32)
        self.ifo = self.gates[: 3 * size]
        self.i, self.f, self.o, self.g = np.split(self.gates, 4)

    @staticmethod
    def arrange(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        i, f, g, o = np.split(rows, 4)
        return np.concatenate([0.5 * i, 0.5 * f, 0.5 * o, g])

    def step(self, inputs: Array, state: LSTMState) -> LSTMState:
        gates, ifo, g = self.gates, self.ifo, self.g
        self.weight_hh.dot(state.h, gates)
        gates += inputs
        np.tanh(gates, gates)
        ifo *= 0.5
        ifo += 0.5
        c = state.c * self.f
        g *= self.i
        c += g
        h = np.tanh(c)
        h *= self.o
        return LSTMState(h, c)


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


class NumpyModel:
    """A language model of any cell and depth, one token at a time.

    State goes in and a new state comes out; a state given is never changed, so it may be kept and
    used again. One model serves one thread: its scratch memory is its own.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Rearranges `weights`, named and shaped as `config.tensor_shapes()` says.

        The arrays given are neither kept nor changed, save those that need no rearranging.
        """
        self.config = config
        cell = CELLS[config.cell]
        self._cells: list[Cell] = []
        self._projections: list[tuple[Array, Array]] = []
        for layer in range(config.num_layers):
            prefix = f"layers.{layer}."
            own = {
                name.removeprefix(prefix + "cell."): np.asarray(weights[name], np.float64)
                for name in config.tensor_shapes()
                if name.startswith(prefix + "cell.")
            }
            self._cells.append(cell(own))
            weight, bias = _fold_norm(
                own["weight_ih"],
                own["bias"],
                weights[prefix + "norm.weight"],
                weights[prefix + "norm.bias"],
            )
            self._projections.append((_float32(cell.arrange(weight)), _float32(cell.arrange(bias))))
        self._embedding = weights["embedding.weight"]
        head = np.asarray(weights["head.weight"], np.float64)
        weight, bias = _fold_norm(
            head, weights["head.bias"], weights["norm.weight"], weights["norm.bias"]
        )
        self._head = _float32(weight), _float32(bias)
        self._residual = [
            config.input_size(layer) == config.hidden_size for layer in range(config.num_layers)
        ]
        self._ones = np.ones(config.hidden_size, np.float32)
        self._first: dict[int, tuple[Array, Array]] = {}
        row_bytes = 4 * (config.embedding_size + self._projections[0][1].size)
        self._first_limit = MAX_TABLE_BYTES // row_bytes

    def initial_state(self) -> State:
        """The state at the start of a text: zeros."""
        state_type = CELLS[self.config.cell].state_type
        size, parts = self.config.hidden_size, len(state_type._fields)
        return tuple(
            state_type(*(np.zeros(size, np.float32) for _ in range(parts)))
            for _ in range(self.config.num_layers)
        )

    def step(self, token: int, state: State) -> tuple[Array, State]:
        """Reads one token: logits (V,) of the next one, and the new state."""
        x, state = self._advance(token, state)
        weight, bias = self._head
        logits = weight.dot(x)
        logits += bias
        return logits, state

    def feed(self, tokens: Iterable[int], state: State) -> tuple[Array, State]:
        """Reads tokens, at least one: as `step` by `step`, with logits after the last alone."""
        *before, last = tokens
        for token in before:
            _, state = self._advance(token, state)
        return self.step(last, state)

    def _advance(self, token: int, state: State) -> tuple[Array, State]:
        x, inputs = self._first.get(token) or self._read(token)
        after = []
        ones, size = self._ones, self._ones.size
        last = len(self._cells) - 1
        for layer, cell in enumerate(self._cells):
            new = cell.step(inputs, state[layer])
            after.append(new)
            y = new.h
            if self._residual[layer]:
                y = y + x
            else: y = y.copy()
            y -= y.dot(ones) / size
            x = y
            v = x * (1.0 / math.sqrt(x.dot(x) / size + NORM_EPSILON))
            if layer < last:
                weight, bias = self._projections[layer + 1]
                inputs = weight.dot(v)
                inputs += bias
        return v, tuple(after)

    def _read(self, token: int) -> tuple[Array, Array]:
        x = self._embedding[token].astype(np.float32)
        x -= x.mean()
        weight, bias = self._projections[0]
        row = x, weight.dot(x / np.float32(math.sqrt(x.dot(x)/x.size + NORM_EPSILON))) + bias
        if len(self._first) < self._first_limit:
            self._first[token] = row
        return row


def _fold_norm(
    weight: NDArray[Any], bias: NDArray[Any], norm_weight: NDArray[Any], norm_bias: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W (n * scale + shift) + b as W' n + b'."""
    weight = np.asarray(weight, np.float64)
    return weight * norm_weight, bias + weight @ norm_bias


def _float32(values: NDArray[np.float64]) -> Array:
    return np.ascontiguousarray(values, np.float32)
