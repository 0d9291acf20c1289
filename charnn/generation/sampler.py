"""Samples ids from a predictor, with a random generator that is easy to port to any language."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.config import MAX_SEED, RECENT
from charnn.config.settings import plain
from charnn.errors import CharnnError, ConfigError
from charnn.generation.filters import PENALTIES, active_filters, temperature
from charnn.generation.guides import Guide
from charnn.predictor import Predictor, Stream, draw

MASK = 0xFFFFFFFF
WARM_UP = 16
STATE_KEYS = {"generator", "recent", "logits", "nats", "tokens", "state", "guides"}


def draw_seed() -> int:
    """Returns a random seed from the operating system."""
    return secrets.randbelow(MAX_SEED + 1)


class Sfc32:
    """sfc32 of Chris Doty-Humphrey's PractRand: 128 bits of state, 32-bit add, shift, xor, rotate.

    All numbers are unsigned and modulo 2**32. The state starts as a = 0, b = seed, c = index,
    counter = 1, and the first 16 outputs are discarded. An output is

        t = a + b + counter;  counter = counter + 1
        a = b ^ (b >> 9);  b = c + (c << 3);  c = ((c << 21) | (c >> 11)) + t;  output t

    Seed 1, index 0 gives 0x78c8aace, 0x63091598, 0xa2aa2971; docs/sampling.md has more.
    """

    def __init__(self, seed: int, index: int = 0) -> None:
        """Raises ConfigError unless seed and index are integers from 0 to 2**32 - 1."""
        seed, index = plain(seed), plain(index)
        for name, value in {"seed": seed, "index": index}.items():
            if type(value) is not int or not 0 <= value <= MAX_SEED:
                raise ConfigError(
                    f"{name} must be a whole number from 0 to {MAX_SEED}, got {value!r}"
                )
        self.state = (0, seed, index, 1)
        for _ in range(WARM_UP):
            self.next()

    def next(self) -> int:
        """Returns the next 32 bits."""
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
        """Returns the next number in [0, 1), a multiple of 2**-32."""
        return self.next() / 4294967296.0


class Sampler:
    """Samples the ids of one text.

    The text depends on the predictor, the ids fed, the filters and guides, and (seed, index):
    sample i of a seed does not depend on the other samples.

    Attributes:
        nats: the surprisal of all chosen ids, unfiltered and at temperature 1.
        last_nats: the surprisal of the latest chosen id.
        tokens: the number of chosen ids.
        forbidden: ids that may not be chosen now.
        unread: the latest chosen id until the predictor reads it, which happens when the next
            logits are needed, or in `read_together`.
    """

    def __init__(
        self,
        predictor: Predictor,
        seed: int,
        index: int = 0,
        filters: Mapping[str, float] | None = None,
        guides: Sequence[Guide] = (),
    ) -> None:
        """Starts before the first token.

        Args:
            filters: maps names in `FILTERS` to settings.
            guides: belong to this sampler. They read text, so the caller of `feed` gives them the
                text of the fed ids.

        Raises:
            ConfigError: seed, index or a setting is out of range, or a filter is unknown.
        """
        self._predictor = predictor
        self._generator = Sfc32(seed, index)
        active = active_filters(filters or {})
        self._penalties = [each for each in active if each[0] in PENALTIES]
        self._filters = [each for each in active if each[0] not in PENALTIES]
        self.guides = tuple(guides)
        self._start = predictor.initial_state()
        self._stream: Stream | None = None  # until something is fed
        self._recent: deque[int] = deque(maxlen=RECENT)
        self.forbidden: Collection[int] = ()
        others = [apply for apply, _ in active if apply is not temperature]
        self._only_temperature = not others and not guides
        self._temperature = active[0][1] if active else 1.0
        self.unread: int | None = None
        self.nats = 0.0
        self.tokens = 0
        self.last_nats = 0.0

    def feed(self, ids: Iterable[int]) -> None:
        """Reads ids that were not chosen here, such as a prompt."""
        tokens = [int(token) for token in ids]
        if tokens:
            state = self._settled().state if self._stream else self._start
            self._stream = self._predictor.open(*self._predictor.feed(tokens, state))
            self._recent.extend(tokens)

    def stream(self, max_tokens: int) -> Iterator[int]:
        """Chooses up to `max_tokens` ids; stops early when a guide ends the text.

        A later call continues.

        Raises:
            CharnnError: nothing was fed, the logits are not finite, or the guides rule out every
                token.
        """
        for _ in range(max_tokens):
            if self.guides and self.over:
                return
            token = self._choose()
            for guide in self.guides:
                guide.push(token)
            yield token

    def repeat(self, ids: Iterable[int]) -> None:
        """Reads given ids like ids that `stream` chose: each takes a number of the generator.

        Raises:
            CharnnError: see `stream`.
        """
        for token in ids:
            nats = self.surprisal(int(token))
            self._generator.next()
            self._take(int(token), nats)

    def surprisal(self, token: int) -> float:
        """Returns the nats of `token` as the next one: unfiltered, at temperature 1.

        Raises:
            CharnnError: see `stream`.
        """
        stream = self._settled()
        stream.finite_logits()
        return stream.surprisal(token)

    def log_probabilities(self) -> NDArray[np.float64]:
        """Returns log-probabilities of the next token (V,): unfiltered, at temperature 1.

        Raises:
            CharnnError: see `stream`.
        """
        logits = self._settled().finite_logits()
        logits -= logits.max()
        logits -= math.log(np.exp(logits).sum())
        return logits

    def _settled(self) -> Stream:
        """Reads the unread token, if there is one; returns the stream."""
        if self._stream is None:
            raise CharnnError("the sampler has read nothing: feed it at least one token first")
        if self.unread is not None:
            self._stream.read(self.unread)
            self.unread = None
        return self._stream

    @property
    def over(self) -> bool:
        """True if a guide reports that the text is complete."""
        return any(guide.over for guide in self.guides)

    @property
    def cut(self) -> bool:
        """True if the latest token ended the text and is not part of it."""
        return any(guide.cut for guide in self.guides)

    def _choose(self) -> int:
        """Chooses a token by the filters and guides."""
        stream = self._settled()
        if self._only_temperature and not self.forbidden:
            token = stream.choose(self._temperature, self._generator.uniform())
        else:
            token = draw(self._filtered(stream), self._generator.uniform())
        self._take(token, stream.surprisal(token))
        return token

    def _filtered(self, stream: Stream) -> NDArray[np.float64]:
        """Returns the logits after all filters and guides."""
        logits = stream.finite_logits()
        for apply, setting in self._penalties:
            logits = apply(logits, setting, self._recent)
        if self.forbidden:
            logits = logits.copy()
            logits[list(self.forbidden)] = -math.inf
        if self.guides:
            for guide in self.guides:
                logits = guide.mask(logits)
            if logits[logits.argmax()] == -math.inf:
                raise CharnnError(
                    "all tokens are ruled out together here: ban less, or allow longer copies"
                )
        for apply, setting in self._filters:
            logits = apply(logits, setting, self._recent)
        return logits

    def _take(self, token: int, nats: float) -> None:
        """Records a chosen token."""
        self.unread, self.last_nats = token, nats
        self.nats += nats
        self._recent.append(token)
        self.tokens += 1

    def state_dict(self) -> dict[str, Any]:
        """Copies everything that the next ids depend on: a few kB of arrays and numbers.

        Loaded into another sampler of the same predictor, filters and guides, it makes a fork.
        """
        stream = self._settled() if self._stream else None
        return {
            "generator": np.array(self._generator.state, np.uint32),
            "recent": np.array(self._recent, np.int64),
            "logits": stream.logits.copy() if stream else np.empty(0, np.float32),
            "nats": self.nats,
            "tokens": self.tokens,
            "state": (stream.state if stream else self._start).copy(),
            "guides": [guide.state for guide in self.guides],
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Continues where the sampler that gave `values` was.

        Raises:
            CharnnError: `values` belong to a model of another shape or to other guides; the sampler
                is unchanged.
        """
        shape = np.shape(values.get("state", ()))
        if values.keys() != STATE_KEYS or shape != self._start.shape:
            raise CharnnError(
                f"the sampler state has the shape {shape}, this model's {self._start.shape}: load "
                "it with the model that made it"
            )
        if len(values["guides"]) != len(self.guides):
            raise CharnnError(
                f"the sampler state has {len(values['guides'])} guides, this sampler "
                f"{len(self.guides)}: load it with the settings that made it"
            )
        for guide, state in zip(self.guides, values["guides"], strict=True):
            guide.state = state
        a, b, c, counter = (int(word) for word in values["generator"])
        self._generator.state = (a, b, c, counter)
        self._recent = deque((int(token) for token in values["recent"]), maxlen=RECENT)
        logits, state = (np.array(values[name], np.float32) for name in ("logits", "state"))
        self._stream = self._predictor.open(logits, state) if logits.size else None
        self.nats, self.tokens = float(values["nats"]), int(values["tokens"])
        self.unread = None


def read_together(samplers: Sequence[Sampler], predictor: Predictor) -> None:
    """Reads the unread tokens of all samplers in one batch of their predictor.

    An exact predictor gives each sampler the bits that it would get alone. With any other
    predictor, each sampler reads its token alone.
    """
    streams, tokens = [], []
    if not predictor.exact:
        for each in samplers:
            each._settled()
    for each in samplers:
        if each.unread is not None and each._stream is not None:
            streams.append(each._stream)
            tokens.append(each.unread)
            each.unread = None
    if streams:
        states = np.stack([stream.state for stream in streams])
        logits = predictor.step_batch(tokens, states)
        for stream, new_logits, new_state in zip(streams, logits, states, strict=True):
            stream.load(new_logits, new_state)
