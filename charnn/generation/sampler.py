"""From a network to a stream of ids: chosen with a generator that any language can repeat."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charnn.config import MAX_SEED
from charnn.errors import CharnnError, ConfigError
from charnn.generation.filters import RECENT, active_filters
from charnn.generation.runtime import State

MASK = 0xFFFFFFFF
WARM_UP = 16


def draw_seed() -> int:
    """A fresh seed from the system."""
    return secrets.randbelow(MAX_SEED + 1)


class Sfc32:
    """sfc32 of Chris Doty-Humphrey's PractRand: 128 bits of state, 32-bit add, shift, xor, rotate.

    All numbers are unsigned and modulo 2**32. The state starts as a = 0, b = seed, c = index,
    counter = 1, and the first 16 outputs are thrown away. An output is

        t = a + b + counter;  counter = counter + 1
        a = b ^ (b >> 9);  b = c + (c << 3);  c = ((c << 21) | (c >> 11)) + t;  output t

    Seed 1, index 0 gives 0x78c8aace, 0x63091598, 0xa2aa2971; docs/sampling.md has more.
    """

    def __init__(self, seed: int, index: int = 0) -> None:
        """Raises ConfigError unless seed and index are whole numbers from 0 to 2**32 - 1."""
        for name, value in {"seed": seed, "index": index}.items():
            if type(value) is not int or not 0 <= value <= MAX_SEED:
                raise ConfigError(
                    f"{name} must be a whole number from 0 to {MAX_SEED}, got {value!r}"
                )
        self.state = (0, seed, index, 1)
        for _ in range(WARM_UP):
            self.next()

    def next(self) -> int:
        """The next 32 bits."""
        a, b, c, counter = self.state
        t = (a + b + counter) & MASK
        rotated = (c << 21) | (c >> 11)
        self.state = (
            b ^ (b >> 9),
            (c + (c << 3)) & MASK,
            (rotated + t) & MASK,
            (counter + 1) & MASK,
        )
        return t

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2**-32."""
        return self.next() / 4294967296.0


def draw(logits: NDArray[np.float64], uniform: float) -> int:
    """The id where the running sum of exp(logit - max), in id order, first exceeds its share.

    `uniform` in [0, 1) is that share of the whole sum. An id of probability 0 is never drawn.
    """
    # argmax and indexing: a third of the time of max, and this is done for every token.
    cumulative = np.exp(logits - logits[logits.argmax()]).cumsum()
    return int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))


def _surprisal(logits: NDArray[np.float64], token: int) -> float:
    """-log of the probability of `token`, in nats; changes `logits`."""
    logits -= logits[logits.argmax()]
    return math.log(np.exp(logits).cumsum()[-1]) - float(logits[token])


class Network(Protocol):
    """What a sampler needs of a model; `NumpyModel` is one."""

    def initial_state(self) -> State:
        """The state at the start of a text."""

    def step(self, token: int, state: State) -> tuple[NDArray[np.float32], State]:
        """Reads one token: logits (V,) of the next one, and the new state."""

    def feed(self, tokens: Iterable[int], state: State) -> tuple[NDArray[np.float32], State]:
        """Reads tokens, at least one: logits (V,) of what comes next, and the new state."""


class Sampler:
    """One text in the making: what was read so far, as state, and the means to go on.

    What it writes depends on the model, the ids fed, the filters, and (seed, index): the index-th
    sample of a seed is the same whichever others are drawn. ``nats`` sums the surprisal of what
    `stream` chose under the unfiltered model at temperature 1, ``tokens`` counts it, and
    ``last_nats`` is the surprisal of the latest choice alone.
    """

    def __init__(
        self,
        model: Network,
        seed: int,
        index: int = 0,
        filters: Mapping[str, float] | None = None,
    ) -> None:
        """Starts before the first token; `filters` maps names in `FILTERS` to settings.

        Raises:
            ConfigError: seed, index, a filter's name or its setting is out of range.
        """
        self._model = model
        self._generator = Sfc32(seed, index)
        self._filters = active_filters(filters or {})
        self._state = model.initial_state()
        self._logits: NDArray[np.float32] | None = None
        self._recent: deque[int] = deque(maxlen=RECENT)
        self.nats = 0.0
        self.tokens = 0
        self.last_nats = 0.0

    def feed(self, ids: Iterable[int]) -> None:
        """Reads ids that were not chosen here: a prompt, or a word put into the model's mouth."""
        tokens = [int(token) for token in ids]
        if tokens:
            self._logits, self._state = self._model.feed(tokens, self._state)
            self._recent.extend(tokens)

    def stream(self, max_tokens: int) -> Iterator[int]:
        """Chooses and reads up to `max_tokens` ids, each handed out once it has been read.

        A later call goes on from there.

        Raises:
            CharnnError: nothing was fed yet, or the model's logits are not finite.
        """
        for _ in range(max_tokens):
            logits = self._finite_logits()
            filtered = logits
            for apply, setting in self._filters:
                filtered = apply(filtered, setting, self._recent)
            token = draw(filtered, self._generator.uniform())
            self._take(token, logits)
            yield token

    def repeat(self, ids: Iterable[int]) -> None:
        """Reads ids as if `stream` had chosen them, one number of the generator for each.

        So a text drawn earlier is gone through again, whatever would be chosen now.

        Raises:
            CharnnError: as `stream` does.
        """
        for token in ids:
            logits = self._finite_logits()
            self._generator.next()
            self._take(int(token), logits)

    def surprisal(self, token: int) -> float:
        """The nats of `token` as the next one, under the unfiltered model at temperature 1.

        Raises:
            CharnnError: as `stream` does.
        """
        return _surprisal(self._finite_logits(), token)

    def _finite_logits(self) -> NDArray[np.float64]:
        """The logits of the next token, a copy."""
        if self._logits is None:
            raise CharnnError("nothing was fed to the sampler: feed it at least one token first")
        logits = self._logits.astype(np.float64)
        # One number that is finite only if all are; far cheaper than looking at each.
        if not math.isfinite(logits.dot(logits)):
            raise CharnnError(
                "the model's output is not finite: its weights are too large; use another model"
            )
        return logits

    def _take(self, token: int, logits: NDArray[np.float64]) -> None:
        """Reads a chosen token; `logits` are those it was chosen by, and are not kept."""
        self.last_nats = _surprisal(logits, token)
        self.nats += self.last_nats
        self._logits, self._state = self._model.step(token, self._state)
        self._recent.append(token)
        self.tokens += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on depends on, a few kB of arrays and numbers; a copy.

        Loaded into another sampler of the same model and filters it is a fork: both go on alike.
        """
        logits = np.empty(0, np.float32) if self._logits is None else self._logits.copy()
        return {
            "generator": np.array(self._generator.state, np.uint32),
            "recent": np.array(self._recent, np.int64),
            "logits": logits,
            "nats": self.nats,
            "tokens": self.tokens,
            "state": self._state.copy(),
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Goes on where the sampler that gave `values` was.

        Raises:
            CharnnError: they come from a model of another shape; nothing is changed then.
        """
        shape = np.shape(values.get("state", ()))
        if values.keys() != self.state_dict().keys() or shape != self._state.shape:
            raise CharnnError("this sampler state belongs to a model of another shape")
        a, b, c, counter = (int(word) for word in values["generator"])
        self._generator.state = (a, b, c, counter)
        self._recent = deque((int(token) for token in values["recent"]), maxlen=RECENT)
        logits = np.array(values["logits"], np.float32)
        self._logits = logits if logits.size else None
        self.nats, self.tokens = float(values["nats"]), int(values["tokens"])
        self._state = np.array(values["state"], np.float32)
