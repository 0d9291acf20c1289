"""The beginning of a text, as ids, for commands that look into a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from charnn.config import TOKENS_SUFFIX
from charnn.errors import ConfigError, DamagedFile, TextError

if TYPE_CHECKING:
    from charnn.text.sources import Piece, TextSource
    from charnn.text.tokenizers import Ids, Tokenizer


def line_pieces(source: TextSource, any_bytes: bool) -> Iterator[Piece]:
    """A text as the lines that training makes of it, some thousands at a time.

    Raises:
        TextError: it holds no line, or is not UTF-8 where not `any_bytes` are welcome.
    """
    from charnn.text.list_of_lines import BLOCK_LINES, clean_lines
    from charnn.text.sources import Piece

    lines, _ = clean_lines(source, any_bytes)
    offset = 0
    for start in range(0, len(lines), BLOCK_LINES):
        data = b"\n".join([*lines[start : start + BLOCK_LINES], b""])
        yield Piece(data, source.parts[0], offset)
        offset += len(data)


def read_ids(
    texts: list[str],
    path: Path,
    tokenizer: Tokenizer,
    encoding: str,
    of_lines: bool,
    most: int | None = None,
) -> Ids:
    """The first `most` ids of texts, or of the validation split of the run of the model at `path`.

    For a model of lines a text is made into lines as it was in training.

    Raises:
        CharnnError: there is no such text, it is empty, or the model does not know its characters.
    """
    import numpy as np

    from charnn.text.sources import open_source
    from charnn.text.token_file import TokenFile

    if not texts or any(text.endswith(TOKENS_SUFFIX) for text in texts):
        if len(texts) > 1:
            raise ConfigError("a .tokens file is a whole corpus: give it alone")
        file = Path(texts[0]) if texts else path.parent / "tokens"
        if not file.exists():
            raise TextError(f"no text given, and {file} is not there: name a TEXT to read")
        tokens = TokenFile.open(file)
        if tokens.tokenizer.token_bytes != tokenizer.token_bytes:
            raise DamagedFile(
                f"{file} was made with another tokenizer than the model's: give the text"
            )
        if "valid" not in tokens.splits:
            raise TextError(f"{file} has no validation split: name a TEXT to read")
        ids = np.array(tokens.split("valid")[:most])
        if ids.size and ids.max() >= tokenizer.vocab_size:
            raise DamagedFile(f"{file} holds an id outside the vocabulary: tokenize the text again")
    else:
        parts, count, chars = [np.zeros(0, tokenizer.dtype)], 0, 0
        with open_source(texts, encoding) as source:
            any_bytes = tokenizer.kind == "byte"
            pieces = line_pieces(source, any_bytes) if of_lines else source.pieces()
            for piece in pieces:
                if any_bytes:
                    parts.append(tokenizer.encode(piece.data.decode("utf-8", "surrogateescape")))
                else:
                    text = piece.text()
                    parts.append(tokenizer.encode(text, "error", chars))
                    chars += len(text)
                count += len(parts[-1])
                if most is not None and count >= most:
                    break
        ids = np.concatenate(parts)[:most]
    if len(ids) < 2:
        raise TextError(f"nothing to read: the text has {len(ids)} token(s), give a longer one")
    return ids
