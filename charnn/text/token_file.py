"""The token file: a text as ids, with tokenizer and splits, opened in milliseconds.

Tensors: the parts of the tokenizer (``tokenizer.vocabulary``, ``tokenizer.model``), then
``tokens``. docs/file-format.md describes the format; `charnn.text.token_writer` writes it.
Shapes: N tokens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from charnn.errors import ConfigError, DamagedFile, FileError
from charnn.tensor_file import (
    DTYPE_NAMES,
    DTYPES,
    Header,
    Tensor,
    check_digest,
    check_kind,
    damaged,
    file_errors,
    layout,
    pack_header,
    read_header,
    regular,
    start_of,
)
from charnn.text.line_breaks import DEFAULT_READING, Reading
from charnn.text.tokenizers import Ids, Tokenizer, tokenizer_from_dict
from charnn.version import __version__

SPLIT_NAMES = ("train", "valid", "test")
KIND = "tokens"
FORMAT = 1
TOKENIZER_PREFIX = "tokenizer."
ALIGNMENT = 8
HUGE = 2**61  # no number in a header has more digits
READ_BYTES = 4 << 20


class Split(NamedTuple):
    """Tokens ``start`` to ``stop`` with their size; ``chars`` is None where not UTF-8."""

    start: int
    stop: int
    chars: int | None
    bytes: int


def check_split(split: Sequence[int]) -> None:
    """Raises ConfigError unless `split` is one to three whole percentages that add up to 100."""
    whole = all(type(n) is int and n > 0 for n in split)
    if not (1 <= len(split) <= len(SPLIT_NAMES) and whole and sum(split) == 100):
        given = ",".join(map(str, split))
        raise ConfigError(
            "--split takes one to three whole percentages for train, valid and test that add up "
            f"to 100, such as 90,10; got {given}"
        )


def cut_points(total: int, split: Sequence[int]) -> list[int]:
    """Returns where each split but the first begins: floor(fraction x total)."""
    return [total * sum(split[:count]) // 100 for count in range(1, len(split))]


@dataclass(frozen=True)
class TokenFile:
    """The ids of a text, mapped into memory: only the ids that are used are read.

    Attributes:
        tokens: (N,) ids, of the smallest type that the vocabulary needs.
        splits: train, valid and test, as far as they exist, one after another.
        start_token: the token before a line: the newline, or else the text's first token.
        start: the tokens before a text: two newlines where blank lines separate paragraphs, else
            `start_token`.
        source: "name", "sha256", "bytes" and "chars" of the text as it was read, and how: the
            fields of `charnn.text.line_breaks.Reading`.
        notes: remarks on the text from writing the file; empty after `open`.
    """

    path: Path
    tokens: Ids
    tokenizer: Tokenizer
    splits: dict[str, Split]
    start_token: int
    start: list[int]
    source: dict[str, Any]
    digest: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        tokenizer: Tokenizer | None = None,
        verify: bool = True,
    ) -> TokenFile:
        """Opens a token file after checking its header and its digest.

        Args:
            tokenizer: that of the model which will read the ids, if there is one.
            verify: whether to call `verify`; without it only the header is known to be right.

        Raises:
            DamagedFile: the file is damaged, of another kind or a newer format, or was made with
                another tokenizer than `tokenizer`.
            FileError: the file cannot be read.
        """
        path = Path(path)
        try:
            with file_errors("read", path), open(path, "rb", opener=regular) as file:
                header = read_header(file, path)
                check_kind(header.metadata, KIND, FORMAT, path)
                opened = cls._parse(path, file, header)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, error) from None
        if tokenizer is not None and opened.tokenizer.token_bytes != tokenizer.token_bytes:
            raise DamagedFile(
                f"{path} was made with another tokenizer than the model's: give the text itself"
            )
        if verify:
            opened.verify()
        return opened

    @classmethod
    def _parse(cls, path: Path, file: BinaryIO, header: Header) -> TokenFile:
        """Reads all but the tokens; raises ValueError, KeyError or TypeError on damage."""
        metadata = header.metadata
        values = dict(metadata["tokenizer"])
        for name, tensor in header.tensors.items():
            if name != "tokens":
                if not name.startswith(TOKENIZER_PREFIX) or len(tensor.shape) != 1:
                    raise ValueError(f"tensor {name!r} does not belong there")
                file.seek(header.data_start + tensor.start)
                data = file.read(tensor.stop - tensor.start)
                values[name[len(TOKENIZER_PREFIX) :]] = np.frombuffer(data, DTYPES[tensor.dtype])
        try:
            tokenizer = tokenizer_from_dict(values)
        except DamagedFile as error:
            raise ValueError(str(error)) from None
        place = header.tensors["tokens"]
        if DTYPES[place.dtype] != tokenizer.dtype or len(place.shape) != 1 or not place.shape[0]:
            raise ValueError("its tokens are not of the type that its vocabulary needs")
        tokens = np.memmap(
            file, tokenizer.dtype, "r", offset=header.data_start + place.start, shape=place.shape
        )
        splits, stop = {}, 0
        described = metadata["splits"]
        for name in SPLIT_NAMES[: len(described)]:
            split = Split(**described[name])
            numbers = (*split[:2], split.bytes, 0 if split.chars is None else split.chars)
            if any(type(n) is not int for n in numbers) or not stop == split.start <= split.stop:
                raise ValueError("its splits do not follow each other")
            splits[name], stop = split, split.stop
        if len(splits) != len(described) or stop != len(tokens):
            raise ValueError("its splits do not cover its tokens")
        start_token, source, digest = (metadata[key] for key in ("start_token", "source", "digest"))
        start = start_of(metadata, tokenizer.vocab_size)
        if any(type(source.get(key, False)) is not bool for key in Reading._fields):
            raise ValueError("the facts of its source are not true or false")
        sizes = [source["bytes"], 0 if source["chars"] is None else source["chars"]]
        if any(type(size) is not int or size < 0 for size in sizes):
            raise ValueError("the sizes of its source are not whole numbers")
        if not isinstance(source["sha256"], str) or not isinstance(digest, str):
            raise ValueError("its digests are not strings")
        return cls(path, tokens, tokenizer, splits, start_token, start, source, digest)

    def split(self, name: str) -> Ids:
        """Returns the ids of one split without copying them.

        Raises:
            ConfigError: there is no such split.
        """
        if name not in self.splits:
            raise ConfigError(f"{self.path} has no split {name!r}, only {', '.join(self.splits)}")
        return self.tokens[self.splits[name].start : self.splits[name].stop]

    @property
    def valid(self) -> Ids:
        """The validation split, empty if there is none."""
        return self.split("valid") if "valid" in self.splits else self.tokens[:0]

    def verify(self) -> None:
        """Reads the whole file and compares it with its digest.

        Raises:
            DamagedFile: a byte differs, or an id is not in the vocabulary.
            FileError: the file cannot be read.
        """
        data_hash = hashlib.sha256()
        with file_errors("read", self.path), open(self.path, "rb", opener=regular) as file:
            header = read_header(file, self.path)
            file.seek(header.data_start)
            while data := file.read(READ_BYTES):
                data_hash.update(data)
        check_digest(header, data_hash, self.path)
        if header.metadata["digest"] != self.digest:
            raise FileError(f"{self.path} was replaced while it was read: try again")
        for start in range(0, len(self.tokens), READ_BYTES):
            if self.tokens[start : start + READ_BYTES].max() >= self.tokenizer.vocab_size:
                raise damaged(self.path, "it holds ids outside its vocabulary")


def metadata_of(
    tokenizer: Tokenizer, splits: Mapping[str, Split], start: list[int], source: dict[str, Any]
) -> dict[str, Any]:
    """Returns the metadata of a token file as JSON values."""
    values = tokenizer.to_dict()
    return {
        "kind": KIND,
        "format": FORMAT,
        "charnn": __version__,
        "tokenizer": {k: v for k, v in values.items() if not isinstance(v, np.ndarray)},
        "splits": {name: split._asdict() for name, split in splits.items()},
        "start_token": start[0],
        "start": start,
        "source": source,
    }


def tokenizer_arrays(tokenizer: Tokenizer) -> dict[str, Ids]:
    """Returns the tensors of a tokenizer by their names in the file."""
    values = tokenizer.to_dict().items()
    return {TOKENIZER_PREFIX + key: each for key, each in values if isinstance(each, np.ndarray)}


def tensors_of(tokenizer: Tokenizer, count: int) -> dict[str, Tensor]:
    """Returns the place of each tensor in a file with `count` tokens."""
    arrays = tokenizer_arrays(tokenizer)
    shapes = {name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()}
    return layout({**shapes, "tokens": (DTYPE_NAMES[tokenizer.dtype], (count,))})


def header_size(tokenizer: Tokenizer, splits: tuple[str, ...], source_name: str) -> int:
    """Returns a size that fits any header of such a file and aligns the tokens to 8 bytes.

    The header is filled in when all tokens are written and their number is known.
    """
    split = Split(HUGE, HUGE, HUGE, HUGE)
    source = {"name": source_name, "sha256": "0" * 64, "bytes": HUGE, "chars": HUGE}
    source |= DEFAULT_READING._asdict()
    metadata = metadata_of(tokenizer, dict.fromkeys(splits, split), [HUGE, HUGE], source)
    size = len(pack_header(tensors_of(tokenizer, HUGE), metadata, "0" * 64))
    before_tokens = sum(array.nbytes for array in tokenizer_arrays(tokenizer).values())
    return size + -(size + before_tokens) % ALIGNMENT
