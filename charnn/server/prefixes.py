"""A cache of states of the model after prefixes of prompts: a shared prefix is read once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from charnn.predictor import Array

MAX_BYTES = 64 << 20  # of all prefixes together
MAX_PREFIXES = 2048  # `longest` compares a prompt with each


class Prefixes:
    """The most recently used prefixes, each with the logits and the state after it.

    Attributes:
        bytes: the memory that all of them take.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._kept: OrderedDict[bytes, tuple[Array, Array]] = OrderedDict()
        self._max_bytes, self.bytes = max_bytes, 0

    def __len__(self) -> int:
        """Returns the number of prefixes."""
        return len(self._kept)

    def keep(self, ids: Sequence[int], logits: Array, state: Array) -> None:
        """Keeps the logits and the state after `ids`; drops the least recently used prefixes."""
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
        """Returns length, logits and state of the longest kept prefix of `ids`, or None."""
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
