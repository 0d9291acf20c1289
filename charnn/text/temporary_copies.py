"""Copies of what can be read only once, or is not UTF-8, in files without a name.

Such a file vanishes with the process that holds it, however the process ends.
"""

from __future__ import annotations

import codecs
import io
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from charnn.errors import FileError, TextError
from charnn.tensor_file import os_error_line

BLOCK_BYTES = 1 << 20


def spool(name: str, path: Path | None, encoding: str | None, folder: Path) -> io.FileIO:
    """Copies a text into `folder`, as UTF-8.

    Args:
        name: what an error calls it.
        path: None for stdin.
        encoding: what it is in; None copies the bytes as they are.

    Raises:
        TextError: it is not in this encoding.
        FileError: it cannot be read, or the disk is full.
    """
    with _raw(path) as file:
        blocks = _blocks(file, path)
        return keep(
            name, blocks if encoding is None else _transcode(blocks, name, encoding), folder
        )


def keep(name: str, blocks: Iterable[bytes], folder: Path) -> io.FileIO:
    """Writes blocks of a text one after another into such a file in `folder`.

    Raises:
        FileError: the disk is full, or the folder cannot be written to.
    """
    try:
        copy = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # outlives this call
    except OSError as error:
        raise FileError(os_error_line(error, folder / "spool", f"copy {name} to")) from error
    try:
        for data in blocks:
            view = memoryview(data)
            while view:
                view = view[copy.write(view) :]
    except OSError as error:
        copy.close()
        raise FileError(os_error_line(error, folder / "spool", f"copy {name} to")) from error
    except BaseException:
        copy.close()
        raise
    return copy


def _raw(path: Path | None) -> AbstractContextManager[IO[bytes]]:
    if path is None:
        if sys.stdin is None or sys.stdin.closed:
            raise TextError("stdin is closed: there is no text to read")
        return nullcontext(sys.stdin.buffer)
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise FileError(os_error_line(error, path, "read")) from error


def _blocks(file: IO[bytes], path: Path | None) -> Iterator[bytes]:
    try:
        while data := file.read(BLOCK_BYTES):
            yield data
    except OSError as error:
        raise FileError(os_error_line(error, path or Path("stdin"), "read")) from error


def _transcode(blocks: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    try:
        for data in blocks:
            offset += len(data)
            yield decoder.decode(data).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        at = offset - len(error.object) + error.start
        raise TextError(
            f"{name} is not {encoding}: byte 0x{error.object[error.start]:02x} at offset {at:,}; "
            "try another --encoding, or --tokenizer byte without one"
        ) from None
    except UnicodeError as error:
        raise TextError(f"{name} is not {encoding}: {error}; try another --encoding") from None
