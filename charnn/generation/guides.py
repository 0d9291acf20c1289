"""What narrows the choice by the text so far: one mask a step, between penalties and temperature.

A filter sees logits and recent ids; a guide reads all that is written, as bytes, since one token
may hold several characters and one character several tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.errors import ConfigError
from charnn.text.tokenizers import Tokenizer

Logits = NDArray[np.float64]


class Guide:
    """Reads along, and says at each step which tokens may follow.

    Attributes:
        state: all that changes while it reads: small, replaced and never changed in place. Put into
            another guide of the same settings, that one goes on alike.
        over: whether the text is complete, so that nothing may follow.
        cut: whether the latest token ended the text without being part of it.
    """

    state: Any = None
    over = False
    cut = False

    def feed(self, text: str) -> None:
        """Reads text that was not chosen: a prompt, as people see it."""

    def mask(self, logits: Logits) -> Logits:
        """New logits (V,), those of ruled out tokens -inf; or the same where nothing changes."""
        return logits

    def push(self, token: int) -> None:
        """Reads a token that was chosen."""


class Phrases(Guide):
    """Adds a bias to each token with which a phrase would be completed; -inf bans the phrase.

    What counts is the bytes: the phrase may begin in the prompt or in earlier tokens, or lie inside
    one token. ``state`` is the longest end of the text that begins a phrase. A text that could only
    go on with a banned phrase is banned itself, so that a token is always left.
    """

    state: bytes

    def __init__(self, tokenizer: Tokenizer, biases: Mapping[str, float]) -> None:
        """Raises ConfigError if the bans leave nothing to write."""
        self._tokens = tokenizer.token_bytes
        self._biases = {to_bytes(text): value for text, value in biases.items()}
        self._prepare()
        self.state = b""
        # Tokens without bytes are never written, and choosing nothing else would write nothing.
        writable = np.array([bool(data) for data in self._tokens])
        pending = True
        while pending:
            pending = False
            for start in self._starts:
                left = np.isfinite(self._vector(start)) & writable
                if not left.any() and self._biases.get(start) != -np.inf:
                    if not start:
                        raise ConfigError("the banned texts leave nothing to write: ban less")
                    self._biases[start] = -np.inf
                    pending = True
            self._prepare()

    def _prepare(self) -> None:
        phrases = self._biases
        self._starts = {p[:size] for p in phrases for size in range(len(p))} or {b""}
        self._longest = max(map(len, self._starts))
        self._vectors: dict[bytes, Logits] = {}
        # The beginnings of tokens that are the end of a phrase, each with its tokens.
        ends = {phrase[cut:] for phrase in phrases for cut in range(1, len(phrase))}
        sizes = {len(end) for end in ends}
        self._begun: dict[bytes, list[int]] = {}
        self._whole = np.zeros(len(self._tokens))
        for token, data in enumerate(self._tokens):
            for size in sizes:
                if data[:size] in ends and len(data) >= size:
                    self._begun.setdefault(data[:size], []).append(token)
        for phrase, bias in phrases.items():
            holds = [token for token, data in enumerate(self._tokens) if phrase in data]
            self._whole[holds] += bias

    def _vector(self, start: bytes) -> Logits:
        """What is added to the logits (V,) after a text that ends in `start`."""
        if start not in self._vectors:
            added = self._whole.copy()
            for phrase, bias in self._biases.items():
                tokens: set[int] = set()
                for cut in range(1, min(len(phrase), len(start) + 1)):
                    if start.endswith(phrase[:cut]):
                        tokens.update(self._begun.get(phrase[cut:], ()))
                # A token that holds the whole phrase besides has had its bias.
                added[[token for token in tokens if phrase not in self._tokens[token]]] += bias
            self._vectors[start] = added
        return self._vectors[start]

    def feed(self, text: str) -> None:
        """Reads the prompt; raises ConfigError where nothing may follow it."""
        self._read(to_bytes(text))
        if not np.isfinite(self._vector(self.state)).any():
            raise ConfigError("after this prompt the banned texts leave nothing to write: ban less")

    def mask(self, logits: Logits) -> Logits:
        """See `Guide.mask`."""
        return logits + self._vector(self.state)

    def push(self, token: int) -> None:
        """See `Guide.push`."""
        self._read(self._tokens[token])

    def _read(self, data: bytes) -> None:
        text = (self.state + data)[-self._longest :] if self._longest else b""
        self.state = next(text[cut:] for cut in range(len(text) + 1) if text[cut:] in self._starts)


def to_bytes(text: str) -> bytes:
    """The bytes of a text in which surrogate escapes stand for bytes that are not UTF-8.

    Raises:
        ConfigError: it holds other surrogates.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(f"{text[:40]!r} holds half a character: give whole ones") from None
