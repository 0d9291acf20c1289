"""What a model thinks of each token of a text; many lines are read side by side.

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

SIDE_BY_SIDE = 128  # lines that one thread reads at once
BLOCK_LOGITS = 1 << 18  # numbers looked at in one go: they stay in the processor's cache


class Surprisals(NamedTuple):
    """What was thought of T tokens.

    ``tokens`` (T,) are their ids, ``bits`` (T,) their surprisal. Where details were asked for,
    ``entropy`` (T,) is the expected surprisal, in bits; ``rank`` (T,) is 1 where nothing was
    likelier; ``top`` (T, K) are the likeliest ids in falling order, and ``top_bits`` theirs.
    """

    tokens: Array
    bits: Array
    entropy: Array | None = None
    rank: Array | None = None
    top: Array | None = None
    top_bits: Array | None = None


class Scorer:
    """Scores ids, each text from the start state after the start token, its first id too.

    Lines are read side by side, over `threads`, and each gets the bits that it would get alone;
    in numpy and float32 up to rounding.
    """

    def __init__(
        self,
        network: Predictor,
        start_token: int,
        details: bool = False,
        top: int = 0,
        threads: int | None = None,
    ) -> None:
        self.network, self.details = network, details
        self.top = min(top, network.config.vocab_size)
        self._start = network.step(start_token, network.initial_state())
        self._stream = self.network.open(*self._start)
        count = max(1, threads or available_cores())
        self._engines = [network.twin(SIDE_BY_SIDE) for _ in range(count)]

    def reset(self) -> None:
        """Lets the text that `read` goes on with begin anew."""
        self._stream = self.network.open(*self._start)

    def read(self, ids: Array) -> Surprisals:
        """Scores ids (T,) that go on from those before."""
        found = self._room(ids)
        rows = max(1, BLOCK_LOGITS // self.network.config.vocab_size)
        logits = np.empty((min(rows, len(ids)), self.network.config.vocab_size), np.float32)
        for start in range(0, len(ids), rows):
            some = ids[start : start + rows]
            for row, token in enumerate(some.tolist()):
                logits[row] = self._stream.logits
                self._stream.read(token)
            self._look(logits[: len(some)], some, np.arange(start, start + len(some)), found)
        return found

    def lines(self, ids: Array, lengths: Array) -> Surprisals:
        """Scores texts that lie in ids (T,) one after another, each of its length in `lengths`.

        Each begins anew. `read` goes on afterwards as if nothing had happened.
        """
        found = self._room(ids)
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(-lengths, kind="stable")
        size = min(SIDE_BY_SIDE, max(1, -(-len(order) // len(self._engines))))
        groups = [order[at : at + size] for at in range(0, len(order), size)]
        count = len(self._engines)

        def work(place: int) -> None:
            for group in groups[place::count]:
                self._read_group(self._engines[place], ids, starts[group], lengths[group], found)

        if len(groups) < 2 or count < 2:
            for place in range(count):
                work(place)
        else:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(work, range(count)))
        return found

    def _read_group(
        self,
        engine: Predictor,
        ids: Array,
        starts: Array,
        lengths: Array,
        found: Surprisals,
    ) -> None:
        """Reads lines, the longest first, side by side: those that have ended drop out."""
        count, vocab_size = len(starts), engine.config.vocab_size
        logits, state = self._start
        states = np.repeat(state[None], count, axis=0)
        held: list[Array] = []
        places: list[Array] = []
        for step in range(int(lengths[0])):
            alive = int(np.searchsorted(-lengths, -step, side="left"))  # those longer than step
            at = starts[:alive] + step
            if step:
                held.append(engine.step_batch(ids[at - 1], states[:alive]))
            else:
                held.append(np.broadcast_to(logits, (alive, vocab_size)))
            places.append(at)
            if len(held) * count * vocab_size >= BLOCK_LOGITS or step == lengths[0] - 1:
                where = np.concatenate(places)
                self._look(np.concatenate(held), ids[where], where, found)
                held, places = [], []

    def _look(self, logits: Array, targets: Array, where: Array, found: Surprisals) -> None:
        """Fills in what logits (T, V) say of `targets` (T,), at the places `where` of `found`."""
        rows = np.arange(len(targets))
        shifted = logits - logits.max(axis=1, keepdims=True)
        weights = np.exp(shifted)
        total = weights.sum(axis=1, dtype=np.float64)
        norm, own = np.log(total), shifted[rows, targets]
        bits = (norm - own) / math.log(2)
        if not np.isfinite(bits).all():
            raise CharnnError(NOT_FINITE)
        found.bits[where] = bits
        if found.entropy is not None and found.rank is not None:
            expected = np.einsum("tv,tv->t", weights, shifted, dtype=np.float64) / total
            found.entropy[where] = np.maximum(norm - expected, 0) / math.log(2)
            found.rank[where] = 1 + np.count_nonzero(shifted > own[:, None], axis=1)
        if found.top is not None and found.top_bits is not None:
            best = np.argpartition(-shifted, self.top - 1, axis=1)[:, : self.top]
            best.sort(axis=1)
            by = np.argsort(-np.take_along_axis(shifted, best, 1), axis=1, kind="stable")
            best = np.take_along_axis(best, by, 1)
            found.top[where] = best
            chosen = np.take_along_axis(shifted, best, 1)
            found.top_bits[where] = (norm[:, None] - chosen) / math.log(2)

    def _room(self, ids: Array) -> Surprisals:
        """Empty arrays for as many tokens."""
        count = len(ids)
        entropy = rank = top = top_bits = None
        if self.details:
            entropy, rank = np.empty(count), np.empty(count, np.int64)
        if self.top:
            top, top_bits = np.empty((count, self.top), np.int64), np.empty((count, self.top))
        return Surprisals(ids, np.empty(count), entropy, rank, top, top_bits)
