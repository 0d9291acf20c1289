"""The folder of a run: its files, name, lock and log."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from charnn import hub, portable
from charnn.bases import BASES
from charnn.config.names import is_name, to_name
from charnn.errors import BusyError, ConfigError, FileError, did_you_mean
from charnn.tensor_file import (
    file_errors,
    leftovers,
    os_error_line,
    parse_json,
    read_header,
    regular,
    replacing,
    sweep,
)

SUFFIX = ".safetensors"
LOCK_BYTES = 256
PATIENCE = 0.1  # seconds; reading `Run.holder` takes the lock for far less
MAX_ORDER = 2**53
LINE_BYTES = 64 << 10  # the longest line that is read of a log


def _here(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file of a run; a folder from elsewhere may hold links, which are not followed."""
    return regular(path, flags, follow=False)


class Run:
    """The folder of a run in ``root``, whatever its name; a run behind a link is only read."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises ConfigError for a name that looks like a path or an option."""
        if not is_name(name):
            raise ConfigError(
                f"{name[:80]!r} cannot name a run: use letters, digits, '.', '_' and '-', "
                "starting with a letter or digit, 64 at most"
            )
        self.root, self.name, self.folder = root, name, root / name
        self.last = self.folder / f"last{SUFFIX}"
        self.best = self.folder / f"best{SUFFIX}"
        self.tokens = self.folder / "tokens"
        self.metrics = self.folder / "metrics.jsonl"
        self.lock_file = self.folder / "lock"
        self._descriptor = -1  # of the lock file, while `lock` holds it
        self._discarded = False

    def __fspath__(self) -> str:
        """Returns the folder, so that a run stands for a path."""
        return str(self.folder)

    @property
    def exists(self) -> bool:
        """True if a checkpoint was saved; a folder left by an early crash does not count."""
        return model_in(self.folder) is not None

    @property
    def model(self) -> Path:
        """The file of the best model, or of the last one if there is no best."""
        return model_in(self.folder) or self.last

    @property
    def order(self) -> int:
        """Counter that orders runs by last use; a clock may step back."""
        order = self._holder().get("order")
        return order if type(order) is int and 0 <= order < MAX_ORDER else 0

    def create(self) -> None:
        """Makes the folder and checks that it is writable.

        Raises:
            FileError: the folder cannot be made or written to.
        """
        with file_errors("write to", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()

    @property
    def taken(self) -> bool:
        """True if the folder holds a run, or files other than those of an early crash."""
        ours = {self.tokens, self.metrics, self.lock_file, *leftovers(self.folder)}
        return self.folder.exists() and not ours.issuperset(self.folder.iterdir())

    @property
    def holder(self) -> str | None:
        """Description of the process that holds the lock, or None."""
        with suppress(OSError):
            descriptor = _here(self.lock_file, os.O_RDONLY)
            try:
                portable.lock(descriptor, shared=True)
            except BlockingIOError:
                return self._who()
            finally:
                os.close(descriptor)
        return None

    @property
    def abandoned(self) -> bool:
        """True if a run was killed here before its first save and left nothing else."""
        return self.lock_file.exists() and not self.taken and self.holder is None

    def discard(self) -> None:
        """Removes the folder if nothing was saved."""
        if not self.taken:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._discarded = True

    @contextmanager
    def lock(self, newest: bool = True) -> Iterator[list[str]]:
        """Locks the run for this process; yields warnings for the caller to show.

        The run becomes the newest, or with `newest` False only when `mark_newest` is called. The
        system releases the lock when the process ends; the file stays and names the last
        holder.

        Raises:
            BusyError: another process, named in the message, holds the lock.
            FileError: the folder cannot be written to, or is a link to another folder.
        """
        if self.folder.is_symlink():
            raise FileError(
                f"{self.folder} is a link to another folder, which charnn reads but does not "
                "change: train under another --name, or resume with --checkpoints where the link "
                "leads"
            )
        self.create()
        try:
            warnings = self._take()
            if newest:
                self.mark_newest()
            else:
                self._sign(self.order)
            sweep(self.folder)
            yield warnings
        finally:
            self._release()
            if self._discarded and self.abandoned:  # Windows removes no open file, as the lock was
                self.discard()

    def relock(self) -> None:
        """Locks the run again if its lock file was deleted; does nothing if `lock` never held it.

        Raises:
            BusyError: another process has locked the run since.
            FileError: the lock file cannot be made again.
        """
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), os.lstat(self.lock_file)):
                return
        self._release()
        self._take()
        self.mark_newest()

    def _take(self) -> list[str]:
        """Opens and locks the lock file; returns warnings."""
        with file_errors("open", self.lock_file):
            self._descriptor = _here(self.lock_file, os.O_RDWR | os.O_CREAT)
        try:
            _hold(self._descriptor)
        except BlockingIOError:
            raise BusyError(
                f"run {self.name!r} is in use by {self._who()}: wait, or use another --name"
            ) from None
        except OSError as error:
            return [
                f"{self.folder} cannot be locked ({error.strerror}): "
                "make sure that no other process trains this run"
            ]
        return []

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def mark_newest(self) -> None:
        """Makes this the newest run; `lock` must hold it.

        Raises:
            FileError: the lock file cannot be written.
        """
        self._sign(1 + max((run.order for run in list_runs(self.root)), default=0))

    def _sign(self, order: int) -> None:
        """Writes the holder and the order into the lock file."""
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "order": order,
        }
        # A single write: a kill between truncating and writing would lose the order.
        text = json.dumps(holder).encode().ljust(LOCK_BYTES)
        with file_errors("write", self.lock_file):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, text)
            os.ftruncate(self._descriptor, len(text))

    def _who(self) -> str:
        who = self._holder()
        return (
            f"process {who.get('pid', '?')} on {who.get('host', '?')} since {who.get('since', '?')}"
        )

    def _holder(self) -> dict[str, Any]:
        with suppress(OSError, ValueError), open(self.lock_file, "rb", opener=_here) as file:
            who = parse_json(file.read(4 * LOCK_BYTES).decode())
            return who if isinstance(who, dict) else {}
        return {}


def _hold(descriptor: int) -> None:
    """Locks a file; retries briefly, since reading `holder` takes the lock for a moment.

    Raises:
        OSError: another process holds the lock, or the file cannot be locked.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return portable.lock(descriptor)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(PATIENCE / 20)


def list_runs(root: Path) -> list[Run]:
    """Returns the runs under `root` that have a checkpoint, newest first."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return []
    folders = [e.name for e in entries if is_name(e.name) and e.is_dir()]
    runs = [run for run in (Run(root, name) for name in folders) if run.exists]
    return sorted(runs, key=lambda run: -run.order)


def free_name(root: Path, wanted: str) -> str:
    """Returns `wanted`, or the first of `wanted-2`, `wanted-3` … that is free.

    The folder of a run that was killed before its first save counts as free.
    """
    stem = to_name(wanted, "run", 56)
    name, number = stem, 1
    while os.path.lexists(root / name) and (
        (root / name).is_symlink() or not Run(root, name).abandoned
    ):
        number += 1
        name = f"{stem}-{number}"
    return name


def model_in(folder: Path) -> Path | None:
    """Returns the file of the best model in a folder, or of the last one; None if there is none."""
    files = (folder / f"{kind}{SUFFIX}" for kind in ("best", "last"))
    # os.path: pathlib raises for a folder that belongs to someone else
    return next((file for file in files if os.path.exists(file)), None)


def model_name(path: Path) -> str:
    """Returns the name of a model: of its run or repository, else of its file."""
    if path.stem in ("best", "last"):
        return path.absolute().parent.name
    return hub.name_of(path) or path.stem


def no_run_yet(root: Path) -> str:
    """Returns the message for a folder without runs."""
    with suppress(OSError):
        for folder in (root, *sorted(root.iterdir())):
            if model_in(folder):
                return (
                    f"no folder in {root}/ has a name that a run may have: use -m "
                    f"{shlex.quote(str(folder))} for the model there"
                )
    bases = " or ".join(f"-m {name}" for name in BASES)
    return (
        f"no run in {root}/ yet: start one with 'charnn train TEXT', or use a base that ships "
        f"with {bases}"
    )


def step_of(model: Path) -> int | None:
    """Returns the step at which a model file was saved; None if it does not tell."""
    step = _info(model).get("step")
    return step if isinstance(step, int) else None


def is_untrained(model: Path) -> bool:
    """Tells whether the weights of a model file are random, as they are before the first step."""
    return step_of(model) == 0 and "from" not in _info(model)


def _info(model: Path) -> dict[str, Any]:
    with suppress(FileError, OSError), open(model, "rb", opener=regular) as file:
        info = read_header(file, model).metadata.get("info")
        return info if isinstance(info, dict) else {}
    return {}


def find_run(root: Path, name: str | None) -> Run:
    """Returns the run of that name, or the newest that is not untrained.

    Raises:
        FileError: there is no such run; the message lists similar names.
    """
    runs = list_runs(root)
    if name is None:
        for run in runs:
            if not is_untrained(run.model):
                return run
        if runs:
            bases = " or ".join(f"-m {name}" for name in BASES)
            raise FileError(
                f"no run in {root}/ is trained yet, the newest is {runs[0].name!r}: try later, or "
                f"use a base that ships with {bases}"
            )
        raise FileError(no_run_yet(root))
    run = Run(root, name)
    if run.exists:
        return run
    raise FileError(f"no run called {name!r} in {root}/{_nearest(name, runs)}")


def find_model(model: str | os.PathLike[str] | None, root: Path) -> Path:
    """Returns the file that MODEL means: a run's folder, a run, a base, a file; None: the newest.

    A name such as hf:OWNER/NAME is downloaded from the Hub. A run that has the name of a base hides
    the base; both hide a file of that name, which may be the text that the run was trained on.

    Raises:
        FileError: there is no such model.
        CharnnError: see `charnn.hub.download`.
    """
    if model is None:
        return find_run(root, None).model
    model = os.fspath(model)
    if hub.is_hub_name(model):
        return hub.download(model)
    path = Path(model)
    # os.path: pathlib raises for a name that is too long
    is_folder = os.path.isdir(model)
    if is_folder and (found := model_in(path)):
        return found
    could_be_name = is_name(model) and not model.endswith(SUFFIX)
    runs = {run.name: run for run in list_runs(root)} if could_be_name else {}
    if model in runs:
        return runs[model].model
    if could_be_name and model in BASES:
        return BASES[model].path
    if os.path.isfile(model):
        return path
    if could_be_name:
        return find_run(root, model).model
    hint = "it is a folder without a model" if is_folder else "no such file or run"
    raise FileError(
        f"cannot use {model[:80]!r} as a model: {hint}{_nearest(path.name, list_runs(root))}"
    )


def _nearest(name: str, runs: list[Run]) -> str:
    names = [run.name for run in runs]
    guess = did_you_mean(name, names, f"there is {', '.join(names[:5])}" if names else "")
    return f"; {guess}" * bool(guess) + "; 'charnn runs' lists all runs"


class MetricsLog:
    """metrics.jsonl: one object per line, no step twice.

    On a full disk the log loses lines and the run continues; the first failure is reported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = False

    def cut(self, step: int) -> None:
        """Drops the lines after `step`, and a last line that a kill left incomplete."""
        if not self.path.exists():
            return
        kept = [line for line in read_metrics(self.path) if line.get("step", 0) <= step]
        with replacing(self.path) as file:
            for line in kept:
                file.write(json.dumps(line).encode() + b"\n")

    def append(self, line: dict[str, Any]) -> str | None:
        """Appends a line; returns a warning for the first failure."""
        text = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            descriptor = _here(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, text) < len(text):
                    os.ftruncate(descriptor, size)  # half a line would damage the next one
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            first, self.failed = not self.failed, True
            reason = os_error_line(error, self.path, "write")
            return f"{reason}; the run continues without its log" if first else None
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics file; skips incomplete and foreign ones."""
    lines = []
    with suppress(OSError), open(path, "rb", opener=_here) as file:
        while line := file.readline(LINE_BYTES):
            with suppress(ValueError):
                value = parse_json(line.decode())
                if isinstance(value, dict) and type(value.get("step")) is int:
                    lines.append(value)
    return lines


def step_losses(path: Path) -> list[tuple[int, float]]:
    """Returns step and training loss of each step in a metrics file."""
    steps = [row for row in read_metrics(path) if row.get("event") == "step"]
    return [(row["step"], row["loss"]) for row in steps if isinstance(row.get("loss"), float)]
