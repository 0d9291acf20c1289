"""The n-grams of a text as a tree, small enough for a model's file.

Node 0 is the empty context. The children of a node are the symbols seen after it, in order; nodes
of one depth are consecutive and ordered by parent. Four arrays hold the tree: symbols, counts,
numbers of children, and numbers of n-grams that were not kept.

The probabilities follow interpolated modified Kneser-Ney smoothing (`charnn.ngrams.kneser_ney`),
in an order of float64 operations that the C engine and the page repeat (docs/int8.md).

Shapes: N nodes but the first, C contexts, K = order of the n-grams, V symbols, B streams, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from charnn.errors import DamagedFile
from charnn.ngrams.kneser_ney import Array, Counts, count_ngrams, discount, discounts
from charnn.ngrams.section import NGRAM_ARRAYS, HeldOutLosses, MixtureWeights, NGramSection

MAX_TOKENS = 5_000_000  # from the start of a text; counting takes about 100 bytes per token
MAX_NODES = 1 << 22  # about 200 MB; states hold nodes as float32, exact up to 1 << 24
LEAST = 2.0**-40  # lower probabilities are raised to this before a logarithm
NOWHERE = -1  # the node of an unseen context


class NGramTree:
    """N-grams of up to `order` symbols: maps the nodes of a context to probabilities (V,).

    The position of a text is `nodes` (K,): the nodes of its last 0, 1, ... K-1 symbols, or
    `NOWHERE`.

    Attributes:
        first: first child of each context, and the end of the last one's children: (C + 1,).
        discounts: discounts of counts 1, 2, and 3 or more, by length: (K, 3).
    """

    def __init__(self, vocab_size: int, order: int, arrays: Mapping[str, Array]) -> None:
        """Takes symbols (N,) and counts (N,) of all nodes but the first, children and dropped (C,).

        ``children`` and ``dropped`` are the numbers of kept and of not kept children of each
        context. ``counts`` are occurrences for the longest n-grams, and distinct preceding symbols
        for the shorter ones.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are not a tree of n-grams.
        """
        self.vocab_size, self.order = vocab_size, order
        self.arrays = {name: arrays[name] for name in NGRAM_ARRAYS}
        symbols, counts, children, dropped = self.arrays.values()
        self.symbols, self.counts = symbols, counts
        self.children, self.dropped = children, dropped
        size = len(symbols) + 1
        if len(counts) + 1 != size or not 2 <= size <= MAX_NODES:
            raise ValueError(
                f"its n-grams need one symbol and one count each, for 1 to {MAX_NODES - 1:,}"
            )
        if not 1 <= len(children) < size or len(dropped) != len(children):
            raise ValueError("its n-grams have no contexts")
        self.first: Array = np.concatenate([[1], 1 + np.cumsum(children, dtype=np.int64)])
        if self.first[-1] != size:  # checked before an array of this size is allocated
            raise ValueError("its child counts do not match its number of n-grams")
        self._parents: Array = np.repeat(np.arange(len(children)), children)
        if (self._parents >= np.arange(1, size)).any():
            raise ValueError("its n-grams come before their contexts")
        self.keys: Array = self._parents * vocab_size + symbols.astype(np.int64)
        if symbols.max() >= vocab_size or (np.diff(self.keys) <= 0).any():
            raise ValueError(
                "its n-grams are not sorted, or their symbols are outside the vocabulary"
            )
        self._levels = self._divided()
        found = [
            discounts(counts[below], int(dropped[above].sum())) for above, below in self._levels
        ]
        self.discounts: Array = np.array(found)

    def _divided(self) -> list[tuple[slice, slice]]:
        """Returns for each length the contexts and the places of their children in `symbols`."""
        levels, start, stop = [], 0, 1
        for _ in range(self.order):
            if start == stop or stop > len(self.children):
                break
            below, end = int(self.first[start]), int(self.first[stop])
            levels.append((slice(start, stop), slice(below - 1, end - 1)))
            start, stop = below, end
        if len(levels) != self.order or start == stop or start != len(self.children):
            raise ValueError(f"the longest of its n-grams does not have {self.order} symbols")
        return levels

    @cached_property
    def _weights(self) -> Counts:
        """Discounted share of each node in its context, and rest of each context."""
        given, rest = [], []
        for above, below in self._levels:
            parents = self._parents[below] - above.start
            found = discount(self.counts[below].astype(np.int64), parents, self.dropped[above])
            given.append(found.share[:-1])
            rest.append(found.rest[:-1])
        return Counts(np.concatenate(given), np.concatenate(rest))

    @classmethod
    def of(cls, ids: Array, vocab_size: int, order: int, once: int | None = None) -> NGramTree:
        """Counts the first `MAX_TOKENS` of ids (T,), with a lower order if the tree gets too large.

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
        arrays = {
            "symbols": [each.keys % vocab_size for each in levels],
            "counts": [each.before for each in levels],
            "children": children,
            "dropped": [each.dropped for each in levels],
        }
        small = {name: _small(np.concatenate(parts)) for name, parts in arrays.items()}
        return cls(vocab_size, len(levels), small)

    def section(self, weights: MixtureWeights, losses: HeldOutLosses | None = None) -> NGramSection:
        """Returns the section of a checkpoint that `tree_and_weights` reads."""
        return NGramSection(self.order, weights, self.arrays, losses)

    def start(self) -> Array:
        """Returns the nodes (K,) at the start of a text: the empty context alone."""
        return np.array([0] + [NOWHERE] * (self.order - 1))

    def after(self, nodes: Array, symbols: Array | int) -> Array:
        """Returns the nodes (..., K) after symbols (...) are read at nodes (..., K)."""
        first = np.zeros((*nodes.shape[:-1], 1), np.int64)
        longer = self._children(nodes[..., :-1], np.asarray(symbols)[..., None])
        return np.concatenate([first, longer], -1)

    def walk(self, nodes: Array, symbols: Array) -> Array:
        """Returns the nodes (T, B, K) after each of symbols (T, B), from nodes (B, K).

        Equals T calls of `after`, but runs length by length for all T at once.
        """
        found = np.zeros((*symbols.shape, self.order), np.int64)
        for length in range(1, self.order):
            shorter = np.concatenate([nodes[None, :, length - 1], found[:-1, :, length - 1]])
            found[..., length] = self._children(shorter, symbols)
        return found

    def _children(self, nodes: Array, symbols: Array) -> Array:
        """Returns the child of each node by symbol, or `NOWHERE` without one that has children."""
        wanted = nodes * self.vocab_size + symbols
        places = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        found = (self.keys[places] == wanted) & (nodes >= 0)
        found &= places + 1 < len(self.children)  # a foreign state may hold the deepest nodes
        return np.where(found, places + 1, NOWHERE)

    def probabilities(self, nodes: Array) -> Array:
        """Returns the distribution (V,) of the next symbol at nodes (K,)."""
        given, rest = self._weights  # without index arrays: six times as fast for one text
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
        """Returns the distributions (B, V) at nodes (B, K), from the longest context down."""
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
        DamagedFile: the arrays are not a tree of n-grams.
    """
    if section is None:
        return None
    try:
        return NGramTree(vocab_size, section.order, section.arrays), section.weights
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"the n-grams of this model are damaged: {error}") from None


def _small(numbers: Array) -> Array:
    """Returns the numbers in the smallest unsigned type that holds them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max())))
