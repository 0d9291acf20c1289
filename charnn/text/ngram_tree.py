"""The n-grams of a text as a tree, small enough to lie in a model's file.

Node 0 is the empty context. The children of a node are the symbols that were seen after it, in
order; the nodes of one depth lie one after another, by their parents. So symbols, counts and
numbers of children are all there is to keep.

The probabilities are those of `charnn.text.ngram`, interpolated modified Kneser-Ney smoothing.

Shapes: N nodes but the first, C contexts, K = order of the n-grams, V symbols, B places in a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from charnn.config import NGRAM_ARRAYS
from charnn.errors import DamagedFile
from charnn.text.ngram import Array, count_ngrams, discount

MAX_TOKENS = 5_000_000  # of a text, from its start: counting takes some 50 bytes for each
MAX_NODES = 1 << 22  # takes some 200 MB; float32, in which states hold nodes, counts to 1 << 24
LEAST_SHARE = 1e-4  # of either: no probability is nought then
NOWHERE = -1  # stands for the node of a context that was never seen


class NGramTree:
    """The n-grams of up to `order` symbols: places of contexts in, probabilities (V,) out.

    Where a text stands is `nodes` (K,): those of its latest 0, 1, ... K-1 symbols, or `NOWHERE`.
    """

    def __init__(
        self, vocab_size: int, order: int, symbols: Array, counts: Array, children: Array
    ) -> None:
        """Takes symbols (N,) and counts (N,) of all nodes but the first, and children (C,).

        Those are the numbers of children of all nodes but the deepest. Counts are of occurrences
        for the longest n-grams, and of the different symbols before them for the shorter ones.

        Raises:
            ValueError: they are no tree of n-grams.
        """
        self.vocab_size, self.order = vocab_size, order
        self.symbols, self.counts, self.children = symbols, counts, children
        size = len(symbols) + 1
        if len(counts) + 1 != size or not 2 <= size <= MAX_NODES:
            raise ValueError("its n-grams have not one symbol and one count each")
        numbers = np.zeros(size, np.int64)
        if not 1 <= len(children) < size:
            raise ValueError("its n-grams have no contexts")
        numbers[: len(children)] = children
        self.first: Array = np.concatenate([[1], 1 + np.cumsum(numbers)])  # child of each node
        if self.first[-1] != size:  # before as many are made room for as a file says
            raise ValueError("its n-grams hang from no context")
        parents = np.repeat(np.arange(size), numbers)
        if (parents >= np.arange(1, size)).any():
            raise ValueError("its n-grams hang from no context")
        self.keys: Array = parents * vocab_size + symbols.astype(np.int64)
        if symbols.max() >= vocab_size or (np.diff(self.keys) <= 0).any():
            raise ValueError("its n-grams are out of order, or of symbols that are not there")
        self.given, self.rest = np.zeros(size), np.ones(size)
        start, stop = 0, 1  # nodes of one depth
        for _ in range(order):
            below = slice(int(self.first[start]), int(self.first[stop]))
            if below.start == below.stop:
                raise ValueError(f"its n-grams are not of {order} symbols")
            found = discount(
                counts[below.start - 1 : below.stop - 1].astype(np.int64),
                parents[below.start - 1 : below.stop - 1] - start,
                stop - start,
            )
            self.given[below], self.rest[start:stop] = found.share[:-1], found.rest[:-1]
            start, stop = below.start, below.stop
        if stop != size or start != len(children):
            raise ValueError(f"its n-grams are not of {order} symbols")

    @classmethod
    def of(cls, ids: Array, vocab_size: int, order: int) -> NGramTree:
        """Counts ids (T,), at most `MAX_TOKENS` of them; of lesser order where it grows too large.

        Raises:
            ValueError: there are no ids.
        """
        levels = count_ngrams(np.asarray(ids[:MAX_TOKENS]), vocab_size, order, MAX_NODES - 1)
        if not levels:
            raise ValueError("there is nothing to count")
        children, above = [], 1
        for each, _, _ in levels:
            children.append(np.bincount(each // vocab_size, minlength=above))
            above = len(each)
        return cls(
            vocab_size,
            len(levels),
            _small(np.concatenate([each % vocab_size for each, _, _ in levels])),
            _small(np.concatenate([before for _, _, before in levels])),
            _small(np.concatenate(children)),
        )

    def to_arrays(self) -> dict[str, Array]:
        """What `from_arrays` takes, one dimension each."""
        return {name: getattr(self, name) for name in NGRAM_ARRAYS}

    @classmethod
    def from_arrays(cls, vocab_size: int, order: int, arrays: Mapping[str, Any]) -> NGramTree:
        """Inverse of `to_arrays`.

        Raises:
            ValueError: they are no tree of n-grams.
        """
        return cls(vocab_size, order, *(arrays[name] for name in NGRAM_ARRAYS))

    def start(self) -> Array:
        """The nodes (K,) of a text that begins: the empty context alone."""
        return np.array([0] + [NOWHERE] * (self.order - 1))

    def after(self, nodes: Array, symbols: Array | int) -> Array:
        """The nodes (..., K) of texts that stood at nodes (..., K) and read symbols (...)."""
        wanted = nodes[..., :-1] * self.vocab_size + np.asarray(symbols)[..., None]
        places = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        found = (self.keys[places] == wanted) & (nodes[..., :-1] >= 0)
        return np.concatenate(
            [np.zeros((*nodes.shape[:-1], 1), np.int64), np.where(found, places + 1, NOWHERE)], -1
        )

    def probabilities(self, nodes: Array) -> Array:
        """What comes next (V,) where a text stands at nodes (K,)."""
        p: Array = np.full(self.vocab_size, 1 / self.vocab_size)
        for node in nodes.tolist():
            if node == NOWHERE:
                break
            start, stop = self.first[node : node + 2].tolist()
            p *= self.rest[node]
            p[self.symbols[start - 1 : stop - 1]] += self.given[start:stop]
        return p

    def probabilities_at(self, nodes: Array) -> Array:
        """The same (B, V) for nodes (B, K), all at once."""
        p: Array = np.full((len(nodes), self.vocab_size), 1 / self.vocab_size)
        for context in nodes.T:
            rows = np.flatnonzero(context != NOWHERE)
            firsts, stops = self.first[context[rows]], self.first[context[rows] + 1]
            sizes = stops - firsts
            p[rows] *= self.rest[context[rows]][:, None]
            places = np.repeat(stops - np.cumsum(sizes), sizes) + np.arange(sizes.sum())
            p[np.repeat(rows, sizes), self.symbols[places - 1]] += self.given[places]
        return p


def counts_from_dict(
    values: Mapping[str, Any] | None, vocab_size: int
) -> tuple[NGramTree, float] | None:
    """The tree that a checkpoint's ``ngrams`` are, and its share; None where there are none.

    Raises:
        DamagedFile: they are no n-grams.
    """
    if values is None:
        return None
    try:
        return NGramTree.from_arrays(vocab_size, values["order"], values), values["share"]
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"the n-grams of this model are damaged: {error}") from None


def fit_share(model: Array, counted: Array) -> float:
    """The share a of counts that makes (1 - a) model + a counted likeliest, of probabilities (T,).

    It is at least `LEAST_SHARE`, and leaves as much. The mean log is concave in a, so what is
    halved is where its slope is nought.
    """
    low, high = LEAST_SHARE, 1 - LEAST_SHARE
    for _ in range(40):
        a = (low + high) / 2
        slope = float(np.mean((counted - model) / ((1 - a) * model + a * counted)))
        low, high = (a, high) if slope > 0 else (low, a)
    return low


def _small(numbers: Array) -> Array:
    """The same in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())))
