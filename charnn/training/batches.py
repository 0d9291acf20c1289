"""Parallel streams for truncated backpropagation through time.

The text is cut into B contiguous streams; window k of a pass holds the same T steps of each, so
that the state after window k is the state before window k+1. Each later pass reads the text as a
ring from a random offset, so the cuts differ between passes.

Shapes: B streams, T steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charnn.errors import TextError


class WindowPart(NamedTuple):
    """P streams of a window: their indices (P,), inputs and targets (T, P), padded at the end."""

    streams: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor


class Window(NamedTuple):
    """One window of all streams.

    ``fresh`` (B,) marks streams that start from the initial state; ``size`` is the number of
    targets without padding.
    """

    parts: list[WindowPart]
    fresh: torch.Tensor
    size: int


class StreamBatches:
    """Windows of `bptt` steps over `batch_size` streams, determined by seed and step."""

    def __init__(self, tokens: npt.NDArray[Any], batch_size: int, bptt: int, seed: int = 0) -> None:
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

    def window(self, step: int) -> Window:
        """Returns the window of a step, counted from 0; the first of a pass is fresh."""
        epoch, index = divmod(step, self.windows_per_epoch)
        starts = np.arange(self.batch_size) * self.stream_length + index * self.bptt
        positions = self._start(epoch) + starts[None, :] + np.arange(self.bptt + 1)[:, None]
        ids = self.tokens[positions % len(self.tokens)].astype(np.int64)
        both, streams = torch.from_numpy(ids), torch.arange(self.batch_size)
        fresh = torch.full((self.batch_size,), index == 0)
        return Window([WindowPart(streams, both[:-1], both[1:])], fresh, both[1:].numel())

    def _start(self, epoch: int) -> int:
        """Returns the offset of a pass: 0 for the first, random for the others."""
        if not epoch:
            return 0
        generator = torch.Generator().manual_seed((self.seed << 31) + epoch)
        return int(torch.randint(len(self.tokens), (), generator=generator))
