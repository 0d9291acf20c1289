"""The n-grams of a text as a tree, small enough to lie in a model's file.

Node 0 is the empty context. The children of a node are the symbols that were seen after it, in
order; the nodes of one depth lie one after another, by their parents. So symbols, counts, numbers
of children and of n-grams that were not kept are all there is to keep.

The probabilities follow interpolated modified Kneser-Ney smoothing (`charnn.ngrams.kneser_ney`),
in one order of float64 operations that the engine and a page repeat (docs/int8.md).

Shapes: N nodes but the first, C contexts, K = order of the n-grams, V symbols, B places in a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from charnn.errors import DamagedFile
from charnn.ngrams.kneser_ney import Array, Counts, count_ngrams, discount, discounts
from charnn.ngrams.section import NGRAM_ARRAYS, MixtureWeights, NGramSection

MAX_TOKENS = 5_000_000  # of a text, from its start: counting takes some 100 bytes for each
MAX_NODES = 1 << 22  # takes some 200 MB; float32, in which states hold nodes, counts to 1 << 24
LEAST = 2.0**-40  # of what counts say, where a logarithm is taken
NOWHERE = -1  # stands for the node of a context that is not there


class NGramTree:
    """The n-grams of up to `order` symbols: places of contexts in, probabilities (V,) out.

    Where a text stands is `nodes` (K,): those of its latest 0, 1, ... K-1 symbols, or `NOWHERE`.

    Attributes:
        first: the first child of each context, and where the next one would be: (C + 1,).
        discounts: what is taken from a count of 1, 2, and 3 and more, by length: (K, 3).
    """

    def __init__(
        self,
        vocab_size: int,
        order: int,
        symbols: Array,
        counts: Array,
        children: Array,
        dropped: Array,
    ) -> None:
        """Takes symbols (N,) and counts (N,) of all nodes but the first, children and dropped (C,).

        Children are their numbers, of all nodes but the deepest; dropped how many more occurred
        once and were not kept. Counts are of occurrences for the longest n-grams, and of the
        different symbols before them for the shorter ones.

        Raises:
            ValueError: they are no tree of n-grams.
        """
        self.vocab_size, self.order = vocab_size, order
        self.symbols, self.counts = symbols, counts
        self.children, self.dropped = children, dropped
        size = len(symbols) + 1
        if len(counts) + 1 != size or not 2 <= size <= MAX_NODES:
            raise ValueError("its n-grams have not one symbol and one count each")
        if not 1 <= len(children) < size or len(dropped) != len(children):
            raise ValueError("its n-grams have no contexts")
        self.first: Array = np.concatenate([[1], 1 + np.cumsum(children, dtype=np.int64)])
        if self.first[-1] != size:  # before as many are made room for as a file says
            raise ValueError("its n-grams hang from no context")
        self._parents: Array = np.repeat(np.arange(len(children)), children)
        if (self._parents >= np.arange(1, size)).any():
            raise ValueError("its n-grams hang from no context")
        self.keys: Array = self._parents * vocab_size + symbols.astype(np.int64)
        if symbols.max() >= vocab_size or (np.diff(self.keys) <= 0).any():
            raise ValueError("its n-grams are out of order, or of symbols that are not there")
        self._levels = self._divided()
        found = [
            discounts(counts[below], int(dropped[above].sum())) for above, below in self._levels
        ]
        self.discounts: Array = np.array(found)

    def _divided(self) -> list[tuple[slice, slice]]:
        """The contexts of each length, and the places of their children in `symbols`."""
        levels, start, stop = [], 0, 1
        for _ in range(self.order):
            if start == stop or stop > len(self.children):
                break
            below, end = int(self.first[start]), int(self.first[stop])
            levels.append((slice(start, stop), slice(below - 1, end - 1)))
            start, stop = below, end
        if len(levels) != self.order or start == stop or start != len(self.children):
            raise ValueError(f"its n-grams are not of {self.order} symbols")
        return levels

    @cached_property
    def _weights(self) -> Counts:
        """What each node has of its context's probability, and what each context leaves."""
        given, rest = [], []
        for above, below in self._levels:
            parents = self._parents[below] - above.start
            found = discount(self.counts[below].astype(np.int64), parents, self.dropped[above])
            given.append(found.share[:-1])
            rest.append(found.rest[:-1])
        return Counts(np.concatenate(given), np.concatenate(rest))

    @classmethod
    def of(cls, ids: Array, vocab_size: int, order: int, once: int | None = None) -> NGramTree:
        """Counts ids (T,), at most `MAX_TOKENS` of them; of lesser order where it grows too large.

        N-grams longer than `once` are kept if they occur twice.

        Raises:
            ValueError: there are no ids.
        """
        ids = np.asarray(ids[:MAX_TOKENS])
        levels = count_ngrams(ids, vocab_size, order, MAX_NODES - 1, once)
        if not levels:
            raise ValueError("there is nothing to count")
        contexts = [len(each.dropped) for each in levels]
        children = [
            np.bincount(each.keys // vocab_size, minlength=size)
            for each, size in zip(levels, contexts, strict=True)
        ]
        return cls(
            vocab_size,
            len(levels),
            _small(np.concatenate([each.keys % vocab_size for each in levels])),
            _small(np.concatenate([each.before for each in levels])),
            _small(np.concatenate(children)),
            _small(np.concatenate([each.dropped for each in levels])),
        )

    def section(self, weights: MixtureWeights) -> NGramSection:
        """Returns the section of a checkpoint that `tree_and_weights` reads."""
        return NGramSection(self.order, weights, self.to_arrays())

    def to_arrays(self) -> dict[str, Array]:
        """What `from_arrays` takes, one dimension each."""
        return {name: getattr(self, name) for name in NGRAM_ARRAYS}

    @classmethod
    def from_arrays(cls, vocab_size: int, order: int, arrays: Mapping[str, Any]) -> NGramTree:
        """Inverse of `to_arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: they are no tree of n-grams.
        """
        return cls(vocab_size, order, *(arrays[name] for name in NGRAM_ARRAYS))

    def start(self) -> Array:
        """The nodes (K,) of a text that begins: the empty context alone."""
        return np.array([0] + [NOWHERE] * (self.order - 1))

    def after(self, nodes: Array, symbols: Array | int) -> Array:
        """The nodes (..., K) of texts that stood at nodes (..., K) and read symbols (...)."""
        first = np.zeros((*nodes.shape[:-1], 1), np.int64)
        longer = self._children(nodes[..., :-1], np.asarray(symbols)[..., None])
        return np.concatenate([first, longer], -1)

    def walk(self, nodes: Array, symbols: Array) -> Array:
        """The nodes (T, B, K) after each of symbols (T, B), of texts that stood at nodes (B, K).

        As `after` gives them, one after another, but for all T at once: a context is one shorter
        before its last symbol.
        """
        found = np.zeros((*symbols.shape, self.order), np.int64)
        for length in range(1, self.order):
            shorter = np.concatenate([nodes[None, :, length - 1], found[:-1, :, length - 1]])
            found[..., length] = self._children(shorter, symbols)
        return found

    def _children(self, nodes: Array, symbols: Array) -> Array:
        """The node that each symbol leads to, or `NOWHERE`; of a context, where it is one."""
        wanted = nodes * self.vocab_size + symbols
        places = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        found = (self.keys[places] == wanted) & (nodes >= 0)
        found &= places + 1 < len(self.children)  # others are none, in a state from elsewhere
        return np.where(found, places + 1, NOWHERE)

    def probabilities(self, nodes: Array) -> Array:
        """What comes next (V,) where a text stands at nodes (K,)."""
        given, rest = self._weights  # of one text without arrays of places: six times as fast
        p: Array = np.zeros(self.vocab_size)
        left = 1.0
        for node in nodes[::-1].tolist():
            if node != NOWHERE:
                start, stop = self.first[node : node + 2].tolist()
                p[self.symbols[start - 1 : stop - 1]] += left * given[start - 1 : stop - 1]
                left *= float(rest[node])
        p += left / self.vocab_size
        return p

    def probabilities_at(self, nodes: Array) -> Array:
        """The same (B, V) for nodes (B, K): from the longest context on, what each leaves."""
        given, rest = self._weights
        p: Array = np.zeros((len(nodes), self.vocab_size))
        left = np.ones(len(nodes))
        for context in nodes.T[::-1]:
            rows = np.flatnonzero(context != NOWHERE)
            at = context[rows]
            sizes = self.first[at + 1] - self.first[at]
            places = np.repeat(self.first[at + 1] - np.cumsum(sizes), sizes) - 1
            places += np.arange(sizes.sum())
            p[np.repeat(rows, sizes), self.symbols[places]] += (
                np.repeat(left[rows], sizes) * given[places]
            )
            left[rows] *= rest[at]
        p += left[:, None] / self.vocab_size
        return p


def tree_and_weights(
    section: NGramSection | None, vocab_size: int
) -> tuple[NGramTree, MixtureWeights] | None:
    """Returns the tree and the mixture weights of a checkpoint's section, or None without one.

    Raises:
        DamagedFile: the arrays are no tree of n-grams.
    """
    if section is None:
        return None
    try:
        return NGramTree.from_arrays(vocab_size, section.order, section.arrays), section.weights
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"the n-grams of this model are damaged: {error}") from None


def _small(numbers: Array) -> Array:
    """The same in the smallest type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())))
