"""The trained network as a step function in numpy, for one stream of tokens or several.

`arrange` has folded the layer norms into the weights. A step is then a few products of a matrix
and a vector:

- The mean is subtracted from the residual stream itself, so a norm is one factor, 1/std.
- sigmoid(a) = (tanh(a/2) + 1) / 2, with the first half folded into the rows of the gate, so one
  call of tanh serves all gates.
- The input of layer 0 depends on the token alone: its product is computed once a token and kept.
- All matrices are stored transposed in one block of memory, each from the start of a cache line:
  the time of a step is the time to read them, and this order makes it at least a tenth shorter.

Several streams share that time: their vectors are the rows of a matrix (B, H). A product of two
matrices sums in another order than a product with a vector, so a stream's logits agree with those
it gets alone up to rounding (1e-5), not bit for bit.

Shapes: B streams, V tokens, E embedding size, H units, D input size of a layer, L layers, P parts
of a state in the order of `config.STATES`; `rows` is G*H, for G gates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from charnn.config import for_cell
from charnn.engines.weights import Arrangement, Layer
from charnn.predictor import Predictor

Array = NDArray[np.float32]
NORM_EPSILON = 1e-5
MAX_TABLE_BYTES = 64 << 20  # memory for kept input products of layer 0
CACHE_LINE = 64
# Weights so large that a step overflows give logits that are not finite. Sampling reports those,
# so numpy need not warn.
quiet = partial(np.errstate, over="ignore", invalid="ignore")


class Cell(ABC):
    """The step of one recurrent layer; its input is already multiplied by W_ih, with the bias."""

    def __init__(self, weight_hh: Array, layer: Layer) -> None:
        """Takes W_hh, arranged and transposed (H, rows)."""
        self.weight_hh = weight_hh
        self.allocate()

    def allocate(self, *streams: int) -> None:  # noqa: B027  # a cell may need none
        """Allocates scratch memory for B streams, or for one stream without that axis."""

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Returns weights (rows, D) or a bias (rows,) as `step` needs them."""
        return rows

    @abstractmethod
    def step(self, inputs: Array, state: Array, after: Array) -> None:
        """Reads inputs (rows,) from a state (P, H); writes the new state into `after`.

        For B streams: (B, rows) and (P, B, H).
        """


class RNNCell(Cell):
    """h' = tanh(W_ih x + W_hh h + b) (Elman 1990)."""

    def step(self, inputs: Array, state: Array, after: Array) -> None:
        h = state[0].dot(self.weight_hh, after[0])
        h += inputs
        np.tanh(h, h)


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), in torch's form.

    r, z = sigmoid(W_ih x + W_hh h + b);  n = tanh(W_in x + b_n + r (W_hn h + b_hn));
    h' = (1 - z) n + z h.
    """

    def __init__(self, weight_hh: Array, layer: Layer) -> None:
        super().__init__(weight_hh, layer)
        self.bias_hn = layer.bias_hn
        self.half = np.full(2 * weight_hh.shape[0], 0.5, np.float32)

    def allocate(self, *streams: int) -> None:
        size, rows = self.weight_hh.shape
        (self.gates,) = aligned([(*streams, rows)])
        self.rz, self.n = self.gates[..., : 2 * size], self.gates[..., 2 * size :]
        self.r, self.z = self.rz[..., :size], self.rz[..., size:]

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Returns the rows r, z, n, the first two halved."""
        r, z, n = np.split(rows, 3)
        return np.concatenate([0.5 * r, 0.5 * z, n])

    def step(self, inputs: Array, state: Array, after: Array) -> None:
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

    def __init__(self, weight_hh: Array, layer: Layer) -> None:
        super().__init__(weight_hh, layer)
        self.half = np.full(3 * weight_hh.shape[0], 0.5, np.float32)

    def allocate(self, *streams: int) -> None:
        size, rows = self.weight_hh.shape
        (self.gates,) = aligned([(*streams, rows)])
        self.ifo = self.gates[..., : 3 * size]
        self.i, self.f, self.o, self.g = np.split(self.gates, 4, axis=-1)

    @staticmethod
    def arrange(rows: Array) -> Array:
        """Returns the rows i, f, o, g, the first three halved."""
        i, f, g, o = np.split(rows, 4)
        return np.concatenate([0.5 * i, 0.5 * f, 0.5 * o, g])

    def step(self, inputs: Array, state: Array, after: Array) -> None:
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
    """A network in float32 and numpy, of any cell and depth."""

    @quiet()
    def __init__(self, arrangement: Arrangement) -> None:
        """Copies `arrangement`.

        Raises:
            ConfigError: the cell has no step in numpy.
        """
        self.config = config = arrangement.config
        cell_type = for_cell(CELLS, config.cell, "numpy", "add its step to engines/float32.py")
        self.start = np.zeros(config.state_shape, np.float32)
        layers, head = arrangement.layers, arrangement.head
        matrices = []
        for layer in layers:
            matrices += [cell_type.arrange(m.weights).T for m in (layer.inputs, layer.recurrent)]
        matrices.append(head.weights.T)
        packed: list[Array] = aligned([matrix.shape for matrix in matrices])
        for room, matrix in zip(packed, matrices, strict=True):
            room[...] = matrix
        self._projections, self._head = packed[:-1:2], packed[-1]
        self._biases = [cell_type.arrange(layer.inputs.bias) for layer in layers]
        self._head_bias = head.bias
        self._cells = [cell_type(*each) for each in zip(packed[1::2], layers, strict=True)]
        self._residual = [layer.residual for layer in layers]
        self._embedding = arrangement.embedding
        self._first: dict[int, tuple[Array, Array]] = {}
        self._first_limit = MAX_TABLE_BYTES // (4 * sum(packed[0].shape))
        self._mean = np.full(config.hidden_size, 1 / config.hidden_size, np.float32)
        (self._inputs,) = aligned([self._biases[0].shape])

    @quiet()
    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        features, state = self._advance(token, state)
        logits = features.dot(self._head)
        logits += self._head_bias
        return logits, state

    @quiet()
    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        """See `Predictor.feed`; computes logits after the last token only."""
        *before, last = tokens
        for token in before:
            _, state = self._advance(token, state)
        return self.step(last, state)

    def _advance(self, token: int, state: Array) -> tuple[Array, Array]:
        """Returns the normalised output of the last layer (H,) and the new state."""
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
        """See `Predictor.twin`; `step_batch` allocates its own memory."""
        other = copy(self)
        other._cells = [copy(cell) for cell in self._cells]
        for cell in other._cells:
            cell.allocate()
        (other._inputs,) = aligned([self._inputs.shape])
        return other

    @quiet()
    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        """See `Predictor.step_batch`; states are (B, L, P, H)."""
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
            cell.allocate(count)
            cell.step(inputs, before[layer], after[layer])
            cell.allocate()
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
        """Returns the embedding of a token (E,) and the input of layer 0 (rows,)."""
        x = self._embedding[token]
        features = x / np.sqrt(x.dot(x) / x.size + np.float32(NORM_EPSILON))
        first = x, features.dot(self._projections[0]) + self._biases[0]
        if len(self._first) < self._first_limit:
            self._first[token] = first
        return first


def aligned(shapes: Sequence[tuple[int, ...]], dtype: DTypeLike = np.float32) -> list[Any]:
    """Returns uninitialised arrays in one block of memory, each from the start of a cache line."""
    kind = np.dtype(dtype)
    sizes = [math.prod(shape) * kind.itemsize for shape in shapes]
    block = np.empty(sum(sizes) + CACHE_LINE * (len(sizes) + 1), np.uint8)
    start, at, arrays = block.ctypes.data, 0, []
    for shape, size in zip(shapes, sizes, strict=True):
        at += -(start + at) % CACHE_LINE
        arrays.append(block[at : at + size].view(kind).reshape(shape))
        at += size
    return arrays
