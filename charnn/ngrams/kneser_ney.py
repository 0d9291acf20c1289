"""N-gram models of a sequence of ids: the baseline of every network.

Interpolated modified Kneser-Ney smoothing (S. F. Chen, J. Goodman: An Empirical Study of Smoothing
Techniques for Language Modeling, Harvard TR-10-98, 1998). Every distribution sums to 1.

Shapes: T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # ids, places or floats; one per token or one per n-gram

MAX_ORDER = 8
COLD = 256


class Counts(NamedTuple):
    """Discounted counts: the `share` of each n-gram in its context, the `rest` of each context.

    The rest is the probability left to the shorter context. Both arrays have one more entry at the
    end, so that place -1, an unseen n-gram, has share 0 and rest 1.
    """

    share: Array
    rest: Array


class Level(NamedTuple):
    """The distinct n-grams of one length, sorted by context.

    A key is `place of the context in the level below * vocab_size + last symbol`. `whole` discounts
    the number of occurrences; `kept` discounts the number of distinct preceding symbols, which
    Kneser and Ney found better when backing off from a longer context.
    """

    keys: Array
    whole: Counts
    kept: Counts


class NGram:
    """N-gram models of order 1 to `order` of one text, which share their counts."""

    def __init__(self, ids: Array, vocab_size: int, order: int = MAX_ORDER) -> None:
        """Counts ids (T,); `vocab_size` includes symbols that occur only in other texts."""
        self.vocab_size = vocab_size
        self.levels: list[Level] = []
        for keys, counts, before, dropped in count_ngrams(ids, vocab_size, order):
            contexts = keys // vocab_size
            whole, kept = (discount(some, contexts, dropped) for some in (counts, before))
            self.levels.append(Level(keys, whole, kept))

    def nats(self, ids: Array, reach: Array) -> Array:
        """Returns the loss (order, T) of each of `ids` (T,) under the model of each order.

        `reach` (T,) is the number of symbols of context at each place; where it is shorter than the
        context of a model, the longest model that fits replaces it.
        """
        lower = best = np.full(len(ids), 1 / self.vocab_size)
        contexts = np.zeros(len(ids), np.int64)
        rows = []
        for length, level in enumerate(self.levels):
            wanted = contexts * self.vocab_size + ids
            places = np.minimum(np.searchsorted(level.keys, wanted), len(level.keys) - 1)
            places = np.where(level.keys[places] == wanted, places, -1)
            mixed = level.whole.share[places] + level.whole.rest[contexts] * lower
            best = np.where(reach >= length, mixed, best)
            rows.append(-np.log(best))
            lower = level.kept.share[places] + level.kept.rest[contexts] * lower
            contexts = np.concatenate([[-1], places[:-1]])
        return np.array(rows)

    def cold(self, ids: Array, window: int = COLD) -> Array:
        """Returns mean nats by order in windows without context; drops the last partial window."""
        ids = ids[: (len(ids) - 1) // window * window + 1]
        losses: Array = self.nats(ids, (np.arange(len(ids)) - 1) % window + 1)[:, 1:].mean(1)
        return losses

    def carried(self, ids: Array) -> Array:
        """Returns mean nats by order in one pass."""
        losses: Array = self.nats(ids, np.arange(len(ids)))[:, 1:].mean(1)
        return losses


class Counted(NamedTuple):
    """The distinct n-grams of one length that are kept, sorted by context.

    Attributes:
        keys: place of the context among the n-grams one shorter, times vocab_size, plus the symbol.
        counts: number of occurrences.
        before: number of distinct preceding symbols; for the longest n-grams their counts.
        dropped: number of n-grams not kept, by the place of their context.
    """

    keys: Array
    counts: Array
    before: Array
    dropped: Array


def count_ngrams(
    ids: Array, vocab_size: int, order: int, most: int | None = None, once: int | None = None
) -> list[Counted]:
    """Counts the n-grams of ids (T,) by length.

    N-grams longer than `once` are kept if they occur twice. Counting stops before the length that
    would exceed `most` n-grams in total.
    """
    ids = ids.astype(np.int64, copy=False)
    found: list[Counted] = []
    places = np.zeros(len(ids), np.int32)  # the n-gram that begins at each symbol, or -1
    kept, below = 0, 1
    for skip in range(min(order, len(ids))):
        begin = np.flatnonzero(places[: len(ids) - skip] >= 0)
        keys, first, which, counts = np.unique(
            places[begin].astype(np.int64) * vocab_size + ids[begin + skip],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        keep = counts > (once is not None and skip >= once)
        kept += int(keep.sum())
        if not keep.any() or (most is not None and kept > most):
            break
        dropped = np.bincount(keys[~keep] // vocab_size, minlength=below)
        number = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
        longer = np.full(len(ids) - skip, -1, np.int32)
        longer[begin] = number[which]
        if found:  # each longer n-gram puts a distinct symbol before its suffix
            each = np.concatenate([begin[first[keep]], np.flatnonzero(longer < 0)])
            ends = places[each + 1]
            before = np.bincount(ends[ends >= 0], minlength=below)
            found[-1] = found[-1]._replace(before=before)
        below = int(keep.sum())
        keys, counts = keys[keep], counts[keep]
        found.append(Counted(keys, counts, counts, dropped))
        places = longer
    return found


def discount(counts: Array, contexts: Array, dropped: Array) -> Counts:
    """Subtracts from each count the discount of its size (1, 2, 3 and more).

    `dropped` holds the number of n-grams with a count of 1 that were not kept, by context; their
    probability goes to the rest.
    """
    below, given = len(dropped), discounts(counts, int(dropped.sum()))
    taken = np.concatenate([[0], given])[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, below) + dropped
    some = np.maximum(totals, 1)
    rest = np.where(totals > 0, (np.bincount(contexts, taken, below) + dropped) / some, 1)
    return Counts(np.append((counts - taken) / some[contexts], 0), np.append(rest, 1))


def discounts(counts: Array, ones: int) -> Array:
    """Returns the discounts of counts 1, 2, and 3 or more; adds `ones` counts of 1."""
    sizes = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    sizes[0] += ones
    if not sizes.all():
        return np.array([0.5, 1.0, 1.5])  # too few n-grams for an estimate
    steps = np.array([1, 2, 3])
    taken = steps - (steps + 1) * sizes[0] / (sizes[0] + 2 * sizes[1]) * sizes[1:] / sizes[:3]
    given: Array = np.clip(taken, 0.1, steps)  # at 0, a probability could be 0
    return given


def choose_order(ids: Array, vocab_size: int, order: int = MAX_ORDER) -> tuple[int, Array]:
    """Returns the order with the lowest loss on the last tenth of `ids`, and the loss of each."""
    cut = len(ids) * 9 // 10
    losses = NGram(ids[:cut], vocab_size, order).carried(ids[cut:])
    return int(losses.argmin()) + 1, losses
