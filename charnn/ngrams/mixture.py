"""A network and the n-grams of its text, mixed: each says what comes next, and both are weighed.

p ~ network ** a * n-grams ** b

The counts know by heart what the network has not had the time to learn. Of either, what it is sure
of counts most; a fixed share of each probability loses up to .015 nats a character (NOTES.md).
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
    """A network mixed with counts, itself what a sampler takes for a network; see `mix`.

    A state is one array: that of the network, flat, and where the text stands in the tree.
    """

    def __init__(self, network: Predictor, tree: NGramTree, weights: MixtureWeights) -> None:
        self.network, self.tree, self.weights = network, tree, weights
        self.config, self.exact = network.config, network.exact
        state = network.initial_state()
        self._shape, self.start = state.shape, self._packed(state, tree.start())

    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        """Reads one token: logits (V,) of the next one, and the new state."""
        inner, nodes = self._unpacked(state)
        logits, inner = self.network.step(token, inner)
        nodes = self.tree.after(nodes, token)
        return self._mixed(logits, self.tree.probabilities(nodes)), self._packed(inner, nodes)

    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        """Reads tokens, at least one: logits (V,) of what comes next, and the new state."""
        tokens = list(tokens)
        inner, nodes = self._unpacked(state)
        logits, inner = self.network.feed(tokens, inner)
        nodes = self.tree.walk(nodes[None], np.array(tokens)[:, None])[-1, 0]
        return self._mixed(logits, self.tree.probabilities(nodes)), self._packed(inner, nodes)

    def twin(self, streams: int) -> Mixture:
        """The same mixture, with scratch memory of its own for another thread; see `Predictor`."""
        return Mixture(self.network.twin(streams), self.tree, self.weights)

    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        """Reads a token in each of B streams; states (B, N) are changed; logits (B, V)."""
        size = states.shape[1] - self.tree.order
        inner = np.ascontiguousarray(states[:, :size]).reshape(len(states), *self._shape)
        logits = self.network.step_batch(tokens, inner)
        nodes = self.tree.after(_whole(states[:, size:]), np.asarray(tokens))
        states[:, :size], states[:, size:] = inner.reshape(len(states), size), nodes
        return self._mixed(logits, self.tree.probabilities_at(nodes))

    def _mixed(self, logits: Array, counted: Array) -> Array:
        """Logits of the mixture: of logits (..., V) and what the counts say (..., V)."""
        # What is not finite is told by whoever draws; it is no warning here.
        with np.errstate(all="ignore"):
            own = self.weights.network * logits.astype(np.float64)
            theirs = self.weights.ngrams * np.log(np.maximum(counted, LEAST))
            mixed: Array = (own + theirs).astype(np.float32)
        return mixed

    def _packed(self, inner: Array, nodes: Array) -> Array:
        return np.concatenate([inner.ravel(), nodes.astype(np.float32)])

    def _unpacked(self, state: Array) -> tuple[Array, Array]:
        size = len(state) - self.tree.order
        return state[:size].reshape(self._shape), _whole(state[size:])


def _whole(nodes: Array) -> Array:
    """Nodes as whole numbers; what is none, in a state from elsewhere, stands for no node."""
    whole: Array = np.where(abs(nodes) <= MAX_NODES, nodes, NOWHERE).astype(np.int64)
    return whole


def mix(network: Predictor, counts: tuple[NGramTree, MixtureWeights] | None) -> Predictor:
    """A network mixed with a tree, by the predictor itself where it can."""
    return network if counts is None else network.mixed(*counts) or Mixture(network, *counts)


def predictor(
    saved: Checkpoint, engine: str = "auto", int8: bool = False, clamps: Sequence[Clamp] = ()
) -> Predictor:
    """What a checkpoint predicts by; engine, int8 and clamps are those of `make_predictor`.

    Raises:
        ConfigError: there is no such engine, or not here, or a clamp is impossible.
        DamagedFile: its n-grams are none.
    """
    network = make_predictor(saved.config, saved.weights, engine, int8, clamps)
    return mix(network, tree_and_weights(saved.ngrams, saved.config.vocab_size))
