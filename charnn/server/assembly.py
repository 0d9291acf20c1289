"""From tokens to the text that a client gets: decoding, stop strings, offsets of tokens."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from charnn.generation.stopping import StopMatcher
from charnn.text.tokenizers import Tokenizer


class ScoredToken(NamedTuple):
    """A token with log-probabilities in nats.

    Attributes:
        logprob: the log-probability; None for the first token of a prompt, which is not predicted.
        top: the likeliest tokens at this place and their log-probabilities, the likeliest first.
        offset: the number of characters before the character in which the token begins.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    offset: int = 0


class Piece(NamedTuple):
    """The next part of a text.

    Attributes:
        text: the number of the text in its request.
        shown: the characters.
        tokens: the tokens that begin in them, if the request asks for log-probabilities.
        ending: in the last piece, why the text ended, the number of sampled tokens and their
            surprisal in nats; None in all others.
    """

    text: int
    shown: str
    tokens: list[ScoredToken]
    ending: tuple[str, int, float] | None = None


def by_text(pieces: Iterable[Piece]) -> dict[int, list[Piece]]:
    """Returns the pieces of each text, by the number of the text."""
    texts: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces:
        texts[piece.text].append(piece)
    return texts


class Assembly:
    """Turns the tokens of a text into characters, up to a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str] = (), offset: int = 0) -> None:
        """`offset` is the number of characters before the text."""
        self._bytes, self._decoder = tokenizer.token_bytes, tokenizer.stream_decoder()
        self._matcher = StopMatcher(stop)
        self._begun = 0  # bytes of all scored tokens
        # Tokens whose first character is incomplete, with the byte at which each begins.
        self._unplaced: deque[tuple[int, ScoredToken]] = deque()
        self._decoded, self._at = 0, offset  # bytes and characters
        self._placed: deque[ScoredToken] = deque()
        self._shown = offset

    @property
    def stopped(self) -> bool:
        """Tells whether a stop string was found."""
        return self._matcher.found

    def push(self, token: int, scored: ScoredToken | None = None) -> tuple[str, list[ScoredToken]]:
        """Takes a token; returns the characters to show now, and the tokens that begin in them."""
        if scored:
            self._unplaced.append((self._begun, scored))
            self._begun += len(self._bytes[token])
        text = self._decoder.push(token)
        self._place(text)
        return self._show(self._matcher.push(text))

    def flush(self) -> tuple[str, list[ScoredToken]]:
        """Ends the text; returns the characters and tokens that were held back."""
        text = self._decoder.flush()
        self._place(text)
        shown, tokens = self._show(self._matcher.push(text) + self._matcher.flush())
        if not self.stopped:
            tokens += self._placed
            tokens += [token._replace(offset=self._at) for _, token in self._unplaced]
        return shown, tokens

    def _place(self, text: str) -> None:
        """Finds the characters in which tokens begin."""
        if not self._unplaced:
            return
        for character in text:
            self._decoded += len(character.encode("utf-8", "surrogateescape"))
            while self._unplaced and self._unplaced[0][0] < self._decoded:
                _, token = self._unplaced.popleft()
                self._placed.append(token._replace(offset=self._at))
            self._at += 1

    def _show(self, text: str) -> tuple[str, list[ScoredToken]]:
        self._shown += len(text)
        tokens = []
        while self._placed and self._placed[0].offset < self._shown:
            tokens.append(self._placed.popleft())
        return valid(text), tokens


def valid(text: str) -> str:
    """Returns a text that can be encoded: each byte that is not UTF-8 becomes U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def token_name(data: bytes) -> str:
    r"""Returns the bytes of a token as text; incomplete characters as in "bytes:\xe2\x80"."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
