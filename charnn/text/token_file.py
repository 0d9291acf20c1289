"""A text as ids, with their tokenizer and splits, in one file that opens in milliseconds.

The file is written in bounded memory, whatever the size of the text: one pass surveys it, another
encodes it chunk by chunk. docs/file-format.md describes the result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from charnn.errors import ConfigError, DamagedFile, FileError
from charnn.tensor_file import check_digest, os_error_line, read_header
from charnn.text import token_format
from charnn.text.sources import TextSource
from charnn.text.splits import check_split
from charnn.text.token_format import Split
from charnn.text.token_writer import Progress, TokenWriter, check_tokenizer
from charnn.text.tokenizers import Ids, Tokenizer

READ_BYTES = 4 << 20


@dataclass(frozen=True)
class TokenFile:
    """The ids of a text, mapped into memory: only what is looked at is read.

    Attributes:
        tokens: (N,) ids, of the smallest type that the vocabulary needs.
        splits: train, valid and test, as far as they are there, one after another.
        start_token: what a text starts after: the newline, or the text's first token.
        source: "name", "sha256", "bytes" and "chars" of the text, as it was read.
        notes: what a person should know of how the file was written; empty after `open`.
    """

    path: Path
    tokens: Ids
    tokenizer: Tokenizer
    splits: dict[str, Split]
    start_token: int
    source: dict[str, Any]
    digest: str
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TokenFile:
        """Opens a token file after checking its header; the ids themselves are not read.

        Raises:
            DamagedFile: it is damaged, of another kind, or of a newer format.
            FileError: it cannot be read.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls(path, *token_format.read(file, path))
        except OSError as error:
            raise FileError(os_error_line(error, path, "read")) from error

    def split(self, name: str) -> Ids:
        """The ids of one split, without copying them.

        Raises:
            ConfigError: there is no such split.
        """
        if name not in self.splits:
            raise ConfigError(f"{self.path} has no split {name!r}, only {', '.join(self.splits)}")
        return self.tokens[self.splits[name].start : self.splits[name].stop]

    def verify(self) -> None:
        """Reads the whole file and compares it with its digest.

        Raises:
            DamagedFile: a byte differs, or an id is not in the vocabulary.
            FileError: it cannot be read.
        """
        data_hash = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                header = read_header(file, self.path)
                file.seek(header.data_start)
                while data := file.read(READ_BYTES):
                    data_hash.update(data)
        except OSError as error:
            raise FileError(os_error_line(error, self.path, "read")) from error
        check_digest(header, data_hash, self.path)
        for start in range(0, len(self.tokens), READ_BYTES):
            if self.tokens[start : start + READ_BYTES].max() >= self.tokenizer.vocab_size:
                raise DamagedFile(f"{self.path} is damaged: it holds ids outside its vocabulary")


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
    """Writes a text as ids, in bounded memory, reading it two times (sentencepiece: three).

    Args:
        tokenizer: "char", "byte" or "sentencepiece", learnt from the text; or one that exists,
            extended by the characters of the text that it lacks.
        vocab_size: for sentencepiece that is learnt; chosen by the size of the text if None.
        split: percentages of train, valid and test, cut at floor(fraction x characters).
        valid: another text to be the valid split; then `split` is not used.
        test: beside `valid`, a third to be the test split.
        progress: called with bytes done and bytes in all, over all passes.

    Raises:
        ConfigError: a setting is out of range.
        TextError: the text is empty, not UTF-8, too small to be split, or changes meanwhile.
        FileError: a file cannot be read or written.
    """
    path = Path(path)
    check_split(split)
    check_tokenizer(tokenizer, vocab_size)
    sources = [text for text in (source, valid, test) if text is not None]
    writer = TokenWriter(path, sources, tokenizer, progress)
    writer.look(split)
    notes = writer.write(vocab_size)
    return replace(TokenFile.open(path), notes=notes)
