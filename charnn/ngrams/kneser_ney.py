"""The n-gram of symbols: what counting alone gives, the baseline of every network.

Interpolated modified Kneser-Ney smoothing (S. F. Chen, J. Goodman: An Empirical Study of Smoothing
Techniques for Language Modeling, Harvard TR-10-98, 1998). Every distribution sums to 1.

Shapes: T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # of ids, places or floats, one a token or one an n-gram

MAX_ORDER = 8
COLD = 256


class Counts(NamedTuple):
    """Discounted counts: the `share` of each n-gram in its context, the `rest` of each context.

    The rest goes to the shorter context. Both end with one entry more, so that place -1, which
    stands for what was never seen, has share 0 and rest 1.
    """

    share: Array
    rest: Array


class Level(NamedTuple):
    """The different n-grams of one length, sorted by context.

    A key is `place of the context in the level below * vocab_size + last character`. `whole` goes
    by how often each occurs, `kept` by how many characters come before it: what Kneser and Ney
    found to tell more where a longer context has already been asked.
    """

    keys: Array
    whole: Counts
    kept: Counts


class NGram:
    """The models of order 1 to `order` of a text, in one: they share what they count."""

    def __init__(self, ids: Array, vocab_size: int, order: int = MAX_ORDER) -> None:
        """`vocab_size` includes characters that are only in texts to be scored."""
        self.vocab_size = vocab_size
        self.levels: list[Level] = []
        for keys, counts, before, dropped in count_ngrams(ids, vocab_size, order):
            contexts = keys // vocab_size
            whole, kept = (discount(some, contexts, dropped) for some in (counts, before))
            self.levels.append(Level(keys, whole, kept))

    def nats(self, ids: Array, reach: Array) -> Array:
        """The loss (order, T) of each of `ids` (T,) under the model of each order.

        `reach` (T,) says how many characters before it each one may be judged by; where that is
        less than a model looks at, the longest model that it is enough for stands in.
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
        """Mean nats by order, in windows that start knowing nothing; the partial one is dropped."""
        ids = ids[: (len(ids) - 1) // window * window + 1]
        losses: Array = self.nats(ids, (np.arange(len(ids)) - 1) % window + 1)[:, 1:].mean(1)
        return losses

    def carried(self, ids: Array) -> Array:
        """Mean nats by order, in one pass."""
        losses: Array = self.nats(ids, np.arange(len(ids)))[:, 1:].mean(1)
        return losses


class Counted(NamedTuple):
    """The different n-grams of one length that are kept, sorted by context.

    Attributes:
        keys: place of the context among the n-grams one shorter, times vocab_size, and the symbol.
        counts: how often each occurs.
        before: how many different symbols come before each; of the last length its counts.
        dropped: how many n-grams are not kept, by the place of their context.
    """

    keys: Array
    counts: Array
    before: Array
    dropped: Array


def count_ngrams(
    ids: Array, vocab_size: int, order: int, most: int | None = None, once: int | None = None
) -> list[Counted]:
    """The n-grams of ids (T,) by length.

    Those longer than `once` are kept if they occur twice. Lengths that would bring more than `most`
    n-grams in all are left out.
    """
    ids = ids.astype(np.int64, copy=False)
    found: list[Counted] = []
    places = np.zeros(len(ids), np.int32)  # of the n-gram that begins at each symbol, or -1
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
        if found:  # each n-gram one longer is another symbol before the one that it ends in
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
    """Takes from each count what its size (1, 2, 3 and more) tells.

    A context has its place in `dropped`: how many n-grams of a count of 1 were not kept in it. What
    they had goes to the rest.
    """
    below, given = len(dropped), discounts(counts, int(dropped.sum()))
    taken = np.concatenate([[0], given])[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, below) + dropped
    some = np.maximum(totals, 1)
    rest = np.where(totals > 0, (np.bincount(contexts, taken, below) + dropped) / some, 1)
    return Counts(np.append((counts - taken) / some[contexts], 0), np.append(rest, 1))


def discounts(counts: Array, ones: int) -> Array:
    """What is taken from a count of 1, of 2, and of 3 and more; `ones` counts of 1 come on top."""
    sizes = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    sizes[0] += ones
    if not sizes.all():
        return np.array([0.5, 1.0, 1.5])  # where too few n-grams tell
    steps = np.array([1, 2, 3])
    taken = steps - (steps + 1) * sizes[0] / (sizes[0] + 2 * sizes[1]) * sizes[1:] / sizes[:3]
    given: Array = np.clip(taken, 0.1, steps)  # more than nothing, or a probability could be 0
    return given


def choose_order(ids: Array, vocab_size: int, order: int = MAX_ORDER) -> tuple[int, Array]:
    """The order that does best on the last tenth of `ids` after the rest, and the loss of each."""
    cut = len(ids) * 9 // 10
    losses = NGram(ids[:cut], vocab_size, order).carried(ids[cut:])
    return int(losses.argmin()) + 1, losses
