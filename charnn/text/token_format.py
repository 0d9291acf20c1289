"""How a token file is laid out: the metadata, the tensors, and the checks of a reader.

Tensors: what the tokenizer consists of (``tokenizer.vocabulary``, ``tokenizer.model``), then
``tokens``. The header has room for any numbers, since it is filled in when all is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from charnn.errors import DamagedFile
from charnn.tensor_file import (
    DTYPE_NAMES,
    DTYPES,
    Header,
    Tensor,
    check_kind,
    layout,
    pack_header,
    read_header,
)
from charnn.text.splits import SPLIT_NAMES
from charnn.text.tokenizers import Ids, Tokenizer, tokenizer_from_dict
from charnn.version import __version__

KIND = "tokens"
FORMAT = 1
TOKENIZER_PREFIX = "tokenizer."
ALIGNMENT = 8
HUGE = 2**61  # has as many digits as any number in a header


class Split(NamedTuple):
    """Tokens ``start`` to ``stop``, and what they stand for; ``chars`` is None without UTF-8."""

    start: int
    stop: int
    chars: int | None
    bytes: int


class Contents(NamedTuple):
    """What a token file holds; see `charnn.text.token_file.TokenFile`."""

    tokens: Ids
    tokenizer: Tokenizer
    splits: dict[str, Split]
    start_token: int
    source: dict[str, Any]
    digest: str


def metadata_of(
    tokenizer: Tokenizer, splits: Mapping[str, Split], start_token: int, source: dict[str, Any]
) -> dict[str, Any]:
    """The metadata of a token file, as JSON values."""
    values = tokenizer.to_dict()
    return {
        "kind": KIND,
        "format": FORMAT,
        "charnn": __version__,
        "tokenizer": {k: v for k, v in values.items() if not isinstance(v, np.ndarray)},
        "splits": {name: split._asdict() for name, split in splits.items()},
        "start_token": start_token,
        "source": source,
    }


def tokenizer_arrays(tokenizer: Tokenizer) -> dict[str, Ids]:
    """The tensors of a tokenizer, by their names in the file."""
    values = tokenizer.to_dict()
    return {
        TOKENIZER_PREFIX + name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray)
    }


def tensors_of(tokenizer: Tokenizer, count: int) -> dict[str, Tensor]:
    """Where the tensors of a file with `count` tokens lie."""
    arrays = tokenizer_arrays(tokenizer)
    shapes = {name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()}
    return layout({**shapes, "tokens": (DTYPE_NAMES[tokenizer.dtype], (count,))})


def header_size(tokenizer: Tokenizer, splits: tuple[str, ...], source_name: str) -> int:
    """Bytes that hold any header of such a file, and let the tokens begin at a multiple of 8."""
    split = Split(HUGE, HUGE, HUGE, HUGE)
    source = {"name": source_name, "sha256": "0" * 64, "bytes": HUGE, "chars": HUGE}
    metadata = metadata_of(tokenizer, dict.fromkeys(splits, split), HUGE, source)
    size = len(pack_header(tensors_of(tokenizer, HUGE), metadata, "0" * 64))
    before_tokens = sum(array.nbytes for array in tokenizer_arrays(tokenizer).values())
    return size + -(size + before_tokens) % ALIGNMENT


def read(file: BinaryIO, path: Path) -> Contents:
    """Reads all but the tokens, which are mapped into memory.

    Raises:
        DamagedFile: the file is damaged, of another kind, or of a newer format.
    """
    header = read_header(file, path)
    check_kind(header.metadata, KIND, FORMAT, path)
    try:
        return _parse(file, header)
    except (ValueError, KeyError, TypeError, AttributeError, DamagedFile) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from None


def _is_source(value: Any) -> bool:
    """Whether a value says what a source must: its digest and sizes."""
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    sizes = [value.get("bytes"), 0 if value.get("chars", -1) is None else value.get("chars")]
    return all(type(size) is int and size >= 0 for size in sizes)


def _parse(file: BinaryIO, header: Header) -> Contents:
    metadata = header.metadata
    values = dict(metadata["tokenizer"])
    for name, tensor in header.tensors.items():
        if name != "tokens":
            if not name.startswith(TOKENIZER_PREFIX) or len(tensor.shape) != 1:
                raise ValueError(f"tensor {name!r} does not belong there")
            file.seek(header.data_start + tensor.start)
            data = file.read(tensor.stop - tensor.start)
            values[name[len(TOKENIZER_PREFIX) :]] = np.frombuffer(data, DTYPES[tensor.dtype])
    tokenizer = tokenizer_from_dict(values)
    place = header.tensors["tokens"]
    if DTYPES[place.dtype] != tokenizer.dtype or len(place.shape) != 1 or not place.shape[0]:
        raise ValueError("its tokens are not of the type that its vocabulary needs")
    tokens = np.memmap(
        file, tokenizer.dtype, "r", offset=header.data_start + place.start, shape=place.shape
    )
    described = dict(metadata["splits"])
    splits, stop = {}, 0
    for name in SPLIT_NAMES[: len(described)]:
        split = Split(**described[name])
        counts = (split.start, split.stop, split.bytes, 0 if split.chars is None else split.chars)
        if any(type(n) is not int for n in counts) or not stop == split.start <= split.stop:
            raise ValueError("its splits do not follow each other")
        splits[name], stop = split, split.stop
    if len(splits) != len(described) or stop != len(tokens):
        raise ValueError("its splits are not the tokens")
    start_token, source, digest = metadata["start_token"], metadata["source"], metadata["digest"]
    if type(start_token) is not int or not 0 <= start_token < tokenizer.vocab_size:
        raise ValueError("its start token is not in its vocabulary")
    if not _is_source(source) or not isinstance(digest, str):
        raise ValueError("its source or its digest is missing")
    return Contents(tokens, tokenizer, splits, start_token, source, digest)
