"""Texts as people name them: files, folders, stdin, FIFOs and known corpora, read as bytes.

CRLF becomes LF, and wrapped lines are joined on request (`charnn.text.line_breaks`); all else stays
as it is. A text that can be read only once, or is in another encoding, is first copied as UTF-8 to
a temporary file without a name, which vanishes with the process however it ends.
"""

from __future__ import annotations

import codecs
import itertools
import os
import stat
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from charnn.config.names import to_name
from charnn.errors import FileError, TextError, did_you_mean
from charnn.tensor_file import file_errors, os_error_line
from charnn.text import corpora, encodings
from charnn.text.folders import other_format, text_files
from charnn.text.line_breaks import (
    BINARY_BYTES,
    DEFAULT_READING,
    SAMPLE_BYTES,
    UNCHANGED,
    Layout,
    Reading,
    join_lines,
    wrap_width,
)

CHUNK_BYTES = 1 << 20  # small enough for the cache of a processor
AROUND_BYTES = 32 << 10  # the bytes before and after a wrong byte that tell its encoding
MAX_NAME = 255  # a longer argument that is no path is a text, not a name
CR = ord("\r")
CHANGES = {
    "folded": "CRLF line ends became LF",
    "alone": "CR line ends became LF",
    "joined": "lines were joined to the next one, as parts of a paragraph",
}
LINE_REACH = 64 << 10  # how far back a chunk is cut to end with a line


class Part(NamedTuple):
    """One file of a text: its name for people, and its path or the temporary copy of it.

    A part with neither is stdin, which can be read once.
    ``one_of_several`` is true if --encoding would apply to other files too.
    """

    name: str
    path: Path | None
    copy: IO[bytes] | None = None
    one_of_several: bool = False

    def read(self) -> Iterator[bytes]:
        """Yields the bytes in chunks; each call starts at the first byte."""
        if self.copy is None:
            yield from _blocks(self.path)
            return
        offset = 0
        while self.copy.seek(offset) == offset and (data := self.copy.read(CHUNK_BYTES)):
            yield data
            offset += len(data)

    def start(self) -> bytes:
        """Returns the first bytes of a file that can be read again; none of a pipe."""
        start = b""
        if self.copy is not None or (self.path is not None and self.path.is_file()):
            for data in self.read():
                start += data
                if len(start) >= SAMPLE_BYTES:
                    break
        return start[:SAMPLE_BYTES]

    @property
    def size(self) -> int:
        """The number of bytes as the system knows it; 0 where it does not."""
        with suppress(OSError):
            if self.copy is not None:
                return os.fstat(self.copy.fileno()).st_size
            if self.path is not None:
                return self.path.stat().st_size
        return 0


class Piece(NamedTuple):
    """A chunk of a text, the part that it comes from, and the offset of its first byte there."""

    data: bytes
    part: Part
    offset: int

    @property
    def has_mark(self) -> bool:
        """True if the piece begins with a byte order mark at the start of its file."""
        return self.offset == 0 and self.data.startswith(encodings.BOM)

    def text(self) -> str:
        """Returns the characters, without a byte order mark at the start of a file.

        Raises:
            TextError: the bytes are not UTF-8; names the place and the likely encodings.
        """
        name = self.part.name
        if self.offset == 0:
            if what := other_format(self.data[:BINARY_BYTES], name):
                raise TextError(f"{name} is {what}")
            if other := encodings.marked_encoding(self.data):
                raise TextError(f"{name} is marked as {other.upper()}: use --encoding {other}")
            if other := encodings.unmarked_unicode(self.data[:BINARY_BYTES], 0.4):
                raise TextError(
                    f"{name} looks like {other}, since many of its bytes are zero: use "
                    f"--encoding {other}, or train on its bytes: --tokenizer byte"
                )
        try:
            text = self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._not_utf8(error.object[error.start]) from None
        return text[1:] if self.has_mark else text

    def _not_utf8(self, byte: int) -> TextError:
        """Reads the part again, for the place of the wrong byte and the likely encodings."""
        what = f"{self.part.name} is not UTF-8: byte 0x{byte:02x}"
        path = self.part.path
        if self.part.copy is None and not (path and path.is_file()):
            return TextError(f"{what}; give its --encoding")  # a pipe cannot be read twice
        place, cut_off = encodings.first_wrong_byte(self.part.read())
        low, high = max(0, place - AROUND_BYTES) & ~3, place + AROUND_BYTES
        position, line, around = 0, 1, b""
        for data in self.part.read():
            line += data.count(b"\n", 0, max(0, place - position))
            around += data[max(0, low - position) : max(0, high - position)]
            position += len(data)
            if position >= high:
                break
        what += f" at offset {place:,}, line {line:,}"
        wrong, beyond = encodings.wrong_bytes(self.part.read())
        as_bytes = "or train on its bytes: --tokenizer byte"
        if b"\0" in around:
            what += "; it looks like a binary file, not a text"
        if 2 * beyond >= wrong and beyond:  # another encoding would garble the rest
            rest = "correct it" if wrong == 1 else f"correct all {wrong:,} such bytes"
            return TextError(f"{what}; all else is UTF-8: {rest}, {as_bytes}")
        if other := encodings.unmarked_unicode(around, 0.1):
            return TextError(f"{what}; it looks like {other}: use --encoding {other}")
        start = around.rfind(b"\n", 0, place - low) + 1 if low else 0
        sample = around[start : around.rfind(b"\n", place - low) + 1 or len(around)]
        likely = {} if cut_off else encodings.likely_encodings(sample, self.part.read())
        use = "iconv -f {} -t utf-8" if self.part.one_of_several else "--encoding {}"
        readings = [f"{use.format(name)} would read {word!r}" for name, word in likely.items()]
        advice = ", ".join(readings) or f"give its {use.format('').split()[0]} if you know it"
        choose = "; choose the right one" if len(readings) > 1 else " if that is right, use it"
        return TextError(f"{what}; {advice}{choose if readings else ''}, {as_bytes}")


class TextSource:
    """A text that can be read several times, in bounded memory.

    Attributes:
        name: a name for a run on this text: letters, digits, ".", "_", "-".
        notes: remarks on how the text was read, one line each.
        parts: the files of the text.
        reading: what happens to line ends and wrapped lines.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        notes: Sequence[str] = (),
        reading: Reading = UNCHANGED,
    ) -> None:
        self.name = name
        self.parts = tuple(parts)
        self.notes = list(notes)
        self.reading = reading
        self._layouts: dict[int, Layout] = {}
        self._changes: Counter[str] = Counter()  # of the latest pass
        # A finalizer closes the copies of a source that nobody closed, at exit too.
        self._finalize = weakref.finalize(self, _close_copies, self.parts)

    @property
    def size(self) -> int:
        """The number of bytes, as far as the system knows the sizes of the files."""
        return sum(part.size for part in self.parts)

    def pieces(self) -> Iterator[Piece]:
        """Yields chunks of about 1 MiB within one file, cut after a line or at least a character.

        A newline follows a file that does not end with one, unless it is the last.

        Raises:
            FileError: a file cannot be read.
        """
        self._changes.clear()
        for index, part in enumerate(self.parts):
            if index not in self._layouts:
                self._layouts[index] = Layout.of(part.start(), self.reading)
            last = Piece(b"\n", part, 0)
            for last in self._laid_out(part, self._layouts[index]):
                yield last
            if last.data[-1:] != b"\n" and index + 1 < len(self.parts):
                yield Piece(b"\n", part, last.offset + 1)

    def _laid_out(self, part: Part, layout: Layout) -> Iterator[Piece]:
        """Yields the chunks of one file with the line ends and breaks of a layout."""
        if not layout.width:
            yield from self._folded(part, layout)
            return
        before: Piece | None = None
        for piece in itertools.chain(self._folded(part, layout), [None]):
            if before:
                data, joined = join_lines(before.data, piece.data if piece else b"", layout.width)
                self._changes["joined"] += joined
                yield before._replace(data=data)
            before = piece

    def _folded(self, part: Part, layout: Layout) -> Iterator[Piece]:
        """Yields the chunks of one file with the line ends of a layout."""
        offset, held = 0, b""
        for data in itertools.chain(part.read(), [b""]):
            held += data
            cut = held.rfind(b"\n", max(0, len(held) - LINE_REACH)) + 1 if data else len(held)
            cut = cut or encodings.character_boundary(held)
            if data and cut and held[cut - 1] == CR and layout.folds:
                cut -= 1  # a newline may follow
            if cut:
                here = held[:cut]
                folded = layout.fold(here)
                if folded is not here:
                    self._changes["folded"] += len(here) - len(folded)
                    if layout.cr_ends_lines:
                        self._changes["alone"] += folded.count(b"\n") - here.count(b"\n")
                yield Piece(folded, part, offset)
                offset, held = offset + cut, held[cut:]

    def changes(self) -> list[str]:
        """Returns notes on what the latest pass changed."""
        changes = self._changes
        notes = [f"{changes[key]:,} {what}" for key, what in CHANGES.items() if changes[key]]
        if self.reading.unwrap and not changes["joined"]:
            notes.append("--unwrap joined nothing: no hard-wrapped prose was recognised")
        return notes

    def advice(self) -> list[str]:
        """Returns notes for training on the text: to join the lines of hard-wrapped prose."""
        if self.reading.unwrap:
            return []
        found = {part.name: wrap_width(part.start().replace(b"\r\n", b"\n")) for part in self.parts}
        widths = {name: width for name, width in found.items() if width}
        if not widths:
            return []
        name, width = next(iter(widths.items()))
        others = f" and {len(widths) - 1:,} other files" if len(widths) > 1 else ""
        return [
            f"{name}{others}: lines are wrapped at about {width} characters, which the model "
            "learns too; --unwrap joins them into paragraphs"
        ]

    def chunks(self) -> Iterator[bytes]:
        """Yields the bytes, after `reading`, in chunks of about 1 MiB."""
        return (piece.data for piece in self.pieces())

    def texts(self) -> Iterator[str]:
        """Yields the characters, in chunks of about 1 MiB of bytes.

        Raises:
            TextError: the bytes are not UTF-8; see `Piece.text`.
        """
        return (piece.text() for piece in self.pieces())

    def close(self) -> None:
        """Frees the disk space of temporary copies."""
        self._finalize()

    def __enter__(self) -> TextSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_source(
    texts: Sequence[str | os.PathLike[str]],
    encoding: str = "utf-8",
    temporary_folder: str | os.PathLike[str] | None = None,
    reading: Reading = DEFAULT_READING,
) -> TextSource:
    """Finds a text and makes it readable several times; files in UTF-8 are not read yet.

    Args:
        texts: files, folders, "-" for stdin, FIFOs, or names of known corpora; joined in this
            order, with a newline where one is missing.
        encoding: any encoding that Python knows.
        temporary_folder: where temporary copies go; the system's folder for them if None.
        reading: what happens to line ends and wrapped lines.

    Raises:
        ConfigError: there is no such encoding.
        TextError: there is no such text, nothing in it, or it is not in this encoding.
        FileError: something cannot be read, or the disk is full.
    """
    names = [os.fspath(text) for text in texts]
    if not names:
        raise TextError("no text given: name a file, a folder, '-' for stdin, or a corpus")
    if not all(names):
        raise TextError("a text without a name was given: is a variable of the shell empty?")
    encoding = encodings.resolve(encoding)
    utf8 = encoding in ("utf-8", "utf-8-sig")
    if names.count("-") > 1:
        raise TextError("'-' (stdin) is given twice, but stdin can be read only once")
    notes: list[str] = []
    parts = [part for name in names for part in _find_parts(name, not utf8, notes)]
    parts = [part._replace(one_of_several=len(parts) > 1) for part in parts]
    opened: list[Part] = []
    try:
        for part in parts:
            if part.path is None or not part.path.is_file() or not utf8:
                blocks = _blocks(part.path)
                if not utf8:
                    blocks = _transcode(blocks, part.name, encoding)
                copied = temporary_copy(part.name, blocks, temporary_folder)
                part = part._replace(copy=copied.copy)
            opened.append(part)
    except BaseException:
        _close_copies(opened)
        raise
    if not utf8:
        notes.append(f"read as {encoding}")
    return TextSource(run_name(names[0]), opened, notes, reading)


def temporary_copy(
    name: str, blocks: Iterable[bytes], folder: str | os.PathLike[str] | None
) -> Part:
    """Writes blocks of a text into a temporary file in `folder`, in UTF-8 or as they are.

    Raises:
        FileError: the disk is full, or the folder cannot be written to.
    """
    copy = None
    try:
        copy = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # outlives this call
        for data in blocks:
            view = memoryview(data)
            while view:
                view = view[copy.write(view) :]
    except BaseException as error:
        if copy is not None:
            copy.close()
        if isinstance(error, OSError):
            where = Path(folder if folder is not None else "the temporary folder") / "copy"
            raise FileError(os_error_line(error, where, f"copy {name} to")) from error
        raise
    return Part(name, None, copy)


def run_name(text: str) -> str:
    """Returns a name for a run on `text`, safe for a folder: "My book.txt" gives "My-book"."""
    if text == "-":
        return "stdin"
    path = Path(os.path.abspath(text))
    stem = path.name if os.path.isdir(text) else path.stem  # Path.is_dir raises for a long name
    return to_name(stem, "text")


def _find_parts(text: str, binary_too: bool, notes: list[str]) -> list[Part]:
    if text == "-":
        return [Part("stdin", None)]
    if ("\n" in text or len(text) > MAX_NAME) and not os.path.exists(text):
        raise TextError(
            f"expected the name of a file, got a text of {len(text):,} characters that begins with "
            f"{text[:30]!r}: write it to a file and name that, or pipe it to '-'"
        )
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
    return [Part(str(found), found) for found in text_files(path, binary_too, notes)]


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
    hint = did_you_mean(stem, [*beside, *known], "'charnn corpus' lists the corpora")
    raise TextError(f"no file, folder or corpus {text!r}; {hint}")


def _blocks(path: Path | None) -> Iterator[bytes]:
    """Yields the bytes of a file, or of stdin where `path` is None, in chunks as they arrive."""
    if path is None and (sys.stdin is None or sys.stdin.closed):
        raise TextError("stdin is closed: there is no text to read")
    opened: AbstractContextManager[Any]
    with file_errors("read", path or Path("stdin")):
        opened = path.open("rb") if path else nullcontext(sys.stdin.buffer)
        with opened as file:
            while data := file.read1(CHUNK_BYTES):
                yield data


def _transcode(blocks: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    offset, beyond_ascii = 0, False
    try:
        for data in blocks:
            offset += len(data)
            try:
                beyond_ascii |= utf8 is not None and not utf8.decode(data).isascii()
            except UnicodeDecodeError:
                utf8 = None
            yield decoder.decode(data).encode()
        yield decoder.decode(b"", final=True).encode()
        if utf8 and beyond_ascii and not utf8.getstate()[0]:  # `encoding` would garble it
            raise TextError(f"{name} is UTF-8, not {encoding}: leave --encoding out for this file")
    except UnicodeDecodeError as error:
        at = offset - len(error.object) + error.start
        raise TextError(
            f"{name} is not {encoding}: byte 0x{error.object[error.start]:02x} at offset {at:,}; "
            "try another --encoding, or --tokenizer byte without one"
        ) from None
    except UnicodeError as error:
        raise TextError(f"{name} is not {encoding}: {error}; try another --encoding") from None


def _close_copies(parts: Iterable[Part]) -> None:
    for part in parts:
        if part.copy is not None:
            part.copy.close()
