"""Many texts side by side: one step of an engine reads a token in each of them.

Each text is what it would be alone, to the bit, so how many are written at once is nobody's matter.
In float32 numpy's sums depend on how many are added up at once, so there texts are written alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from charnn.generation.sampler import read_together
from charnn.generation.writer import Writing
from charnn.predictor import Predictor

SIDE_BY_SIDE = 64  # texts; as many states are held, however many texts there are


def write_together(
    writings: Iterable[Writing], predictor: Predictor, threads: int | None = None
) -> Iterator[Writing]:
    """Writes texts of `predictor` to their ends, a few at once; each comes when it has ended.

    Those that end together come in their order. `threads` is how many work on the steps; None:
    one for each processor core. In numpy and float32 the texts are written one by one.
    """
    if not predictor.exact:
        for writing in writings:
            for _ in writing:
                pass
            yield writing
        return
    count = max(1, threads or available_cores())
    engines = [predictor.twin(-(-SIDE_BY_SIDE // count)) for _ in range(count)]
    waiting = iter(writings)
    active = [(each, iter(each)) for each in islice(waiting, SIDE_BY_SIDE)]
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
            list(pool.map(read_together, parts, engines))


def available_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
