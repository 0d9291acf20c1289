"""From a network to a stream of ids: chosen with a generator that any language can repeat."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charnn.config import MAX_SEED
from charnn.engines.float32 import State
from charnn.engines.native import NativeModel, NativeStream
from charnn.errors import CharnnError, ConfigError
from charnn.generation.filters import PENALTIES, RECENT, active_filters, temperature
from charnn.generation.guides import Guide

MASK = 0xFFFFFFFF
WARM_UP = 16
NOT_FINITE = "the model's output is not finite: its weights are too large; use another model"


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


class ManyStreams(Protocol):
    """What `read_together` needs of a model."""

    def step_batch(self, tokens: Sequence[int], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reads a token in each of B streams; states (B, ...) are changed; logits (B, V)."""


class Sampler:
    """One text in the making: what was read so far, as state, and the means to go on.

    What it writes depends on the model, the ids fed, the filters, and (seed, index): the index-th
    sample of a seed is the same whichever others are drawn. ``nats`` sums the surprisal of what
    `stream` chose under the unfiltered model at temperature 1, ``tokens`` counts it, and
    ``last_nats`` is the surprisal of the latest choice alone. ``forbidden`` holds ids that are not
    chosen while they stand there; ``unread`` is the latest id, until it is read: at the latest when
    something depends on that (see `read_together`).
    """

    def __init__(
        self,
        model: Network,
        seed: int,
        index: int = 0,
        filters: Mapping[str, float] | None = None,
        guides: Sequence[Guide] = (),
    ) -> None:
        """Starts before the first token; `filters` maps names in `FILTERS` to settings.

        `guides` are the sampler's own; `feed` leaves them alone, since they read text: who knows
        it gives it to them too.

        Raises:
            ConfigError: seed, index, a filter's name or its setting is out of range.
        """
        self._model = model
        self._generator = Sfc32(seed, index)
        active = active_filters(filters or {})
        self._penalties = [each for each in active if each[0] in PENALTIES]
        self._filters = [each for each in active if each[0] not in PENALTIES]
        self.guides = tuple(guides)
        self._state = model.initial_state()
        self._logits: NDArray[np.float32] | None = None
        self._recent: deque[int] = deque(maxlen=RECENT)
        self.forbidden: Collection[int] = ()
        others = [apply for apply, _ in active if apply is not temperature]
        self._plain = isinstance(model, NativeModel) and not others and not guides
        self._engine: NativeStream | None = None
        self.unread: int | None = None
        self.nats = 0.0
        self.tokens = 0
        self.last_nats = 0.0

    def feed(self, ids: Iterable[int]) -> None:
        """Reads ids that were not chosen here: a prompt, or a word put into the model's mouth."""
        tokens = [int(token) for token in ids]
        if tokens:
            self.settle()
            self._logits, self._state = self._model.feed(tokens, self._state)
            self._recent.extend(tokens)

    def stream(self, max_tokens: int) -> Iterator[int]:
        """Chooses up to `max_tokens` ids; each is read before the next one is chosen.

        A later call goes on from there. Where a guide ends the text, so does the stream.

        Raises:
            CharnnError: nothing was fed yet, the model's logits are not finite, or the guides
                together rule out every token.
        """
        for _ in range(max_tokens):
            if self.guides and self.over:
                return
            self.settle()
            token, nats = self._choose_natively() if self._is_plain() else self._choose()
            self._take(token, nats)
            for guide in self.guides:
                guide.push(token)
            yield token

    def repeat(self, ids: Iterable[int]) -> None:
        """Reads ids as if `stream` had chosen them, one number of the generator for each.

        So a text drawn earlier is gone through again, whatever would be chosen now.

        Raises:
            CharnnError: as `stream` does.
        """
        for token in ids:
            nats = self.surprisal(int(token))
            self._generator.next()
            self._take(int(token), nats)

    def surprisal(self, token: int) -> float:
        """The nats of `token` as the next one, under the unfiltered model at temperature 1.

        Raises:
            CharnnError: as `stream` does.
        """
        logits = self._finite_logits()
        if isinstance(self._model, NativeModel):  # whose sums go their own way
            assert self._logits is not None, "they are finite"
            return self._model.surprisal(self._logits, token)
        return _surprisal(logits, token)

    def settle(self) -> None:
        """Reads the latest token, if that is still to be done."""
        if self.unread is not None:
            token, self.unread = self.unread, None
            if self._engine is not None and self._engine.state is self._state:
                self._engine.read(token)
            else:
                self._logits, self._state = self._model.step(token, self._state)

    def _is_plain(self) -> bool:
        """Whether the engine can choose by itself: with a temperature and nothing else."""
        return self._plain and not self.forbidden and self._logits is not None

    def _choose_natively(self) -> tuple[int, float]:
        """Lets the engine choose; state and logits are then its own, changed in place."""
        engine = self._engine
        if engine is None or engine.state is not self._state:
            assert isinstance(self._model, NativeModel), "others choose here"
            assert self._logits is not None, "there is something to choose by"
            engine = self._engine = self._model.open(self._logits, self._state)
            self._logits, self._state = engine.logits, engine.state
        _, value = self._filters[0] if self._filters else (None, 1.0)
        token = engine.choose(value, self._generator.uniform())
        if token < 0:
            raise CharnnError(NOT_FINITE)
        return token, engine.surprisal(token)

    @property
    def over(self) -> bool:
        """Whether a guide says that the text is complete."""
        return any(guide.over for guide in self.guides)

    @property
    def cut(self) -> bool:
        """Whether the latest token ended the text without being part of it."""
        return any(guide.cut for guide in self.guides)

    def _choose(self) -> tuple[int, float]:
        """A token by the filters and guides, and its nats."""
        filtered = self._finite_logits()
        for apply, setting in self._penalties:
            filtered = apply(filtered, setting, self._recent)
        if self.forbidden:
            filtered = filtered.copy()
            filtered[list(self.forbidden)] = -math.inf
        if self.guides:
            for guide in self.guides:
                filtered = guide.mask(filtered)
            if filtered[filtered.argmax()] == -math.inf:
                raise CharnnError(
                    "nothing may follow here: all tokens are ruled out together; allow more of them"
                )
        for apply, setting in self._filters:
            filtered = apply(filtered, setting, self._recent)
        token = draw(filtered, self._generator.uniform())
        return token, self.surprisal(token)

    def _finite_logits(self) -> NDArray[np.float64]:
        """The logits of the next token, a copy."""
        self.settle()
        if self._logits is None:
            raise CharnnError("nothing was fed to the sampler: feed it at least one token first")
        logits = self._logits.astype(np.float64)
        # One number that is finite only if all are; far cheaper than looking at each.
        if not math.isfinite(logits.dot(logits)):
            raise CharnnError(NOT_FINITE)
        return logits

    def _take(self, token: int, nats: float) -> None:
        """Goes on from a token that was chosen."""
        self.unread, self.last_nats = token, nats
        self.nats += nats
        self._recent.append(token)
        self.tokens += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on depends on, a few kB of arrays and numbers; a copy.

        Loaded into another sampler of the same model, filters and guides it is a fork: both go on
        alike.
        """
        self.settle()
        logits = np.empty(0, np.float32) if self._logits is None else self._logits.copy()
        return {
            "generator": np.array(self._generator.state, np.uint32),
            "recent": np.array(self._recent, np.int64),
            "logits": logits,
            "nats": self.nats,
            "tokens": self.tokens,
            "state": self._state.copy(),
            "guides": [guide.state for guide in self.guides],
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Goes on where the sampler that gave `values` was.

        Raises:
            CharnnError: they come from a model of another shape; nothing is changed then.
        """
        shape = np.shape(values.get("state", ()))
        if values.keys() != self.state_dict().keys() or shape != self._state.shape:
            raise CharnnError("this sampler state belongs to a model of another shape")
        if len(values["guides"]) != len(self.guides):
            raise CharnnError("this sampler state belongs to a sampler with other guides")
        for guide, state in zip(self.guides, values["guides"], strict=True):
            guide.state = state
        a, b, c, counter = (int(word) for word in values["generator"])
        self._generator.state = (a, b, c, counter)
        self._recent = deque((int(token) for token in values["recent"]), maxlen=RECENT)
        logits = np.array(values["logits"], np.float32)
        self._logits = logits if logits.size else None
        self.nats, self.tokens = float(values["nats"]), int(values["tokens"])
        self._state = np.array(values["state"], np.float32)
        self.unread = None


def read_together(samplers: Sequence[Sampler], model: ManyStreams) -> None:
    """Reads what samplers of `model` have still to read, in one step of all of them.

    Each then stands where it would stand alone, to the bit.
    """
    waiting = [each for each in samplers if each.unread is not None]
    if waiting:
        states = np.stack([each._state for each in waiting])
        logits = model.step_batch([each.unread or 0 for each in waiting], states)
        for each, new_logits, new_state in zip(waiting, logits, states, strict=True):
            each._logits, each._state, each.unread = new_logits, new_state, None
