"""Log-linear interpolation of a network and n-grams: p ~ p_network ** a * p_ngrams ** b.

N-grams memorise what the network had no time to learn. The more confident of the two dominates; a
linear mixture has a loss up to .015 nats per character higher (NOTES.md).

Shapes: V symbols, B streams, K = order of the n-grams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.checkpoint import Checkpoint
from charnn.engines import make_predictor
from charnn.engines.clamps import Clamp
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import LEAST, MAX_NODES, NOWHERE, NGramTree, tree_and_weights
from charnn.predictor import Predictor

Array = NDArray[Any]


class Mixture(Predictor):
    """A network mixed with n-grams in numpy; `mix` prefers a predictor's own `mixed`.

    A state is one array: that of the network, flat, then the nodes (K,) of the latest contexts.
    """

    def __init__(self, network: Predictor, tree: NGramTree, weights: MixtureWeights) -> None:
        self.network, self.tree, self.weights = network, tree, weights
        self.config, self.exact = network.config, network.exact
        state = network.initial_state()
        self._shape, self.start = state.shape, self._packed(state, tree.start())

    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        inner, nodes = self._unpacked(state)
        logits, inner = self.network.step(token, inner)
        nodes = self.tree.after(nodes, token)
        return self._mixed(logits, self.tree.probabilities(nodes)), self._packed(inner, nodes)

    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        tokens = list(tokens)
        inner, nodes = self._unpacked(state)
        logits, inner = self.network.feed(tokens, inner)
        nodes = self.tree.walk(nodes[None], np.array(tokens)[:, None])[-1, 0]
        return self._mixed(logits, self.tree.probabilities(nodes)), self._packed(inner, nodes)

    def twin(self, streams: int) -> Mixture:
        return Mixture(self.network.twin(streams), self.tree, self.weights)

    def alone(self) -> Predictor:
        return self.network

    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        size = states.shape[1] - self.tree.order
        inner = np.ascontiguousarray(states[:, :size]).reshape(len(states), *self._shape)
        logits = self.network.step_batch(tokens, inner)
        nodes = self.tree.after(_whole(states[:, size:]), np.asarray(tokens))
        states[:, :size], states[:, size:] = inner.reshape(len(states), size), nodes
        return self._mixed(logits, self.tree.probabilities_at(nodes))

    def _mixed(self, logits: Array, p: Array) -> Array:
        """Returns the logits (..., V) of the mixture of logits and n-gram probabilities p."""
        with np.errstate(all="ignore"):  # the reader of the logits reports what is not finite
            own = self.weights.network * logits.astype(np.float64)
            mixed: Array = own + self.weights.ngrams * np.log(np.maximum(p, LEAST))
            return mixed.astype(np.float32)

    def _packed(self, inner: Array, nodes: Array) -> Array:
        return np.concatenate([inner.ravel(), nodes.astype(np.float32)])

    def _unpacked(self, state: Array) -> tuple[Array, Array]:
        size = len(state) - self.tree.order
        return state[:size].reshape(self._shape), _whole(state[size:])


def _whole(nodes: Array) -> Array:
    """Returns nodes as integers; impossible numbers, from a foreign state, become `NOWHERE`."""
    whole: Array = np.where(abs(nodes) <= MAX_NODES, nodes, NOWHERE).astype(np.int64)
    return whole


def mix(network: Predictor, ngrams: tuple[NGramTree, MixtureWeights] | None) -> Predictor:
    """Returns a network mixed with n-grams, or the network alone without any."""
    return network if ngrams is None else network.mixed(*ngrams) or Mixture(network, *ngrams)


def predictor(
    saved: Checkpoint, engine: str = "auto", int8: bool = False, clamps: Sequence[Clamp] = ()
) -> Predictor:
    """Returns the predictor of a checkpoint; engine, int8 and clamps as in `make_predictor`.

    Raises:
        ConfigError: the engine does not exist or was not built, or a clamp is impossible.
        DamagedFile: the n-grams are damaged.
    """
    network = make_predictor(saved.config, saved.weights, engine, int8, clamps)
    return mix(network, tree_and_weights(saved.ngrams, saved.config.vocab_size))
