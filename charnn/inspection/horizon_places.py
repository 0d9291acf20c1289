"""Where a text is looked at to see how far back matters, and what is read before each place.

In running text a place has the longest lag before it, and as much again, or what there is of it,
for the state there to be a memory of. In a model of lines nothing reaches beyond the line: what is
read begins with the newline that goes before it, the start of every line that such a model has
read, and lags count the line's own tokens. There every context begins with that newline, also one
that is cut short or shuffled: without it, the loss would be that of a state in which no line was
ever begun.

Shapes: S places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import FEWEST_PLACES, MOST_OF_A_LINE
from charnn.errors import TextError

Ids = NDArray[np.integer]
Wide = NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Places (S,) in ids: tokens that are to be predicted.

    Attributes:
        ids: the text.
        places: where the tokens stand.
        begins: where what is read for their loss begins.
        warm: where what is read for a state before it begins.
        head: (0,) or (1,) what is read first of all: the newline in a model of lines.
    """

    ids: Wide
    places: Wide
    begins: Wide
    warm: Wide
    head: Wide

    def __len__(self) -> int:
        return len(self.places)

    @property
    def targets(self) -> Wide:
        """(S,) the tokens themselves."""
        return self.ids[self.places]

    def numbers(self, count: int) -> Wide:
        """Which `count` of them lie evenly among all."""
        size = len(self.places)
        return np.linspace(0, size - 1, min(count, size)).astype(np.int64)

    def at(self, numbers: Wide) -> Places:
        """Some of them."""
        places, begins, warm = self.places[numbers], self.begins[numbers], self.warm[numbers]
        return Places(self.ids, places, begins, warm, self.head)

    def some(self, count: int) -> Places:
        """`count` that lie evenly among them."""
        return self.at(self.numbers(count))

    def reaches(self, lag: int) -> bool:
        """Whether the last `lag` tokens are all that there is to read of each place."""
        return bool((self.places - self.begins <= lag).all())

    def all(self) -> list[Wide]:
        """All that is read before each place."""
        return self._rows(self.begins, self.places)

    def ending(self, lag: int) -> list[Wide]:
        """The last `lag` tokens before each place."""
        return self._rows(self.places - lag, self.places)

    def before(self, lag: int) -> list[Wide]:
        """What is read for the state `lag` tokens before each place."""
        return self._rows(self.warm, self.places - lag)

    def last(self, lag: int) -> Wide:
        """(lag, S): the last tokens before each place, alone."""
        read: Wide = self.ids[self.places[None] + np.arange(-lag, 0)[:, None]]
        return read

    def shuffled(self, lag: int, generator: np.random.Generator) -> list[Wide]:
        """All that is read, what lies beyond the last `lag` tokens in any order."""
        return [
            np.concatenate(
                [self.head, generator.permutation(self.ids[a : p - lag]), self.ids[p - lag : p]]
            )
            for a, p in zip(self.begins, self.places, strict=True)
        ]

    def _rows(self, starts: Wide, stops: Wide) -> list[Wide]:
        return [
            np.concatenate([self.head, self.ids[a:b]]) for a, b in zip(starts, stops, strict=True)
        ]


class Chosen(NamedTuple):
    """Places, the lags that all of them have before them, and those that too few have."""

    places: Places
    lags: Wide
    too_far: tuple[int, ...]


def choose_places(
    ids: Wide,
    lags: Sequence[int],
    count: int,
    generator: np.random.Generator,
    newline: int | None = None,
) -> Chosen:
    """Draws at most `count` places of a text (T,), in order.

    Raises:
        TextError: there is none.
    """
    if newline is not None:
        return _in_lines(ids, lags, count, generator, newline)
    if len(ids) < 8:
        raise TextError(f"the text has {len(ids)} tokens, at least 8 are needed to look back")
    kept = np.array([lag for lag in lags if lag <= len(ids) // 2])
    longest = int(kept[-1])
    # A place is that of the target; before it lies the longest context, whole.
    room = len(ids) - longest
    places = longest + np.sort(generator.choice(room, min(count, room), replace=False))
    begins = places - longest
    warm = np.maximum(begins - longest, 0)
    nothing = np.zeros(0, np.int64)
    return Chosen(Places(ids, places, begins, warm, nothing), kept, tuple(lags[len(kept) :]))


def _in_lines(
    ids: Wide, lags: Sequence[int], count: int, generator: np.random.Generator, newline: int
) -> Chosen:
    """All places are as far into their lines as the longest lag, so that lags can be compared."""
    ends = np.flatnonzero(ids[:-1] == newline) + 1
    starts = np.repeat(np.append(0, ends), np.diff(np.append(0, [*ends, len(ids)])))
    behind = np.arange(len(ids)) - starts  # tokens of its line before each
    behind[behind > MOST_OF_A_LINE] = 0
    kept = [lag for lag in lags if (behind >= lag).sum() >= FEWEST_PLACES]
    if not kept:
        raise TextError(
            f"the lines of the text are too short to look back: fewer than {FEWEST_PLACES} tokens "
            "have another one before them in their line; give a longer TEXT"
        )
    there = np.flatnonzero(behind >= kept[-1])
    places = np.sort(generator.choice(there, min(count, len(there)), replace=False))
    begins = starts[places]
    head = np.array([newline])
    return Chosen(
        Places(ids, places, begins, begins, head), np.array(kept), tuple(lags[len(kept) :])
    )
