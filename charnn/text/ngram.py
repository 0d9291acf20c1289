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
        below = 1
        for keys, counts, before in count_ngrams(ids, vocab_size, order):
            contexts = keys // vocab_size
            whole, kept = (discount(some, contexts, below) for some in (counts, before))
            self.levels.append(Level(keys, whole, kept))
            below = len(keys)

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


def count_ngrams(
    ids: Array, vocab_size: int, order: int, most: int | None = None
) -> list[tuple[Array, Array, Array]]:
    """The different n-grams of ids (T,) by length: keys as in `Level`, counts, and counts before.

    The latter say how many symbols come before each; those of the last length are its counts.
    Lengths that would bring more than `most` n-grams in all are left out.
    """
    ids = ids.astype(np.int64)
    contexts = np.zeros(len(ids), np.int64)  # the empty one, before each symbol
    found: list[tuple[Array, Array, Array]] = []
    places = contexts
    for skip in range(min(order, len(ids))):
        keys, first, longer, counts = np.unique(
            contexts * vocab_size + ids[skip:],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if most is not None and sum(len(each[0]) for each in found) + len(keys) > most:
            break
        if found:  # each n-gram one longer is another symbol before the one that it ends in
            found[-1] = (
                *found[-1][:2],
                np.bincount(places[first + 1], minlength=len(found[-1][0])),
            )
        found.append((keys, counts, counts))
        places, contexts = longer, longer[:-1]
    return found


def discount(counts: Array, contexts: Array, below: int) -> Counts:
    """Takes from each count what its size (1, 2, 3 and more) tells; `below` contexts there are."""
    sizes = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    given = np.array([0.5, 1.0, 1.5])  # where too few n-grams tell
    if sizes.all():
        steps = np.array([1, 2, 3])
        taken = steps - (steps + 1) * sizes[0] / (sizes[0] + 2 * sizes[1]) * sizes[1:] / sizes[:3]
        given = np.clip(taken, 0.1, steps)  # more than nothing, or a probability could be 0
    taken = np.concatenate([[0], given])[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts, below)
    some = np.maximum(totals, 1)
    rest = np.where(totals > 0, np.bincount(contexts, taken, below) / some, 1)
    return Counts(np.append((counts - taken) / some[contexts], 0), np.append(rest, 1))


def choose_order(ids: Array, vocab_size: int, order: int = MAX_ORDER) -> tuple[int, Array]:
    """The order that does best on the last tenth of `ids` after the rest, and the loss of each."""
    cut = len(ids) * 9 // 10
    losses = NGram(ids[:cut], vocab_size, order).carried(ids[cut:])
    return int(losses.argmin()) + 1, losses
