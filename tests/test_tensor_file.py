"""Durable writes and strict reads of safetensors files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import stat
import time
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn import tensor_file
from charnn.errors import DamagedFile, FileError
from charnn.tensor_file import (
    MAX_HEADER_BYTES,
    METADATA_KEY,
    Header,
    check_digest,
    layout,
    pack_header,
    parse_header,
    parse_json,
    read_header,
    replacing,
    replacing_folder,
    seal,
    sweep,
    to_json,
)

PLACED = layout({"a": ("F32", (2, 3)), "b": ("U8", (5,)), "empty": ("U16", (0, 7))})
DATA = bytes(range(29))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the old file")
    return path


def write(path: Path, data: bytes = b"the new file") -> None:
    with replacing(path) as file:
        file.write(data)


def good(metadata: dict[str, Any] | None = None) -> bytes:
    metadata = {"kind": "model"} if metadata is None else metadata
    return pack_header(PLACED, metadata, seal(hashlib.sha256(DATA), PLACED, metadata)) + DATA


def crafted(header: Any, data: bytes = DATA) -> bytes:
    """Returns a file with any header, given as JSON values or as raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def described(**changes: Any) -> dict[str, Any]:
    """Returns a good header as JSON values, with changed or new entries; None removes one."""
    header = json.loads(good()[8 : -len(DATA)])
    header.update(changes)
    return {name: entry for name, entry in header.items() if entry is not None}


def read(path: Path, data: bytes) -> Header:
    path.write_bytes(data)
    with path.open("rb") as file:
        header = read_header(file, path)
        data_hash = hashlib.sha256(file.read())
        check_digest(header, data_hash, path)
        return header


def parse(data: bytes) -> Header:
    """Like `read` without a file, for data of the right length."""
    path = Path("model.safetensors")
    header = parse_header(data[8 : -len(DATA)], len(data), path)
    check_digest(header, hashlib.sha256(data[-len(DATA) :]), path)
    return header


def refusal(path: Path, data: bytes) -> str:
    """Returns the one-line error for a file; checks that time and memory stay small."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(DamagedFile) as caught:
            read(path, data)
        took, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < len(str(path)) + 500
    assert took < 10  # about 2 s without the tracer
    assert peak < 16 * len(data) + (1 << 20)
    return line


# --- writing


def test_writing_syncs_a_temporary_file_renames_it_and_syncs_the_folder(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            assert os.path.samestat(status, os.stat(target.parent))
            calls.append("fsync folder")
        else:
            calls.append(f"fsync {status.st_size} bytes")
        fsync(descriptor)

    def seen_replace(source: Path, destination: Path) -> None:
        assert source.parent == destination.parent == target.parent
        assert b"the old file" == destination.read_bytes()
        calls.append("rename")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write(target)
    assert ["fsync 12 bytes", "rename", "fsync folder"] == calls
    assert b"the new file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("function", ["open", "fsync", "replace", "chmod"])
def test_a_failed_system_call_gives_one_line_and_keeps_the_old_file(
    target: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fails)
        with pytest.raises(FileError) as caught:
            write(target)
    line = str(caught.value)
    assert "\n" not in line
    assert str(target) in line
    assert ("the disk is full" in line) == (code != errno.EIO)
    assert ("bytes free" in line) == (code != errno.EIO)
    assert b"the old file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)
    write(target)  # with another temporary file
    assert b"the new file" == target.read_bytes()


def test_a_failed_sync_of_the_folder_is_an_error_and_leaves_one_whole_file(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(FileError):
        write(target)
    assert b"the new file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")
def test_a_disk_that_fills_up_during_a_write_keeps_the_old_file(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fdopen = os.fdopen

    def full(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return fdopen(os.open("/dev/full", os.O_RDWR), mode, buffering=0)

    monkeypatch.setattr(os, "fdopen", full)
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    with pytest.raises(FileError, match=r"the disk is full \([\d,]+ bytes free\)"):
        write(target)
    assert b"the old file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)


def test_a_limit_on_file_size_gives_one_line_and_keeps_the_old_file(target: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(FileError, match=r"cannot write .*: File too large"):
            write(target, bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert b"the old file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_keeps_the_old_file(target: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with replacing(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert b"the old file" == target.read_bytes()
    assert [target.name] == os.listdir(target.parent)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_obeys_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(before)
    assert mode == stat.S_IMODE((tmp_path / "new").stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_mode_of_an_existing_file_is_kept(target: Path, mode: int) -> None:
    target.chmod(mode)
    write(target)
    assert mode == stat.S_IMODE(target.stat().st_mode)


def test_an_impossible_target_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, reason in {
        "folder": "it is a folder",
        "missing/file": "No such file or directory",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(FileError, match=f"cannot write .*: {reason}"):
            write(tmp_path / name)
    assert ["folder"] == os.listdir(tmp_path)


def test_a_sweep_removes_only_leftover_temporary_files(tmp_path: Path) -> None:
    kept = {"model.safetensors", "notes.tmp", ".mine.tmp", ".tmp", "tokens"}
    for name in [*kept, ".model.safetensors.0123abcd.tmp", ".tokens.00000000.tmp"]:
        (tmp_path / name).write_bytes(b"x")
    sweep(tmp_path)
    assert kept == set(os.listdir(tmp_path))


# --- reading


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    metadata = {"kind": "model", "numbers": [1e-05, -0.0, 2**62], "text": "é\u2028\x1b"}
    header = read(tmp_path / "good", good(metadata))
    assert header.tensors == PLACED
    assert header.metadata.pop("digest")
    assert metadata == header.metadata
    assert 0 == header.data_start % 8


def test_no_header_length_is_mistaken_for_another_kind_of_file(tmp_path: Path) -> None:
    path, seen = tmp_path / "file", set()
    for extra in range(0, 1200, 4):
        data = good({"kind": "model", "more": "x" * extra})
        seen.add(data[:2])
        read(path, data)
    # A pickle begins with these bytes; so does a header of 1152 or 1408 bytes.
    assert {b"\x80\x04", b"\x80\x05"} <= seen


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    data = good()
    for length in range(len(data)):
        with pytest.raises(DamagedFile) as caught:
            read(tmp_path / "cut", data[:length])
        assert "\n" not in str(caught.value)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    # Some flips leave the values: 1e-05 and 1E-05, \\u00e9 and \\u00E9 mean the same.
    data = good({"kind": "model", "rate": 1e-05, "text": "é"})
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        in_length = bit < 64
        with pytest.raises(DamagedFile) as caught:
            read(tmp_path / "flipped", bytes(flipped)) if in_length else parse(bytes(flipped))
        assert "\n" not in str(caught.value)


A, B = ({"dtype": "U8", "shape": [n], "data_offsets": [s, s + n]} for n, s in [(24, 0), (5, 24)])
OURS = {METADATA_KEY: to_json({"kind": "model", "digest": "0" * 64})}
DEEP = b'{"__metadata__": ' + b"[" * 100_000
HOSTILE = {
    "nothing": b"",
    "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}" * 100,
    "a header of 2^64 - 1 bytes": b"\xff" * 8 + b"{}" * 100,
    "a header longer than the file": (500).to_bytes(8, "little") + b"{}" * 100,
    "no header": bytes(100),
    "a byte too many": good() + b"\0",
    "two files": good() + good(),
    "an overlap": crafted(described(b={**B, "data_offsets": [20, 25]})),
    "the same place twice": crafted(described(b=None, a=A, c=A)),
    "a hole": crafted(described(b={**B, "data_offsets": [25, 30]}), DATA + b"0"),
    "a negative offset": crafted(described(b={**B, "data_offsets": [-5, 0]})),
    "offsets backwards": crafted(described(b={**B, "data_offsets": [29, 24]})),
    "a negative size": crafted(described(b={**B, "shape": [-5]})),
    "a size that overflows": crafted(described(b={**B, "shape": [1 << 32, 1 << 32]})),
    "a size that wraps to nothing": crafted(described(b={**B, "shape": [0, 1 << 62]})),
    "rank 100,000": crafted(described(b={**B, "shape": [1] * 100_000})),
    "a size that is true": crafted(described(b={**B, "shape": [True]})),
    "a size that is a float": crafted(described(b={**B, "shape": [5.0]})),
    "an offset of 5000 digits": crafted(
        json.dumps(described()).replace("24, 29", f"24, {'9' * 5000}").encode()
    ),
    "an offset of 4000 digits": crafted(
        json.dumps(described()).replace("24, 29", f"24, {'9' * 4000}").encode()
    ),
    "three offsets": crafted(described(b={**B, "data_offsets": [24, 29, 29]})),
    "no offsets": crafted(described(b={"dtype": "U8", "shape": [5]})),
    "a key too many": crafted(described(b={**B, "extra": 1})),
    "an entry that is a list": crafted(described(b=[1, 2])),
    "a type of another tool": crafted(described(b={**B, "dtype": "BF16"})),
    "a type that is a list": crafted(described(b={**B, "dtype": ["U8"]})),
    "a tensor twice": crafted(
        json.dumps(described()).replace('"empty"', '"b"').encode()  # the library takes the last
    ),
    "metadata twice": crafted(
        json.dumps(described())[:-1].encode() + b', "__metadata__": {"charnn": "{}"}}'
    ),
    "two metadata keys": crafted(described(__metadata__={**OURS, "format": "pt"})),
    "metadata that is a number": crafted(described(__metadata__={METADATA_KEY: 7})),
    "metadata that is a list": crafted(described(__metadata__={METADATA_KEY: "[]"})),
    "metadata that is no JSON": crafted(described(__metadata__={METADATA_KEY: "{"})),
    "metadata with NaN": crafted(described(__metadata__={METADATA_KEY: '{"digest":NaN}'})),
    "metadata with 1e999": crafted(described(__metadata__={METADATA_KEY: '{"digest":1e999}'})),
    "metadata in another spelling": crafted(
        described(__metadata__={METADATA_KEY: '{"kind": "model"}'})
    ),
    "a duplicate key in the metadata": crafted(
        described(__metadata__={METADATA_KEY: '{"kind":"model","kind":"model"}'})
    ),
    "deep metadata": crafted(described(__metadata__={METADATA_KEY: "[" * 100_000})),
    "a deep header": crafted(DEEP),
    "a header that is a list": crafted([1, 2]),
    "a header in UTF-16": crafted(json.dumps(described()).encode("utf-16")),
    "a header that is not UTF-8": crafted(b'{"\xff": 1}' + b" " * 20),
    "long names": crafted(described(**{"n" * 1_000_000: B})),
    "a name of control characters": crafted(described(**{"\x1b[31m\n\n": B})),
    "many empty tensors": crafted(
        {
            **{
                str(n): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)
            },
            "__metadata__": OURS,
        },
        b"x",
    ),
    "a header above the cap": crafted(b" " * (MAX_HEADER_BYTES + 1)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path: Path, what: str) -> None:
    line = refusal(tmp_path / "model.safetensors", HOSTILE[what])
    assert "is damaged" in line or "is not a charnn file" in line


def test_deep_json_is_read_or_refused(tmp_path: Path) -> None:
    # A few depths can be parsed but not written again.
    for depth in [*range(900, 1000), *range(1000, 12_000, 1000)]:
        metadata = '{"a":' + "[" * depth + "]" * depth + ',"digest":""}'
        with pytest.raises(DamagedFile):
            read(tmp_path / "deep", crafted(described(__metadata__={METADATA_KEY: metadata})))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"PK\x03\x04", "zip archive or a PyTorch .pt file"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00", "Python pickle"),
        (b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00", "Python pickle"),
        (b"\x80\x05\x95\x1d\x00\x00\x00\x00\x00\x00\x00", "Python pickle"),
        (b"<!DOCTYPE html>", "web page"),
        (b"<!doctype html>", "web page"),
        (b"<html><body>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00{", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
@pytest.mark.parametrize("size", [12, 24, 5000, 30_000_000])
def test_other_kinds_of_files_are_named(
    tmp_path: Path, first: bytes, expected: str, size: int
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(first)
    if size > len(first):
        os.truncate(path, size)
    with pytest.raises(DamagedFile, match=expected) as caught, path.open("rb") as file:
        read_header(file, path)
    assert "\n" not in str(caught.value)


def test_a_safetensors_file_of_another_tool_is_refused(tmp_path: Path) -> None:
    for metadata in (None, {}, {"format": "pt"}):
        line = refusal(tmp_path / "hub", crafted(described(__metadata__=metadata)))
        assert "charnn did not write" in line


def test_a_header_that_is_too_long_is_not_written() -> None:
    with pytest.raises(FileError, match="shorten the metadata"):
        pack_header(PLACED, {"info": "x" * MAX_HEADER_BYTES}, "")
    with pytest.raises(FileError, match="more than fit"):
        pack_header(PLACED, {}, "", size=100)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != "digest"), JSON, max_size=5))
def test_any_metadata_survives_a_round_trip(metadata: dict[str, Any]) -> None:
    header = parse(good(metadata))
    assert metadata == {key: value for key, value in header.metadata.items() if key != "digest"}


@given(st.binary(max_size=60), st.integers(0, 400))
def test_random_bytes_in_a_header_are_refused(junk: bytes, at: int) -> None:
    data = good()
    broken = data[:at] + junk + data[at + len(junk) :]
    try:
        parse(broken)
    except DamagedFile:
        return
    assert data[8:] == broken[8:]


@given(JSON)
def test_json_has_one_spelling(value: Any) -> None:
    text = to_json(value)
    assert text.isascii()
    assert text == to_json(parse_json(text))
    assert value == parse_json(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_json_refuses_numbers_that_are_not_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(value)
    with pytest.raises(ValueError, match="not JSON"):
        parse_json(json.dumps(value))


def test_sealing_leaves_the_hash_of_the_data_as_it_was() -> None:
    data_hash = hashlib.sha256(DATA)
    assert seal(data_hash, PLACED, {}) == seal(data_hash, PLACED, {})
    assert hashlib.sha256(DATA).digest() == data_hash.digest()
    assert seal(data_hash, PLACED, {}) != seal(data_hash, PLACED, {"a": 1})
    assert seal(data_hash, PLACED, {}) != seal(hashlib.sha256(), PLACED, {})


# --- folders, and what was killed


def fill(folder: Path, text: str = "new") -> None:
    for name in ("a", "b"):
        (folder / name).write_text(f"{text} {name}")


def held(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_fifo_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for path in (fifo, link):
        with pytest.raises(FileError, match="not a regular file"), replacing(path) as file:
            file.write(b"text")
    assert fifo.is_fifo()
    assert link.is_symlink()
    assert {"fifo", "link"} == set(os.listdir(tmp_path))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole_and_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(tensor_file, "exchange", lambda *_: False)
    path = tmp_path / "made"
    for text in ("old", "new"):
        with replacing_folder(path) as folder:
            fill(folder, text)
        assert {"a": f"{text} a", "b": f"{text} b"} == held(path)
        assert ["made"] == os.listdir(tmp_path)
    with pytest.raises(FileError), replacing_folder(path) as folder:
        fill(folder / "missing", "newer")
    assert {"a": "new a", "b": "new b"} == held(path)
    assert ["made"] == os.listdir(tmp_path)


def test_files_and_folders_of_a_new_folder_are_synchronised_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls, fsync, rename = tmp_path / "made", list[str](), os.fsync, os.rename

    def traced_fsync(descriptor: int) -> None:
        calls.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def traced_rename(*names: Any) -> None:
        calls.append("rename")
        rename(*names)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not show the paths of descriptors")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    with replacing_folder(path) as folder:
        fill(folder)
        aside = folder.name
    assert {"fsync a", "fsync b"} == set(calls[:2])
    assert [f"fsync {aside}", "rename", f"fsync {tmp_path.name}"] == calls[2:]


@pytest.mark.parametrize("fails", ["first", "second"])
def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path, rename, calls = tmp_path / "made", os.rename, list[str]()
    with replacing_folder(path) as folder:
        fill(folder, "old")

    def failing(*names: Any) -> None:
        calls.append("rename")
        if len(calls) == 1 + (fails == "second"):
            raise OSError(errno.EIO, "Input/output error")
        rename(*names)

    monkeypatch.setattr(tensor_file, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(FileError, match="cannot write"), replacing_folder(path) as folder:
        fill(folder)
    assert {"a": "old a", "b": "old b"} == held(path)
    assert ["made"] == os.listdir(tmp_path)


def test_an_old_folder_stays_until_a_new_one_has_taken_its_place(tmp_path: Path) -> None:
    path, old = tmp_path / "made", tmp_path / ".made.00000000.old"
    old.mkdir()
    sweep(tmp_path)
    assert old.exists()
    with replacing_folder(path) as folder:
        fill(folder)
    assert ["made"] == os.listdir(tmp_path)


def test_a_write_sweeps_what_killed_writes_of_the_same_file_left(target: Path) -> None:
    left = target.with_name(f".{target.name}.00000000.tmp")
    other = target.with_name(".other.00000000.tmp")
    for path in (left, other):
        path.write_bytes(b"half")
    with replacing(target) as file:
        file.write(b"new")
        (aside,) = (p for p in target.parent.glob(f".{target.name}.*"))
        sweep(target.parent, target.name)  # another process
        assert aside.exists()
    assert {target, other} == set(target.parent.iterdir())
    assert b"new" == target.read_bytes()


@pytest.mark.parametrize(("number", "told"), [(errno.EIO, 1), (errno.ENOSPC, 1), (errno.EINVAL, 0)])
def test_a_folder_that_cannot_be_synchronised_is_told_unless_the_file_system_never_can(
    target: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: int
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    refused = pytest.raises(FileError, match="is written, but may not survive")
    with refused if told else nullcontext():
        write(target)
    assert b"the new file" == target.read_bytes()
