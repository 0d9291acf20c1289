"""Processes that can be killed: charnn's command line, and small programs that use its rooms.

Importing torch takes longer than most of these tests. So one process imports everything once, and
forks for each command; the fork is a process like any other, with its own terminal or files, and
ends as any other. Where forking after such imports is not safe, each command starts anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint
from charnn.runs import Run

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from charnn.cli import main; main()"
NURSERY = """
import json, os, signal, sys
if sys.platform == "linux":
    import charnn.cli, charnn.cli.watch, charnn.generation.model, charnn.training.launch
    import charnn.bases.choose, charnn.export, charnn.report.page
    import charnn.ngrams.add, charnn.ngrams.fit
    charnn.training.machine.MEASURE_SECONDS = 0.0
for line in iter(sys.stdin.buffer.raw.readline, b""):
    request = json.loads(line)
    if "poll" in request:
        pid, status = os.waitpid(request["poll"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if answer == 0:
            break
    print(json.dumps(answer), flush=True)
else:
    sys.exit()
os.setsid()
for number in request["ignored"]:
    signal.signal(number, signal.SIG_IGN)
for descriptor, path in enumerate(request["files"]):
    flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if path.startswith(request["cwd"]) else 0)
    opened = os.open(path, flags, 0o666)  # the first terminal to be opened becomes its own
    os.dup2(opened, descriptor)
    os.close(opened)
os.chdir(request["cwd"])
if request["uid"]:
    os.setgroups([])
    os.setgid(request["uid"])
    os.setuid(request["uid"])
if sys.platform != "linux":
    os.execv(sys.executable, [sys.executable, "-c", request["program"], *request["words"]])
os.environ.update(request["environment"])
sys.argv = ["charnn", *request["words"]]
try:
    exec(request["program"], {"__name__": "__main__"})
except SystemExit as end:
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(end.code or 0)  # without taking torch's modules apart, which takes long
"""
TEXT = "".join(
    f"{keeper} keeps {light}; {keeper} counts {number} stairs.\n"
    for number in range(30)
    for keeper, light in (("Ada", "the lamp"), ("Bo", "a goat"), ("Cy", f"log {number}"))
)
TINY = {
    "--hidden-size": 16,
    "--num-layers": 1,
    "--batch-size": 4,
    "--bptt": 16,
    "--threads": 1,
    "--precision": "float32",
    "--eval-every": 20,
    "--sample-every": 50,
    "--save-every": 5,
    "--seed": 1,
}


class Nursery:
    """The process that forks the others."""

    def __init__(self) -> None:
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **one_thread, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()
        assert 0 == self.process.returncode


class Command:
    """A running process of which stdout and stderr go to files, or to a terminal."""

    def __init__(self, nursery: Nursery, folder: Path, request: dict[str, Any]) -> None:
        self.nursery = nursery
        self.out, self.err = Path(request["files"][1]), Path(request["files"][2])
        self.pid: int = nursery.ask(cwd=str(folder), **request)
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.nursery.ask(poll=self.pid)
        return self.code

    def send(self, number: int) -> None:
        assert self.poll() is None, self.said
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """The exit code; negative for a signal."""
        until(lambda: self.poll() is not None, seconds, self)
        assert self.code is not None
        return self.code

    @property
    def said(self) -> str:
        return self.err.read_text() if self.err.is_file() else ""

    @property
    def written(self) -> str:
        return self.out.read_text()

    def error(self, code: int = 1) -> str:
        """The one line with which the command failed."""
        assert code == self.wait(), self.said
        assert "Traceback" not in self.said
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        assert 1 == len(lines), self.said
        assert self.said.endswith(lines[0] + "\n")
        assert "charnn has a fault" not in lines[0]
        return lines[0]


def until(
    condition: Callable[[], Any], seconds: float = 60, command: Command | None = None
) -> None:
    """Waits for a condition, as long as the command runs that is to bring it about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, command.said if command else "it never happened"
        assert command is None or command.code is None or condition(), command.said
        time.sleep(0.001)
        if command:
            command.poll()


class Workplace:
    """A folder with a text in it, in which commands run."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self.nursery, self.folder = nursery, folder
        self.root = folder / "checkpoints"
        self.text = folder / "book.txt"
        self.text.write_text(TEXT)
        self.started: list[Command] = []

    def start(
        self,
        *words: str,
        program: str = MAIN,
        stdin: str = os.devnull,
        terminal: str = "",
        ignored: tuple[int, ...] = (),
        uid: int = 0,
        **environment: str,
    ) -> Command:
        """Starts a command; `terminal` is the path of one that all three streams go to."""
        base = self.folder / f"{len(self.started)}"
        files = [terminal] * 3 if terminal else [stdin, f"{base}.out", f"{base}.err"]
        request = {
            "program": program,
            "words": words,
            "files": files,
            "ignored": ignored,
            "uid": uid,
            "environment": environment,
        }
        self.started.append(Command(self.nursery, self.folder, request))
        return self.started[-1]

    def train(self, *words: str, **options: Any) -> Command:
        tiny = [str(word) for option in TINY.items() for word in option]
        return self.start("train", *tiny, *words, **options)

    def finish(self, *words: str, **options: Any) -> Command:
        """Runs a command that has to succeed."""
        command = self.start(*words, **options)
        assert 0 == command.wait(), command.said
        return command

    def run(self, name: str = "book") -> Run:
        return Run(self.root, name)

    def steps(self, name: str = "book") -> int:
        """The last step that the log of a run tells of."""
        with suppress(FileNotFoundError), self.run(name).metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            return max(map(int, re.findall(rb'"step": (\d+),', file.read())), default=0)
        return 0

    def until_step(self, step: int, command: Command, name: str = "book") -> None:
        until(lambda: self.steps(name) >= step, command=command)

    def last(self, name: str = "book") -> tuple[Checkpoint, int]:
        """The checkpoint that a run goes on from, and its step."""
        loaded = checkpoints.load(self.run(name).last)
        assert loaded.training is not None
        return loaded, loaded.training.progress["step"]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def workplace(nursery: Nursery, tmp_path: Path) -> Iterator[Workplace]:
    workplace = Workplace(nursery, tmp_path)
    yield workplace
    for command in workplace.started:
        if command.poll() is None:
            os.kill(command.pid, signal.SIGKILL)
            command.wait()


@pytest.fixture(scope="session")
def finished_run(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 6 steps, to copy."""
    workplace = Workplace(nursery, tmp_path_factory.mktemp("finished"))
    command = workplace.train("book.txt", "--max-steps", "6", "--save-every", "2")
    assert 0 == command.wait(), command.said
    return workplace.run().folder


@pytest.fixture
def trained(workplace: Workplace, finished_run: Path) -> Workplace:
    """A workplace with a finished run called book."""
    shutil.copytree(finished_run, workplace.run().folder)
    return workplace
