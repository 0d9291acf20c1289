"""States of the model after beginnings of prompts, so that a shared beginning is read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_BYTES = 64 << 20  # of all beginnings together
MAX_PREFIXES = 2048  # `longest` compares a prompt with each


class Prefixes:
    """The most recently used beginnings, each with the logits and the state after it.

    Attributes:
        bytes: the memory that they take.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._kept: OrderedDict[bytes, tuple[Array, Array]] = OrderedDict()
        self._max_bytes, self.bytes = max_bytes, 0

    def __len__(self) -> int:
        """Returns the number of beginnings."""
        return len(self._kept)

    def keep(self, ids: Sequence[int], logits: Array, state: Array) -> None:
        """Keeps the logits and the state after `ids`; forgets the least recently used ones."""
        key = _key(ids)
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = logits, state
        self.bytes += _size(key, logits, state)
        while self.bytes > self._max_bytes or len(self._kept) > MAX_PREFIXES:
            oldest, values = self._kept.popitem(last=False)
            self.bytes -= _size(oldest, *values)

    def longest(self, ids: Sequence[int]) -> tuple[int, Array, Array] | None:
        """Returns length, logits and state of the longest kept beginning of `ids`, or None."""
        prompt = _key(ids)
        key = max(filter(prompt.startswith, self._kept), key=len, default=None)
        if key is None:
            return None
        self._kept.move_to_end(key)
        return len(key) // 4, *self._kept[key]


def _key(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, np.int32).tobytes()


def _size(key: bytes, logits: Array, state: Array) -> int:
    return len(key) + logits.nbytes + state.nbytes
