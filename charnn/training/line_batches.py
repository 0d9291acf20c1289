"""Windows over lines that have nothing to do with each other, for truncated backpropagation.

A line is read from the start state: a newline is fed first, and the newline that ends it is its
last target. It is cut into pieces of T steps; a stream reads the pieces of a line in order, with
the state carried from one to the next, then those of another line, whose first piece begins at
the start state. Where a piece is shorter than the window, the rest of it is padding, not counted.

Which stream reads which lines, and in what order, is drawn anew for each pass from the seed.
How many windows a pass takes depends on the lengths of the lines alone.

Shapes: N lines, B streams, T steps, W windows in a pass.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charnn.errors import DamagedFile, TextError
from charnn.evaluation import IGNORED

# A window is computed in parts, its streams sorted by what they have left, so that a short line
# is not padded to the longest; parts of fewer streams than these would be slower, not faster.
PARTS, PART_STREAMS = 4, 32

Ids = npt.NDArray[Any]


def line_lengths(tokens: Ids, newline: int) -> Ids:
    """Targets of each line, its newline included: (N,) int64. What follows the last is left out."""
    return np.diff(np.flatnonzero(tokens == newline), prepend=-1)


class LineLayout:
    """How N lines are laid out on B streams: as evenly as the longest of them allows.

    Attributes:
        windows: W, how many a pass takes.
        streams: for each line, from the one with the most pieces to the one with the fewest, the
            stream that reads it; then those of the idle pieces that fill the streams up: (N + I,).
    """

    def __init__(self, lengths: Ids, batch_size: int, bptt: int) -> None:
        """Takes the targets of each line, (N,), N at least 1."""
        self.pieces = -(-lengths // bptt)
        falling = -np.sort(-self.pieces)
        # The longest first, each to the stream that has the least (Graham 1969): at most a third
        # above the best there is, and even to one piece where most lines are of one piece.
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


class Part(NamedTuple):
    """Some streams of a window: which, (P,), their inputs and targets (T, P), padded at the end."""

    streams: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor


class LineWindow(NamedTuple):
    """What each stream reads in a step.

    ``fresh`` (B,) says where a line begins; ``size`` is the number of targets that are no padding.
    """

    parts: list[Part]
    fresh: torch.Tensor
    size: int


class _Pass(NamedTuple):
    """Where the piece of each window and stream starts, and how long it is, 0 if idle: (W, B)."""

    starts: Ids
    counts: Ids
    fresh: Ids
    before: Ids  # targets before each window: (W + 1,)


class LineBatches:
    """Windows of lines, a function of seed and step alone."""

    def __init__(
        self,
        tokens: Ids,
        batch_size: int,
        bptt: int,
        vocab_size: int,
        newline: int,
        seed: int = 0,
    ) -> None:
        """Raises TextError when there is no line."""
        self.tokens, self.newline = tokens, newline
        self.batch_size, self.bptt = batch_size, bptt
        self.vocab_size, self.seed = vocab_size, seed
        self.lengths = line_lengths(tokens, newline)
        if not len(self.lengths):
            raise TextError("the training text has no line: every line ends with a newline")
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.layout = LineLayout(self.lengths, batch_size, bptt)
        self.windows_per_epoch = self.layout.windows
        self._pass = lru_cache(maxsize=2)(self._draw_pass)

    def tokens_before(self, step: int) -> int:
        """Targets in all windows before that of `step`."""
        epoch, index = divmod(step, self.windows_per_epoch)
        whole = epoch * int(self.lengths.sum())
        return whole + (int(self._pass(epoch).before[index]) if index else 0)

    def window(self, step: int) -> LineWindow:
        """The window of a step, counted from 0 over all passes.

        Raises:
            DamagedFile: an id lies outside the vocabulary.
        """
        epoch, index = divmod(step, self.windows_per_epoch)
        drawn = self._pass(epoch)
        starts, counts = drawn.starts[index], drawn.counts[index]
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        share = max(PART_STREAMS, -(-len(order) // PARTS))
        parts = [
            self._part(order[at : at + share], starts, counts) for at in range(0, len(order), share)
        ]
        return LineWindow(parts, torch.from_numpy(drawn.fresh[index]), int(counts.sum()))

    def _part(self, streams: Ids, starts: Ids, counts: Ids) -> Part:
        steps = np.arange(counts[streams].max())[:, None]
        places = starts[streams] + steps
        real = steps < counts[streams]
        targets = self.tokens[np.where(real, places, 0)].astype(np.int64)
        # Every line stands after the newline of another; the first after the end of the ring.
        inputs = self.tokens[np.where(real, places - 1, 0)].astype(np.int64)
        inputs[places == 0] = self.newline
        if max(inputs.max(), targets.max()) >= self.vocab_size:
            raise DamagedFile("the token file holds an id outside its vocabulary: it is damaged")
        targets[~real] = IGNORED
        return Part(torch.from_numpy(streams), torch.from_numpy(inputs), torch.from_numpy(targets))

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
