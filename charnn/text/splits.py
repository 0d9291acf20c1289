"""The splits of a text: train, valid and test, cut at a character whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
            "--split takes one to three whole percentages for train, valid and test that add up "
            f"to 100, such as 90,10; got {given}"
        )


def cut_points(total: int, split: Sequence[int]) -> list[int]:
    """Returns where each split but the first begins: floor(fraction x total)."""
    return [total * sum(split[:count]) // 100 for count in range(1, len(split))]


def cut_pieces(
    pieces: Iterable[Piece], cuts: Sequence[int], any_bytes: bool, utf8: bool
) -> Iterator[tuple[int, str | bytes, int]]:
    """Cuts pieces where a split ends.

    Args:
        cuts: rising positions in characters; in bytes where the text is not `utf8`. The byte order
            mark at the start of a file is not counted.
        any_bytes: yield bytes, byte order marks included; else strings without them.

    Yields:
        The number of the split, the content, and its length in the unit of `cuts` (1 for a byte
        order mark).

    Raises:
        TextError: strings are asked for and the text is not UTF-8.
    """
    done = index = 0
    for piece in pieces:
        content: str | bytes = piece.data if any_bytes else piece.text()
        if utf8 and isinstance(content, bytes):
            if piece.has_mark:
                yield index, encodings.BOM, 1
                content = content[len(encodings.BOM) :]
            plain = content.isascii()
            count = len(content) if plain else int(np.count_nonzero(_starts(content)))
        else:
            count = len(content)
        while index < len(cuts) and done + count > cuts[index]:
            ahead = here = cuts[index] - done
            if utf8 and isinstance(content, bytes):
                here = int(np.flatnonzero(_starts(content))[ahead])
            yield index, content[:here], ahead
            done, index, content, count = done + ahead, index + 1, content[here:], count - ahead
        yield index, content, count
        done += count


def _starts(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tells for each byte of UTF-8 whether a character begins there."""
    starts: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        np.frombuffer(data, np.uint8) & 0xC0
    ) != 0x80
    return starts
