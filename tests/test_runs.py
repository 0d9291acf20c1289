"""The folder of a run: names, lock, search, log."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from charnn import portable
from charnn.bases import BASES
from charnn.errors import BusyError, ConfigError, FileError
from charnn.portable import lock, open_file
from charnn.runs import (
    MetricsLog,
    Run,
    find_model,
    find_run,
    free_name,
    list_runs,
    read_metrics,
)

BAD_NAMES = [
    *("", ".", "..", "../x", "/abs", "a/b", "-rf", "--name", ".hidden", "_a", "a b", "a\n", "\n"),
    *("a\nb", "a\0b", "x" * 65, "x" * 300, "a\x1b[31m", "~", "$HOME", "a\\b", "a:b", "*", "☃"),
    *("con", "Nul.txt", "COM1", "lpt9.x", "aux", "book.", "prn..."),  # no folders of Windows
    *("\u0301a", "\u202ea", "a\u200b", "書" * 65, "𠀀" * 51),
]


def saved(root: Path, name: str, best: bool = True) -> Run:
    """Returns a run that was locked once and has saved files."""
    run = Run(root, name)
    with run.lock():
        run.last.write_bytes(b"last")
        if best:
            run.best.write_bytes(b"best")
    return run


# --- names


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_be_a_path_or_an_option_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a run") as caught:
        Run(tmp_path / "root", name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError):
        find_run(tmp_path / "root", name or ".")
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["a", "A-1", "book.txt", "x" * 64, "1_2"])
def test_a_plain_name_is_accepted(tmp_path: Path, name: str) -> None:
    assert tmp_path / name == Run(tmp_path, name).folder


def test_a_run_is_read_through_a_link_and_never_written(tmp_path: Path) -> None:
    outside = saved(tmp_path / "elsewhere", "real")
    before = sorted(os.listdir(outside.folder))
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside.folder)
    (root / "nowhere").symlink_to(tmp_path / "missing")
    assert ["link"] == [run.name for run in list_runs(root)]
    assert root / "link" == find_model("link", root).parent == find_model(None, root).parent
    for name in ("link", "nowhere"):
        with pytest.raises(FileError, match="--name"), Run(root, name).lock():
            pass
    assert before == sorted(os.listdir(outside.folder))
    assert "link-2" == free_name(root, "link")


def test_a_run_stands_for_the_path_of_its_folder(tmp_path: Path) -> None:
    run = saved(tmp_path, "real")
    assert run.model == find_model(run, tmp_path / "elsewhere")


@pytest.mark.parametrize("wanted", ["../../etc", "-rf", "a b\nc", "", "...", "x" * 300, "é!"])
def test_any_text_gives_a_free_name(tmp_path: Path, wanted: str) -> None:
    for _ in range(3):
        run = Run(tmp_path, free_name(tmp_path, wanted))
        assert not run.folder.exists()
        assert run.folder.parent == tmp_path
        run.create()
    assert 3 == len(os.listdir(tmp_path))


# --- the folder


def test_create_refuses_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1/x")):
        with pytest.raises(FileError, match="cannot write to") as caught:
            Run(root, "a").create()
        assert str(root) in str(caught.value)


def test_a_read_only_file_system_is_named_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    with pytest.raises(FileError, match=r"cannot write to .*/a: Read-only file system"):
        Run(tmp_path, "a").create()


def test_a_folder_with_foreign_files_is_taken_and_never_discarded(tmp_path: Path) -> None:
    crashed, foreign, good = Run(tmp_path, "crashed"), Run(tmp_path, "foreign"), None
    good = saved(tmp_path, "good")
    with crashed.lock(), foreign.lock():
        crashed.tokens.write_bytes(b"")
        (crashed.folder / ".tokens.01234567.tmp").write_bytes(b"")
        (foreign.folder / "letter.txt").write_text("mine")
    assert not Run(tmp_path, "new").taken
    assert [False, True, True] == [run.taken for run in (crashed, foreign, good)]
    for run in (crashed, foreign, good):
        run.discard()
    assert not crashed.folder.exists()
    assert "mine" == (foreign.folder / "letter.txt").read_text()
    assert good.exists


# --- the lock


def test_a_locked_run_is_refused_with_its_holder(tmp_path: Path) -> None:
    first, second = Run(tmp_path, "a"), Run(tmp_path, "a")
    with first.lock() as warnings:
        assert [] == warnings
        with pytest.raises(BusyError) as caught, second.lock():
            pass
    line = str(caught.value)
    assert f"in use by process {os.getpid()} on {socket.gethostname()} since 2" in line
    assert "\n" not in line
    with second.lock():  # free again, though the file stays
        assert second.lock_file.exists()


def test_reading_the_holder_does_not_block_a_lock(tmp_path: Path) -> None:
    run = saved(tmp_path, "a")
    asking = open_file(run.lock_file, os.O_RDONLY)
    lock(asking, shared=True)
    asked = threading.Timer(0.02, os.close, (asking,))
    asked.start()
    with run.lock() as warnings:
        assert [] == warnings
    asked.join()


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": "x"}', b"[" * 9000])
def test_a_lock_file_of_junk_still_locks(tmp_path: Path, junk: bytes) -> None:
    run = Run(tmp_path, "a")
    run.create()
    run.lock_file.write_bytes(junk)
    assert 0 == run.order
    with run.lock():
        run.lock_file.write_bytes(junk)
        with pytest.raises(BusyError, match="run 'a' is in use"), Run(tmp_path, "a").lock():
            pass


def test_a_new_holder_replaces_a_longer_one_completely(tmp_path: Path) -> None:
    run = Run(tmp_path, "a")
    run.create()
    run.lock_file.write_bytes(b"x" * 1000)
    with run.lock():
        assert os.getpid() == json.loads(run.lock_file.read_text())["pid"]


def test_locking_removes_leftover_temporary_files(tmp_path: Path) -> None:
    run = saved(tmp_path, "a")
    (run.folder / ".last.safetensors.01234567.tmp").write_bytes(b"half")
    with run.lock():
        assert ["best.safetensors", "last.safetensors", "lock"] == sorted(os.listdir(run.folder))


def test_a_filesystem_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(portable, "lock", fails)
    with Run(tmp_path, "a").lock() as warnings:
        assert 1 == len(warnings)
        assert "cannot be locked (No locks available)" in warnings[0]


def test_links_in_a_foreign_folder_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run = Run(tmp_path / "root", "a")
    run.create()
    run.lock_file.symlink_to(victim)
    with pytest.raises(FileError, match=r"cannot open .*lock"), run.lock():
        pass
    run.metrics.symlink_to(victim)
    assert "cannot write" in (MetricsLog(run.metrics).append({"step": 1}) or "")
    assert "precious" == victim.read_text()


def test_a_run_has_a_holder_only_while_it_is_locked(tmp_path: Path) -> None:
    run = saved(tmp_path, "a")
    assert run.holder is None
    with run.lock():
        assert (Run(tmp_path, "a").holder or "").startswith(f"process {os.getpid()} on ")
    assert run.holder is None
    assert Run(tmp_path, "never").holder is None


def test_the_name_of_a_run_killed_before_its_first_save_is_free(
    tmp_path: Path,
) -> None:
    crashed = Run(tmp_path, "book")
    with crashed.lock():
        crashed.tokens.write_bytes(b"half")
        assert "book-2" == free_name(tmp_path, "book")  # it is being trained
    assert "book" == free_name(tmp_path, "book")
    (crashed.folder / "letter.txt").write_text("mine")
    assert "book-2" == free_name(tmp_path, "book")
    (tmp_path / "page").write_text("a file")
    assert "page-2" == free_name(tmp_path, "page")


# --- finding


def test_the_newest_run_is_the_last_locked_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 0, -(10**8)))
    monkeypatch.setattr(time, "strftime", lambda _: f"{next(clock)}")
    for name in ("c", "a", "b"):
        run = saved(tmp_path, name)
        os.utime(run.last, (9e8 - 1e8 * run.order,) * 2)
    assert ["b", "a", "c"] == [run.name for run in list_runs(tmp_path)]
    with Run(tmp_path, "c").lock():
        pass
    assert "c" == find_run(tmp_path, None).name
    assert tmp_path / "c" / "best.safetensors" == find_model(None, tmp_path)


def test_a_run_can_be_locked_without_becoming_the_newest(tmp_path: Path) -> None:
    old, new = saved(tmp_path, "old"), saved(tmp_path, "new")
    with old.lock(newest=False):
        assert [new.name, old.name] == [run.name for run in list_runs(tmp_path)]
        old.mark_newest()
        assert old.name == find_run(tmp_path, None).name
        with pytest.raises(BusyError), Run(tmp_path, "old").lock():
            pass
    assert old.name == find_run(tmp_path, None).name


def test_a_folder_without_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    Run(tmp_path, "crashed").create()
    (tmp_path / "README.md").write_text("runs")
    assert [] == list_runs(tmp_path)
    with pytest.raises(FileError, match="charnn train TEXT"):
        find_run(tmp_path, None)
    assert [] == list_runs(tmp_path / "missing")


def test_a_model_is_a_name_a_folder_or_a_file(tmp_path: Path) -> None:
    run = saved(tmp_path, "book")
    only_last = saved(tmp_path, "half", best=False)
    assert run.best == find_model("book", tmp_path)
    assert run.best == find_model(str(run.folder), tmp_path)
    assert run.last == find_model(str(run.last), tmp_path)
    assert only_last.last == find_model("half", tmp_path)
    assert only_last.last == find_model(str(only_last.folder), Path("nowhere"))


def test_a_run_hides_a_text_file_of_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    run = saved(tmp_path / "root", "book")
    monkeypatch.chdir(tmp_path)
    for name in ("book", "english", "other"):
        Path(name).write_text("the goat")
    assert run.best == find_model("book", tmp_path / "root")
    assert BASES["english"].path == find_model("english", tmp_path / "root")
    assert Path("other") == find_model("other", tmp_path / "root")


def test_a_wrong_name_lists_the_nearest_ones(tmp_path: Path) -> None:
    for name in ("lighthouse", "villages"):
        saved(tmp_path, name)
    for find in (find_run, lambda root, name: find_model(name, root)):
        with pytest.raises(FileError, match="did you mean lighthouse"):
            find(tmp_path, "lighthose")


@pytest.mark.parametrize("model", [*BAD_NAMES, "missing.safetensors", "x" * 5000, "a/" * 3000])
def test_a_missing_model_gives_a_one_line_error(tmp_path: Path, model: str) -> None:
    with pytest.raises(FileError) as caught:
        find_model(model, tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# --- metrics.jsonl


def test_the_log_is_cut_at_the_resumed_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.cut(3)  # nothing there yet
    for step in range(1, 7):
        assert log.append({"event": "step", "step": step, "loss": 0.1 + step}) is None
    with log.path.open("a") as file:
        file.write('{"event": "step", "st')
    before = log.path.read_text().splitlines()
    log.cut(4)
    assert before[:4] == log.path.read_text().splitlines()
    log.append({"event": "step", "step": 5})
    assert [1, 2, 3, 4, 5] == [line["step"] for line in read_metrics(log.path)]


def test_incomplete_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', b"", b"{", b"[1]", b'{"step": "2"}', b"7", b"\xff\xfe", b"[" * 99_999]
    path.write_bytes(b"\n".join([*lines, b'{"step": 3}']))
    assert [{"step": 1}, {"step": 3}] == read_metrics(path)
    assert [] == read_metrics(tmp_path / "missing")
    assert [] == read_metrics(tmp_path)


def test_a_full_disk_gives_one_warning_and_no_incomplete_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        warning = log.append({"step": 2})
        assert warning is not None
        assert "the disk is full" in warning
        assert "metrics.jsonl" in warning
        assert "\n" not in warning
        assert log.append({"step": 3}) is None
    assert log.append({"step": 4}) is None
    assert '{"step": 1}\n{"step": 4}\n' == log.path.read_text()


def test_a_number_that_is_not_finite_is_not_logged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        MetricsLog(tmp_path / "metrics.jsonl").append({"step": 1, "loss": float("nan")})
    assert read_metrics(tmp_path / "metrics.jsonl") == []
