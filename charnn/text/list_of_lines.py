"""A text as a list of lines: which lines it has, and which of them to train or validate on.

A line ends at a newline, before which a carriage return is dropped; empty lines are left out. The
lines of a list have an order (sorted, as often as not), so they are mixed before the list is cut.
All copies of a line go the same way: what is validated on was not learnt by heart.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from charnn.errors import TextError
from charnn.text import encodings, temporary_copies
from charnn.text.sources import Part, TextSource
from charnn.text.splits import cut_points

BLOCK_LINES = 10_000  # written at once


def clean_lines(source: TextSource, any_bytes: bool) -> tuple[list[bytes], list[str]]:
    """The lines of a text, without their ends, and what was left out of them, as notes.

    Byte order marks, carriage returns before a newline, and empty lines are left out. The whole
    text is read into memory.

    Args:
        any_bytes: bytes that are not UTF-8 are welcome.

    Raises:
        TextError: it holds no line, or is not UTF-8.
    """
    parts = []
    for piece in source.pieces():
        if any_bytes:
            parts.append(piece.data[len(encodings.BOM) :] if piece.has_mark else piece.data)
        else:
            parts.append(piece.text().encode())
    data = b"".join(parts)
    returns = data.count(b"\r\n") + data.endswith(b"\r")
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    del data
    lines[-1] = lines[-1].removesuffix(b"\r")
    kept = [line for line in lines if line]
    empty = len(lines) - len(kept) - (not lines[-1])
    if not kept:
        raise TextError(f"the text {source.name!r} has no line that is not empty")
    told = {"empty lines left out": empty, "carriage returns at line ends left out": returns}
    return kept, [f"{count:,} {what}" for what, count in told.items() if count]


def line_sources(
    source: TextSource,
    seed: int,
    split: Sequence[int],
    folder: Path,
    any_bytes: bool,
    valid: TextSource | None = None,
) -> list[TextSource]:
    """The lines of a text, mixed and cut: a source for train, and for valid and test if there.

    The cut is made at floor(percent x different lines / 100), with one line at least for each
    split in turn. The order depends on the seed and on what the lines are, not on where they stood.

    Args:
        folder: where the sources keep their lines, in files without a name.
        any_bytes: bytes that are not UTF-8 are welcome.
        valid: another text whose lines are the valid split; then `split` is not used.

    Raises:
        TextError: there is no line, or a text is not UTF-8.
        FileError: a text cannot be read, or the disk is full.
    """
    lines, notes = clean_lines(source, any_bytes)
    counts = Counter(lines)
    mixed = _mixed(counts, seed)
    notes = [*source.notes, *notes]
    if copies := len(lines) - len(mixed):
        notes.append(f"{len(lines):,} lines, {copies:,} of them repeat another")
    if valid is None:
        cuts = [0]
        for done, cut in enumerate(cut_points(len(mixed), split), 1):
            cuts.append(min(max(cut, cuts[-1] + 1, done), len(mixed)))
        groups = [mixed[a:b] for a, b in zip(cuts, [*cuts[1:], len(mixed)], strict=True)]
        groups = [group for group in groups if group]
        if len(groups) < len(split):
            notes.append("so few different lines leave nothing to validate on")
        sources = [_source(source.name, g, counts, folder) for g in groups]
    else:
        other, other_notes = clean_lines(valid, any_bytes)
        other_counts = Counter(other)
        if known := sum(line in counts for line in other_counts):
            other_notes.append(f"{known:,} of its lines stand in the training text too")
        sources = [
            _source(source.name, mixed, counts, folder),
            _source(valid.name, _mixed(other_counts, seed), other_counts, folder),
        ]
        sources[1].notes += [*valid.notes, *other_notes]
    sources[0].notes += notes
    return sources


def _mixed(lines: Iterable[bytes], seed: int) -> list[bytes]:
    """Different lines, in an order that looks random: that of their keyed digests."""
    key = seed.to_bytes(4, "little")
    return sorted(lines, key=lambda line: hashlib.blake2b(line, digest_size=8, key=key).digest())


def _source(name: str, lines: Sequence[bytes], counts: Counter[bytes], folder: Path) -> TextSource:
    def blocks() -> Iterator[bytes]:
        for start in range(0, len(lines), BLOCK_LINES):
            some = lines[start : start + BLOCK_LINES]
            yield b"".join((line + b"\n") * counts[line] for line in some)

    return TextSource(name, [Part(name, None, temporary_copies.keep(name, blocks(), folder))])
