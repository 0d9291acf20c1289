"""Where a string stands in a text: all places of the text, in the order of what follows them.

A suffix array (Manber & Myers 1993), made by prefix doubling over the places that are not yet told
apart, and cut off at `DEPTH` bytes, which is more than anybody asks for. It takes 4 bytes for each
byte of the text, and is kept with it in a file that may be deleted at any time.

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
from charnn.tensor_file import check_digest, layout, pack_header, read_header, replacing, seal
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import Ids, Tokenizer
from charnn.version import __version__

KIND, FORMAT = "text index", 1
DEPTH = 1024  # bytes of what follows by which places are ordered
WORD = 8
MAX_BYTES = 2**31
BLOCK = 1 << 20  # tokens or places at a time


class TextIndex:
    """A text of which one can ask whether a string of up to `DEPTH` bytes stands in it."""

    def __init__(self, text: NDArray[np.uint8], order: NDArray[np.uint32]) -> None:
        """Takes the bytes (n,) and their places (n,), ordered by the text that begins there."""
        self._text, self._order = text.data, order.data

    @classmethod
    def of(cls, data: bytes) -> TextIndex:
        """The index of a text, made now."""
        text = np.frombuffer(data, np.uint8)
        return cls(text, order_of_suffixes(text))

    def interval(self, query: bytes, low: int = 0, high: int | None = None) -> tuple[int, int]:
        """From which to which rank the places lie where `query` stands; empty if nowhere."""
        text, size = self._text, len(query)

        def beginning(place: int) -> bytes:
            return bytes(text[place : place + size])

        high = len(self._order) if high is None else high
        low = bisect_left(self._order, query, low, high, key=beginning)
        return low, bisect_right(self._order, query, low, high, key=beginning)

    def __contains__(self, query: bytes) -> bool:
        text, order, size = self._text, self._order, len(query)
        rank = bisect_left(order, query, key=lambda place: bytes(text[place : place + size]))
        return rank < len(order) and bytes(text[order[rank] : order[rank] + size]) == query

    def after(self, low: int, high: int, skip: int, size: int) -> set[bytes]:
        """What stands `skip` bytes after the places of these ranks, `size` bytes or to the end."""
        starts = (place + skip for place in self._order[low:high])
        return {bytes(self._text[start : start + size]) for start in starts}


def order_of_suffixes(text: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """All places (n,) of a text, ordered by the first `DEPTH` bytes that begin there."""
    size = len(text)
    padded = np.concatenate([text, np.zeros(WORD, np.uint8)])
    # The word that begins at each byte: they overlap.
    words: NDArray[Any] = np.ndarray((size,), ">u8", padded, strides=(1,))
    order, rank = np.empty(size, np.uint32), np.empty(size, np.uint32)
    done = 0
    for first in range(256):  # apart, so that sorting needs memory for one letter only
        places = np.flatnonzero(text == first)[::-1]  # at the end of the text, zeros tie
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
        while start < len(tied):  # some whole groups of equals at a time
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
    """For each of sorted keys, where the first one equal to it stands."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def open_index(path: Path, tokens: TokenFile) -> TextIndex:
    """The index of the training text of `tokens`, from the file `path` or made and kept there.

    A file that is damaged or belongs to other tokens is replaced; where it cannot be written, the
    index is made for this once.

    Raises:
        TextError: the text is too large.
        DamagedFile: the tokens are damaged.
    """
    with suppress(FileError, OSError, ValueError):
        return _read(path, tokens.digest)
    if tokens.splits["train"].bytes > MAX_BYTES:
        raise TextError(f"the training text has more than {MAX_BYTES:,} bytes: no index is made")
    tokens.verify()
    text = np.frombuffer(text_of(tokens.split("train"), tokens.tokenizer), np.uint8)
    order = order_of_suffixes(text)
    with suppress(FileError):
        _write(path, text, order, tokens.digest)
    return TextIndex(text, order)


def text_of(ids: Ids, tokenizer: Tokenizer) -> bytes:
    """The bytes that ids stand for."""
    table = tokenizer.token_bytes
    return b"".join(
        b"".join([table[token] for token in ids[start : start + BLOCK].tolist()])
        for start in range(0, len(ids), BLOCK)
    )


def _metadata(tokens: str) -> dict[str, Any]:
    return {"kind": KIND, "format": FORMAT, "charnn": __version__, "tokens": tokens}


def _write(path: Path, text: NDArray[np.uint8], order: NDArray[np.uint32], tokens: str) -> None:
    # The wider one first, so that it lies where its type wants it.
    places = layout({"order": ("U32", order.shape), "text": ("U8", text.shape)})
    data_hash = hashlib.sha256(order.data)
    data_hash.update(text.data)
    metadata = _metadata(tokens)
    with replacing(path) as file:
        file.write(pack_header(places, metadata, seal(data_hash, places, metadata)))
        file.write(order.data)
        file.write(text.data)


def _read(path: Path, tokens: str) -> TextIndex:
    with path.open("rb") as file:
        header = read_header(file, path)
        expected = {"order": "U32", "text": "U8"}
        metadata = {key: value for key, value in header.metadata.items() if key != "digest"}
        found = {name: tensor.dtype for name, tensor in header.tensors.items()}
        if metadata != _metadata(tokens) or found != expected:
            raise DamagedFile(f"{path} is the index of another text")
        whole = np.memmap(file, np.uint8, "r", offset=header.data_start)
    check_digest(header, hashlib.sha256(whole.data), path)
    start, stop = header.tensors["order"].start, header.tensors["order"].stop
    order, text = whole[start:stop].view("<u4"), whole[stop:]
    if len(order) != len(text) or (len(order) and order.max() >= len(text)):
        raise DamagedFile(f"{path} holds places outside of its text")
    return TextIndex(text, order)
