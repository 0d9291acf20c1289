"""Writes many texts at once: one step of a predictor reads a token of each text.

The batch size never changes a text. A predictor whose batches round differently (`exact` is False)
writes the texts one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from charnn.generation.sampler import Sampler, read_together
from charnn.generation.writer import Writing
from charnn.portable import available_cores
from charnn.predictor import Predictor

BATCH_SIZE = 64  # texts that are written at once
BATCH_LOGITS = 1 << 22  # of all of them: a text takes about 20 bytes for each symbol


def batch_size(vocab_size: int) -> int:
    """Returns how many texts are written at once: fewer where the vocabulary is large."""
    return max(1, min(BATCH_SIZE, BATCH_LOGITS // vocab_size))


class BatchReader:
    """Reads the unread tokens of many samplers of one predictor; threads share each step.

    Attributes:
        size: the highest number of samplers in a step.
    """

    def __init__(self, predictor: Predictor, threads: int | None = None) -> None:
        """Uses `threads` threads; None: one for each processor core."""
        self.size = batch_size(predictor.config.vocab_size)
        count = min(self.size, max(1, threads or available_cores()))
        self._exact = predictor.exact
        self._twins = [predictor.twin(-(-self.size // count)) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def read(self, samplers: Sequence[Sampler]) -> None:
        """Reads the unread token of each sampler."""
        count = min(len(self._twins), len(samplers)) if self._exact else 1
        if count < 2:
            read_together(samplers, self._twins[0])
        else:
            parts = [samplers[place::count] for place in range(count)]
            list(self._pool.map(read_together, parts, self._twins))


def write_together(
    writings: Iterable[Writing], predictor: Predictor, threads: int | None = None
) -> Iterator[Writing]:
    """Writes texts of `predictor` in batches; yields each when it has ended.

    Texts that end at the same step come in their order. `threads` share the steps; None: one for
    each processor core.
    """
    if not predictor.exact:
        for writing in writings:
            for _ in writing:
                pass
            yield writing
        return
    with BatchReader(predictor, threads) as reader:
        waiting = iter(writings)
        active = [(each, iter(each)) for each in islice(waiting, reader.size)]
        while active:
            going = []
            for writing, pieces in active:
                if next(pieces, None) is None:
                    yield writing
                    going += [(each, iter(each)) for each in islice(waiting, 1)]
                else:
                    going.append((writing, pieces))
            active = going
            reader.read([writing.sampler for writing, _ in active])
