"""Surprisal of each token of a text, and of its characters, words, lines or documents.

A text is scored in constant memory; many lines are scored at once.

Shapes: T tokens, C characters, B lines at once, V symbols, K alternatives.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.errors import CharnnError, TextError
from charnn.portable import available_cores
from charnn.predictor import NOT_FINITE, Predictor
from charnn.text.sources import TextSource
from charnn.text.text_reader import encode_pieces
from charnn.text.tokenizers import Tokenizer, code_points

Array = NDArray[Any]

BATCH_LINES = 128  # lines that one thread reads at once
BLOCK_LOGITS = 1 << 18  # logits evaluated at once: few enough for the processor's cache
CHUNK_TOKENS = 1 << 14  # tokens scored before their block is yielded
TEXT_KEPT = 10_000  # characters of a span's text; its bits and size include all characters
SPAN_PARTS = {"word": r"\S+|\s+", "line": r"[^\n]*\n|[^\n]+", "document": r"(?s:.+)"}
JOINERS = "'’‐-"  # these do not end a word if a letter follows, nor [.,] between digits


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


class ScoredBlock(NamedTuple):
    """Consecutive tokens of a document, and the characters that they complete.

    Attributes:
        document: number of the file in the text, from 0.
        surprisals: those of the tokens.
        lines, chars: (T,) line and character, from 1, at which each token begins in its document.
        text: the C characters; bytes that are not UTF-8 are surrogate escapes.
        char_bits: (C,) bits of each character. The bits of a token are shared equally by the
            characters that it completes.
        unknown: characters left out by `unknown="skip"`, with their counts.
    """

    document: int
    surprisals: Surprisals
    lines: Array
    chars: Array
    text: str
    char_bits: Array
    unknown: Counter[str]


class ScoredText(NamedTuple):
    """A text and its surprisal.

    Attributes:
        text: the C characters; bytes that are not UTF-8 are surrogate escapes.
        char_bits: (C,) bits of each character.
        tokens: the T tokens as text.
        bits: (T,) bits of each token.
    """

    text: str
    char_bits: Array
    tokens: list[str]
    bits: Array

    @property
    def bits_per_char(self) -> float:
        """Mean bits of a character."""
        return float(self.bits.sum()) / len(self.text)

    def __repr__(self) -> str:
        """Returns the text and its mean."""
        return f"<scored text {self.text[:40]!r}: {self.bits_per_char:.4f} bits/char>"

    def _repr_html_(self) -> str:
        """Returns the text for a notebook, coloured by surprisal."""
        from charnn.pages.notebook import coloured

        return coloured(self.text, self.char_bits.tolist())


class TextSpan(NamedTuple):
    """A word, line or document with its bits.

    Attributes:
        kind: "word", "line" or "document".
        document: number of the file in the text, from 0.
        line, char: where the span begins in its document, from 1.
        text: at most `TEXT_KEPT` characters; a line's without the newline, a document's empty.
        chars, bits: totals of the span; a line's with the newline.
        after, after_bits: the white space after a word, which no other word contains.
    """

    kind: str
    document: int
    line: int
    char: int
    text: str = ""
    chars: int = 0
    bits: float = 0.0
    after: str = ""
    after_bits: float = 0.0

    def extended(self, text: str, bits: float) -> TextSpan:
        """Returns the span with more text at its end."""
        if self.kind == "word" and text.isspace():
            after = (self.after + text)[:TEXT_KEPT]
            return self._replace(after=after, after_bits=self.after_bits + bits)
        shown = {"word": text, "line": text.removesuffix("\n"), "document": ""}[self.kind]
        return self._replace(
            text=self.text + shown[: TEXT_KEPT - len(self.text)],
            chars=self.chars + len(text),
            bits=self.bits + bits,
        )


class CharacterBits:
    """Turns tokens with bits into characters with bits; the totals are equal."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes, self._sizes = tokenizer.token_bytes, tokenizer.bytes_per_token
        self._one_to_one = bool((tokenizer.chars_per_token == 1).all())
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._pending, self._bits = 0, 0.0  # bytes, and bits, of an incomplete character

    def push(self, ids: Array, bits: Array, final: bool = False) -> tuple[str, Array]:
        """Returns the characters that `ids` complete, and the bits of each.

        `final` ends the text: the bytes of an incomplete character become surrogate escapes.
        """
        data = b"".join([self._bytes[token] for token in ids.tolist()])
        text = self._decoder.decode(data, final)
        if final:
            self._decoder.reset()
        if self._one_to_one:
            return text, bits
        spent = np.concatenate([[self._bits], bits])
        ends = np.cumsum(np.concatenate([[self._pending], self._sizes[ids]]))
        if not text:
            self._pending, self._bits = int(ends[-1]), float(spent.sum())
            return text, np.zeros(0)
        char_ends = np.cumsum(_utf8_sizes(code_points(text)))
        completed_by = np.minimum(np.searchsorted(ends, char_ends), len(ends) - 1)
        tokens, which, shares = np.unique(completed_by, return_inverse=True, return_counts=True)
        last = tokens.copy()
        if final:
            last[-1] = len(spent) - 1
        starts = np.concatenate([[0], last[:-1] + 1])
        sums = np.add.reduceat(spent[: last[-1] + 1], starts)
        self._pending = int(ends[-1] - char_ends[-1])
        self._bits = float(spent[last[-1] + 1 :].sum())
        return text, (sums / shares)[which]


def _utf8_sizes(codes: Array) -> Array:
    """Returns the bytes of each code point in UTF-8; a surrogate escape stands for one byte."""
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    return np.where((codes >= 0xDC80) & (codes <= 0xDCFF), 1, sizes)


def score_text(
    scorer: TokenScorer,
    tokenizer: Tokenizer,
    source: TextSource,
    reset: str = "document",
    unknown: str = "error",
) -> Iterator[ScoredBlock]:
    """Scores a text while reading it.

    Args:
        reset: where the state returns to the initial state: at each "line", at each "document" (a
            file of the text), or "never".
        unknown: "error", or "skip" to leave out characters that the model does not know.

    Raises:
        TextError: the text is not UTF-8, or has unknown characters.
    """
    ends_line = np.array([token.endswith(b"\n") for token in tokenizer.token_bytes])
    newlines = np.array([token.count(b"\n") for token in tokenizer.token_bytes], np.int64)
    parts, document = list(source.parts), 0
    encoded = encode_pieces(tokenizer, source, unknown)
    for part, pieces in groupby(encoded, lambda pair: pair[0]):
        document = parts.index(part, document)
        if reset != "never":
            scorer.reset()
        characters, missing = CharacterBits(tokenizer), Counter[str]()
        line, char, in_line = 1, 1, False
        for _, piece in pieces:
            ids = piece.ids
            missing.update(piece.unknown)  # reported with the next block: this piece may yield none
            by_line = reset == "line"
            found = _by_line(scorer, ids, ends_line, in_line) if by_line else _chunks(scorer, ids)
            for some in found:
                per_token = tokenizer.chars_per_token[some.tokens]
                breaks = newlines[some.tokens]
                lines, chars = line + np.cumsum(breaks) - breaks, char + np.cumsum(per_token)
                text, bits = characters.push(some.tokens, some.bits)
                yield ScoredBlock(document, some, lines, chars - per_token, text, bits, missing)
                missing = Counter()
                line, char = line + int(breaks.sum()), char + int(per_token.sum())
            if len(ids):
                in_line = not ends_line[ids[-1]]
        none = np.zeros(0, np.int64)
        text, bits = characters.push(none, np.zeros(0), final=True)
        if text or missing:
            rest = Surprisals(none, np.zeros(0))
            yield ScoredBlock(document, rest, none, none, text, bits, missing)


def score_string(
    text: str,
    predictor: Predictor,
    tokenizer: Tokenizer,
    start_token: int,
    by_line: bool = False,
    unknown: str = "error",
) -> ScoredText:
    """Scores a text from the initial state, or with `by_line` each of its lines.

    `unknown` is "error", or "skip" to leave out characters that the model does not know.

    Raises:
        TextError: there is nothing to score, or the text has unknown characters.
    """
    ids = tokenizer.encode(text, unknown)
    if not len(ids):
        raise TextError(
            "nothing to score: the text has no character that the model knows; give another text"
        )
    spelt = [token.decode("utf-8", "surrogateescape") for token in tokenizer.token_bytes]
    scorer = TokenScorer(predictor.twin(1), start_token, threads=1)
    if by_line:
        ends_line = np.array([token.endswith("\n") for token in spelt])
        bits = np.concatenate([each.bits for each in _by_line(scorer, ids, ends_line, False)])
    else:
        bits = scorer.read(ids).bits
    known, char_bits = CharacterBits(tokenizer).push(ids, bits, final=True)
    return ScoredText(known, char_bits, [spelt[token] for token in ids.tolist()], bits)


def _by_line(
    scorer: TokenScorer, ids: Array, ends_line: Array, in_line: bool
) -> Iterator[Surprisals]:
    """Scores ids with a reset after each line; `in_line`: they begin within a line."""
    ends, start = np.flatnonzero(ends_line[ids]) + 1, 0
    if in_line and len(ends):
        start = int(ends[0])
        yield from _chunks(scorer, ids[:start])
        scorer.reset()
        ends = ends[1:]
    if len(ends):
        yield scorer.lines(ids[start : ends[-1]], np.diff(ends, prepend=start))
        start = int(ends[-1])
    yield from _chunks(scorer, ids[start:])


def _chunks(scorer: TokenScorer, ids: Array) -> Iterator[Surprisals]:
    for start in range(0, len(ids), CHUNK_TOKENS):
        yield scorer.read(ids[start : start + CHUNK_TOKENS])


def spans(blocks: Iterable[ScoredBlock], kind: str, split: bool = False) -> Iterator[TextSpan]:
    """Yields the words, lines or documents of a text; their bits add up to the bits of the text.

    Words are separated by white space; with `split`, punctuation marks and symbols are words of
    their own. A document that begins with white space begins with an empty word.
    """
    for document, some in groupby(blocks, lambda block: block.document):
        line = char = 1
        span = TextSpan(kind, document, line, char)
        pieces: Iterable[tuple[str, Array]] = ((block.text, block.char_bits) for block in some)
        for block, char_bits in _at_spaces(pieces) if split else pieces:
            pattern = _word_or_marks(block) if split else SPAN_PARTS[kind]
            parts = list(re.finditer(pattern, block))
            if not parts:
                continue
            sums = np.add.reduceat(char_bits, [part.start() for part in parts])
            for part, bits in zip(parts, sums.tolist(), strict=True):
                text = part.group()
                ended = span.after or (split and span.chars)
                if kind == "word" and ended and not text.isspace():
                    yield span
                    span = TextSpan(kind, document, line, char)
                span = span.extended(text, bits)
                line, char = line + text.count("\n"), char + len(text)
                if kind == "line" and text.endswith("\n"):
                    yield span
                    span = TextSpan(kind, document, line, char)
        if span.chars or span.after or kind == "document":
            yield span


def _at_spaces(pieces: Iterable[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
    """Yields characters and their bits in parts that end after white space, or are very long."""
    held, held_bits = "", np.zeros(0)
    for text, bits in pieces:
        held, held_bits = held + text, np.concatenate([held_bits, bits])
        last = re.search(r"\S*\Z", held)
        end = len(held) if last is None or len(last[0]) > TEXT_KEPT else last.start()
        yield held[:end], held_bits[:end]
        held, held_bits = held[end:], held_bits[end:]
    yield held, held_bits


def _word_or_marks(text: str) -> str:
    """Returns a pattern of words, runs of punctuation marks and symbols, and white space."""
    found = sorted({c for c in text if unicodedata.category(c)[0] in "PS"})
    marks = re.escape("".join(found))
    word = rf"[^\s{marks}]+"
    joined = rf"{word}(?:(?:[{JOINERS}]|(?<=\d)[.,](?=\d)){word})*"
    return rf"{joined}|[{marks}]+|\s+" if marks else rf"{word}|\s+"
