"""Reads texts for a trained model: files, or a split of its run, as ids of its tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from charnn.config import TOKENS_SUFFIX
from charnn.errors import ConfigError, TextError, UnknownCharacter
from charnn.text.encodings import count_characters
from charnn.text.line_breaks import DEFAULT_READING, Reading
from charnn.text.list_of_lines import BLOCK_LINES, clean_lines
from charnn.text.sources import Part, Piece, TextSource, open_source
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import Ids, Tokenizer


@dataclass(frozen=True)
class EncodedText:
    """A text, or about a megabyte of one, as ids.

    Attributes:
        chars: the number of characters; None where the bytes are not UTF-8.
        bytes: the number of bytes.
        unknown: the skipped characters and their counts.
        split: the split of a token file that the ids come from; None without a token file.
        notes: remarks on how the text was read, one line each.
    """

    ids: Ids
    chars: int | None
    bytes: int
    unknown: Counter[str] = field(default_factory=Counter)
    split: str | None = None
    notes: Sequence[str] = ()


def encode_pieces(
    tokenizer: Tokenizer, source: TextSource, unknown: str = "error", of_lines: bool = False
) -> Iterator[tuple[Part, EncodedText]]:
    """Encodes a text piece by piece, in constant memory unless `of_lines`.

    Each piece comes with the file that it is from.

    Args:
        unknown: "error", "skip", or "replace"; see `Tokenizer.encode`.
        of_lines: clean the text into lines first, as training with ``--lines`` does.

    Raises:
        TextError: the text is not UTF-8, holds an unknown character, or has no line.
    """
    part, offset = source.parts[0], 0
    pieces = _line_pieces(source, tokenizer.any_bytes) if of_lines else source.pieces()
    for piece in pieces:
        if piece.part is not part:
            part, offset = piece.part, 0
        missing: Counter[str] = Counter()
        chars: int | None
        if tokenizer.any_bytes:
            ids, chars = tokenizer.encode_bytes(piece.data), count_characters(piece.data)
        else:
            text = piece.text()
            try:
                ids, chars = tokenizer.encode(text, unknown, offset), len(text)
            except UnknownCharacter as error:
                where = f"{part.name}: " if len(source.parts) > 1 else ""
                raise UnknownCharacter(f"{where}{error}") from None
            offset += chars
            if unknown == "skip":
                missing.update(tokenizer.unknown_in(text))
        yield part, EncodedText(ids, chars, len(piece.data), missing)


def read_text(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    run_tokens: Path,
    *,
    split: str | None = None,
    encoding: str = "utf-8",
    unknown: str = "error",
    of_lines: bool = False,
    most: int | None = None,
    reading: Reading = DEFAULT_READING,
) -> EncodedText:
    """Reads texts, a ``.tokens`` file, or a split of the run's own tokens as ids.

    Args:
        texts: as `open_source` takes them; none for the run's own.
        run_tokens: the token file of the run that the model belongs to.
        split: which split of a token file; "valid" if None.
        unknown, of_lines: see `encode_pieces`.
        reading: what happens to line ends and wrapped lines of texts.
        most: stop after about this many ids, and return exactly the first ones.

    Raises:
        ConfigError: an option does not go with the kind of text.
        TextError: there is no such text, or the tokenizer cannot encode it.
        DamagedFile: the token file is damaged, or belongs to another tokenizer.
    """
    if not texts or any(text.endswith(TOKENS_SUFFIX) for text in texts):
        if len(texts) > 1 or unknown != "error" or encoding != "utf-8":
            raise ConfigError(
                "tokens are read as they are: give one .tokens file, or no TEXT for the run's own "
                "tokens, without --unknown and --encoding"
            )
        path = Path(texts[0]) if texts else run_tokens
        if not path.exists():
            why = f"there is no {path}" if texts else "the model comes without its training text"
            raise TextError(f"{why}: name a TEXT to read, such as book.txt")
        tokens = TokenFile.open(path, tokenizer)
        if split is None and "valid" not in tokens.splits:
            raise TextError(f"{path} has no validation split: name a TEXT to read, or a --split")
        name = split or "valid"
        ids, whole = tokens.split(name), tokens.splits[name]
        found = EncodedText(ids[:most], whole.chars, whole.bytes, split=name)
    elif split is not None:
        raise ConfigError(
            f"--split {split} is for the run's own text or a .tokens file: leave it out for a TEXT"
        )
    else:
        pieces, count = [EncodedText(np.zeros(0, tokenizer.dtype), 0, 0)], 0
        with open_source(texts, encoding, reading=reading) as source:
            for _, piece in encode_pieces(tokenizer, source, unknown, of_lines):
                pieces.append(piece)
                count += len(piece.ids)
                if most is not None and count >= most:
                    break
            notes = [*source.notes, *source.changes()]
        counts = [piece.chars for piece in pieces]
        found = EncodedText(
            np.concatenate([piece.ids for piece in pieces])[:most],
            None if None in counts else sum(chars or 0 for chars in counts),
            sum(piece.bytes for piece in pieces),
            sum((piece.unknown for piece in pieces), Counter()),
            notes=notes,
        )
    if len(found.ids) < 2:
        raise TextError(
            f"the text has {len(found.ids)} token(s), and at least 2 are needed: name a longer TEXT"
        )
    return found


def _line_pieces(source: TextSource, any_bytes: bool) -> Iterator[Piece]:
    """Yields the lines of a text that training would keep, some thousands at a time."""
    lines, _ = clean_lines(source, any_bytes)
    offset = 0
    for start in range(0, len(lines), BLOCK_LINES):
        data = b"\n".join([*lines[start : start + BLOCK_LINES], b""])
        yield Piece(data, source.parts[0], offset)
        offset += len(data)
