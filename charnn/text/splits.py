"""Where a text is cut into train, valid and test: at a character, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from charnn.errors import ConfigError
from charnn.text import encodings
from charnn.text.sources import Piece

SPLIT_NAMES = ("train", "valid", "test")


def check_split(split: Sequence[int]) -> None:
    """Raises ConfigError unless `split` is one to three whole percentages that add up to 100."""
    whole = all(type(n) is int and n > 0 for n in split)
    if not (1 <= len(split) <= len(SPLIT_NAMES) and whole and sum(split) == 100):
        given = ",".join(map(str, split))
        raise ConfigError(
            f"a split is one to three whole percentages of train, valid and test that add up to "
            f"100, such as 90,10; got {given}"
        )


def cut_points(total: int, split: Sequence[int]) -> list[int]:
    """Where all splits but the first begin: floor(fraction x total)."""
    return [total * sum(split[:count]) // 100 for count in range(1, len(split))]


def count_characters(data: bytes) -> int:
    """How many characters begin in these bytes: as many as are no continuation bytes."""
    return len(data) if data.isascii() else int(np.count_nonzero(_starts(data)))


def _starts(data: bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    starts: np.ndarray[Any, np.dtype[np.bool_]] = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    return starts


def texts_by_split(pieces: Iterable[Piece], cuts: Sequence[int]) -> Iterator[tuple[int, str]]:
    """A text in stretches that no cut runs through, each with the number of its split.

    Args:
        cuts: places in characters, rising.

    Raises:
        TextError: the text is not UTF-8.
    """
    done = index = 0
    for piece in pieces:
        text = piece.text()
        while index < len(cuts) and done + len(text) > cuts[index]:
            here = cuts[index] - done
            yield index, text[:here]
            done, index, text = done + here, index + 1, text[here:]
        yield index, text
        done += len(text)


def bytes_by_split(
    pieces: Iterable[Piece], cuts: Sequence[int], utf8: bool
) -> Iterator[tuple[int, bytes]]:
    """Like `texts_by_split`, in bytes, with the byte order marks kept but not counted.

    Args:
        cuts: places in characters, or in bytes if not `utf8`.
    """
    done = index = 0
    for piece in pieces:
        data = piece.data
        if utf8 and piece.has_mark:
            yield index, encodings.BOM
            data = data[len(encodings.BOM) :]
        count = count_characters(data) if utf8 else len(data)
        while index < len(cuts) and done + count > cuts[index]:
            ahead = cuts[index] - done
            here = int(np.flatnonzero(_starts(data))[ahead]) if utf8 else ahead
            yield index, data[:here]
            done, index, data, count = done + ahead, index + 1, data[here:], count - ahead
        yield index, data
        done += count
