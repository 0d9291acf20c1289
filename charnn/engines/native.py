"""The network in the compiled engine, called through ctypes; see engine/engine.h.

Shapes: B streams, V tokens, E embedding size, H units, L layers, P parts of a state, K = order of
the n-grams.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charnn.config import GATES, for_cell
from charnn.engines import compiled
from charnn.engines.compiled import CLayer, CMatrix, CModel, CNGrams, CNumbers
from charnn.engines.float32 import MAX_TABLE_BYTES, aligned
from charnn.engines.weights import Arrangement, Matrix
from charnn.errors import CharnnError, ConfigError
from charnn.predictor import NOT_FINITE, Predictor, Stream

if TYPE_CHECKING:
    from charnn.ngrams.section import MixtureWeights
    from charnn.ngrams.tree import NGramTree

Array = NDArray[np.float32]
CELLS = {"rnn": 0, "gru": 1, "lstm": 2}  # as in engine.h
STRIDE = 32  # rows are padded to multiples of the numbers that a kernel reads at once


class NativePredictor(Predictor):
    """A network, with its n-grams or without, in the compiled engine."""

    exact = True
    _network: NativePredictor | None = None  # what n-grams were mixed into

    def __init__(self, arrangement: Arrangement) -> None:
        """Copies `arrangement`, in float32 or quantised.

        Raises:
            ConfigError: the engine was not built, or lacks the cell.
        """
        found = compiled.load()
        if found is None or not compiled.kernels():
            raise ConfigError(
                "the native engine was not built: install charnn again where there is a C "
                "compiler, or leave --engine out to use numpy"
            )
        self.config = config = arrangement.config
        cell = for_cell(CELLS, config.cell, "the native engine", "leave --engine out to use numpy")
        compiled.use()
        self.compiled, self._arrays = found, list[NDArray[np.generic]]()
        layers = (CLayer * config.num_layers)()
        for place, layer in zip(layers, arrangement.layers, strict=True):
            place.input, place.recurrent = self._matrix(layer.inputs), self._matrix(layer.recurrent)
            place.bias_hn = self._keep(layer.bias_hn)
            place.residual = layer.residual
        self._layers = layers  # a copy of c_model would not keep them alive
        self.c_model = CModel()
        self.c_model.cell = cell
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            setattr(self.c_model, name, getattr(config, name))
        self.c_model.embedding = self._keep(arrangement.embedding)
        self.c_model.layers = layers
        self.c_model.head = self._matrix(arrangement.head)
        self.start: Array = np.zeros(config.state_shape, np.float32)
        self._allocate(1)
        rows = len(GATES[config.cell]) * config.hidden_size
        if 4 * config.vocab_size * rows <= MAX_TABLE_BYTES:
            # The engine computes layer 0's input of each token once.
            table = np.empty((config.vocab_size, rows), np.float32)
            found.charnn_make_table(self.c_model, address(table), self.scratch_at)
            self.c_model.table = self._keep(table)

    def _allocate(self, streams: int) -> None:
        """Allocates scratch memory for B streams."""
        size = self.compiled.charnn_scratch_bytes(self.c_model, streams)
        (self._scratch,) = aligned([(size,)], np.uint8)
        self.scratch_at, self._streams = address(self._scratch), streams

    def twin(self, streams: int) -> NativePredictor:
        other = copy(self)
        other._allocate(streams)
        return other

    def alone(self) -> NativePredictor:
        return self._network or self

    def mixed(self, tree: NGramTree, weights: MixtureWeights) -> NativePredictor:
        """See `Predictor.mixed`.

        A state is one array: that of the network, flat, then the nodes (K,) of the latest contexts.
        """
        other = copy(self)
        other._network, other._arrays = self, [*self._arrays]
        ngrams = CNGrams(tree.order, len(tree.children), *weights)
        for name in ("symbols", "counts", "dropped"):
            numbers: NDArray[Any] = getattr(tree, name)
            setattr(ngrams, name, CNumbers(other._keep(numbers), numbers.itemsize))
        ngrams.first = other._keep(tree.first.astype(np.int32))
        ngrams.discounts = other._keep(tree.discounts)
        other.c_model = CModel.from_buffer_copy(self.c_model)
        other.c_model.ngrams = ctypes.pointer(ngrams)
        other.start = np.concatenate([self.start.ravel(), tree.start().astype(np.float32)])
        other._allocate(1)
        return other

    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        return self.feed((token,), state)

    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        ids = np.array(list(tokens), np.int32)
        state = np.array(state, np.float32, order="C")
        logits = np.empty(self.config.vocab_size, np.float32)
        at, state_at, model = address(ids), address(state), self.c_model
        read, last = self.compiled.charnn_step, at + 4 * (len(ids) - 1)
        for token_at in range(at, last, 4):
            read(model, 1, token_at, state_at, state_at, None, self.scratch_at)
        read(model, 1, last, state_at, state_at, address(logits), self.scratch_at)
        return logits, state

    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        ids = np.array(tokens, np.int32)
        if len(ids) > self._streams:
            self._allocate(len(ids))
        logits = np.empty((len(ids), self.config.vocab_size), np.float32)
        packed = np.ascontiguousarray(states)
        at = address(packed)
        self.compiled.charnn_step(
            self.c_model, len(ids), address(ids), at, at, address(logits), self.scratch_at
        )
        if packed is not states:
            states[...] = packed
        return logits

    def open(self, logits: Array, state: Array) -> NativeStream:
        return NativeStream(self, logits, state)

    def _matrix(self, matrix: Matrix) -> CMatrix:
        rows, columns = matrix.weights.shape
        stride = -(-columns // STRIDE) * STRIDE
        (padded,) = aligned([(rows, stride)], matrix.weights.dtype)
        padded[:, :columns], padded[:, columns:] = matrix.weights, 0
        row_sum = None
        if matrix.scale is not None:
            row_sum = self._keep(matrix.weights.sum(axis=1, dtype=np.int32))
        scale, bias = self._keep(matrix.scale), self._keep(matrix.bias)
        return CMatrix(rows, columns, stride, self._keep(padded), scale, row_sum, bias)

    def _keep(self, array: NDArray[np.generic] | None) -> int | None:
        """Returns the address of an array that then lives as long as the predictor."""
        if array is None:
            return None
        array = np.ascontiguousarray(array)
        self._arrays.append(array)
        return address(array)


class NativeStream(Stream):
    """One text in the engine's hands; `read` changes ``logits`` and ``state`` in place."""

    def __init__(self, predictor: NativePredictor, logits: Array, state: Array) -> None:
        """Copies `logits` and `state`."""
        self._native = predictor  # owns the memory that the engine uses
        self.logits = np.array(logits, np.float32, order="C")
        self.state = np.array(state, np.float32, order="C")
        self._weights, self._token = np.empty(logits.size, np.float64), np.zeros(1, np.int32)
        library = predictor.compiled
        self._choose, self._step = library.charnn_choose, library.charnn_step
        self._surprisal = library.charnn_surprisal
        self._logits_at = (address(self.logits), logits.size)
        self._weights_at, at = address(self._weights), address(self.state)
        self._step_at = (address(self._token), at, at, address(self.logits))

    def load(self, logits: Array, state: Array) -> None:
        """See `Stream.load`; copies both."""
        self.logits[...], self.state[...] = logits, state

    def read(self, token: int) -> None:
        self._token[0] = token
        self._step(self._native.c_model, 1, *self._step_at, self._native.scratch_at)

    def choose(self, temperature: float, uniform: float) -> int:
        token: int = self._choose(*self._logits_at, temperature, uniform, self._weights_at)
        if token < 0:
            raise CharnnError(NOT_FINITE)
        return token

    def surprisal(self, token: int) -> float:
        nats: float = self._surprisal(*self._logits_at, token)
        return nats


def address(array: NDArray[Any]) -> int:
    """Returns the address of an array's first number."""
    place: int = array.__array_interface__["data"][0]
    return place
