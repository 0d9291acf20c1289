"""Writes a token file: a pass that surveys the text, one to learn where needed, one to encode."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from charnn.errors import ConfigError, FileError, TextError, UnknownCharacter
from charnn.tensor_file import pack_header, replacing, seal
from charnn.text import sentencepiece_training, token_format
from charnn.text.sources import Piece, TextSource
from charnn.text.splits import (
    SPLIT_NAMES,
    bytes_by_split,
    count_characters,
    cut_points,
    texts_by_split,
)
from charnn.text.survey import survey
from charnn.text.token_format import Split
from charnn.text.tokenizers import (
    TOKENIZERS,
    ByteTokenizer,
    CharTokenizer,
    Ids,
    SentencePieceTokenizer,
    Tokenizer,
)

MANY_CHARACTERS = 10_000

Progress = Callable[[int, int], None]


def check_tokenizer(tokenizer: str | Tokenizer, vocab_size: int | None) -> None:
    """Raises ConfigError for a tokenizer that is not there, or that takes no `vocab_size`."""
    if isinstance(tokenizer, str) and tokenizer not in TOKENIZERS:
        raise ConfigError(f"unknown tokenizer {tokenizer!r}; choose from {', '.join(TOKENIZERS)}")
    kind = tokenizer if isinstance(tokenizer, str) else tokenizer.kind
    if vocab_size is not None and kind != SentencePieceTokenizer.kind:
        raise ConfigError(
            "vocab_size is for the sentencepiece tokenizer; the others take what the text has"
        )


class TokenWriter:
    """The passes over a text, or one for each split, and what they share."""

    def __init__(
        self,
        path: Path,
        sources: Sequence[TextSource],
        tokenizer: str | Tokenizer,
        progress: Progress | None,
    ) -> None:
        self.path, self.sources, self.tokenizer = path, sources, tokenizer
        self.any_bytes = tokenizer == ByteTokenizer.kind or isinstance(tokenizer, ByteTokenizer)
        self.progress, self.done = progress, 0
        self.passes = 3 if tokenizer == SentencePieceTokenizer.kind else 2
        self.expected = self.passes * sum(source.size for source in sources)
        self._check_target()

    def _check_target(self) -> None:
        """Finds out now what would fail after minutes of reading."""
        if not self.path.parent.is_dir():
            raise FileError(f"cannot write {self.path}: there is no folder {self.path.parent}")
        if self.path.is_dir():
            raise FileError(f"cannot write {self.path}: it is a folder; name a file")
        parts = [part.path for source in self.sources for part in source.parts if part.path]
        if self.path.exists() and any(path.exists() and path.samefile(self.path) for path in parts):
            raise FileError(f"cannot write {self.path}: it is the text itself; name another file")

    def _advance(self, size: int) -> None:
        self.done += size
        if self.progress:
            self.progress(self.done, max(self.done, self.expected))

    def look(self, split: Sequence[int]) -> None:
        """The first pass: surveys the texts, and decides where they are cut."""
        self.surveys = [survey(source, self.any_bytes, self._advance) for source in self.sources]
        for source, found in zip(self.sources, self.surveys, strict=True):
            if found.chars == 0 or not found.size:
                raise TextError(f"the text {source.name!r} is empty: there is nothing to learn")
        self.expected = self.passes * sum(found.size for found in self.surveys)
        self.utf8 = all(found.chars is not None for found in self.surveys)
        total = self.surveys[0].chars if self.utf8 else None
        total = self.surveys[0].size if total is None else total
        one = len(self.sources) == 1
        self.cuts = cut_points(total, split) if one else []
        self.split_names = SPLIT_NAMES[: len(split) if one else len(self.sources)]
        if self.cuts and not self.cuts[0]:
            raise TextError(
                f"a text of {total} character{'s' * (total > 1)} leaves nothing to learn from "
                f"under a split of {','.join(map(str, split))}: give more text"
            )

    def _stretches(self, data_hash: Any = None) -> Iterator[tuple[int, str | bytes]]:
        """The texts once more, in stretches with the number of their split."""

        def watched(source: TextSource) -> Iterator[Piece]:
            for piece in source.pieces():
                if data_hash is not None:
                    data_hash.update(piece.data)
                yield piece
                self._advance(len(piece.data))

        for number, source in enumerate(self.sources):
            stretches: Iterator[tuple[int, str | bytes]] = (
                bytes_by_split(watched(source), self.cuts, self.utf8)
                if self.any_bytes
                else texts_by_split(watched(source), self.cuts)
            )
            for index, stretch in stretches:
                if stretch:
                    yield number + index, stretch

    def _learn(self, vocab_size: int | None) -> Tokenizer:
        if self.any_bytes:
            return ByteTokenizer()
        vocabulary = np.unique(np.concatenate([found.vocabulary for found in self.surveys]))
        if isinstance(self.tokenizer, Tokenizer):
            return self.tokenizer.extended(vocabulary)
        if self.tokenizer == CharTokenizer.kind:
            return CharTokenizer(vocabulary)
        total = self.cuts[0] if self.cuts else self.surveys[0].chars or 0
        size = vocab_size or sentencepiece_training.auto_vocab_size(total, len(vocabulary))
        train = (str(text) for index, text in self._stretches() if index == 0)
        return SentencePieceTokenizer.learn(sentencepiece_training.sample(train, total), size)

    def write(self, vocab_size: int | None) -> list[str]:
        """The other passes: learns the tokenizer, encodes, and writes; gives the notes."""
        tokenizer = self._learn(vocab_size)
        self._check_space(tokenizer)
        text_hash, data_hash = hashlib.sha256(), hashlib.sha256()
        name = self.sources[0].name
        size = token_format.header_size(tokenizer, self.split_names, name)
        with replacing(self.path) as file:
            file.write(bytes(size))
            for array in token_format.tokenizer_arrays(tokenizer).values():
                file.write(array.data)
                data_hash.update(array.data)
            splits, first = self._encode(tokenizer, file, text_hash, data_hash)
            counts = [found.chars for found in self.surveys]
            source = {
                "name": name,
                "sha256": text_hash.hexdigest(),
                "bytes": sum(found.size for found in self.surveys),
                "chars": sum(n or 0 for n in counts) if self.utf8 else None,
            }
            start = _start_token(tokenizer, first)
            metadata = token_format.metadata_of(tokenizer, splits, start, source)
            tensors = token_format.tensors_of(tokenizer, splits[self.split_names[-1]].stop)
            file.seek(0)
            file.write(pack_header(tensors, metadata, seal(data_hash, tensors, metadata), size))
        return self._notes(tokenizer, splits)

    def _check_space(self, tokenizer: Tokenizer) -> None:
        if isinstance(tokenizer, SentencePieceTokenizer):
            return  # nobody knows how many tokens it will be
        units = [found.size if self.any_bytes else found.chars or 0 for found in self.surveys]
        needed = sum(units) * tokenizer.dtype.itemsize
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise FileError(
                f"cannot write {self.path}: it needs {needed:,} bytes and {free:,} are free; "
                "make room or name another folder"
            )

    def _encode(
        self, tokenizer: Tokenizer, file: BinaryIO, text_hash: Any, data_hash: Any
    ) -> tuple[dict[str, Split], int]:
        """Writes the tokens; gives the splits and the first token."""
        count = len(self.split_names)
        tokens, chars, sizes, first = [0] * count, [0] * count, [0] * count, -1
        for index, stretch in self._stretches(text_hash):
            if isinstance(stretch, bytes):
                ids = tokenizer.encode_bytes(stretch)
                chars[index] += count_characters(stretch) if self.utf8 else 0
                sizes[index] += len(stretch)
            else:
                ids = self._ids(tokenizer, stretch)
                chars[index] += len(stretch)
                sizes[index] += len(stretch) if stretch.isascii() else len(stretch.encode())
            first = int(ids[0]) if first < 0 else first
            tokens[index] += len(ids)
            data_hash.update(ids.data)
            file.write(ids.data)
        self._check_unchanged(sum(chars), sum(sizes))
        splits, start = {}, 0
        for name, n, characters, size in zip(self.split_names, tokens, chars, sizes, strict=True):
            splits[name] = Split(start, start + n, characters if self.utf8 else None, size)
            start += n
        return splits, first

    def _ids(self, tokenizer: Tokenizer, text: str) -> Ids:
        try:
            return tokenizer.encode(text)
        except UnknownCharacter:  # the survey saw no such character
            raise self._changed() from None

    def _check_unchanged(self, chars: int, size: int) -> None:
        marks = sum(found.marks for found in self.surveys)
        expected = sum(found.size for found in self.surveys) - (0 if self.any_bytes else 3 * marks)
        characters = sum(found.chars or 0 for found in self.surveys)
        if size != expected or (self.utf8 and chars - (self.any_bytes and marks) != characters):
            raise self._changed()

    def _changed(self) -> TextError:
        names = " and ".join(repr(source.name) for source in self.sources)
        return TextError(f"the text {names} changed while it was read: wait until it is written")

    def _notes(self, tokenizer: Tokenizer, splits: dict[str, Split]) -> list[str]:
        notes = []
        for source, found in zip(self.sources, self.surveys, strict=True):
            where = f"{source.name}: " if len(self.sources) > 1 else ""
            notes += [where + note for note in (*source.notes, *found.notes(self.any_bytes))]
        notes += [f"the {name} split is empty" for name, s in splits.items() if s.start == s.stop]
        if isinstance(tokenizer, CharTokenizer) and tokenizer.vocab_size > MANY_CHARACTERS:
            notes.append(
                f"{tokenizer.vocab_size:,} different characters make a large model: "
                "--tokenizer sentencepiece or byte needs less"
            )
        return notes


def _start_token(tokenizer: Tokenizer, first: int) -> int:
    """The token of a newline where there is one; else `first`, the text's first token."""
    try:
        newline = tokenizer.encode("\n")
    except UnknownCharacter:
        return first
    return int(newline[0]) if len(newline) == 1 else first
