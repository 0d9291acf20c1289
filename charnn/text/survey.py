"""The first pass over a text: how much there is, which characters, and what is odd about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from charnn.text.sources import Piece, TextSource
from charnn.text.tokenizers import Ids, code_points


@dataclass
class Survey:
    """What a first pass over a text found.

    ``size`` is in bytes. ``chars`` does not count the byte order mark at the start of a file, so
    that a text is split at the same place with and without it; None where it is not UTF-8.
    """

    size: int = 0
    chars: int | None = 0
    marks: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    _ascii: bytes = b""
    _seen: Ids = field(default_factory=lambda: np.zeros(0x110000, np.bool_))
    _ends_in_cr: bool = False

    def add(self, piece: Piece, any_bytes: bool) -> None:
        """Takes one more piece into account.

        Args:
            any_bytes: bytes that are not UTF-8 are welcome.

        Raises:
            TextError: the piece is not UTF-8.
        """
        data = piece.data
        self.size += len(data)
        self.marks += piece.has_mark
        self._count_oddities(data)
        if not any_bytes:
            text = piece.text()
            self._look_at(text)
        elif self.chars is not None:
            try:
                text = data.decode("utf-8")[piece.has_mark :]
            except UnicodeDecodeError:
                self.chars = None
        if self.chars is not None:
            self.chars += len(text)

    def _look_at(self, text: str) -> None:
        if text.isascii():
            new = text.encode().translate(None, self._ascii)
            if new:
                self._ascii = bytes({*self._ascii, *new})
        else:
            self._seen[code_points(text)] = True

    def _count_oddities(self, data: bytes) -> None:
        returns = data.count(b"\r")
        pairs = data.count(b"\r\n") if returns else 0
        if self._ends_in_cr and data.startswith(b"\n"):
            pairs += 1
        self._ends_in_cr = data.endswith(b"\r")
        found = {
            "CRLF line ends": pairs,
            "carriage returns": returns,
            "NUL characters": data.count(b"\0"),
            "U+2028 line separators": 0 if data.isascii() else data.count("\u2028".encode()),
        }
        for what, count in found.items():
            self.counts[what] = self.counts.get(what, 0) + count

    @property
    def vocabulary(self) -> Ids:
        """The code points of the text, rising."""
        seen = self._seen.copy()
        seen[list(self._ascii)] = True
        return np.flatnonzero(seen)

    def notes(self, any_bytes: bool) -> list[str]:
        """What a person should know, one line each."""
        notes = []
        if self.marks:
            kept = "kept" if any_bytes else "dropped"
            notes.append(f"{self.marks:,} byte order mark{'s' * (self.marks > 1)} {kept}")
        counts = dict(self.counts)
        counts["carriage returns"] = counts.get("carriage returns", 0) - counts.get(
            "CRLF line ends", 0
        )
        notes += [f"{count:,} {what} kept as they are" for what, count in counts.items() if count]
        if self.chars is None:
            notes.append("not UTF-8: split by bytes, and no figures per character")
        return notes


def survey(source: TextSource, any_bytes: bool, progress: Callable[[int], None]) -> Survey:
    """Reads a text once.

    Args:
        any_bytes: bytes that are not UTF-8 are welcome; then no characters are collected.
        progress: called with the bytes of each piece.

    Raises:
        TextError: the text is not UTF-8.
    """
    found = Survey()
    for piece in source.pieces():
        found.add(piece, any_bytes)
        progress(len(piece.data))
    return found
