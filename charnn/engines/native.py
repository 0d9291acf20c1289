"""The network in the compiled engine, called through ctypes; see engine/engine.h.

Shapes: B streams, V symbols, E features of a symbol, H units, L layers, P parts of a state.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.config import GATES, for_cell
from charnn.engines import compiled
from charnn.engines.compiled import CLayer, CMatrix, CModel, CNGrams, CNumbers
from charnn.engines.float32 import MAX_TABLE_BYTES
from charnn.engines.weights import Arrangement, Matrix
from charnn.errors import CharnnError
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.predictor import NOT_FINITE, Predictor, Stream

Array = NDArray[np.float32]
CELLS = {"rnn": 0, "gru": 1, "lstm": 2}
CACHE_LINE = 64
STRIDE = 32  # numbers: a multiple of what any kernel reads at once


class NativePredictor(Predictor):
    """A language model in the compiled engine; see `Float32Predictor`.

    What `step` gives is the caller's. The scratch memory is the model's own: one model serves one
    thread at a time.
    """

    exact = True

    def __init__(self, arrangement: Arrangement, streams: int = 1) -> None:
        """Copies `arrangement`, in float32 or quantised, for up to `streams` streams at once.

        Raises:
            CharnnError: there is no compiled engine.
        """
        found = compiled.load()
        if found is None:
            raise CharnnError(
                "the compiled engine was not built: install charnn where there is a C compiler"
            )
        compiled.use()
        self.compiled, self._arrays = found, list[NDArray[np.generic]]()
        self.config = config = arrangement.config
        layers = (CLayer * config.num_layers)()
        for place, layer in zip(layers, arrangement.layers, strict=True):
            place.input, place.recurrent = self._matrix(layer.inputs), self._matrix(layer.recurrent)
            place.bias_hn = self._keep(layer.bias_hn)
            place.residual = layer.residual
        model = CModel()
        model.cell = for_cell(
            CELLS, config.cell, "the native engine", "choose --engine numpy, or leave it out"
        )
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            setattr(model, name, getattr(config, name))
        model.embedding = self._keep(arrangement.embedding)
        model.layers = layers
        model.head = self._matrix(arrangement.head)
        self.c_model, self._layers = model, layers
        self.start: Array = np.zeros(config.state_shape, np.float32)
        self.reserve(streams)
        self._tokens = np.zeros(1, np.int32)
        self._tokens_at = address(self._tokens)
        self._make_table()

    def reserve(self, streams: int) -> None:
        """Makes room for so many streams at once."""
        size = self.compiled.charnn_scratch_bytes(self.c_model, streams)
        self._scratch_array = np.empty(size + CACHE_LINE, np.uint8)
        start = address(self._scratch_array)
        self.scratch_at, self.streams = start + -start % CACHE_LINE, streams

    def twin(self, streams: int) -> NativePredictor:
        """The same model, with working memory of its own for another thread; weights are shared."""
        other = copy(self)
        other._tokens = np.zeros(1, np.int32)
        other._tokens_at = address(other._tokens)
        other.reserve(streams)
        return other

    def mixed(self, tree: NGramTree, weights: MixtureWeights) -> NativePredictor:
        """The same model, with n-grams mixed into what it says; weights are shared.

        A state is one array: that of the network, flat, and where the text stands in the tree.
        """
        other = copy(self)
        other._arrays = [*self._arrays]
        ngrams = CNGrams(tree.order, len(tree.children), *weights)
        for name in ("symbols", "counts", "dropped"):
            numbers: NDArray[Any] = getattr(tree, name)
            setattr(ngrams, name, CNumbers(other._keep(numbers), numbers.itemsize))
        ngrams.first = other._keep(tree.first.astype(np.int32))
        ngrams.discounts = other._keep(tree.discounts)
        other.c_model = CModel.from_buffer_copy(self.c_model)
        other.c_model.ngrams = ctypes.pointer(ngrams)
        other.start = np.concatenate([self.start.ravel(), tree.start().astype(np.float32)])
        return other.twin(self.streams)

    def initial_state(self) -> Array:
        """Returns the state at the start of a text: zeros, but for clamped units and `mixed`."""
        return self.start.copy()

    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        """Reads one token: logits (V,) of the next one, and the new state."""
        return self.feed((token,), state)

    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        """Reads tokens, at least one: logits (V,) of what comes next, and the new state."""
        *before, last = tokens
        state = np.array(state, np.float32, order="C")
        logits = np.empty(self.config.vocab_size, np.float32)
        at = address(state)
        for token in before:
            self._read(token, at, None)
        self._read(last, at, address(logits))
        return logits, state

    def open(self, logits: Array, state: Array) -> NativeStream:
        """A text that is to be gone on with where these stand."""
        return NativeStream(self, logits, state)

    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        """Reads a token in each stream; states (B, ...) are changed; logits (B, V).

        A stream gets the bits that `step` would give it.
        """
        ids = np.array(tokens, np.int32)
        if len(ids) > self.streams:
            self.reserve(len(ids))
        logits = np.empty((len(ids), self.config.vocab_size), np.float32)
        packed = np.ascontiguousarray(states)
        at = address(packed)
        self.compiled.charnn_step(
            self.c_model, len(ids), address(ids), at, at, address(logits), self.scratch_at
        )
        if packed is not states:
            states[...] = packed
        return logits

    def _read(self, token: int, state: int, logits: int | None) -> None:
        self._tokens[0] = token
        self.compiled.charnn_step(
            self.c_model, 1, self._tokens_at, state, state, logits, self.scratch_at
        )

    def _make_table(self) -> None:
        """What layer 0 makes of each symbol, worked out by the engine itself, once."""
        config = self.config
        rows = len(GATES[config.cell]) * config.hidden_size
        if 4 * config.vocab_size * rows > MAX_TABLE_BYTES:
            return
        table = np.empty((config.vocab_size, rows), np.float32)
        self.compiled.charnn_make_table(self.c_model, address(table), self.scratch_at)
        self.c_model.table = self._keep(table)

    def _matrix(self, matrix: Matrix) -> CMatrix:
        rows, columns = matrix.weights.shape
        stride = -(-columns // STRIDE) * STRIDE
        padded = _aligned_zeros((rows, stride), matrix.weights.dtype)
        padded[:, :columns] = matrix.weights
        row_sum = None
        if matrix.scale is not None:
            row_sum = self._keep(matrix.weights.sum(axis=1, dtype=np.int32))
        return CMatrix(
            rows,
            columns,
            stride,
            self._keep(padded),
            self._keep(matrix.scale),
            row_sum,
            self._keep(matrix.bias),
        )

    def _keep(self, array: NDArray[np.generic] | None) -> int | None:
        """The address of an array that lives as long as the model."""
        if array is None:
            return None
        array = np.ascontiguousarray(array)
        self._arrays.append(array)
        return address(array)


class NativeStream(Stream):
    """One text in the engine's hands; ``logits`` (V,) and ``state`` are those of now."""

    def __init__(self, model: NativePredictor, logits: Array, state: Array) -> None:
        """Copies `logits` and `state`."""
        self.model = model  # whose memory the engine works in
        self.logits = np.array(logits, np.float32, order="C")
        self.state = np.array(state, np.float32, order="C")
        self._weights, self._token = np.empty(logits.size, np.float64), np.zeros(1, np.int32)
        self._choose, self._read = model.compiled.charnn_choose, model.compiled.charnn_step
        self._surprisal = model.compiled.charnn_surprisal
        self._by = (address(self.logits), logits.size)
        self._room = address(self._weights)
        at = address(self.state)
        self._reading = (address(self._token), at, at, address(self.logits))

    def load(self, logits: Array, state: Array) -> None:
        """See `Stream.load`; copies both."""
        self.logits[...], self.state[...] = logits, state

    def choose(self, temperature: float, uniform: float) -> int:
        """See `Stream.choose`."""
        token: int = self._choose(*self._by, temperature, uniform, self._room)
        if token < 0:
            raise CharnnError(NOT_FINITE)
        return token

    def read(self, token: int) -> None:
        """Reads a token: state and logits are then those after it."""
        self._token[0] = token
        self._read(self.model.c_model, 1, *self._reading, self.model.scratch_at)

    def surprisal(self, token: int) -> float:
        """The nats of a token as the next one, at temperature 1."""
        nats: float = self._surprisal(*self._by, token)
        return nats


def address(array: NDArray[Any]) -> int:
    """Where the numbers of an array begin."""
    place: int = array.__array_interface__["data"][0]
    return place


def _aligned_zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that starts on a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    block = np.zeros(size + CACHE_LINE, np.uint8)
    start = -address(block) % CACHE_LINE
    return block[start : start + size].view(dtype).reshape(shape)
