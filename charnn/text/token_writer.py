"""Writes a text as a token file in bounded memory, in two passes: a survey, then encoding.

A tokenizer that learns from the text itself (sentencepiece) needs a pass between the two.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from charnn.errors import FileError, TextError, UnknownCharacter
from charnn.tensor_file import pack_header, replacing, seal
from charnn.text.encodings import count_characters
from charnn.text.sources import Piece, TextSource
from charnn.text.splits import SPLIT_NAMES, check_split, cut_pieces, cut_points
from charnn.text.token_file import (
    Split,
    TokenFile,
    header_size,
    metadata_of,
    tensors_of,
    tokenizer_arrays,
)
from charnn.text.tokenizers import Ids, Tokenizer, code_points, tokenizer_class

MANY_CHARACTERS = 10_000

Progress = Callable[[int, int], None]


def write_token_file(
    path: str | os.PathLike[str],
    source: TextSource,
    *,
    tokenizer: str | Tokenizer = "char",
    vocab_size: int | None = None,
    split: Sequence[int] = (90, 10),
    valid: TextSource | None = None,
    test: TextSource | None = None,
    progress: Progress | None = None,
) -> TokenFile:
    """Writes a text as ids and opens the file.

    Args:
        tokenizer: the kind of tokenizer to learn from the text; or a tokenizer, which then gets
            the characters of the text if its tokens are characters.
        vocab_size: the largest vocabulary, for a kind that takes one; chosen by the text if None.
        split: percentages of train, valid and test, cut at floor(fraction x characters).
        valid: another text as the valid split; `split` is not used then.
        test: another text as the test split, beside `valid`.
        progress: called with bytes done and bytes in all, over all passes.

    Raises:
        ConfigError: a setting is out of range.
        TextError: the text is empty, not UTF-8, too small to split, or changes between passes.
        FileError: a file cannot be read or written.
    """
    path = Path(path)
    check_split(split)
    kind = tokenizer_class(tokenizer, vocab_size)
    sources = [text for text in (source, valid, test) if text is not None]
    _check_target(path, sources)
    passes = 2 if isinstance(tokenizer, Tokenizer) else kind.passes
    meter = _Meter(progress, passes, sum(text.size for text in sources))
    surveys = [Survey(text, kind.any_bytes, meter) for text in sources]
    text = _SurveyedText(sources, surveys, split, kind.any_bytes, meter)
    learnt = (
        text.fit(tokenizer) if isinstance(tokenizer, Tokenizer) else text.learn(kind, vocab_size)
    )
    _check_space(path, learnt, surveys)
    with replacing(path) as file:
        splits = _write(file, learnt, text)
    notes = text.notes() + [
        f"the {name} split is empty" for name, s in splits.items() if s.start == s.stop
    ]
    if learnt.known and learnt.vocab_size > MANY_CHARACTERS:
        notes.append(
            f"{learnt.vocab_size:,} different characters make a large model: "
            "--tokenizer sentencepiece or byte needs less"
        )
    return replace(TokenFile.open(path), notes=notes)


class _Meter:
    """Counts the bytes read in all passes and reports them."""

    def __init__(self, report: Progress | None, passes: int, size: int) -> None:
        self.report, self.passes = report, passes
        self.done, self.expected = 0, passes * size

    def __call__(self, size: int) -> None:
        self.done += size
        if self.report:
            self.report(self.done, max(self.done, self.expected))


class Survey:
    """The facts of a text from a first pass over it.

    Attributes:
        size: the number of bytes.
        chars: the number of characters, without the byte order mark at the start of a file, so
            that a text is split at the same place with and without a mark; None if not UTF-8.
        marks: the number of byte order marks at the start of files.
        vocabulary: the code points, rising; none where `any_bytes`.
        notes: oddities of the text, one line each.
    """

    def __init__(
        self, source: TextSource, any_bytes: bool, progress: Callable[[int], None]
    ) -> None:
        """Reads the text once.

        Args:
            any_bytes: the tokenizer takes bytes that are not UTF-8.

        Raises:
            TextError: the text is not UTF-8, and must be.
        """
        self.size, self.marks = 0, 0
        chars: int | None = 0
        seen, seen_ascii = np.zeros(0x110000, np.bool_), b""
        pairs = returns = zeros = separators = 0
        ends_in_cr = False
        for piece in source.pieces():
            data = piece.data
            self.size += len(data)
            self.marks += piece.has_mark
            if here := data.count(b"\r"):
                returns += here
                pairs += data.count(b"\r\n")
            pairs += ends_in_cr and data.startswith(b"\n")
            ends_in_cr = data.endswith(b"\r")
            zeros += data.count(b"\0")
            separators += 0 if data.isascii() else data.count("\u2028".encode())
            if not any_bytes:
                text = piece.text()
                chars = (chars or 0) + len(text)
                if not text.isascii():
                    seen[code_points(text)] = True
                elif new := text.encode().translate(None, seen_ascii):
                    seen_ascii = bytes({*seen_ascii, *new})
            elif chars is not None:
                here_chars = count_characters(data)
                chars = None if here_chars is None else chars + here_chars - piece.has_mark
            progress(len(data))
        self.chars = chars
        if chars == 0:
            raise TextError(f"the text {source.name!r} is empty: give one with some characters")
        seen[list(seen_ascii)] = True
        self.vocabulary = np.flatnonzero(seen)
        marks = f"{self.marks:,} byte order mark{'s' * (self.marks > 1)}"
        self.notes = [f"{marks} {'kept' if any_bytes else 'dropped'}"] if self.marks else []
        oddities = {
            "CRLF line ends": pairs,
            "carriage returns": returns - pairs,
            "NUL characters": zeros,
            "U+2028 line separators": separators,
        }
        self.notes += [f"{n:,} {what} kept as they are" for what, n in oddities.items() if n]
        if chars is None:
            self.notes.append("not UTF-8: split by bytes, and no figures per character")


class _SurveyedText:
    """A text, or one for each split, after the survey: where it is cut, and the later passes.

    Attributes:
        utf8: whether all of it is UTF-8.
        split_names: of the splits, in order.
        cuts: where each split but the first begins, where one text holds all splits.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        surveys: Sequence[Survey],
        split: Sequence[int],
        any_bytes: bool,
        meter: _Meter,
    ) -> None:
        self.sources, self.surveys = sources, surveys
        self.any_bytes, self.meter = any_bytes, meter
        self.utf8 = all(found.chars is not None for found in surveys)
        self.size = sum(found.size for found in surveys)
        self.chars = sum(found.chars or 0 for found in surveys) if self.utf8 else None
        meter.expected = meter.passes * self.size
        one = len(sources) == 1
        total = (surveys[0].chars if self.utf8 else None) or surveys[0].size
        self.cuts = cut_points(total, split) if one else []
        self.split_names = SPLIT_NAMES[: len(split) if one else len(sources)]
        if self.cuts and not self.cuts[0]:
            raise TextError(
                f"a text of {total} character{'s' * (total > 1)} leaves nothing to train on "
                f"under --split {','.join(map(str, split))}: give more text"
            )

    def fit(self, tokenizer: Tokenizer) -> Tokenizer:
        """Returns the tokenizer with the characters of the text."""
        return tokenizer if self.any_bytes else tokenizer.for_characters(self._characters())

    def learn(self, kind: type[Tokenizer], vocab_size: int | None) -> Tokenizer:
        """Learns a tokenizer: the characters of the whole text, or pieces of the train split."""
        train = (
            content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
            for index, content, _ in self.contents()
            if index == 0
        )
        total = self.cuts[0] if self.cuts else self.surveys[0].chars or 0
        return kind.from_text(train, self._characters(), total, vocab_size)

    def _characters(self) -> Ids:
        return np.unique(np.concatenate([found.vocabulary for found in self.surveys]))

    def contents(self, data_hash: Any = None) -> Iterator[tuple[int, str | bytes, int]]:
        """Reads the text once more: the number of the split, content, number of characters."""

        def metered(source: TextSource) -> Iterator[Piece]:
            for piece in source.pieces():
                if data_hash is not None:
                    data_hash.update(piece.data)
                yield piece
                self.meter(len(piece.data))

        for number, source in enumerate(self.sources):
            for index, content, chars in cut_pieces(
                metered(source), self.cuts, self.any_bytes, self.utf8
            ):
                if content:
                    yield number + index, content, chars

    def check_unchanged(self, chars: int, size: int) -> None:
        """Raises TextError where encoding met another text than the survey."""
        marks = sum(found.marks for found in self.surveys)
        if self.any_bytes:
            chars -= marks if self.utf8 else 0
        else:
            size += 3 * marks
        if size != self.size or (self.utf8 and chars != self.chars):
            raise self.changed()

    def changed(self) -> TextError:
        """Returns the error for a text that changes between the passes."""
        names = " and ".join(repr(source.name) for source in self.sources)
        return TextError(f"the text {names} changed while it was read: try again when it is whole")

    def notes(self) -> list[str]:
        """Returns remarks on the text, one line each."""
        notes = []
        for source, found in zip(self.sources, self.surveys, strict=True):
            where = f"{source.name}: " if len(self.sources) > 1 else ""
            notes += [where + note for note in (*source.notes, *found.notes)]
        return notes


def _check_target(path: Path, sources: Sequence[TextSource]) -> None:
    """Refuses a target before minutes of reading that could not be written after them."""
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder; name a file")
    parts = [part.path for source in sources for part in source.parts if part.path]
    if path.exists() and any(part.exists() and part.samefile(path) for part in parts):
        raise FileError(f"cannot write {path}: it is the text itself; name another file")


def _check_space(path: Path, tokenizer: Tokenizer, surveys: Sequence[Survey]) -> None:
    counts = [tokenizer.token_count(found.chars, found.size) for found in surveys]
    needed = sum(count or 0 for count in counts) * tokenizer.dtype.itemsize
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FileError(
            f"cannot write {path}: it needs {needed:,} bytes and {free:,} are free; "
            "make room or name another folder"
        )


def _write(file: BinaryIO, tokenizer: Tokenizer, text: _SurveyedText) -> dict[str, Split]:
    """Writes header, tokenizer and tokens, and returns the splits."""
    text_hash, data_hash = hashlib.sha256(), hashlib.sha256()
    name, count = text.sources[0].name, len(text.split_names)
    size = header_size(tokenizer, text.split_names, name)
    file.write(bytes(size))
    for array in tokenizer_arrays(tokenizer).values():
        file.write(array.data)
        data_hash.update(array.data)
    tokens, chars, sizes, first = [0] * count, [0] * count, [0] * count, -1
    for index, content, characters in text.contents(text_hash):
        if isinstance(content, bytes):
            ids, content_size = tokenizer.encode_bytes(content), len(content)
        else:
            try:
                ids = tokenizer.encode(content)
            except UnknownCharacter:  # the survey met no such character
                raise text.changed() from None
            content_size = len(content) if content.isascii() else len(content.encode())
        first = int(ids[0]) if first < 0 else first
        tokens[index] += len(ids)
        chars[index] += characters
        sizes[index] += content_size
        data_hash.update(ids.data)
        file.write(ids.data)
    text.check_unchanged(sum(chars), sum(sizes))
    splits, start = {}, 0
    for split, n, characters, split_size in zip(
        text.split_names, tokens, chars, sizes, strict=True
    ):
        splits[split] = Split(start, start + n, characters if text.utf8 else None, split_size)
        start += n
    digest = text_hash.hexdigest()
    source = {"name": name, "sha256": digest, "bytes": text.size, "chars": text.chars}
    start_token = first if tokenizer.newline is None else tokenizer.newline
    metadata = metadata_of(tokenizer, splits, start_token, source)
    tensors = tensors_of(tokenizer, start)
    file.seek(0)
    file.write(pack_header(tensors, metadata, seal(data_hash, tensors, metadata), size))
    return splits
