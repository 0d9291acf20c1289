"""What the recipe says of a list of lines: how many at once, in windows of what length."""

from __future__ import annotations

import numpy as np

from charnn.config import TrainConfig, TrainOptions
from charnn.training.line_batches import PARTS, Ids

# Lines up to this length are read whole; a window that cuts off a line's end is of the usual size.
WHOLE_LINE = 128
FEWEST_WINDOWS = 4  # of a pass; a smaller list takes fewer lines at once


def fit_lines(lengths: Ids, options: TrainOptions, step_tokens: int) -> tuple[int, int, list[str]]:
    """Lines at once and window for lines of these lengths (N,), and what to say of it.

    A step reads about `step_tokens`; fewer where one line is so long that the others would be
    through while it is still being read.
    """
    longest = int(lengths.max())
    usual = longest if longest <= WHOLE_LINE else TrainConfig.bptt
    bptt = min(options.bptt or usual, longest)
    pieces = -(-lengths // bptt)
    total = int(pieces.sum())
    wanted = options.batch_size or max(1, round(step_tokens * total / int(lengths.sum())))
    most = max(1, total // FEWEST_WINDOWS)
    side_by_side = max(1, total // int(pieces.max()))
    notes = []
    if side_by_side < min(wanted, most) and len(lengths) > 1:
        notes.append(
            f"a line of {longest:,} tokens is read in order, and leaves room for only "
            f"{side_by_side:,} lines at once: leave such lines out to train faster"
        )
    return min(wanted, most, side_by_side), bptt, notes


def line_shapes(lengths: Ids, batch_size: int, bptt: int) -> list[tuple[int, int]]:
    """Steps and streams of the parts of a usual window."""
    pieces = -(-lengths // bptt)
    rest = lengths - (pieces - 1) * bptt
    counts = np.sort(np.concatenate([rest, np.full(int((pieces - 1).sum()), bptt)]))
    share = -(-batch_size // PARTS)
    ends = [min(1.0, (k + 1) * share / batch_size) for k in range(-(-batch_size // share))]
    longest = [int(counts[min(len(counts) - 1, int(end * len(counts)))]) for end in ends]
    return [(steps, share) for steps in longest]
