"""A text as a list of lines, for training with ``--lines``: cleaned, shuffled, and split.

A line ends at LF, CRLF or CR; lines of white space alone are left out.
Lists are often sorted, so the lines are shuffled before they are split. All copies of a line go to
the same split, so that no validation line was trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from charnn.errors import TextError
from charnn.text import encodings
from charnn.text.line_breaks import DEFAULT_READING
from charnn.text.sources import TextSource, temporary_copy
from charnn.text.token_file import cut_points

BLOCK_LINES = 10_000  # lines that are written at once


def clean_lines(source: TextSource, any_bytes: bool) -> tuple[list[bytes], list[str]]:
    """Returns the lines of a text without line ends, and notes on what was left out.

    Byte order marks and lines of white space alone are left out. The whole text is read into
    memory.

    Args:
        any_bytes: the tokenizer takes bytes that are not UTF-8.

    Raises:
        TextError: the text has no line, or is not UTF-8 and must be.
    """
    parts = []
    for piece in source.pieces():
        if any_bytes:
            parts.append(piece.data[len(encodings.BOM) :] if piece.has_mark else piece.data)
        else:
            parts.append(piece.text().encode())
    data = b"".join(parts)
    lines = data.replace(b"\r", b"\n").split(b"\n")
    kept = [line for line in lines if line.strip()]
    if not kept:
        raise TextError(f"the text {source.name!r} has only empty lines: give one with text in it")
    notes = source.changes()
    if returns := data.count(b"\r"):
        notes.append(f"{returns:,} other carriage returns end lines too")
    if blank := len(lines) - len(kept) - (not lines[-1]):
        notes.append(f"{blank:,} empty lines left out")
    if trailing := sum(line[-1:] in (b" ", b"\t") for line in kept):
        notes.append(f"{trailing:,} lines end with a space or tab, which the model learns too")
    return kept, notes


def line_sources(
    source: TextSource,
    seed: int,
    split: Sequence[int],
    folder: Path,
    any_bytes: bool,
    valid: TextSource | None = None,
) -> list[TextSource]:
    """Shuffles and splits the lines of a text: one source for each of train, valid and test.

    A split ends at floor(percent x different lines / 100); each gets at least one line if there are
    enough lines. The order depends on the seed and the lines, not on the order in the text.

    Args:
        folder: where the temporary copies of the sources go.
        any_bytes: the tokenizer takes bytes that are not UTF-8.
        valid: another text whose lines are the valid split; `split` is not used then.

    Raises:
        TextError: there is no line, or a text is not UTF-8 and must be.
        FileError: a text cannot be read, or the disk is full.
    """
    lines, notes = clean_lines(source, any_bytes)
    counts = Counter(lines)
    shuffled = _shuffled(counts, seed)
    notes = [*source.notes, *notes]
    if copies := len(lines) - len(shuffled):
        notes.append(f"{len(lines):,} lines, {copies:,} of them repeat another")
    if valid is None:
        cuts = [0]
        for cut in cut_points(len(shuffled), split):
            cuts.append(min(max(cut, cuts[-1] + 1), len(shuffled)))
        groups = [shuffled[a:b] for a, b in pairwise([*cuts, len(shuffled)]) if a < b]
        if len(groups) < len(split):
            notes.append("too few different lines: no line is left for validation")
        sources = [_source(source.name, group, counts, folder) for group in groups]
    else:
        other, other_notes = clean_lines(valid, any_bytes)
        other_counts = Counter(other)
        if known := sum(line in counts for line in other_counts):
            other_notes.append(f"{known:,} of its lines are in the training text too")
        sources = [
            _source(source.name, shuffled, counts, folder),
            _source(valid.name, _shuffled(other_counts, seed), other_counts, folder),
        ]
        sources[1].notes += [*valid.notes, *other_notes]
    sources[0].notes += notes
    return sources


def _shuffled(lines: Iterable[bytes], seed: int) -> list[bytes]:
    """Orders lines by their keyed digests, which looks random."""
    key = seed.to_bytes(4, "little")
    return sorted(lines, key=lambda line: hashlib.blake2b(line, digest_size=8, key=key).digest())


def _source(name: str, lines: Sequence[bytes], counts: Counter[bytes], folder: Path) -> TextSource:
    blocks = (
        b"".join((line + b"\n") * counts[line] for line in lines[start : start + BLOCK_LINES])
        for start in range(0, len(lines), BLOCK_LINES)
    )
    return TextSource(name, [temporary_copy(name, blocks, folder)], (), DEFAULT_READING)
