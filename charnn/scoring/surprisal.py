"""Surprisal of each token of a text; many lines are scored at once.

Shapes: T tokens, B lines at once, V symbols, K alternatives.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.errors import CharnnError
from charnn.generation.batch import available_cores
from charnn.predictor import NOT_FINITE, Predictor

Array = NDArray[Any]

BATCH_LINES = 128  # lines that one thread reads at once
BLOCK_LOGITS = 1 << 18  # logits evaluated at once: few enough for the processor's cache


class Surprisals(NamedTuple):
    """Surprisal of T tokens, and details if the scorer was made to report them.

    Attributes:
        tokens, bits: (T,) ids and their surprisal in bits.
        entropy: (T,) expected surprisal in bits.
        rank: (T,) rank of the token among all symbols, 1 for the likeliest.
        top, top_bits: (T, K) the likeliest ids in falling order, and their surprisal.
    """

    tokens: Array
    bits: Array
    entropy: Array | None = None
    rank: Array | None = None
    top: Array | None = None
    top_bits: Array | None = None


class TokenScorer:
    """Scores texts token by token, each text from the state after the start token.

    `lines` reads many texts at once, on `threads` threads. The bits of a line do not depend on the
    other lines; with an engine that is not exact (numpy in float32), they do by rounding errors.
    """

    def __init__(
        self,
        predictor: Predictor,
        start_token: int,
        details: bool = False,
        top: int = 0,
        threads: int | None = None,
    ) -> None:
        """`details` adds entropy and rank, `top` the likeliest tokens; by default all threads."""
        self.predictor, self.details = predictor, details
        self.top = min(top, predictor.config.vocab_size)
        self._start = predictor.step(start_token, predictor.initial_state())
        self._stream = self.predictor.open(*self._start)
        count = max(1, threads or available_cores())
        self._twins = [predictor.twin(BATCH_LINES) for _ in range(count)]

    def reset(self) -> None:
        """Begins a new text for `read`."""
        self._stream = self.predictor.open(*self._start)

    def read(self, ids: Array) -> Surprisals:
        """Scores ids (T,) that continue the text."""
        found = self._allocate(ids)
        rows = max(1, BLOCK_LOGITS // self.predictor.config.vocab_size)
        logits = np.empty((min(rows, len(ids)), self.predictor.config.vocab_size), np.float32)
        for start in range(0, len(ids), rows):
            some = ids[start : start + rows]
            for row, token in enumerate(some.tolist()):
                logits[row] = self._stream.logits
                self._stream.read(token)
            self._fill(found, np.arange(start, start + len(some)), logits[: len(some)])
        return found

    def lines(self, ids: Array, lengths: Array) -> Surprisals:
        """Scores texts that are concatenated in ids (T,), given their lengths.

        The text that `read` continues stays as it is.
        """
        found = self._allocate(ids)
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(-lengths, kind="stable")
        count = len(self._twins)
        size = min(BATCH_LINES, max(1, -(-len(order) // count)))
        batches = [order[at : at + size] for at in range(0, len(order), size)]

        def work(worker: int) -> None:
            for batch in batches[worker::count]:
                self._read_lines(self._twins[worker], starts[batch], lengths[batch], found)

        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(min(count, len(batches)))))
        return found

    def _read_lines(
        self, predictor: Predictor, starts: Array, lengths: Array, found: Surprisals
    ) -> None:
        """Scores a batch of lines, the longest first; a line that has ended leaves the batch."""
        count, vocab_size = len(starts), predictor.config.vocab_size
        logits, state = self._start
        states = np.repeat(state[None], count, axis=0)
        waiting: list[Array] = []
        places: list[Array] = []
        for step in range(int(lengths[0])):
            active = int(np.searchsorted(-lengths, -step, side="left"))  # lines longer than step
            at = starts[:active] + step
            if step:
                waiting.append(predictor.step_batch(found.tokens[at - 1], states[:active]))
            else:
                waiting.append(np.broadcast_to(logits, (active, vocab_size)))
            places.append(at)
            if len(waiting) * count * vocab_size >= BLOCK_LOGITS or step == lengths[0] - 1:
                self._fill(found, np.concatenate(places), np.concatenate(waiting))
                waiting, places = [], []

    def _fill(self, found: Surprisals, at: Array, logits: Array) -> None:
        """Fills in the results at places `at` (T,), given the logits (T, V) before each token."""
        targets, rows = found.tokens[at], np.arange(len(at))
        shifted = logits - logits.max(axis=1, keepdims=True)
        weights = np.exp(shifted)
        total = weights.sum(axis=1, dtype=np.float64)
        norm, own = np.log(total), shifted[rows, targets]
        bits = (norm - own) / math.log(2)
        if not np.isfinite(bits).all():
            raise CharnnError(NOT_FINITE)
        found.bits[at] = bits
        if found.entropy is not None and found.rank is not None:
            expected = np.einsum("tv,tv->t", weights, shifted, dtype=np.float64) / total
            found.entropy[at] = np.maximum(norm - expected, 0) / math.log(2)
            found.rank[at] = 1 + np.count_nonzero(shifted > own[:, None], axis=1)
        if found.top is not None and found.top_bits is not None:
            best = np.argpartition(-shifted, self.top - 1, axis=1)[:, : self.top]
            best.sort(axis=1)  # equal logits in the order of their ids
            order = np.argsort(-np.take_along_axis(shifted, best, 1), axis=1, kind="stable")
            best = np.take_along_axis(best, order, 1)
            found.top[at] = best
            chosen = np.take_along_axis(shifted, best, 1)
            found.top_bits[at] = (norm[:, None] - chosen) / math.log(2)

    def _allocate(self, ids: Array) -> Surprisals:
        """Returns uninitialised results for ids (T,)."""
        count = len(ids)
        entropy = rank = top = top_bits = None
        if self.details:
            entropy, rank = np.empty(count), np.empty(count, np.int64)
        if self.top:
            top, top_bits = np.empty((count, self.top), np.int64), np.empty((count, self.top))
        return Surprisals(ids, np.empty(count), entropy, rank, top, top_bits)
