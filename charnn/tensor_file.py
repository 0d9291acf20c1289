"""Safetensors files, written durably and read strictly: the bytes of every file of charnn.

The format has no durability, checksum or check for finite numbers; this module adds the first two
and `charnn.checkpoint` the third. docs/file-format.md describes the result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from charnn.errors import DamagedFile, FileError, NewerFile
from charnn.portable import exchange, lock, open_file, opened_folder, replace
from charnn.version import __version__

MAX_HEADER_BYTES = 4 << 20
LARGEST = 2**62  # bound of numbers in metadata
MAX_DIGITS = 300  # of a whole number in JSON, so that a float can hold it
METADATA_KEY = "charnn"
# Temporary names: .tmp for a file or folder that is being written, .old for a replaced folder.
ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)\Z", re.DOTALL)
MAX_START = 16  # tokens before a text
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code).newbyteorder("<")
    for name, code in {
        "U8": "u1",
        "U16": "u2",
        "U32": "u4",
        "I64": "i8",
        "F16": "f2",
        "F32": "f4",
    }.items()
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Files of other kinds by their first bytes, for the error message.
OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive or a PyTorch .pt file, which charnn never unpickles",
    **{bytes([0x80, n]): "a Python pickle, which charnn never loads" for n in range(2, 6)},
    b"<!DOCTY": "a web page; was the download an error page?",
    b"<!docty": "a web page; was the download an error page?",
    b"<html": "a web page; was the download an error page?",
    b"version https://git-lfs": "a git-lfs pointer; run 'git lfs pull' to get the file itself",
    b"GGUF": "a GGUF file of another tool",
    b"\x89HDF": "an HDF5 file of another tool",
}


def damaged(path: Path, reason: object) -> DamagedFile:
    """Returns the error for a damaged file; a long reason, which a file may choose, is cut."""
    line = " ".join(str(reason).split())
    line = line if len(line) <= 300 else line[:300] + "…"
    return DamagedFile(f"{path} is damaged: {line}; use another copy")


class Tensor(NamedTuple):
    """A tensor at bytes ``start`` to ``stop`` of the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """A checked header: tensors without gaps or overlaps, and the metadata of charnn."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    data_start: int


def os_error_line(error: OSError, path: Path, doing: str) -> str:
    """Returns an error line for a failed system call: action, path, reason, remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            return f"cannot {doing} {path}: the disk is full ({free:,} bytes free); make room"
    reason = error.strerror or str(error)
    return f"cannot {doing} {path}: {reason}; check the name and its permissions"


@contextmanager
def file_errors(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a FileError of one line, by `os_error_line`."""
    try:
        yield
    except OSError as error:
        raise FileError(os_error_line(error, path, doing)) from error


def regular(path: str | os.PathLike[str], flags: int, follow: bool = True) -> int:
    """Opens a regular file and returns its descriptor; the ``opener`` of all files of charnn.

    A folder from a stranger may hold a FIFO, which blocks, or a device, which never ends.

    Raises:
        OSError: the file cannot be opened, is not a regular file, or is a link and `follow` is
            False.
    """
    descriptor = open_file(path, flags, follow)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(*_not_regular(mode))
    return descriptor


def _not_regular(mode: int) -> tuple[int, str]:
    if stat.S_ISDIR(mode):
        return errno.EISDIR, "it is a folder"
    return errno.EINVAL, "it is not a regular file"


def sync_folder(folder: Path, written: Path) -> None:
    """Makes the entries of a folder durable, after `written` in it was replaced.

    Raises:
        FileError: the system refused; `written` is the new file all the same.
    """
    try:
        with opened_folder(folder) as descriptor:
            if descriptor is not None:
                os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync of folders
            raise FileError(
                f"{written} is written, but may not survive a power failure: the folder {folder} "
                f"cannot be synchronised: {error.strerror}; check the disk, then write it again"
            ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    Write, fsync, rename, fsync the folder: `path` is always the whole old file or the whole new
    one. An existing file keeps its mode; a new one obeys the umask. Removes the temporary files
    of `path` that killed processes left.

    Raises:
        FileError: a system call failed; the old file is unchanged, unless the message says
            otherwise.
    """
    aside = _aside(path)
    with file_errors("write", path):
        sweep(path.parent, path.name)
        descriptor = open_file(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                _claim(descriptor)
                with suppress(FileNotFoundError):
                    mode = path.stat().st_mode
                    if not stat.S_ISREG(mode):  # renaming would replace a device or FIFO
                        raise OSError(*_not_regular(mode))
                    os.chmod(aside, stat.S_IMODE(mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            replace(aside, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise
    sync_folder(path.parent, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Makes a temporary folder that replaces `path` when the block ends without an error.

    As `replacing`, for a folder of files: `path` is always the whole old folder or the whole new
    one. Only where the system cannot exchange two names in one step, a kill can leave `path`
    missing; both folders then lie beside it, hidden.

    Raises:
        FileError: a system call failed; the old folder is unchanged, unless the message says
            otherwise.
    """
    aside = _aside(path)
    with file_errors("write", path):
        sweep(path.parent, path.name)
        aside.mkdir()
        try:
            with opened_folder(aside) as held:
                if held is not None:
                    _claim(held)
                yield aside
                for file in aside.iterdir():
                    with open(file, "r+b") as written:
                        os.fsync(written.fileno())
                if held is not None:
                    os.fsync(held)
                _swap(aside, path)
            sync_folder(path.parent, path)
        finally:
            _remove(aside)  # the old folder, or the unfinished new one
        sweep(path.parent, path.name)


def _swap(new: Path, path: Path) -> None:
    """Gives `new` the name `path`; a folder that had this name is then called `new`."""
    if not os.path.lexists(path):
        os.rename(new, path)
    elif not exchange(new, path):
        old = new.with_suffix(".old")
        os.rename(path, old)
        try:
            os.rename(new, path)
        except BaseException:
            os.rename(old, path)
            raise
        os.rename(old, new)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _claim(descriptor: int) -> None:
    """Locks a temporary file or folder while its process lives, so that no `sweep` removes it.

    Raises:
        OSError: another process is removing it.
    """
    try:
        lock(descriptor)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Returns the temporary files and folders in `folder`, all or those of `name`."""
    entries = list[str]()
    with suppress(OSError):  # no folder, or one that may be written to, but not listed
        entries = os.listdir(folder)
    found = [(entry, ASIDE.match(entry)) for entry in entries]
    return [folder / entry for entry, parts in found if parts and name in (None, parts[1])]


def sweep(folder: Path, name: str | None = None) -> None:
    """Removes what killed processes left in `folder`, as `leftovers` finds it.

    An old folder stays while there is no new one in its place.
    """
    for leftover in leftovers(folder, name):
        parts = ASIDE.match(leftover.name)
        if parts and (parts[2] == "tmp" or (folder / parts[1]).exists()):
            with suppress(OSError):
                descriptor = open_file(leftover, os.O_RDONLY, follow=False)
                try:
                    lock(descriptor)
                    _remove(leftover)
                finally:
                    os.close(descriptor)
                _remove(leftover)  # again, since Windows removes no open file


def _remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that it holds; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def number(
    value: Any, kind: type[int] | type[float] = float, least: float = 0, most: float = LARGEST
) -> Any:
    """Returns a value of untrusted metadata if it is such a number, from `least` to `most`.

    Raises:
        ValueError: it is something else, not finite, or out of range.
    """
    if type(value) not in (int, kind) or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} should be a number from {least} to {most}")
    return value


def to_json(value: Any) -> str:
    """Returns the canonical JSON of a value: sorted, compact, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Assigns consecutive bytes to tensors, given as name to (dtype, shape), in order."""
    placed, start = {}, 0
    for name, (dtype, shape) in tensors.items():
        stop = start + math.prod(shape, start=DTYPES[dtype].itemsize)
        placed[name] = Tensor(dtype, tuple(shape), start, stop)
        start = stop
    return placed


def seal(data_hash: hashlib._Hash, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> str:
    """Returns the digest of a file: SHA-256 over its data section, then its header as JSON.

    `data_hash` has read the data section and is not changed.
    """
    whole = data_hash.copy()
    whole.update(to_json({"tensors": tensors, "metadata": metadata}).encode())
    return whole.hexdigest()


def pack_header(
    tensors: Mapping[str, Tensor], metadata: dict[str, Any], digest: str, size: int | None = None
) -> bytes:
    """Returns length, JSON header and padding; `size` bytes in total, if given."""
    header: dict[str, Any] = {
        name: {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [t.start, t.stop]}
        for name, t in tensors.items()
    }
    header["__metadata__"] = {METADATA_KEY: to_json({**metadata, "digest": digest})}
    body = json.dumps(header, separators=(",", ":")).encode()
    padded = len(body) + -len(body) % 8 if size is None else size - 8
    if len(body) > padded or padded > MAX_HEADER_BYTES:
        raise FileError(
            f"the header needs {len(body):,} bytes, more than fit; shorten the metadata"
        )
    return padded.to_bytes(8, "little") + body.ljust(padded)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Replaces `path` by a file of arrays in their order, those of wide numbers first.

    Raises:
        FileError: the file cannot be written; `path` is unchanged.
    """
    tensors = layout({name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()})
    parts = [array.reshape(-1).data for array in arrays.values()]
    data_hash = hashlib.sha256()
    for part in parts:
        data_hash.update(part)
    with replacing(path) as file:
        file.write(pack_header(tensors, metadata, seal(data_hash, tensors, metadata)))
        for part in parts:
            file.write(part)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice")
    return keys


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def parse_json(text: str) -> Any:
    """Parses untrusted JSON: refuses duplicate keys, NaN, deep nesting and giant whole numbers.

    Raises:
        ValueError: the text is not acceptable JSON.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constants,
            parse_int=_whole_number,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_tensor(name: str, entry: Any, start: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has an unknown type")
    lists = isinstance(shape, list) and isinstance(offsets, list)
    if (
        not lists
        or not all(type(n) is int and 0 <= n < 2**62 for n in [*shape, *offsets])
        or len(shape) > 8
        or len(offsets) != 2
    ):
        raise ValueError(f"tensor {name!r} has an impossible size")
    size = math.prod(shape, start=DTYPES[dtype].itemsize)
    if offsets != [start, start + size]:
        raise ValueError(f"tensor {name!r} should be at bytes {start} to {start + size}")
    return Tensor(dtype, tuple(shape), start, start + size)


def read_header(file: BinaryIO, path: Path) -> Header:
    """Reads and checks the header of an open file; allocates no more than the header.

    The file must match the header exactly: no gap, no overlap, no extra byte.

    Raises:
        DamagedFile: the file is damaged, hostile, or of another kind.
    """
    file_size = os.fstat(file.fileno()).st_size
    first = file.read(24)
    length = int.from_bytes(first[:8], "little")
    if len(first) < 24 or length > min(file_size - 8, MAX_HEADER_BYTES):
        # Only here: the length of a valid header may look like a pickle (1152 is 80 04).
        for magic, kind in OTHER_KINDS.items():
            if first.startswith(magic):
                raise DamagedFile(f"{path} is not a charnn file: it is {kind}")
    if len(first) < 24 or length > file_size - 8:
        raise DamagedFile(f"{path} is damaged, or not a charnn file: its header is cut off")
    if length > MAX_HEADER_BYTES:
        raise DamagedFile(f"{path} is not a charnn file: its header claims {length:,} bytes")
    text = (first[8:] + file.read(max(0, length - 16)))[:length]
    return parse_header(text, file_size, path)


def parse_header(text: bytes, file_size: int, path: Path) -> Header:
    """Parses and checks the JSON of a header, see `read_header`."""
    try:
        header = parse_json(text.decode())
        if not isinstance(header, dict):
            raise ValueError("the header is not an object")
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
            raise DamagedFile(f"{path} is a safetensors file that charnn did not write")
        if len(metadata) != 1 or not isinstance(metadata[METADATA_KEY], str):
            raise ValueError("the metadata is not a single string")
        ours = parse_json(metadata[METADATA_KEY])
        if not isinstance(ours, dict):
            raise ValueError("the metadata is not an object")
        # The digest covers values, so two spellings of one value could hide a flipped bit.
        if to_json(ours) != metadata[METADATA_KEY]:
            raise ValueError("the metadata is not canonical JSON")
        tensors: dict[str, Tensor] = {}
        end = 0
        for name, entry in sorted(header.items(), key=_by_offset):
            tensors[name] = _check_tensor(name, entry, end)
            end = tensors[name].stop
        if 8 + len(text) + end != file_size:
            raise ValueError(
                f"it should be {8 + len(text) + end:,} bytes long, it is {file_size:,}"
            )
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    return Header(tensors, ours, 8 + len(text))


def _by_offset(item: tuple[str, Any]) -> tuple[int, int]:
    with suppress(TypeError, KeyError, IndexError):
        start, stop = item[1]["data_offsets"][:2]
        if type(start) is int and type(stop) is int:
            return start, stop
    raise ValueError(f"tensor {item[0]!r} needs dtype, shape and data_offsets")


def check_digest(header: Header, data_hash: hashlib._Hash, path: Path) -> None:
    """Compares the digest in the header with that of the data.

    Raises:
        DamagedFile: the digests differ.
    """
    metadata = {key: value for key, value in header.metadata.items() if key != "digest"}
    try:
        found = seal(data_hash, header.tensors, metadata)
    except RecursionError:  # one level deeper than the parser allowed
        raise damaged(path, "its metadata is nested too deeply") from None
    if header.metadata.get("digest") != found:
        raise damaged(path, "its contents do not match its digest")


def start_of(metadata: Mapping[str, Any], vocab_size: int) -> list[int]:
    """Returns the ids that are read before a text: "start", or "start_token" alone.

    Raises:
        ValueError: they are not ids of the vocabulary.
    """
    token = metadata.get("start_token")
    start = metadata.get("start", [token])
    if not isinstance(start, list) or not 1 <= len(start) <= MAX_START:
        raise ValueError("its start tokens are not a list of ids")
    if any(type(each) is not int or not 0 <= each < vocab_size for each in [token, *start]):
        raise ValueError("its start token is not in its vocabulary")
    return start


def check_kind(metadata: Mapping[str, Any], kind: str, newest: int, path: Path) -> None:
    """Checks that a file is of a kind, in a format that this version reads.

    Raises:
        NewerFile: the format is newer than `newest`.
        DamagedFile: the file is of another kind.
    """
    found = metadata.get("kind")
    if found != kind:
        names = {"model": "a model", "tokens": "a token file", "desk": "a saved desk"}
        known = found if isinstance(found, str) else ""
        raise DamagedFile(
            f"{path} is {names.get(known, 'no known charnn file')}, not {names[kind]}"
        )
    number = metadata.get("format")
    if type(number) is not int or not 1 <= number < 10**6:
        raise damaged(path, "it has no format number")
    if number > newest:
        made_by = str(metadata.get("charnn"))[:20]
        raise NewerFile(
            f"{path} was made by charnn {made_by} in format {number}; charnn {__version__} reads "
            f"formats up to {newest}: install a newer one"
        )
