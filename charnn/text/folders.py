"""The text files of a folder, and files that hold a text in another format."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from charnn.errors import TextError
from charnn.tensor_file import file_errors
from charnn.text import encodings
from charnn.text.line_breaks import BINARY_BYTES

MOST_NAMED = 3  # files of each kind in a note
MODELS = {"best.safetensors", "last.safetensors"}
RUN_FILES = {*MODELS, "tokens", "lock", "metrics.jsonl", "text-index"}
# Formats that hold a text: their first bytes, and the command that reads a file F.
FORMATS = {
    b"\x1f\x8b": ("a gzip file", "zcat F"),
    b"BZh": ("a bzip2 file", "bzcat F"),
    b"\xfd7zXZ\0": ("an xz file", "xzcat F"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "zstdcat F"),
    b"\x04\x22\x4d\x18": ("an LZ4 file", "lz4cat F"),
    b"\x1f\x9d": ("a file of compress", "zcat F"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x -so F"),
    b"{\\rtf": ("a file in Rich Text Format", "pandoc -f rtf -t plain --wrap=none F"),
    b"%PDF-": ("a PDF file", "pdftotext F -"),
    b"\xd0\xcf\x11\xe0": ("a file of an old word processor", "antiword F"),
}
ZIP = b"PK\x03\x04"
# What a zip archive contains in its first bytes, by the format of a word processor or an e-book.
DOCUMENTS = {
    b"application/epub+zip": ("an EPUB e-book", "epub"),
    b"application/vnd.oasis.opendocument.text": ("an OpenDocument text", "odt"),
    b"word/": ("a Word document", "docx"),
    b"[Content_Types].xml": ("an Office document", "docx"),
}


def other_format(start: bytes, name: str) -> str:
    """Returns what a file is if it holds its text in another format, with the command to read it.

    Args:
        start: the first bytes of the file.
        name: the file, for the command.
    """
    found = next((each for magic, each in FORMATS.items() if start.startswith(magic)), None)
    if found is None and start.startswith(ZIP):
        found = "a zip archive", "unzip -p F"
        for content, (what, kind) in DOCUMENTS.items():
            if content in start[:BINARY_BYTES]:
                found = what, f"pandoc -f {kind} -t plain --wrap=none F"
                break
    if found is None:
        return ""
    what, command = found
    read = command.replace("F", shlex.quote(name))
    return f"{what}: read its text with '{read} | charnn train -'"


def text_files(folder: Path, binary_too: bool, notes: list[str]) -> list[Path]:
    """Returns the text files of a folder and of the folders in it, in natural order.

    Hidden files, empty and binary ones, devices, broken links and the folders of runs are left out.
    Links are followed; a folder or file that is reached twice is read once.

    Args:
        binary_too: files with NULs are texts in the encoding that was given.
        notes: gets remarks on what was left out.

    Raises:
        TextError: there is no text file.
        FileError: a file or folder cannot be read.
    """
    runs: list[str] = []
    kept, empty, binary, special, others, again = [], [], [], [], [], []
    seen: set[tuple[int, int]] = set()
    for path in _files(folder, runs, seen):
        if not path.is_file():
            special.append(path.name)
            continue
        with file_errors("read", path), path.open("rb", buffering=0) as file:
            start = file.read(BINARY_BYTES) or b""
            read_before = _is_seen(os.fstat(file.fileno()), seen)
        if read_before:
            again.append(path.name)
        elif not start:
            empty.append(path.name)
        elif other := other_format(start, str(path)):
            others.append(f"{path.name} is {other}")
        elif b"\0" in start and not binary_too and not _is_unicode(start):
            binary.append(path.name)
        else:
            kept.append(path)
    kinds = {"empty: ": empty, "binary: ": binary, "not a file: ": special}
    kinds |= {"the run of a model: ": runs, "a second link: ": again, "": others}
    left_out = []
    for what, names in kinds.items():
        more = f" and {len(names) - MOST_NAMED:,} others" if len(names) > MOST_NAMED else ""
        left_out += [f"{what}{', '.join(names[:MOST_NAMED])}{more}"] if names else []
    reasons = f"; left out: {'; '.join(left_out)}" if left_out else ""
    if not kept:
        raise TextError(f"the folder {folder} holds no text{reasons or ': it has no files'}")
    if reasons:
        notes.append(f"{folder}: {len(kept):,} text file{'s' * (len(kept) > 1)} read{reasons}")
    return kept


def _files(folder: Path, runs: list[str], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yields what a folder and its folders hold but folders; adds names of runs to `runs`."""
    with file_errors("read", folder):
        status = folder.stat()
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if _is_seen(status, seen):
        return
    if MODELS.intersection(names) or ("lock" in names and RUN_FILES.issuperset(names)):
        runs.append(folder.name)
        return
    for path in sorted((folder / name for name in names), key=_natural_order):
        if path.is_dir():
            yield from _files(path, runs, seen)
        else:
            yield path


def _is_seen(status: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Tells whether a file or folder was reached before; adds it to `seen`."""
    identity = status.st_dev, status.st_ino
    known = identity in seen
    seen.add(identity)
    return known


def _is_unicode(start: bytes) -> bool:
    """Tells whether a text holds NULs because of its encoding, which reading it then names."""
    marked = encodings.marked_encoding(start) or encodings.unmarked_unicode(start, 0.4)
    return marked is not None


def _natural_order(path: Path) -> list[str | tuple[int, str]]:
    """Returns a key that sorts 2.txt before 10.txt."""
    parts = re.split("([0-9]+)", path.name)
    numbers = [part.lstrip("0") for part in parts[1::2]]
    key: list[str | tuple[int, str]] = [*parts, path.name]
    key[1 : len(parts) : 2] = [(len(number), number) for number in numbers]
    return key
