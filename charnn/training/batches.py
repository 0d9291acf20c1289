"""Windows for truncated backpropagation through time, determined by seed and step.

**Streams**: the text is cut into B contiguous streams; window k of a pass holds the same T steps of
each, so that the state after window k is the state before window k+1. Each later pass reads the
text as a ring from a random offset, so the cuts differ between passes.

**Lines**: a line is read from the initial state: its first input is a newline and its last target
is the newline that ends it. Lines are cut into pieces of T steps. A stream reads the pieces of a
line in order with the state carried, then another line from the initial state. A piece shorter than
the window is padded; padding does not count. The seed assigns lines to streams and orders them, in
each pass differently. The number of windows in a pass depends on the lengths of the lines alone.

Shapes: B streams, T steps, N lines, W windows in a pass.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from charnn.errors import TextError
from charnn.evaluation import IGNORED, Ids

# A window of lines is computed in parts of streams with similar lengths, so that short lines get
# little padding; parts with fewer streams would be slower.
PARTS, PART_STREAMS = 4, 32
ALL = slice(None)


class WindowPart(NamedTuple):
    """P streams of a window: their indices (P,), inputs and targets (T, P), padded at the end.

    A share of the streams holds those of the P that belong to it: ``streams`` are indices in the
    share, ``kept`` indices among the ``size`` = P of the whole part.
    """

    streams: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    kept: torch.Tensor
    size: int


class Window(NamedTuple):
    """One window of all streams, or of a share of them.

    ``fresh`` (B,) marks streams that start from the initial state; ``size`` is the number of
    targets of all streams without padding.
    """

    parts: list[WindowPart]
    fresh: torch.Tensor
    size: int


class StreamBatches:
    """Windows of `bptt` steps over `batch_size` streams, determined by seed and step."""

    def __init__(self, tokens: Ids, batch_size: int, bptt: int, seed: int = 0) -> None:
        """Raises TextError if the tokens do not fill one window."""
        self.tokens, self.batch_size, self.bptt, self.seed = tokens, batch_size, bptt, seed
        self.windows_per_epoch = (len(tokens) - 1) // batch_size // bptt
        self.stream_length = self.windows_per_epoch * bptt
        if not self.windows_per_epoch:
            raise TextError(
                f"the training text has {len(tokens):,} tokens, but {batch_size} streams of "
                f"{bptt} need {batch_size * bptt + 1:,}: lower --batch-size or --bptt"
            )

    def tokens_before(self, step: int) -> int:
        """Returns the number of targets in all windows before `step`."""
        return step * self.batch_size * self.bptt

    def window(self, step: int, share: slice = ALL) -> Window:
        """Returns the window of a step, counted from 0; the first of a pass is fresh."""
        epoch, index = divmod(step, self.windows_per_epoch)
        kept = np.arange(self.batch_size)[share]
        starts = kept * self.stream_length + index * self.bptt
        positions = self._start(epoch) + starts[None, :] + np.arange(self.bptt + 1)[:, None]
        ids = self.tokens[positions % len(self.tokens)].astype(np.int64)
        both, streams = torch.from_numpy(ids), torch.arange(len(kept))
        part = WindowPart(streams, both[:-1], both[1:], torch.from_numpy(kept), self.batch_size)
        fresh = torch.full((len(kept),), index == 0)
        return Window([part], fresh, self.batch_size * self.bptt)

    def _start(self, epoch: int) -> int:
        """Returns the offset of a pass: 0 for the first, random for the others."""
        if not epoch:
            return 0
        generator = torch.Generator().manual_seed((self.seed << 31) + epoch)
        return int(torch.randint(len(self.tokens), (), generator=generator))


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

    def window(self, step: int, share: slice = ALL) -> Window:
        """Returns the window of a step, counted from 0; streams that begin a line are fresh.

        All streams determine the parts, whatever the share.
        """
        epoch, index = divmod(step, self.windows_per_epoch)
        drawn = self._pass(epoch)
        starts, counts = drawn.starts[index], drawn.counts[index]
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        size = max(PART_STREAMS, -(-len(order) // PARTS))
        own = range(self.batch_size)[share]
        parts = [
            self._part(order[at : at + size], starts, counts, own)
            for at in range(0, len(order), size)
        ]
        return Window(parts, torch.from_numpy(drawn.fresh[index][share]), int(counts.sum()))

    def _part(self, whole: Ids, starts: Ids, counts: Ids, own: range) -> WindowPart:
        kept = np.flatnonzero((whole >= own.start) & (whole < own.stop))
        streams = whole[kept]
        # As long as for the whole part: padding changes the state after a line that has ended.
        steps = np.arange(counts[whole].max())[:, None]
        places = starts[streams] + steps
        real = steps < counts[streams]
        targets = self.tokens[np.where(real, places, 0)].astype(np.int64)
        # The token before a line is the newline of the previous one; the first line has none.
        inputs = self.tokens[np.where(real, places - 1, 0)].astype(np.int64)
        inputs[places == 0] = self.newline
        targets[~real] = IGNORED
        return WindowPart(
            torch.from_numpy(streams - own.start),
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(kept),
            len(whole),
        )

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
