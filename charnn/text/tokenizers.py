"""Text to ids and back: characters, bytes, sentencepiece; one contract, and nothing is lost.

From one table, `Tokenizer.token_bytes`, follow decoding, streaming and counting. Bytes that are
not UTF-8 travel in strings as Python's surrogate escapes, and leave as the same bytes.
To add a tokenizer, add a class and its line in `TOKENIZERS`.
"""

from __future__ import annotations

import codecs
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from charnn.config import MAX_VOCAB_SIZE
from charnn.errors import ConfigError, DamagedFile
from charnn.text import sentencepiece_training
from charnn.text.unknown import check_choice, nearest, not_a_character, unknown_character

Ids = np.ndarray[Any, np.dtype[Any]]

SURROGATES = re.compile("[\ud800-\udfff]")
NOT_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # those that no surrogate escape makes


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint8, uint16 and uint32 that holds every id, little endian."""
    return np.dtype("<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4")


def code_points(text: str) -> Ids:
    """The code points of `text`, uint32; surrogates too."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class StreamDecoder:
    """Turns ids into text one at a time, and never shows a part of a character."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def push(self, token: int) -> str:
        """The text that `token` completes; often one character, perhaps none yet."""
        return self._decoder.decode(self._token_bytes[token])

    def flush(self) -> str:
        """What is left of a character that never became whole, as surrogate escapes."""
        left = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return left


class Tokenizer(ABC):
    """A vocabulary of V tokens.

    Attributes:
        token_bytes: for each id, the bytes it stands for.
        known: the characters to choose from for one that is not known.
    """

    kind: ClassVar[str]
    token_bytes: list[bytes]
    known: Collection[str] = ()

    @property
    def vocab_size(self) -> int:
        """V: ids run from 0 to V - 1."""
        return len(self.token_bytes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the ids that `encode` gives."""
        return id_dtype(self.vocab_size)

    @abstractmethod
    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """The ids of `text`, in the smallest of uint8, uint16 and uint32.

        Args:
            unknown: "error", "skip" what is not known, or "replace" it by the nearest known.
            offset: characters that came before `text`, for the place that an error names.

        Raises:
            UnknownCharacter: something in `text` is not known.
        """

    def unknown_in(self, text: str) -> dict[str, int]:
        """The characters of `text` that are not known, and how often each comes."""
        characters = dict.fromkeys(text)
        return {c: text.count(c) for c in characters if not len(self.encode(c, "skip"))}

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The kind and what else restores it, as JSON values and arrays."""

    @classmethod
    @abstractmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tokenizer:
        """Inverse of `to_dict`; raises ValueError on garbage."""

    def extended(self, characters: Ids) -> Tokenizer:
        """One that knows these code points too; itself where it knows every character anyway."""
        return self

    def encode_bytes(self, data: bytes) -> Ids:
        """The ids of whole UTF-8 characters."""
        return self.encode(data.decode("utf-8"))

    def decode(self, ids: Iterable[int] | Ids) -> str:
        """The text of ids; bytes that are not UTF-8 become surrogate escapes."""
        listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join([self.token_bytes[i] for i in listed]).decode("utf-8", "surrogateescape")

    def stream_decoder(self) -> StreamDecoder:
        """Decodes token by token: all its pieces joined are what `decode` gives."""
        return StreamDecoder(self.token_bytes)

    @cached_property
    def bytes_per_token(self) -> Ids:
        """For each id, how many bytes it stands for: (V,) int64."""
        return np.array([len(b) for b in self.token_bytes], np.int64)

    @cached_property
    def chars_per_token(self) -> Ids:
        """For each id, how many characters begin in it: (V,) int64."""
        return np.array([sum(b & 0xC0 != 0x80 for b in t) for t in self.token_bytes], np.int64)


class CharTokenizer(Tokenizer):
    """One id per character of a known text; the vocabulary is sorted by code point."""

    kind = "char"

    def __init__(self, vocabulary: Ids) -> None:
        """`vocabulary`: (V,) code points, rising, no surrogates; ValueError if it is not that."""
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
        # Id + 1 of every code point up to the greatest known one and one more; 0 is unknown.
        self._table = np.zeros(int(codes[-1]) + 2, np.uint32)
        self._table[codes] = np.arange(1, codes.size + 1)
        ascii_codes = codes[codes < 0x80]
        self._ascii = bytes(ascii_codes.astype(np.uint8))
        self._ascii_ids = bytes.maketrans(self._ascii, bytes(range(len(self._ascii))))

    @classmethod
    def learn(cls, text: str) -> CharTokenizer:
        """The tokenizer of the characters of `text`, which must hold one."""
        if not text:
            raise ConfigError("a character tokenizer needs a text with at least one character")
        return cls(np.unique(code_points(text)))

    def extended(self, characters: Ids) -> Tokenizer:
        """See `Tokenizer.extended`; it keeps all characters that it has."""
        return CharTokenizer(np.union1d(self.vocabulary, characters))

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """See `Tokenizer.encode`."""
        check_choice(unknown)
        if text.isascii():
            data = text.encode()
            if not data.translate(None, self._ascii):
                return np.frombuffer(data.translate(self._ascii_ids), np.uint8).astype(self.dtype)
        codes = code_points(text)
        ids = self._table[np.minimum(codes, self._table.size - 1)]
        if not ids.all():
            ids = self._settle(text, codes, ids, unknown, offset)
        return (ids - 1).astype(self.dtype)

    def _settle(self, text: str, codes: Ids, ids: Ids, unknown: str, offset: int) -> Ids:
        places = np.flatnonzero(ids == 0)
        if unknown == "error":
            first = int(places[0])
            if SURROGATES.match(text[first]):
                raise not_a_character(ord(text[first]), offset + first + 1)
            raise unknown_character(text[first], offset + first + 1, self.known, len(places) - 1)
        if unknown == "replace":
            for code in np.unique(codes[places]):
                near = nearest(chr(code), self.known, 1)
                if near:
                    ids[codes == code] = self._table[ord(near[0])]
        return ids[ids > 0]

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`."""
        return {"kind": self.kind, "vocabulary": self.vocabulary}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CharTokenizer:
        """See `Tokenizer.from_dict`."""
        return cls(values["vocabulary"])


class ByteTokenizer(Tokenizer):
    """256 ids, one per byte: any file at all, UTF-8 or not."""

    kind = "byte"

    def __init__(self) -> None:
        self.token_bytes = [bytes([value]) for value in range(256)]

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """See `Tokenizer.encode`; unknown is only a surrogate that stands for no byte."""
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
        """The bytes themselves, whatever they are."""
        return np.frombuffer(data, np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`."""
        return {"kind": self.kind}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ByteTokenizer:
        """See `Tokenizer.from_dict`."""
        return cls()


class SentencePieceTokenizer(Tokenizer):
    """Frequent pieces of words (BPE), learnt from a text; the rest falls back to bytes.

    The library writes a space as U+2581, so a real U+2581 would come back as a space: the text is
    cut there, and the character goes in as its three bytes.
    """

    kind = "sentencepiece"
    PROBE = "  a \t\u2581ﬁ\r\n \0<0x41>"  # what models with other settings lose

    def __init__(self, model: bytes) -> None:
        """`model`: what `learn` made; ValueError if it is not a model that loses nothing."""
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
        self._newline = processor.piece_to_id("\n")
        bytes_of = [self.token_bytes[i] for i in (*self._byte_ids, self._newline)]
        has_space = processor.piece_to_id(sentencepiece_training.SPACE) != processor.unk_id()
        whole = has_space and bytes_of == [bytes([value]) for value in (*range(256), 10)]
        if not whole or self.decode(self.encode(self.PROBE)) != self.PROBE:
            raise ValueError("the sentencepiece model would lose characters")

    @classmethod
    def learn(cls, texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
        """Learns at most `vocab_size` pieces from `texts`, the same ones every time.

        Where the characters of the text are too many, the rarest fall back to bytes.

        Raises:
            ConfigError: `vocab_size` has no room for the 256 bytes.
        """
        return cls(sentencepiece_training.learn(texts, vocab_size))

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        """See `Tokenizer.encode`; unknown is only a byte that is not UTF-8."""
        check_choice(unknown)
        surrogate = SURROGATES.search(text)
        if surrogate and unknown == "error":
            raise not_a_character(ord(surrogate[0]), offset + surrogate.start() + 1)
        if surrogate:
            text = SURROGATES.sub("", text)
        # The newline is a piece by itself: cutting there changes nothing, and is much faster.
        lines = re.split(f"([\n{sentencepiece_training.SPACE}])", text)
        lists = self._processor.encode(lines[::2], num_threads=1)
        for index, cut in enumerate(lines[1::2]):
            lists[index] += [self._newline] if cut == "\n" else self._bytes(cut)
        return np.fromiter(itertools.chain.from_iterable(lists), self.dtype)

    def _bytes(self, character: str) -> list[int]:
        return [self._byte_ids[value] for value in character.encode()]

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`."""
        return {"kind": self.kind, "model": np.frombuffer(self.model, np.uint8)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SentencePieceTokenizer:
        """See `Tokenizer.from_dict`."""
        model = values["model"]
        if not isinstance(model, np.ndarray) or model.dtype != np.uint8 or not model.size:
            raise ValueError("the sentencepiece model is not bytes")
        return cls(model.tobytes())


TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer
    for tokenizer in (CharTokenizer, ByteTokenizer, SentencePieceTokenizer)
}


def tokenizer_from_dict(values: Mapping[str, Any], vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer that `Tokenizer.to_dict` described, of the size that its network has.

    Raises:
        DamagedFile: it describes none, or one of another size.
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise DamagedFile(f"unknown tokenizer {kind!r}: this charnn knows {known}")
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
