"""An index of the training text, which finds where a string occurs: a suffix array.

Made by prefix doubling (Manber & Myers 1993) over the positions that are still tied, and sorted by
`DEPTH` bytes at most, which is longer than any query. It takes 4 bytes for each byte of the text,
and is kept in a file that may be deleted at any time.

Shapes: n bytes of text.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.errors import DamagedFile, FileError, TextError
from charnn.tensor_file import check_digest, read_header, regular, write_arrays
from charnn.text.token_file import TokenFile
from charnn.version import __version__

KIND, FORMAT = "text index", 1
DEPTH = 1024  # suffixes are ordered by this number of bytes
WORD = 8
MAX_BYTES = 2**31
BLOCK = 1 << 20  # tokens or positions at a time


class TextIndex:
    """A text in which strings of up to `DEPTH` bytes are found fast."""

    def __init__(self, text: NDArray[np.uint8], order: NDArray[np.uint32]) -> None:
        """Takes the bytes (n,) and their positions (n,), ordered by the text that begins there."""
        self._text, self._order = text.data, order.data

    @classmethod
    def of(cls, data: bytes) -> TextIndex:
        """Makes the index of a text."""
        text = np.frombuffer(data, np.uint8)
        return cls(text, order_of_suffixes(text))

    def interval(self, query: bytes) -> tuple[int, int]:
        """Returns the first rank, and one past the last, of the positions where `query` occurs."""
        text, size = self._text, len(query)

        def beginning(place: int) -> bytes:
            return bytes(text[place : place + size])

        low = bisect_left(self._order, query, key=beginning)
        return low, bisect_right(self._order, query, low, key=beginning)

    def __contains__(self, query: bytes) -> bool:
        text, order, size = self._text, self._order, len(query)
        rank = bisect_left(order, query, key=lambda place: bytes(text[place : place + size]))
        return rank < len(order) and bytes(text[order[rank] : order[rank] + size]) == query

    def after(self, low: int, high: int, skip: int, size: int) -> set[bytes]:
        """Returns the strings of `size` bytes, `skip` bytes after the positions of these ranks."""
        starts = (place + skip for place in self._order[low:high])
        return {bytes(self._text[start : start + size]) for start in starts}


def order_of_suffixes(text: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Returns all positions (n,) of a text, ordered by the `DEPTH` bytes that begin there."""
    size = len(text)
    padded = np.concatenate([text, np.zeros(WORD, np.uint8)])
    # The word that begins at each byte; words overlap.
    words: NDArray[Any] = np.ndarray((size,), ">u8", padded, strides=(1,))
    order, rank = np.empty(size, np.uint32), np.empty(size, np.uint32)
    done = 0
    for first in range(256):  # one byte value at a time, to sort in little memory
        places = np.flatnonzero(text == first)[
            ::-1
        ]  # latest first: at the end, padding with zeros ties
        keys = words[places].astype(np.uint64)
        by = keys.argsort(kind="stable")
        order[done : done + len(places)] = places[by]
        rank[places[by]] = done + _firsts(keys[by])
        done += len(places)
    depth = WORD
    while depth < DEPTH:
        ranks = rank[order]
        same = np.concatenate([[False], ranks[1:] == ranks[:-1], [False]])
        tied = np.flatnonzero(same[1:] | same[:-1])
        if not tied.size:
            break
        ranks = ranks[tied]
        start = 0
        while start < len(tied):  # some whole groups of tied positions at a time
            last = ranks[min(start + BLOCK, len(tied)) - 1]
            stop = int(ranks.searchsorted(last, "right"))
            part = tied[start:stop]
            places = order[part].astype(np.int64)
            keys = ranks[start:stop].astype(np.uint64) << np.uint64(32)
            within = places + depth < size
            keys[within] |= rank[places[within] + depth].astype(np.uint64) + np.uint64(1)
            by = keys.argsort(kind="stable")
            order[part] = places[by]
            rank[order[part]] = part[_firsts(keys[by])]
            start = stop
        depth *= 2
    return order


def _firsts(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns for each of sorted keys the index of the first key equal to it."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def open_index(path: Path, tokens: TokenFile) -> TextIndex:
    """Opens the index of the training text of `tokens`, or makes it and keeps it at `path`.

    A file that is damaged or belongs to other tokens is replaced. Where the file cannot be written,
    the index is made for this call only.

    Raises:
        TextError: the text is too large.
        DamagedFile: the tokens are damaged.
    """
    with suppress(FileError, OSError, ValueError):
        return _read(path, tokens.digest)
    if tokens.splits["train"].bytes > MAX_BYTES:
        raise TextError(
            f"the training text has {tokens.splits['train'].bytes:,} bytes, more than the "
            f"{MAX_BYTES:,} that can be indexed: sample without --max-copy"
        )
    tokens.verify()
    ids, table = tokens.split("train"), tokens.tokenizer.token_bytes
    blocks = (ids[start : start + BLOCK].tolist() for start in range(0, len(ids), BLOCK))
    # Block by block: a list of all tokens would take more memory than the index.
    data = b"".join(b"".join([table[token] for token in block]) for block in blocks)
    text = np.frombuffer(data, np.uint8)
    order = order_of_suffixes(text)
    with suppress(FileError):
        write_index(path, text, order, tokens.digest)
    return TextIndex(text, order)


def _metadata(tokens: str) -> dict[str, Any]:
    return {"kind": KIND, "format": FORMAT, "charnn": __version__, "tokens": tokens}


def write_index(
    path: Path, text: NDArray[np.uint8], order: NDArray[np.uint32], tokens: str
) -> None:
    """Writes an index; `tokens` is the digest of the token file that it belongs to."""
    # The wider array comes first, so that it is aligned.
    write_arrays(path, {"order": order, "text": text}, _metadata(tokens))


def _read(path: Path, tokens: str) -> TextIndex:
    with open(path, "rb", opener=regular) as file:
        header = read_header(file, path)
        metadata = {key: value for key, value in header.metadata.items() if key != "digest"}
        types = {name: tensor.dtype for name, tensor in header.tensors.items()}
        if metadata != _metadata(tokens) or types != {"order": "U32", "text": "U8"}:
            raise DamagedFile(f"{path} is the index of another text")
        whole = np.memmap(file, np.uint8, "r", offset=header.data_start)
    check_digest(header, hashlib.sha256(whole.data), path)
    start, stop = header.tensors["order"].start, header.tensors["order"].stop
    order, text = whole[start:stop].view("<u4"), whole[stop:]
    if len(order) != len(text) or (len(order) and order.max() >= len(text)):
        raise DamagedFile(f"{path} holds positions outside its text")
    return TextIndex(text, order)
