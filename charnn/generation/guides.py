"""Guides: restrictions of the next token that depend on the text so far.

A guide masks the logits of each step, between the penalties and the temperature. It reads the whole
text as bytes, since a token may hold several characters and a character several tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.errors import ConfigError
from charnn.text.tokenizers import Tokenizer

Logits = NDArray[np.float64]


class Guide:
    """Follows the text and masks the tokens that may not come next.

    Attributes:
        state: everything that changes while reading; small, replaced, never changed in place.
            Another guide of the same settings can continue from it.
        over: whether the text is complete, so that nothing may follow.
        cut: whether the latest token ended the text and is not part of it.
    """

    state: Any = None
    over = False
    cut = False

    def feed(self, text: str) -> None:
        """Reads text that was not chosen: a prompt."""

    def mask(self, logits: Logits) -> Logits:
        """Returns logits (V,), -inf for ruled-out tokens: a new array if anything changes."""
        return logits

    def push(self, token: int) -> None:
        """Reads a chosen token."""


class TokenBias(Guide):
    """Adds a bias to the logits of single tokens, at every step."""

    def __init__(self, biases: Mapping[int, float], vocab_size: int) -> None:
        self._biases = np.zeros(vocab_size)
        self._biases[list(biases)] = list(biases.values())

    def mask(self, logits: Logits) -> Logits:
        return logits + self._biases


class BytesGuide(Guide, ABC):
    """A guide that reads prompt and tokens as bytes; ``token_bytes`` holds the bytes of each id."""

    token_bytes: Sequence[bytes]

    def feed(self, text: str) -> None:
        self.read(to_bytes(text))

    def push(self, token: int) -> None:
        self.read(self.token_bytes[token])

    @abstractmethod
    def read(self, data: bytes) -> None:
        """Replaces ``state`` by the state after `data`."""


class Phrases(BytesGuide):
    """Adds a bias to each token that would complete a phrase; -inf bans the phrase.

    Phrases are compared as bytes: one may begin in the prompt or in earlier tokens, or be part of a
    token. ``state`` is the longest end of the text that begins a phrase. A beginning is banned too
    if every token after it is, so that a token is always left.
    """

    state: bytes

    def __init__(self, tokenizer: Tokenizer, biases: Mapping[str, float]) -> None:
        """Raises ConfigError if the bans leave nothing to write."""
        self.token_bytes = tokenizer.token_bytes
        self._biases = {to_bytes(text): value for text, value in biases.items()}
        self._prepare()
        self.state = b""
        # The beginning of a phrase is banned too if every token after it is, which may leave a
        # shorter beginning without a token; tokens without bytes do not count.
        writable = np.array([bool(data) for data in self.token_bytes])
        pending = True
        while pending:
            pending = False
            for start in self._starts:
                left = np.isfinite(self._vector(start)) & writable
                if not left.any() and self._biases.get(start) != -np.inf:
                    if not start:
                        raise ConfigError("the bans leave nothing to write: ban less")
                    self._biases[start] = -np.inf
                    pending = True
            self._prepare()

    def _prepare(self) -> None:
        phrases = self._biases
        self._starts = {p[:size] for p in phrases for size in range(len(p))} or {b""}
        self._longest = max(map(len, self._starts))
        self._vectors: dict[bytes, Logits] = {}
        # Ends of phrases, each with the tokens that begin with it.
        ends = {phrase[cut:] for phrase in phrases for cut in range(1, len(phrase))}
        sizes = {len(end) for end in ends}
        self._begun: dict[bytes, list[int]] = {}
        self._whole = np.zeros(len(self.token_bytes))
        for token, data in enumerate(self.token_bytes):
            for size in sizes:
                if data[:size] in ends and len(data) >= size:
                    self._begun.setdefault(data[:size], []).append(token)
        for phrase, bias in phrases.items():
            holds = [token for token, data in enumerate(self.token_bytes) if phrase in data]
            self._whole[holds] += bias

    def _vector(self, start: bytes) -> Logits:
        """Returns the biases (V,) after a text that ends in `start`."""
        if start not in self._vectors:
            added = self._whole.copy()
            for phrase, bias in self._biases.items():
                tokens: set[int] = set()
                for cut in range(1, min(len(phrase), len(start) + 1)):
                    if start.endswith(phrase[:cut]):
                        tokens.update(self._begun.get(phrase[cut:], ()))
                # A token that contains the whole phrase already has its bias.
                added[[token for token in tokens if phrase not in self.token_bytes[token]]] += bias
            self._vectors[start] = added
        return self._vectors[start]

    def feed(self, text: str) -> None:
        """Reads the prompt; raises ConfigError if nothing may follow it."""
        super().feed(text)
        if not np.isfinite(self._vector(self.state)).any():
            raise ConfigError(
                f"after the prompt {text[-40:]!r} the bans leave nothing to write: ban less"
            )

    def mask(self, logits: Logits) -> Logits:
        return logits + self._vector(self.state)

    def read(self, data: bytes) -> None:
        text = (self.state + data)[-self._longest :] if self._longest else b""
        self.state = next(text[cut:] for cut in range(len(text) + 1) if text[cut:] in self._starts)


def to_bytes(text: str) -> bytes:
    """Returns the bytes of a text; surrogate escapes stand for bytes that are not UTF-8.

    Raises:
        ConfigError: the text contains other surrogates.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{text[:40]!r} contains half a character: give whole characters"
        ) from None
