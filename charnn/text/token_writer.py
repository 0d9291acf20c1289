"""Writes a text as a token file in bounded memory, in two passes: a survey, then encoding.

A tokenizer that learns from the text itself (sentencepiece) needs a pass between the two.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from charnn.errors import FileError, TextError, UnknownCharacter
from charnn.tensor_file import file_errors, pack_header, replacing, seal
from charnn.text.encodings import BOM, count_characters
from charnn.text.sources import TextSource
from charnn.text.token_file import (
    SPLIT_NAMES,
    Split,
    TokenFile,
    check_split,
    cut_points,
    header_size,
    metadata_of,
    tensors_of,
    tokenizer_arrays,
)
from charnn.text.tokenizers import Tokenizer, code_points, tokenizer_class

MANY_CHARACTERS = 10_000
SEPARATORS = [end.encode() for end in "\u0085\u2028\u2029"]
LINES_OF_PARAGRAPH = 50  # at most, where blank lines separate paragraphs

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
    ready = isinstance(tokenizer, Tokenizer)
    text = _SurveyedText(sources, split, kind.any_bytes, 2 if ready else kind.passes, progress)
    if isinstance(tokenizer, Tokenizer):
        learnt = tokenizer.for_characters(text.vocabulary)
    else:
        learnt = kind.from_text(text.training(), text.vocabulary, text.training_chars, vocab_size)
    _check_space(path, (learnt.token_count(text.chars, text.size) or 0) * learnt.dtype.itemsize)
    with replacing(path) as file:
        splits = _write(file, learnt, text)
    notes = text.notes + [f"the {n} split is empty" for n, s in splits.items() if s.start == s.stop]
    if learnt.known and learnt.vocab_size > MANY_CHARACTERS:
        notes.append(
            f"{learnt.vocab_size:,} different characters make a large model: "
            "--tokenizer sentencepiece or byte needs less"
        )
    return replace(TokenFile.open(path, verify=False), notes=notes)  # as it was just written


class _Survey:
    """The facts of one text from a first pass over it.

    Attributes:
        size: the number of bytes.
        chars: the number of characters, without the byte order mark at the start of a file, so
            that a text is split at the same place with and without a mark; None if not UTF-8.
        seen: (0x110000,) whether each code point occurs; all False where `any_bytes`.
        blank_lines: whether blank lines separate paragraphs, at least one in 50 lines.
        notes: oddities of the text, one line each.
    """

    def __init__(
        self, source: TextSource, any_bytes: bool, progress: Callable[[int], None]
    ) -> None:
        """Reads the text once; raises TextError if it is empty, or is not UTF-8 and must be."""
        self.size = marks = 0
        chars: int | None = 0
        self.seen, seen_ascii = np.zeros(0x110000, np.bool_), b""
        pairs = returns = zeros = separators = inner_marks = lines = blank = 0
        end = b""
        for piece in source.pieces():
            data = piece.data
            self.size += len(data)
            marks += piece.has_mark
            if here := data.count(b"\r"):
                returns += here
                pairs += data.count(b"\r\n")
            border = end + data[:1]
            pairs += border == b"\r\n"
            lines += data.count(b"\n")
            blank += data.count(b"\n\n") + (border == b"\n\n")
            end = data[-1:]
            zeros += data.count(b"\0")
            if not data.isascii():
                separators += sum(map(data.count, SEPARATORS))
                inner_marks += data.count(BOM) - piece.has_mark
            if not any_bytes:
                text = piece.text()
                chars = (chars or 0) + len(text)
                if not text.isascii():
                    self.seen[code_points(text)] = True
                elif new := text.encode().translate(None, seen_ascii):
                    seen_ascii = bytes({*seen_ascii, *new})
            elif chars is not None:
                here_chars = count_characters(data)
                chars = None if here_chars is None else chars + here_chars - piece.has_mark
            progress(len(data))
        if chars == 0:
            names = ", ".join(part.name for part in source.parts)
            raise TextError(f"no text in {names}: give a file with some characters")
        self.chars = chars
        self.seen[list(seen_ascii)] = True
        self.blank_lines = 0 < lines <= LINES_OF_PARAGRAPH * blank
        kept = {
            "CRLF line ends": pairs,
            "carriage returns": returns - pairs,
            "NUL characters": zeros,
            "Unicode line ends (U+0085, U+2028 or U+2029)": separators,
            "byte order marks (U+FEFF) inside the text": inner_marks,
        }
        self.notes = source.changes()
        self.notes += [f"{n:,} {what} kept as they are" for what, n in kept.items() if n]
        if marks:
            fate = "kept" if any_bytes else "dropped"
            self.notes.insert(0, f"{marks:,} byte order mark{'s' * (marks > 1)} {fate}")
        if chars is None:
            self.notes.append("not UTF-8: split by bytes, and no figures per character")


class _SurveyedText:
    """A text, or one for each split: surveyed when made, then read again in later passes.

    Attributes:
        utf8: whether all of it is UTF-8.
        size, chars: the sums of all texts; ``chars`` is None unless ``utf8``.
        vocabulary: the code points, rising; none where `any_bytes`.
        split_names: the names of the splits, in order.
        training_chars: the number of characters of the train split.
        blank_lines: whether blank lines separate the paragraphs of the first text.
        notes: remarks on the text, one line each.
    """

    def __init__(
        self,
        sources: Sequence[TextSource],
        split: Sequence[int],
        any_bytes: bool,
        passes: int,
        progress: Progress | None,
    ) -> None:
        """Reads all texts once; raises TextError if `split` leaves nothing to train on."""
        self.sources, self._any_bytes, self._report = sources, any_bytes, progress
        self._done, self._expected = 0, passes * sum(source.size for source in sources)
        surveys = [_Survey(source, any_bytes, self._progress) for source in sources]
        self.size = sum(found.size for found in surveys)
        self._expected = passes * self.size  # the system knows no size of stdin
        self.utf8 = all(found.chars is not None for found in surveys)
        self.chars = sum(found.chars or 0 for found in surveys) if self.utf8 else None
        self.vocabulary = np.flatnonzero(np.any([found.seen for found in surveys], axis=0))
        one = len(sources) == 1
        total = (surveys[0].chars if self.utf8 else None) or surveys[0].size
        self._cuts = cut_points(total, split) if one else []
        self.training_chars = self._cuts[0] if self._cuts else total
        self.split_names = SPLIT_NAMES[: len(split) if one else len(sources)]
        if not self.training_chars:
            raise TextError(
                f"a text of {total} character{'s' * (total > 1)} leaves nothing to train on "
                f"under --split {','.join(map(str, split))}: give more text"
            )
        self.blank_lines = surveys[0].blank_lines
        self.notes: list[str] = []
        for source, found in zip(sources, surveys, strict=True):
            where = "" if one else f"{source.name}: "
            self.notes += [where + note for note in (*source.notes, *found.notes)]

    def _progress(self, size: int) -> None:
        self._done += size
        if self._report:
            self._report(self._done, max(self._done, self._expected))

    def training(self) -> Iterator[str]:
        """Reads the train split once more."""
        for index, content in self.contents():
            if index == 0 and isinstance(content, str):
                yield content

    def contents(self, text_hash: hashlib._Hash | None = None) -> Iterator[tuple[int, str | bytes]]:
        """Reads the text once more; adds its bytes to `text_hash`.

        Yields:
            The number of the split and some of its content: bytes if the text is not UTF-8, else
            characters. Byte order marks at the start of files are dropped, or yielded alone if the
            tokenizer takes any bytes, so that they do not move a cut.

        Raises:
            TextError: the text has changed since the survey.
        """
        size = chars = 0
        for number, source in enumerate(self.sources):
            done = index = 0
            for piece in source.pieces():
                if text_hash:
                    text_hash.update(piece.data)
                size += len(piece.data)
                content: str | bytes
                if not self._any_bytes:
                    content = piece.text()
                elif self.utf8:
                    content = piece.data.decode("utf-8", "surrogateescape")
                    if piece.has_mark:
                        yield number + index, content[:1]
                        content = content[1:]
                else:
                    content = piece.data
                chars += len(content)
                while index < len(self._cuts) and done + len(content) > self._cuts[index]:
                    ahead = self._cuts[index] - done
                    if ahead:
                        yield number + index, content[:ahead]
                    done, index, content = self._cuts[index], index + 1, content[ahead:]
                if content:
                    yield number + index, content
                done += len(content)
                self._progress(len(piece.data))
        if size != self.size or (self.utf8 and chars != self.chars):
            raise self.changed()

    def changed(self) -> TextError:
        """Returns the error for a text that changes between the passes."""
        names = " and ".join(repr(source.name) for source in self.sources)
        return TextError(f"the text {names} changed while it was read: try again when it is whole")


def _check_target(path: Path, sources: Sequence[TextSource]) -> None:
    """Refuses a path that cannot be written, before the text is read for minutes."""
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder; name a file")
    parts = [part.path for source in sources for part in source.parts if part.path]
    if path.exists() and any(part.exists() and part.samefile(path) for part in parts):
        raise FileError(f"cannot write {path}: it is the text itself; name another file")
    with file_errors("write", path), tempfile.TemporaryFile(dir=path.parent):
        pass


def _check_space(path: Path, needed: int) -> None:
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
    for index, content in text.contents(text_hash):
        chars[index] += len(content)
        if isinstance(content, bytes):
            ids = tokenizer.encode_bytes(content)
            sizes[index] += len(content)
        else:
            try:
                ids = tokenizer.encode(content)
            except UnknownCharacter:  # the survey met no such character
                raise text.changed() from None
            sizes[index] += (
                len(content)
                if content.isascii()
                else len(content.encode("utf-8", "surrogateescape"))
            )
        first = int(ids[0]) if first < 0 else first
        tokens[index] += len(ids)
        data_hash.update(ids.data)
        file.write(ids.data)
    splits, start = {}, 0
    for index, split in enumerate(text.split_names):
        stop = start + tokens[index]
        splits[split] = Split(start, stop, chars[index] if text.utf8 else None, sizes[index])
        start = stop
    digest = text_hash.hexdigest()
    reading = text.sources[0].reading._asdict()
    source = {"name": name, "sha256": digest, "bytes": text.size, "chars": text.chars, **reading}
    newline = tokenizer.newline
    before = [first] if newline is None else [newline] * (2 if text.blank_lines else 1)
    metadata = metadata_of(tokenizer, splits, before, source)
    tensors = tensors_of(tokenizer, start)
    file.seek(0)
    file.write(pack_header(tensors, metadata, seal(data_hash, tensors, metadata), size))
    return splits
