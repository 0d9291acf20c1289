"""Locks, and charnn without what only POSIX systems have, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from charnn.portable import lock, open_file, replace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def held(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.write_bytes(b"who holds it")
    return path


def test_a_lock_keeps_all_others_out_until_it_is_closed(held: Path) -> None:
    first, second = (open_file(held, os.O_RDWR) for _ in range(2))
    lock(first)
    for shared in (False, True):
        with pytest.raises(BlockingIOError):
            lock(second, shared)
    assert b"who holds it" == held.read_bytes()
    os.close(first)
    lock(second)
    os.close(second)


def test_shared_locks_keep_only_an_exclusive_one_out(held: Path) -> None:
    readers = [open_file(held, os.O_RDONLY) for _ in range(2)]
    for reader in readers:
        lock(reader, shared=True)
    writer = open_file(held, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        lock(writer)
    for descriptor in readers:
        os.close(descriptor)
    lock(writer)
    os.close(writer)


def test_the_lock_of_a_killed_process_is_free(held: Path) -> None:
    code = (
        "import os, sys\n"
        "from charnn.portable import lock, open_file\n"
        "lock(open_file(sys.argv[1], os.O_RDWR))\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(held)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:  # type: ignore[call-overload]  # typeshed wants each pipe spelt out
        assert b"locked" == other.stdout.readline().strip()
        own = open_file(held, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            lock(own)
        other.kill()
    lock(own)
    os.close(own)


def test_a_link_is_followed_only_on_request(held: Path) -> None:
    link = held.with_name("link")
    link.symlink_to(held)
    os.close(open_file(link, os.O_RDONLY))
    with pytest.raises(OSError, match="link"):
        open_file(link, os.O_RDONLY, follow=False)


def test_bytes_are_written_as_they_are(held: Path) -> None:
    descriptor = open_file(held, os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"a\nb\r\nc\x1a")
    os.close(descriptor)
    assert b"a\nb\r\nc\x1a" == held.read_bytes()


def test_a_file_takes_the_name_of_another(held: Path) -> None:
    new = held.with_name("new")
    new.write_bytes(b"new")
    replace(new, held)
    assert b"new" == held.read_bytes()
    assert not new.exists()


# Hides what Windows lacks, and gives `charnn.portable` the few calls of Windows that it needs.
AS_WINDOWS = """
import ctypes, fcntl, os, shutil, signal, sys, types
from importlib import import_module
from pathlib import Path

import numpy, prompt_toolkit, sentencepiece, torch, torch.distributed, typer, typer.testing

flock = fcntl.flock
for name in ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
LACKS = {
    os: "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK fchmod fchown fork forkpty geteuid getloadavg "
    "getpgid getuid killpg lchown mkfifo nice pread pwrite register_at_fork sched_getaffinity "
    "setsid sysconf uname wait WNOHANG",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH "
    "SIG_BLOCK SIG_SETMASK alarm pause pthread_kill pthread_sigmask setitimer sigwait",
}
signal.SIGBREAK = signal.SIGURG
for module, names in LACKS.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
shutil._use_fd_functions = False
os.O_BINARY = 0
sys.modules["msvcrt"] = types.SimpleNamespace(get_osfhandle=lambda descriptor: descriptor)

class Kernel32:
    def LockFileEx(self, handle, flags, *_):
        try:
            flock(handle.value, (2 if flags & 2 else 1) | 4)
        except BlockingIOError:
            return 0
        return 1

    def GetConsoleMode(self, *_):
        return 0

    def GlobalMemoryStatusEx(self, status):
        status[2] = 8 << 30
        return 1

ctypes.WinDLL = lambda *_, **__: Kernel32()
ctypes.get_last_error = lambda: 33
real, sys.platform = sys.platform, "win32"
import charnn.portable
sys.platform = real
charnn.portable.sys = types.SimpleNamespace(platform="win32", stdin=sys.stdin)

root = Path(charnn.__file__).parent
for path in sorted(root.rglob("*.py")):
    if path.parent.name != "adapters":  # for programs that may not be installed
        import_module(".".join(("charnn", *path.relative_to(root).with_suffix("").parts)))

def run(*words, code=0):
    done = typer.testing.CliRunner().invoke(charnn.cli.app, words)
    assert code == done.exit_code, (words, done.output, done.exception)
    return done.stdout

import charnn.cli
from charnn.runs import Run

Path("book.txt").write_text("The goat is not a sailor.\\n" * 99)
sizes = ("--max-steps", "2", "--hidden-size", "8", "--num-layers", "1", "--eval-every", "1")
assert "train" in run("--help")
run("train", "book.txt", "--name", "tiny", "--seed", "1", "--from", "scratch", *sizes)
assert "tiny" in run("runs")
holder = Run(Path("checkpoints"), "tiny")
with holder.lock():
    assert str(os.getpid()) in holder.holder
    run("train", "--resume", "--name", "tiny", "--max-steps", "1", code=1)
assert holder.holder is None
assert len(run("sample", "The ", "-m", "tiny", "-n", "20", "--seed", "1").strip()) > 4
assert "bits" in run("score", "book.txt", "-m", "tiny", "--per", "line")
run("export", "tiny", "--to", "c", "-o", "program")
run("export", "tiny", "--to", "c", "-o", "program", "--force")
run("export", "tiny", "--to", "html", "-o", "page.html")
run("train", "missing.txt", "--name", "other", code=1)
assert ["tiny"] == os.listdir("checkpoints")
assert not [name for name in os.listdir() if name.startswith(".")]
"""


def test_charnn_works_without_what_windows_lacks(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AS_WINDOWS],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
