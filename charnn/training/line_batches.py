"""Windows over independent lines for truncated backpropagation.

A line is read from the initial state: its first input is a newline and its last target is the
newline that ends it. Lines are cut into pieces of T steps. A stream reads the pieces of a line in
order with the state carried, then another line from the initial state. A piece shorter than the
window is padded; padding does not count.

The seed assigns lines to streams and orders them, differently for each pass. The number of windows
in a pass depends on the lengths of the lines alone.

Shapes: N lines, B streams, T steps, W windows in a pass.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charnn.errors import TextError
from charnn.evaluation import IGNORED
from charnn.training.batches import Window, WindowPart

# A window is computed in parts of streams with similar lengths, so that short lines get little
# padding; parts with fewer streams would be slower.
PARTS, PART_STREAMS = 4, 32

Ids = npt.NDArray[Any]


def line_lengths(tokens: Ids, newline: int) -> Ids:
    """Returns the targets of each line with its newline: (N,) int64; ignores an unfinished line."""
    return np.diff(np.flatnonzero(tokens == newline), prepend=-1)


class LineLayout:
    """An assignment of N lines to B streams, as even as the longest line allows.

    Attributes:
        windows: W, the number of windows in a pass.
        streams: the stream of each line, from the most pieces to the fewest, then the streams of
            the I idle pieces that fill them up: (N + I,).
    """

    def __init__(self, lengths: Ids, batch_size: int, bptt: int) -> None:
        """Takes the targets of each line (N,), N at least 1."""
        self.pieces = -(-lengths // bptt)
        falling = -np.sort(-self.pieces)
        # Longest first, each to the stream with the fewest pieces (Graham 1969): at most a third
        # above the optimum, and even to one piece if most lines have one piece.
        streams = np.arange(len(lengths)) % batch_size
        load = np.bincount(streams, minlength=batch_size)
        if falling[0] > 1:
            heap = [(0, stream) for stream in range(batch_size)]
            for rank, count in enumerate(falling.tolist()):
                least, stream = heap[0]
                heapq.heapreplace(heap, (least + count, stream))
                streams[rank] = stream
            load = np.zeros(batch_size, np.int64)
            for least, stream in heap:
                load[stream] = least
        self.windows = int(load.max())
        idle = np.repeat(np.arange(batch_size), self.windows - load)
        self.streams = np.concatenate([streams, idle])


class _Pass(NamedTuple):
    """Start and length, 0 if idle, of the piece of each window and stream: (W, B)."""

    starts: Ids
    counts: Ids
    fresh: Ids
    before: Ids  # targets before each window: (W + 1,)


class LineBatches:
    """Windows of lines, determined by seed and step."""

    def __init__(
        self, tokens: Ids, batch_size: int, bptt: int, newline: int, seed: int = 0
    ) -> None:
        """Raises TextError if there is no line."""
        self.tokens, self.newline = tokens, newline
        self.batch_size, self.bptt, self.seed = batch_size, bptt, seed
        self.lengths = line_lengths(tokens, newline)
        if not len(self.lengths):
            raise TextError("the training text has no line; end each line with a newline")
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.layout = LineLayout(self.lengths, batch_size, bptt)
        self.windows_per_epoch = self.layout.windows
        self._pass = lru_cache(maxsize=2)(self._draw_pass)

    def tokens_before(self, step: int) -> int:
        """Returns the number of targets in all windows before `step`."""
        epoch, index = divmod(step, self.windows_per_epoch)
        whole = epoch * int(self.lengths.sum())
        return whole + (int(self._pass(epoch).before[index]) if index else 0)

    def window(self, step: int) -> Window:
        """Returns the window of a step, counted from 0; streams that begin a line are fresh."""
        epoch, index = divmod(step, self.windows_per_epoch)
        drawn = self._pass(epoch)
        starts, counts = drawn.starts[index], drawn.counts[index]
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        share = max(PART_STREAMS, -(-len(order) // PARTS))
        parts = [
            self._part(order[at : at + share], starts, counts) for at in range(0, len(order), share)
        ]
        return Window(parts, torch.from_numpy(drawn.fresh[index]), int(counts.sum()))

    def _part(self, streams: Ids, starts: Ids, counts: Ids) -> WindowPart:
        steps = np.arange(counts[streams].max())[:, None]
        places = starts[streams] + steps
        real = steps < counts[streams]
        targets = self.tokens[np.where(real, places, 0)].astype(np.int64)
        # The token before a line is the newline of the previous one; the first line has none.
        inputs = self.tokens[np.where(real, places - 1, 0)].astype(np.int64)
        inputs[places == 0] = self.newline
        targets[~real] = IGNORED
        return WindowPart(*map(torch.from_numpy, (streams, inputs, targets)))

    def _draw_pass(self, epoch: int) -> _Pass:
        generator = torch.Generator().manual_seed((self.seed << 31) + epoch)
        layout, size = self.layout, len(self.lengths)
        drawn = torch.randperm(size, generator=generator).numpy()
        ranked = drawn[np.argsort(-layout.pieces[drawn], kind="stable")]
        idle = len(layout.streams) - size
        lines = np.concatenate([ranked, np.full(idle, -1)])
        shuffled = torch.randperm(len(lines), generator=generator).numpy()
        order = np.lexsort((shuffled, layout.streams))
        lines = lines[order]
        pieces = np.where(lines < 0, 1, layout.pieces[lines])
        line = np.repeat(lines, pieces)  # stream by stream, window by window: (B * W,)
        piece = np.arange(len(line)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        ahead = piece * self.bptt
        counts = np.minimum(self.lengths[line] - ahead, self.bptt)
        counts[line < 0] = 0

        def table(values: Ids) -> Ids:
            return np.ascontiguousarray(values.reshape(-1, layout.windows).T)

        counts = table(counts)
        before = np.concatenate([[0], np.cumsum(counts.sum(1))])
        return _Pass(table(self.starts[line] + ahead), counts, table(piece == 0), before)
