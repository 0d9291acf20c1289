"""Verbatim copies of the training text: `CopyGuard` prevents them, `CopyFinder` finds them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import numpy as np

from charnn.generation.guides import BytesGuide, Logits, to_bytes
from charnn.text.text_index import TextIndex
from charnn.text.tokenizers import Tokenizer

CHARACTER = 4  # the most bytes of a character in UTF-8


def characters(data: bytes) -> tuple[str, bytes]:
    """Returns the characters of `data` and the bytes of an incomplete one at its end."""
    text, used = codecs.utf_8_decode(data, "surrogateescape", False)
    return text, data[used:]


class CopyGuard(BytesGuide):
    """Rules out each token that would copy more than `longest` characters in a row.

    A copy may begin in the prompt. ``state`` holds the last `longest` characters of the text, and
    the bytes of an incomplete character at its end.
    """

    state: tuple[str, bytes]

    def __init__(self, index: TextIndex, tokenizer: Tokenizer, longest: int) -> None:
        self._index, self._longest = index, longest
        self.token_bytes = tokenizer.token_bytes
        self.state = ("", b"")
        texts = [characters(data)[0] for data in self.token_bytes]
        # By number of characters: the beginnings of tokens, each with the tokens that have it.
        most = min(longest, max(map(len, texts)))
        self._beginnings: list[dict[bytes, list[int]]] = [{} for _ in range(most + 1)]
        for token, text in enumerate(texts):
            for size in range(1, min(len(text), most) + 1):
                self._beginnings[size].setdefault(to_bytes(text[:size]), []).append(token)
        self._copies = [token for token, text in enumerate(texts) if self._holds_copy(text)]
        self._bytes = [
            (token, data) for token, data in enumerate(self.token_bytes) if len(data) == 1
        ]

    def _holds_copy(self, text: str) -> bool:
        size = self._longest + 1
        return any(
            to_bytes(text[start : start + size]) in self._index
            for start in range(len(text) - size + 1)
        )

    def read(self, data: bytes) -> None:
        text, part = self.state
        new, part = characters(part + data)
        self.state = ((text + new)[-self._longest :], part)

    def mask(self, logits: Logits) -> Logits:
        ruled_out = [*self._copies, *(self._completing() if self.state[1] else self._adding())]
        if not ruled_out:
            return logits
        masked = logits.copy()
        masked[ruled_out] = -np.inf
        return masked

    def _adding(self) -> Iterator[int]:
        """Yields the tokens with which a copy would become too long, after whole characters.

        A token is one of them if its first `size` characters complete, with those before it, a
        string of ``longest + 1`` characters that occurs in the training text.
        """
        text, index = self.state[0], self._index
        for size in range(len(self._beginnings) - 1, 0, -1):
            before = self._longest + 1 - size
            if before > len(text):
                return
            start = to_bytes(text[-before:])
            low, high = index.interval(start)
            if low == high:  # then nothing that is longer occurs either
                return
            beginnings = self._beginnings[size]
            if high - low < len(beginnings):
                following = index.after(low, high, len(start), CHARACTER * size)
                found = {to_bytes(characters(data)[0][:size]) for data in following}
            else:
                found = {data for data in beginnings if start + data in index}
            for data in found:
                yield from beginnings.get(data, ())

    def _completing(self) -> Iterator[int]:
        """Yields the tokens whose byte completes a character with which a copy is too long."""
        text, part = self.state
        start = to_bytes(text)
        if len(text) < self._longest or start + part not in self._index:
            return
        for token, data in self._bytes:
            whole, left = characters(part + data)
            if len(whole) == 1 and not left and start + part + data in self._index:
                yield token


class CopyFinder:
    """Finds the copied characters of a stream of text.

    A character is copied if it is part of a string of `span` characters or more that occurs in the
    training text; the string may begin in the prompt. The end of the text is held back while it may
    become such a string.

    Attributes:
        copied: the number of copied characters so far.
        all: the number of characters so far.
    """

    def __init__(self, index: TextIndex, span: int) -> None:
        self._index, self._span = index, span
        self._match = (
            ""  # the longest end of the text that occurs in the training text, up to `span`
        )
        self._held = ""
        self.copied = self.all = 0

    def feed(self, text: str) -> None:
        """Reads a prompt, whose characters are not counted."""
        for character in text:
            self._read(character)

    def _read(self, character: str) -> None:
        self._match = (self._match + character)[-self._span :]
        while self._match and to_bytes(self._match) not in self._index:
            self._match = self._match[1:]

    def push(self, text: str) -> list[tuple[str, bool]]:
        """Reads text; returns the pieces now known, each with whether it is copied."""
        pieces: list[tuple[str, bool]] = []
        for character in text:
            self._read(character)
            self._held += character
            if len(self._match) == self._span:
                pieces.append((self._held, True))
                self._held = ""
            elif known := self._held[: max(0, len(self._held) - len(self._match))]:
                pieces.append((known, False))
                self._held = self._held[len(known) :]
        return self._count(pieces)

    def flush(self) -> list[tuple[str, bool]]:
        """Returns the text held back, at the end of the stream."""
        held, self._held = self._held, ""
        return self._count([(held, False)] if held else [])

    def _count(self, pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
        self.all += sum(len(text) for text, _ in pieces)
        self.copied += sum(len(text) for text, copied in pieces if copied)
        return pieces
