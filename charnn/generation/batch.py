"""Writes many texts at once: one step of a predictor reads a token of each text.

The batch size never changes a text. A predictor whose batches round differently (`exact` is False)
writes the texts one by one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from charnn.generation.sampler import read_together
from charnn.generation.writer import Writing
from charnn.predictor import Predictor

BATCH_SIZE = 64  # texts that are written at once
BATCH_LOGITS = 1 << 22  # of all of them: a text takes about 20 bytes for each symbol


def batch_size(vocab_size: int) -> int:
    """Returns how many texts are written at once: fewer where the vocabulary is large."""
    return max(1, min(BATCH_SIZE, BATCH_LOGITS // vocab_size))


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
    size = batch_size(predictor.config.vocab_size)
    count = min(size, max(1, threads or available_cores()))
    twins = [predictor.twin(-(-size // count)) for _ in range(count)]
    waiting = iter(writings)
    active = [(each, iter(each)) for each in islice(waiting, size)]
    with ThreadPoolExecutor(count) as pool:
        while active:
            going = []
            for writing, pieces in active:
                if next(pieces, None) is None:
                    yield writing
                    going += [(each, iter(each)) for each in islice(waiting, 1)]
                else:
                    going.append((writing, pieces))
            active = going
            samplers = [writing.sampler for writing, _ in active]
            parts = [samplers[place::count] for place in range(count)]
            list(pool.map(read_together, parts, twins))


def available_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
