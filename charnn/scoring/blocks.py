"""A text of any size with what a model thinks of it, block by block, in constant memory.

Shapes: T tokens, C characters.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from charnn.scoring.surprisal import Array, Scorer, Surprisals
from charnn.text.sources import TextSource
from charnn.text.tokenizers import Tokenizer, code_points

STREAM_TOKENS = 1 << 14  # of a stream, scored before they are handed on


class Block(NamedTuple):
    """Tokens one after another, and the characters that they complete.

    Attributes:
        document: which file of the text, from 0.
        surprisals: of the tokens.
        lines, chars: (T,) the line that each token begins in, and the character, from 1, in its
            document.
        text: the characters; bytes that are not UTF-8 are surrogate escapes.
        char_bits: (C,) the bits of the tokens that complete each one; those that a token completes
            several of share them equally.
        unknown: the characters that were left out, and how often each.
    """

    document: int
    surprisals: Surprisals
    lines: Array
    chars: Array
    text: str
    char_bits: Array
    unknown: Counter[str]


class CharacterBits:
    """Turns tokens with bits into characters with bits; nothing is lost."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes, self._sizes = tokenizer.token_bytes, tokenizer.bytes_per_token
        self._single = tokenizer.kind == "char"
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._pending, self._bits = 0, 0.0  # bytes, and bits, of what is not whole yet

    def push(self, ids: Array, bits: Array, final: bool = False) -> tuple[str, Array]:
        """The characters that `ids` complete, and the bits of each; `final` completes all."""
        data = b"".join([self._bytes[token] for token in ids.tolist()])
        text = self._decoder.decode(data, final)
        if final:
            self._decoder.reset()
        if self._single:
            return text, bits
        spent = np.concatenate([[self._bits], bits])
        ends = np.cumsum(np.concatenate([[self._pending], self._sizes[ids]]))
        if not text:
            self._pending, self._bits = int(ends[-1]), float(spent.sum())
            return text, np.zeros(0)
        whole = np.cumsum(utf8_sizes(code_points(text)))
        done_by = np.minimum(np.searchsorted(ends, whole), len(ends) - 1)
        givers, which, shares = np.unique(done_by, return_inverse=True, return_counts=True)
        upto = givers.copy()
        if final:
            upto[-1] = len(spent) - 1
        starts = np.concatenate([[0], upto[:-1] + 1])
        sums = np.add.reduceat(spent[: upto[-1] + 1], starts)
        self._pending = int(ends[-1] - whole[-1])
        self._bits = float(spent[upto[-1] + 1 :].sum())
        return text, (sums / shares)[which]


def utf8_sizes(codes: Array) -> Array:
    """How many bytes each code point takes; a surrogate escape stands for one."""
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return np.where((codes >= 0xDC80) & (codes <= 0xDCFF), 1, sizes)


def read(
    scorer: Scorer,
    tokenizer: Tokenizer,
    source: TextSource,
    reset: str = "document",
    unknown: str = "error",
) -> Iterator[Block]:
    """Scores a text as it is read.

    Args:
        reset: where the model forgets all before: at each "line", at each "document" (a file of
            the text), or "never".
        unknown: "error", or "skip" characters that the model never saw.

    Raises:
        TextError: the text is not UTF-8, or holds what is not known.
    """
    ends_line = np.array([token.endswith(b"\n") for token in tokenizer.token_bytes])
    newlines = np.array([token.count(b"\n") for token in tokenizer.token_bytes], np.int64)
    parts = list(source.parts)
    document, line, char, offset = -1, 1, 1, 0
    characters, fresh, missing = CharacterBits(tokenizer), True, Counter[str]()
    for piece in source.pieces():
        place = parts.index(piece.part, max(document, 0))
        if place != document:
            if document >= 0 and (rest := _rest(characters, document, missing)):
                yield rest
            document, line, char, offset = place, 1, 1, 0
            missing = Counter()
            if reset != "never":
                scorer.reset()
                fresh = True
        if tokenizer.kind == "byte":
            ids = tokenizer.encode_bytes(piece.data)
        else:
            text = piece.text()
            ids = tokenizer.encode(text, unknown, offset)
            if unknown == "skip":  # a piece of nothing else has no block of its own
                missing.update(tokenizer.unknown_in(text))
            offset += len(text)
        for some, anew in _score(scorer, ids, ends_line, reset == "line", fresh):
            fresh = anew
            per_token = tokenizer.chars_per_token[some.tokens]
            breaks = newlines[some.tokens]
            lines, chars = line + np.cumsum(breaks) - breaks, char + np.cumsum(per_token)
            text, bits = characters.push(some.tokens, some.bits)
            yield Block(document, some, lines, chars - per_token, text, bits, missing)
            missing = Counter()
            line, char = line + int(breaks.sum()), char + int(per_token.sum())
    if document >= 0 and (rest := _rest(characters, document, missing)):
        yield rest


def _score(
    scorer: Scorer, ids: Array, ends_line: Array, by_line: bool, fresh: bool
) -> Iterator[tuple[Surprisals, bool]]:
    """Scores the ids of a piece; with each part, whether the next token begins anew."""
    ends = np.flatnonzero(ends_line[ids]) + 1 if by_line else np.zeros(0, np.int64)
    whole = int(ends[-1]) if len(ends) else 0
    at = 0
    if whole and not fresh:  # the rest of a line that began in an earlier piece
        at = int(ends[0])
        yield from _stream(scorer, ids[:at])
        ends, fresh = ends[1:], True
    if at < whole:
        yield scorer.lines(ids[at:whole], np.diff(ends, prepend=at)), True
    if whole < len(ids):
        if whole:
            scorer.reset()
        yield from _stream(scorer, ids[whole:])
    elif whole:
        scorer.reset()


def _stream(scorer: Scorer, ids: Array) -> Iterator[tuple[Surprisals, bool]]:
    for start in range(0, len(ids), STREAM_TOKENS):
        yield scorer.read(ids[start : start + STREAM_TOKENS]), False


def _rest(characters: CharacterBits, document: int, missing: Counter[str]) -> Block | None:
    """What a document ends with that never became a character, or was left out."""
    none = np.zeros(0, np.int64)
    text, bits = characters.push(none, np.zeros(0), final=True)
    if not text and not missing:
        return None
    return Block(document, Surprisals(none, np.zeros(0)), none, none, text, bits, missing)
