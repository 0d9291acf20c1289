"""What TEXT means: files, a folder, stdin, a FIFO or a known corpus, read as one run of bytes.

Nothing is changed on the way: line ends, NULs and whatever else a file holds stay as they are.
What can be read only once, or is not UTF-8, is spooled to disk first.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from charnn.errors import FileError, TextError
from charnn.tensor_file import os_error_line
from charnn.text import corpora, encodings, temporary_copies

CHUNK_BYTES = 1 << 20  # small enough for the cache of a processor
PROBE_BYTES = 8 << 10  # a file of a folder with a NUL among these is not a text
AROUND_BYTES = 32 << 10  # on both sides of a wrong byte, to tell its encoding
LINE_REACH = 64 << 10  # how far back a chunk is cut to end with a line


class Part(NamedTuple):
    """One file of a text: what to call it, and its path or the spool that holds it."""

    name: str
    path: Path | None
    spool: io.FileIO | None = None

    def read(self) -> Iterator[bytes]:
        """Its bytes, in chunks; each call starts again at the first byte."""
        if self.spool is not None:
            offset = 0
            while data := os.pread(self.spool.fileno(), CHUNK_BYTES, offset):
                yield data
                offset += len(data)
            return
        assert self.path is not None
        try:
            with self.path.open("rb", buffering=0) as file:
                while data := file.read(CHUNK_BYTES):
                    yield data
        except OSError as error:
            raise FileError(os_error_line(error, self.path, "read")) from error

    @property
    def size(self) -> int:
        """How many bytes it seems to have; 0 where that is not known beforehand."""
        with suppress(OSError):
            if self.spool is not None:
                return os.fstat(self.spool.fileno()).st_size
            if self.path is not None:
                return self.path.stat().st_size
        return 0


class Piece(NamedTuple):
    """A chunk of a text, the part it comes from, and its first byte's place in that part."""

    data: bytes
    part: Part
    offset: int

    @property
    def has_mark(self) -> bool:
        """Whether it begins with the byte order mark that UTF-8 does not need."""
        return self.offset == 0 and self.data.startswith(encodings.BOM)

    def text(self) -> str:
        """The characters; a byte order mark at the start of a file is dropped.

        Raises:
            TextError: it is not UTF-8; says where, and what it may be.
        """
        other = encodings.marked_encoding(self.data) if self.offset == 0 else None
        if other:
            raise TextError(
                f"{self.part.name} is marked as {other.upper()}: use --encoding {other}"
            )
        if self.offset == 0 and (other := encodings.zeros_of_utf16(self.data[:PROBE_BYTES], 0.4)):
            raise TextError(
                f"{self.part.name} looks like {other}, half of its bytes being zero: use "
                f"--encoding {other}, or take the bytes as they are: --tokenizer byte"
            )
        try:
            text = self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            cut_off = error.reason == "unexpected end of data"
            raise self._not_utf8(self.offset + error.start, cut_off) from None
        return text[1:] if self.has_mark else text

    def _not_utf8(self, place: int, cut_off: bool) -> TextError:
        """Reads the part up to a wrong byte again: for its line, and for what stands around it."""
        path = self.part.path
        if self.part.spool is None and path is not None and not path.is_file():  # it went by
            return TextError(
                f"{self.part.name} is not UTF-8: byte 0x{self.data[place - self.offset]:02x} at "
                f"offset {place:,}; give its --encoding"
            )
        low, high = max(0, place - AROUND_BYTES) & ~1, place + AROUND_BYTES
        position, line, around = 0, 1, b""
        for data in self.part.read():
            line += data.count(b"\n", 0, max(0, place - position))
            around += data[max(0, low - position) : max(0, high - position)]
            position += len(data)
            if position >= high:
                break
        what = f"byte 0x{around[place - low]:02x} at offset {place:,}, line {line:,}"
        wrong, beyond = encodings.wrong_bytes(self.part.read())
        if 2 * beyond >= wrong and beyond:  # another encoding would garble the rest
            others = (
                "all else in it is UTF-8: mend it"
                if wrong == 1
                else (f"the first of {wrong:,} such bytes, all else is UTF-8: mend them")
            )
            return TextError(
                f"{self.part.name} is not UTF-8: {what}; {others}, or take the bytes as they are: "
                "--tokenizer byte"
            )
        likely = None if cut_off else encodings.likely_encoding(around)
        advice = (
            f"the text looks like {likely}: use --encoding {likely}"
            if likely
            else "give its --encoding if you know it, or take the bytes as they are: "
            "--tokenizer byte"
        )
        return TextError(f"{self.part.name} is not UTF-8: {what}; {advice}")


class TextSource:
    """A text that can be read several times, in bounded memory.

    Attributes:
        name: a name for a run on this text: letters, digits, ".", "_", "-".
        notes: what a person should know of how it was read, one line each.
        parts: its files.
    """

    def __init__(self, name: str, parts: Sequence[Part], notes: Sequence[str] = ()) -> None:
        self.name = name
        self.parts = tuple(parts)
        self.notes = list(notes)
        spools = [part.spool for part in parts if part.spool is not None]
        # Also for whoever forgets to close it; a finalizer runs at exit too.
        self._finalize = weakref.finalize(self, _close_all, spools)

    @property
    def size(self) -> int:
        """How many bytes it seems to have, from the sizes of its files."""
        return sum(part.size for part in self.parts)

    def pieces(self) -> Iterator[Piece]:
        """Chunks of about 1 MiB that cross no file, cut after a line, or at least a character.

        A file that does not end with a newline gets one where another follows.

        Raises:
            FileError: a file cannot be read.
        """
        for index, part in enumerate(self.parts):
            offset, held, last = 0, b"", b"\n"
            for data in part.read():
                held += data
                cut = held.rfind(b"\n", max(0, len(held) - LINE_REACH)) + 1
                cut = cut or encodings.character_boundary(held)
                if cut:
                    yield Piece(held[:cut], part, offset)
                    offset, held, last = offset + cut, held[cut:], held[cut - 1 : cut]
            if held:
                yield Piece(held, part, offset)
                offset, last = offset + len(held), held[-1:]
            if last != b"\n" and index + 1 < len(self.parts):
                yield Piece(b"\n", part, offset)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, exactly as they are, in chunks of about 1 MiB."""
        return (piece.data for piece in self.pieces())

    def texts(self) -> Iterator[str]:
        """The characters, in chunks of about 1 MiB of bytes.

        Raises:
            TextError: it is not UTF-8; says where, and what it may be.
        """
        return (piece.text() for piece in self.pieces())

    def close(self) -> None:
        """Gives the disk space of its spools back."""
        self._finalize()

    def __enter__(self) -> TextSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_source(
    texts: Sequence[str | os.PathLike[str]],
    encoding: str = "utf-8",
    spool_folder: str | os.PathLike[str] | None = None,
) -> TextSource:
    """Finds a text and makes it readable several times, without reading it where it is a file.

    Args:
        texts: files, folders, "-" for stdin, FIFOs, or names of known corpora; joined in this
            order, with a newline where one is missing.
        encoding: any encoding of Python's; what is not UTF-8 is spooled as UTF-8.
        spool_folder: where spools go; the system's folder for temporary files if None.

    Raises:
        ConfigError: there is no such encoding.
        TextError: no such text, nothing in it, or not in this encoding.
        FileError: something cannot be read, or the disk is full.
    """
    if not texts:
        raise TextError("no text given: name a file, a folder, '-' for stdin, or a corpus")
    if not all(os.fspath(text) for text in texts):
        raise TextError("a text without a name was given: is a variable of the shell empty?")
    encoding = encodings.resolve(encoding)
    utf8 = encoding in ("utf-8", "utf-8-sig")
    if [os.fspath(text) for text in texts].count("-") > 1:
        raise TextError("'-' (stdin) is given twice, but it can be read only once")
    notes: list[str] = []
    parts: list[Part] = []
    for text in texts:
        parts += _find_parts(os.fspath(text), not utf8, notes)
    folder = Path(spool_folder if spool_folder is not None else tempfile.gettempdir())
    opened: list[Part] = []
    try:
        for part in parts:
            if part.path is None or not part.path.is_file() or not utf8:
                part = part._replace(
                    spool=temporary_copies.spool(
                        part.name, part.path, None if utf8 else encoding, folder
                    )
                )
            opened.append(part)
    except BaseException:
        _close_all([part.spool for part in opened if part.spool is not None])
        raise
    if not utf8:
        notes.append(f"read as {encoding}")
    return TextSource(run_name(os.fspath(texts[0])), opened, notes)


def run_name(text: str) -> str:
    """A name for a run on `text` that is safe as a folder's: "My book.txt" gives "My-book"."""
    if text == "-":
        return "stdin"
    path = Path(os.path.abspath(text))
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:64].rstrip("._-") or "text"


def _find_parts(text: str, binary_too: bool, notes: list[str]) -> list[Part]:
    if text == "-":
        return [Part("stdin", None)]
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return [_find_corpus(text)]
    except ValueError as error:
        raise TextError(f"no file can be called {text!r}: {error}") from None
    except OSError as error:
        raise FileError(os_error_line(error, path, "read")) from error
    if not stat.S_ISDIR(mode):
        return [Part(text, path)]
    return _text_files(path, binary_too, notes)


def _find_corpus(text: str) -> Part:
    path = corpora.find(text)
    if path is not None:
        return Part(text, path)
    if text in corpora.CORPORA:
        raise TextError(f"the corpus {text!r} is not here yet: get it with 'charnn corpus {text}'")
    folder, stem = os.path.split(text)
    beside = []
    with suppress(OSError):
        beside = sorted(name for name in os.listdir(folder or ".") if not name.startswith("."))
    known = [] if folder else sorted(corpora.CORPORA)
    near = difflib.get_close_matches(stem, [*beside, *known], n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; 'charnn corpus' lists the corpora"
    raise TextError(f"no file, folder or corpus {text!r}{hint}")


def _text_files(folder: Path, binary_too: bool, notes: list[str]) -> list[Part]:
    def refuse(error: OSError) -> None:
        raise FileError(os_error_line(error, Path(error.filename), "read")) from error

    files: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    files = sorted((path for path in files if path.is_file()), key=lambda path: path.parts)
    kept = []
    for path in files:
        try:
            with path.open("rb") as file:
                start = file.read(PROBE_BYTES)
        except OSError as error:
            raise FileError(os_error_line(error, path, "read")) from error
        if start and (binary_too or b"\0" not in start):
            kept.append(Part(str(path), path))
    if not kept:
        raise TextError(f"the folder {folder} holds no text: {len(files)} files, none of them text")
    if len(kept) < len(files):
        skipped = len(files) - len(kept)
        notes.append(f"{folder}: {len(kept)} text files read, {skipped} empty or binary skipped")
    return kept


def _close_all(spools: Sequence[io.FileIO]) -> None:
    for spool in spools:
        spool.close()
