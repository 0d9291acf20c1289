"""Tokenizers: text to ids and back, by characters, by bytes, or by sentencepiece. Nothing is lost.

Decoding, streaming and counting follow from one table, `Tokenizer.token_bytes`. Bytes that are not
UTF-8 are surrogate escapes in a Python string, and come out as the same bytes.

To add a tokenizer, write a subclass of `Tokenizer` and add it to `TOKENIZERS`. Code outside this
module reads the attributes of the class and never compares `kind`.
Shapes: V tokens in the vocabulary.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from charnn.config import MAX_VOCAB_SIZE
from charnn.errors import ConfigError, DamagedFile, UnknownCharacter
from charnn.text import sentencepiece_training
from charnn.text.unknown_characters import (
    check_choice,
    nearest,
    not_a_character,
    unknown_character,
)

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

Ids = np.ndarray[Any, np.dtype[Any]]

SURROGATES = re.compile("[\ud800-\udfff]")
NOT_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that escape no byte


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Returns the smallest of uint8, uint16 and uint32, little endian, that holds every id."""
    return np.dtype("<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def code_points(text: str) -> Ids:
    """Returns the code points of `text` as uint32, surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class StreamDecoder:
    """A decoder of ids one at a time that never shows part of a character."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def push(self, token: int) -> str:
        """Returns the characters that `token` completes; "" if none."""
        return self._decoder.decode(self._token_bytes[token])

    def flush(self) -> str:
        """Returns the bytes of an incomplete last character as surrogate escapes."""
        left = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return left


class Tokenizer(ABC):
    """A vocabulary of V tokens, with the way from text to ids and back.

    Attributes of the class:
        kind: its name in files and after ``--tokenizer``.
        unit, units: the word for one token, and for several.
        any_bytes: it takes bytes that are not UTF-8; `encode_bytes` takes any bytes then.
        takes_vocab_size: a person may choose the size of the vocabulary.
        passes: how often writing a token file reads the text: 2, or 3 to learn from the text.
        chars_per_id: the approximate number of characters of one token.
        spelling: the rule by which a program without charnn encodes a prompt: "characters" (one
            token a character), "bytes" (the id is the byte), "merges" (BPE by `merge_scores`), or
            None where there is no such rule.
    Attributes of an instance:
        token_bytes: for each id, the bytes that it stands for.
        known: the characters that the tokenizer knows; empty where it knows all.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]
    units: ClassVar[str]
    any_bytes: ClassVar[bool] = False
    takes_vocab_size: ClassVar[bool] = False
    passes: ClassVar[int] = 2
    chars_per_id: ClassVar[float] = 1.0
    spelling: ClassVar[str | None] = None
    token_bytes: list[bytes]
    known: Collection[str] = ()

    @classmethod
    def learn(cls, texts: Iterable[str], vocab_size: int | None = None) -> Self:
        """Learns a vocabulary from a text in memory; see `from_text`."""
        text = "".join(texts)
        return cls.from_text([text], np.unique(code_points(text)), len(text), vocab_size)

    @classmethod
    @abstractmethod
    def from_text(
        cls, texts: Iterable[str], characters: Ids, total: int, vocab_size: int | None
    ) -> Self:
        """Learns a vocabulary from a text; the same text gives the same vocabulary.

        Args:
            texts: the training text in chunks; not read where `passes` is 2.
            characters: the code points of the text, rising.
            total: the number of characters in `texts`.
            vocab_size: the largest V, where `takes_vocab_size`; chosen by the text if None.

        Raises:
            ConfigError: `vocab_size` is out of range.
        """

    @abstractmethod
    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """Returns the ids of `text` as `dtype`.

        Args:
            unknown: "error", "skip" unknown characters, or "replace" them by the nearest known.
            offset: characters before `text`, for the position that an error names.

        Raises:
            UnknownCharacter: `text` holds an unknown character.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Returns the kind and the parts that restore the tokenizer, as JSON values and arrays."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Restores what `to_dict` gave; raises ValueError where `values` are damaged."""

    @property
    def vocab_size(self) -> int:
        """V; ids run from 0 to V - 1."""
        return len(self.token_bytes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the ids that `encode` gives."""
        return id_dtype(self.vocab_size)

    def for_characters(self, characters: Ids) -> Tokenizer:
        """Returns the tokenizer of a text with these code points; `self` where it knows all."""
        return self

    def encode_bytes(self, data: bytes) -> Ids:
        """Returns the ids of bytes that hold whole UTF-8 characters."""
        return self.encode(data.decode("utf-8"))

    def unknown_in(self, text: str) -> dict[str, int]:
        """Counts each character of `text` that is unknown."""
        characters = dict.fromkeys(text)
        return {c: text.count(c) for c in characters if not len(self.encode(c, "skip"))}

    def spelled(self, text: str) -> str:
        """Returns `text`, or its Unicode form NFC or NFD if that has fewer unknown characters."""
        if not self.unknown_in(text):
            return text
        forms = text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
        return min(forms, key=lambda form: len(self.unknown_in(form)))

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """Returns the text of ids; bytes that are not UTF-8 become surrogate escapes."""
        listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join([self.token_bytes[i] for i in listed]).decode("utf-8", "surrogateescape")

    def stream_decoder(self) -> StreamDecoder:
        """Returns a decoder whose joined outputs equal the result of `decode`."""
        return StreamDecoder(self.token_bytes)

    def token_count(self, chars: int | None, size: int) -> int | None:
        """Returns the number of ids of `chars` characters in `size` bytes; None if texts differ."""
        return {"characters": chars, "bytes": size}.get(self.spelling or "")

    def merge_scores(self) -> list[float | None] | None:
        """Returns the rank of each piece, highest merged first, where `spelling` is "merges"."""
        return None

    @cached_property
    def newline(self) -> int | None:
        """The id of a newline; None if no id stands for a newline alone."""
        try:
            ids = self.encode("\n")
        except UnknownCharacter:
            return None
        return int(ids[0]) if len(ids) == 1 else None

    @cached_property
    def bytes_per_token(self) -> Ids:
        """The number of bytes of each id: (V,) int64."""
        return np.array([len(b) for b in self.token_bytes], np.int64)

    @cached_property
    def chars_per_token(self) -> Ids:
        """The number of characters that begin in each id: (V,) int64."""
        return np.array([sum(b & 0xC0 != 0x80 for b in t) for t in self.token_bytes], np.int64)


class CharTokenizer(Tokenizer):
    """One id for each character of the text, in the order of code points."""

    kind = "char"
    unit, units = "character", "characters"
    spelling = "characters"

    def __init__(self, vocabulary: Ids) -> None:
        """Takes (V,) rising code points without surrogates; raises ValueError for others."""
        codes = np.asarray(vocabulary)
        if codes.ndim != 1 or codes.dtype.kind not in "iu" or not 0 < codes.size <= MAX_VOCAB_SIZE:
            raise ValueError("the vocabulary is not a list of code points")
        codes = codes.astype(np.int64)
        surrogates = (codes >= 0xD800) & (codes <= 0xDFFF)
        if codes[0] < 0 or codes[-1] > 0x10FFFF or np.any(np.diff(codes) <= 0) or surrogates.any():
            raise ValueError("the vocabulary is not made of rising code points")
        self.vocabulary = codes.astype("<u4")
        characters = codes.astype("<u4").tobytes().decode("utf-32-le")
        self.token_bytes = [character.encode() for character in characters]
        self.known = dict.fromkeys(characters)
        # Id + 1 of each code point up to the highest known one, and one more; 0 is unknown.
        self._table = np.zeros(int(codes[-1]) + 2, np.uint32)
        self._table[codes] = np.arange(1, codes.size + 1)
        ascii_codes = codes[codes < 0x80]
        self._ascii = bytes(ascii_codes.astype(np.uint8))
        self._ascii_ids = bytes.maketrans(self._ascii, bytes(range(len(self._ascii))))

    @classmethod
    def from_text(
        cls, texts: Iterable[str], characters: Ids, total: int, vocab_size: int | None
    ) -> Self:
        """See `Tokenizer.from_text`; raises ConfigError where the text is empty."""
        if not len(characters):
            raise ConfigError("a character tokenizer needs a text of at least one character")
        return cls(characters)

    def for_characters(self, characters: Ids) -> CharTokenizer:
        return CharTokenizer(characters)

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        check_choice(unknown)
        if text.isascii():  # a table of bytes is three times as fast
            data = text.encode()
            if not data.translate(None, self._ascii):
                return np.frombuffer(data.translate(self._ascii_ids), np.uint8).astype(self.dtype)
        codes = code_points(text)
        ids = self._table[np.minimum(codes, self._table.size - 1)]
        if ids.all():
            return (ids - 1).astype(self.dtype)
        places = np.flatnonzero(ids == 0)
        if unknown == "error":
            first = int(places[0])
            if SURROGATES.match(text[first]):
                raise not_a_character(ord(text[first]), offset + first + 1)
            raise unknown_character(text[first], offset + first + 1, self.known, len(places) - 1)
        if unknown == "replace":
            for code in np.unique(codes[places]):
                if near := nearest(chr(code), self.known, 1):
                    ids[codes == code] = self._table[ord(near[0])]
        return (ids[ids > 0] - 1).astype(self.dtype)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "vocabulary": self.vocabulary}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["vocabulary"])


class ByteTokenizer(Tokenizer):
    """256 ids, one for each byte; any file can be read."""

    kind = "byte"
    unit, units = "byte", "bytes"
    any_bytes = True
    spelling = "bytes"

    def __init__(self) -> None:
        self.token_bytes = [bytes([value]) for value in range(256)]

    @classmethod
    def from_text(
        cls, texts: Iterable[str], characters: Ids, total: int, vocab_size: int | None
    ) -> Self:
        """See `Tokenizer.from_text`; there is nothing to learn."""
        return cls()

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """See `Tokenizer.encode`; only a surrogate that escapes no byte is unknown."""
        check_choice(unknown)
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            if unknown == "error":
                code = ord(text[error.start])
                raise not_a_character(code, offset + error.start + 1) from None
            data = NOT_BYTES.sub("", text).encode("utf-8", "surrogateescape")
        return self.encode_bytes(data).copy()

    def encode_bytes(self, data: bytes) -> Ids:
        """Returns the bytes themselves as ids."""
        return np.frombuffer(data, np.uint8)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls()


class SentencePieceTokenizer(Tokenizer):
    """Frequent pieces of words (BPE), learnt from the text; all else is encoded as bytes.

    The library spells a space as U+2581, and would decode a real U+2581 as a space: `encode` cuts
    the text there and encodes the character as its three bytes.
    """

    kind = "sentencepiece"
    unit, units = "piece", "pieces"
    takes_vocab_size = True
    passes = 3
    chars_per_id = 10 / 3
    spelling = "merges"
    PROBE = "  a \t\u2581ﬁ\r\n \0<0x41>"  # models with other settings change this text

    def __init__(self, model: bytes) -> None:
        """Takes the model that `learn` made; raises ValueError for one that loses characters."""
        from sentencepiece import SentencePieceProcessor  # 50 ms that other tokenizers save

        self.model = model
        try:
            self._processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise ValueError("it is not a sentencepiece model") from None
        processor = self._processor
        self.token_bytes = []
        for token in range(processor.vocab_size()):
            piece = processor.id_to_piece(token)
            if processor.is_byte(token):
                self.token_bytes.append(bytes([int(piece[3:5], 16)]))
            elif processor.is_unknown(token) or processor.is_control(token):
                self.token_bytes.append(b"")
            else:
                self.token_bytes.append(piece.replace(sentencepiece_training.SPACE, " ").encode())
        self._byte_ids = [processor.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
        self._newline_id = processor.piece_to_id("\n")
        bytes_of = [self.token_bytes[i] for i in (*self._byte_ids, self._newline_id)]
        has_space = processor.piece_to_id(sentencepiece_training.SPACE) != processor.unk_id()
        whole = has_space and bytes_of == [bytes([value]) for value in (*range(256), 10)]
        if not whole or self.decode(self.encode(self.PROBE)) != self.PROBE:
            raise ValueError("the sentencepiece model would lose characters")

    @classmethod
    def from_text(
        cls, texts: Iterable[str], characters: Ids, total: int, vocab_size: int | None
    ) -> Self:
        """See `Tokenizer.from_text`; of too many characters, the rarest get no piece."""
        if vocab_size is None:
            vocab_size = sentencepiece_training.auto_vocab_size(total, len(characters))
        sample = sentencepiece_training.sample(texts, total)
        return cls(sentencepiece_training.train(sample, vocab_size))

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """See `Tokenizer.encode`; only a byte that is not UTF-8 is unknown."""
        check_choice(unknown)
        surrogate = SURROGATES.search(text)
        if surrogate and unknown == "error":
            raise not_a_character(ord(surrogate[0]), offset + surrogate.start() + 1)
        if surrogate:
            text = SURROGATES.sub("", text)
        # No piece crosses a newline, so cutting there changes no id; it is much faster.
        lines = re.split(f"([\n{sentencepiece_training.SPACE}])", text)
        lists = self._processor.encode(lines[::2], num_threads=1)
        for index, cut in enumerate(lines[1::2]):
            lists[index] += (
                [self._newline_id] if cut == "\n" else [self._byte_ids[b] for b in cut.encode()]
            )
        return np.fromiter(itertools.chain.from_iterable(lists), self.dtype)

    def merge_scores(self) -> list[float | None]:
        """See `Tokenizer.merge_scores`; None for a byte, and for an id that `encode` never gives.

        Raises:
            DamagedFile: a score is not finite.
        """
        processor = self._processor
        scores = [
            None
            if processor.is_byte(i) or processor.is_unknown(i) or processor.is_control(i)
            else processor.get_score(i) + 0.0  # makes -0.0 a plain 0.0
            for i in range(processor.vocab_size())
        ]
        if not all(score is None or np.isfinite(score) for score in scores):
            raise DamagedFile("the sentencepiece tokenizer is damaged: its scores are not finite")
        return scores

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "model": np.frombuffer(self.model, np.uint8)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        model = values["model"]
        if not isinstance(model, np.ndarray) or model.dtype != np.uint8 or not model.size:
            raise ValueError("the sentencepiece model is not bytes")
        return cls(model.tobytes())


TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer
    for tokenizer in (CharTokenizer, ByteTokenizer, SentencePieceTokenizer)
}


def tokenizer_class(tokenizer: str | Tokenizer, vocab_size: int | None = None) -> type[Tokenizer]:
    """Returns the class of a tokenizer, or of a kind by its name.

    Raises:
        ConfigError: there is no such kind, or it takes no `vocab_size`.
    """
    if isinstance(tokenizer, Tokenizer):
        found = type(tokenizer)
    elif tokenizer in TOKENIZERS:
        found = TOKENIZERS[tokenizer]
    else:
        raise ConfigError(f"unknown --tokenizer {tokenizer!r}: choose from {', '.join(TOKENIZERS)}")
    if vocab_size is not None and not found.takes_vocab_size:
        sized = ", ".join(name for name, each in TOKENIZERS.items() if each.takes_vocab_size)
        raise ConfigError(
            f"--vocab-size {vocab_size} is not for --tokenizer {found.kind}: leave it out, or "
            f"choose --tokenizer {sized}"
        )
    return found


def tokenizer_from_dict(values: Mapping[str, Any], vocab_size: int | None = None) -> Tokenizer:
    """Restores the tokenizer that `Tokenizer.to_dict` described.

    Args:
        vocab_size: the V of the network that goes with it, checked if given.

    Raises:
        DamagedFile: `values` describe no tokenizer, or one of another size.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise DamagedFile(f"unknown tokenizer {kind!r}: this charnn knows {', '.join(TOKENIZERS)}")
    try:
        tokenizer = TOKENIZERS[kind].from_dict(values)
        if set(tokenizer.to_dict()) != set(values):
            raise ValueError("it has parts that do not belong to it")
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"the {kind} tokenizer is damaged: {error}") from None
    if vocab_size is not None and tokenizer.vocab_size != vocab_size:
        raise DamagedFile(
            f"the model is damaged: its tokenizer has {tokenizer.vocab_size:,} tokens, "
            f"its network {vocab_size:,}"
        )
    return tokenizer
