"""The trained network as a step function in numpy, made for one stream of tokens, or for some.

What training writes as layer norm, gates and residual path is rearranged once, when a model is
loaded, so that a step is a few products of a matrix and a vector and as little else as possible:

- A layer norm's weight and bias are folded into the input weights that follow it. What is left of
  the norm is the mean, taken out of the residual stream for good, and one factor, 1/std.
- sigmoid(a) = (tanh(a/2) + 1) / 2, with the first half folded into the rows of the gate, so that
  one call of tanh serves all gates.
- What layer 0 reads depends on the token alone: it is worked out once a token and kept.
- All matrices lie transposed in one block of memory, each from the start of a cache line: the
  time of a step is the time to read them, and this way it is a tenth shorter or more.

Streams side by side share that time: their vectors are the rows of a matrix, (B, H), and the cells
do the same to the last axis. A product of two matrices adds up in another order than one of a
vector, so a stream gets its numbers up to rounding (1e-5 on logits), not to the bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import partial

import numpy as np
from numpy.typing import NDArray

from charnn.config import ModelConfig, for_cell
from charnn.predictor import Predictor

Array = NDArray[np.float32]
NORM_EPSILON = 1e-5
# Layer 0's products are kept up to this size in bytes, beyond it made anew at each step.
MAX_TABLE_BYTES = 64 << 20
CACHE_LINE = 64
# Weights so large that a step overflows give logits that are not finite; whoever chooses by them
# must look, and numpy need not print warnings besides.
quiet = partial(np.errstate, over="ignore", invalid="ignore")


# Of all layers: (num_layers, parts, H), the parts in the order of `config.STATES`.
State = Array


class Cell(ABC):
    """One recurrent layer; what it reads comes in already multiplied by W_ih, with its bias."""

    def __init__(self, weight_hh: Array, weights: Mapping[str, Array], prefix: str) -> None:
        """Takes W_hh, arranged and transposed: (H, rows); what else it needs is in `weights`."""
        self.weight_hh = weight_hh
        self.room()

    def room(self, *streams: int) -> None:  # noqa: B027  # a cell may need none
        """Makes scratch memory for so many streams; none given is one, without an axis for it."""

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Weights (rows, D) or a bias (rows,), gate by gate as `step` wants them."""
        return rows

    @abstractmethod
    def step(self, inputs: Array, state: Array, after: Array) -> None:
        """One step: inputs (rows,) and a state (parts, H), the new one into `after`.

        Of B streams: (B, rows) and (parts, B, H).
        """


class RNNCell(Cell):
    """h' = tanh(W_ih x + W_hh h + b) (Elman 1990)."""

    def step(self, inputs: Array, state: Array, after: Array) -> None:
        """One step of the equations above."""
        h = state[0].dot(self.weight_hh, after[0])
        h += inputs
        np.tanh(h, h)


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), in torch's form.

    r, z = sigmoid(W_ih x + W_hh h + b);  n = tanh(W_in x + b_n + r (W_hn h + b_hn));
    h' = (1 - z) n + z h.
    """

    def __init__(self, weight_hh: Array, weights: Mapping[str, Array], prefix: str) -> None:
        """As `Cell`, and b_hn (H,) from `weights`."""
        super().__init__(weight_hh, weights, prefix)
        self.bias_hn = weights[f"{prefix}.bias_hn"]
        self.half = np.full(2 * weight_hh.shape[0], 0.5, np.float32)

    def room(self, *streams: int) -> None:
        """As `Cell`."""
        size, rows = self.weight_hh.shape
        (self.gates,) = aligned([(*streams, rows)])
        self.rz, self.n = self.gates[..., : 2 * size], self.gates[..., 2 * size :]
        self.r, self.z = self.rz[..., :size], self.rz[..., size:]

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Rows r, z, n, the first two halved."""
        r, z, n = np.split(rows, 3)
        return np.concatenate([0.5 * r, 0.5 * z, n])

    def step(self, inputs: Array, state: Array, after: Array) -> None:
        """One step of the equations above."""
        rz, n, half = self.rz, self.n, self.half
        before, h = state[0], after[0]
        before.dot(self.weight_hh, self.gates)
        rz += inputs[..., : half.size]
        np.tanh(rz, rz)
        rz *= half
        rz += half
        n += self.bias_hn
        n *= self.r
        n += inputs[..., half.size :]
        np.tanh(n, n)
        np.subtract(before, n, h)
        h *= self.z
        h += n


class LSTMCell(Cell):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    i, f, o = sigmoid(a) and g = tanh(a), each of its rows of a = W_ih x + W_hh h + b;
    c' = f c + i g;  h' = o tanh(c').
    """

    def __init__(self, weight_hh: Array, weights: Mapping[str, Array], prefix: str) -> None:
        """As `Cell`."""
        super().__init__(weight_hh, weights, prefix)
        self.half = np.full(3 * weight_hh.shape[0], 0.5, np.float32)

    def room(self, *streams: int) -> None:
        """As `Cell`."""
        size, rows = self.weight_hh.shape
        (self.gates,) = aligned([(*streams, rows)])
        self.ifo = self.gates[..., : 3 * size]
        self.i, self.f, self.o, self.g = np.split(self.gates, 4, axis=-1)

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Rows i, f, o, g, the first three halved."""
        i, f, g, o = np.split(rows, 4)
        return np.concatenate([0.5 * i, 0.5 * f, 0.5 * o, g])

    def step(self, inputs: Array, state: Array, after: Array) -> None:
        """One step of the equations above."""
        gates, ifo, g, half = self.gates, self.ifo, self.g, self.half
        h, c = after
        state[0].dot(self.weight_hh, gates)
        gates += inputs
        np.tanh(gates, gates)
        ifo *= half
        ifo += half
        np.multiply(state[1], self.f, c)
        g *= self.i
        c += g
        np.tanh(c, h)
        h *= self.o


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


class Float32Predictor(Predictor):
    """A language model of any cell and depth that reads one token at a time.

    State goes in and a new state comes out; a state given is never changed, so it can be kept and
    used again. The scratch memory is the model's own: one model serves one thread at a time.
    """

    @quiet()
    def __init__(self, config: ModelConfig, weights: Mapping[str, Array]) -> None:
        """Copies and rearranges `weights`, named and shaped as `config.tensor_shapes()` says."""
        self.config = config
        self.start = np.zeros(config.state_shape, np.float32)
        cell_type = for_cell(CELLS, config.cell, "numpy", "add the cell to CELLS in float32.py")
        matrices, self._biases = [], []
        for layer in range(config.num_layers):
            norm, cell = f"layers.{layer}.norm", f"layers.{layer}.cell"
            weight, bias = _fold_norm(
                weights[f"{cell}.weight_ih"], weights[f"{cell}.bias"], weights, norm
            )
            recurrent = weights[f"{cell}.weight_hh"]
            matrices += [cell_type.arrange(weight).T, cell_type.arrange(recurrent).T]
            self._biases.append(cell_type.arrange(bias))
        head, self._head_bias = _fold_norm(
            weights["head.weight"], weights["head.bias"], weights, "norm"
        )
        *packed, self._head = aligned([m.shape for m in [*matrices, head.T]])
        for place, matrix in zip([*packed, self._head], [*matrices, head.T], strict=True):
            place[...] = matrix
        self._projections = packed[::2]
        self._cells: list[Cell] = [
            cell_type(matrix, weights, f"layers.{layer}.cell")
            for layer, matrix in enumerate(packed[1::2])
        ]
        self._residual = [
            config.input_size(i) == config.hidden_size for i in range(config.num_layers)
        ]
        self._embedding = weights["embedding.weight"]
        self._first: dict[int, tuple[Array, Array]] = {}
        self._first_limit = MAX_TABLE_BYTES // (4 * sum(packed[0].shape))
        self._mean = np.full(config.hidden_size, 1 / config.hidden_size, np.float32)
        (self._inputs,) = aligned([self._biases[0].shape])

    def initial_state(self) -> State:
        """Returns the state at the start of a text: zeros, but for clamped units."""
        return self.start.copy()

    @quiet()
    def step(self, token: int, state: State) -> tuple[Array, State]:
        """Reads one token: logits (V,) of the next one, and the new state."""
        features, state = self._advance(token, state)
        logits = features.dot(self._head)
        logits += self._head_bias
        return logits, state

    @quiet()
    def feed(self, tokens: Iterable[int], state: State) -> tuple[Array, State]:
        """Reads tokens, at least one: `step` by `step`, with logits after the last alone."""
        *before, last = tokens
        for token in before:
            _, state = self._advance(token, state)
        return self.step(last, state)

    def _advance(self, token: int, state: State) -> tuple[Array, State]:
        """The normalised output of the last layer (H,), norm weight and bias apart; new state."""
        x, inputs = self._first.get(token) or self._read(token)
        size, after = self._mean.size, np.empty_like(state)
        features = x
        for layer, cell in enumerate(self._cells):
            if layer:
                inputs = features.dot(self._projections[layer], self._inputs)
                inputs += self._biases[layer]
            cell.step(inputs, state[layer], after[layer])
            y = after[layer, 0]
            if self._residual[layer]:
                x = x + y
                x -= x.dot(self._mean)
            else:
                x = y - y.dot(self._mean)
            features = x * (1.0 / math.sqrt(x.dot(x) / size + NORM_EPSILON))
        return features, after

    def twin(self, streams: int) -> Float32Predictor:
        """The same model, with scratch memory of its own for another thread; weights are shared.

        `streams` may be read at once, or fewer; memory follows the number that is.
        """
        other = copy(self)
        other._cells = [copy(cell) for cell in self._cells]
        for cell in other._cells:
            cell.room()
        (other._inputs,) = aligned([self._inputs.shape])
        return other

    @quiet()
    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        """Reads a token in each of B streams; states (B, L, parts, H) are changed; logits (B, V).

        A stream gets what `step` would give it, up to rounding.
        """
        count, size = len(tokens), self._mean.size
        first = [self._first.get(token) or self._read(token) for token in map(int, tokens)]
        x, inputs = (np.stack(parts) for parts in zip(*first, strict=True))
        before = np.ascontiguousarray(states.transpose(1, 2, 0, 3))
        after = np.empty_like(before)
        features = x
        for layer, cell in enumerate(self._cells):
            if layer:
                inputs = features @ self._projections[layer]
                inputs += self._biases[layer]
            cell.room(count)
            cell.step(inputs, before[layer], after[layer])
            cell.room()
            y = after[layer, 0]
            x = x + y if self._residual[layer] else y
            x = x - x.dot(self._mean)[:, None]
            squares = np.einsum("bh,bh->b", x, x)[:, None]
            features = x / np.sqrt(squares / np.float32(size) + np.float32(NORM_EPSILON))
        states[...] = after.transpose(2, 0, 1, 3)
        logits = features @ self._head
        logits += self._head_bias
        return logits

    def _read(self, token: int) -> tuple[Array, Array]:
        """What layer 0 is given for a token: the embedding less its mean (E,), inputs (rows,)."""
        x = self._embedding[token] - self._embedding[token].mean()
        features = x / np.sqrt(x.dot(x) / x.size + np.float32(NORM_EPSILON))
        first = x, features.dot(self._projections[0]) + self._biases[0]
        if len(self._first) < self._first_limit:
            self._first[token] = first
        return first


def _fold_norm(
    weight: Array, bias: Array, weights: Mapping[str, Array], norm: str
) -> tuple[Array, Array]:
    """W (scale * n + shift) + b as W' n + b'."""
    return weight * weights[f"{norm}.weight"], bias + weight @ weights[f"{norm}.bias"]


def aligned(shapes: Iterable[tuple[int, ...]]) -> list[Array]:
    """Uninitialised arrays in one block of memory, each from the start of a cache line."""
    shapes = list(shapes)
    sizes = [-(-4 * math.prod(shape) // CACHE_LINE) * CACHE_LINE for shape in shapes]
    block = np.empty(sum(sizes) + CACHE_LINE, np.uint8)
    start, arrays = -block.ctypes.data % CACHE_LINE, []
    for shape, size in zip(shapes, sizes, strict=True):
        arrays.append(block[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape))
        start += size
    return arrays
