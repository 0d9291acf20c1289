"""torchrun as a process of its own, and the processes that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from forging import same_arrays

ROOT = Path(__file__).resolve().parents[2]
TEXT = "".join(
    f"{keeper} keeps {light}; {keeper} counts {number} stairs.\n"
    for number in range(60)
    for keeper, light in (("Ada", "the lamp"), ("Bo", "a goat"), ("Cy", f"log {number}"))
)
SETTINGS = {
    "--from": "scratch",
    "--num-layers": 2,
    "--hidden-size": 24,
    "--batch-size": 8,
    "--bptt": 16,
    "--dropout": 0.2,
    "--seed": 1,
    "--threads": 1,
    "--precision": "float32",
    "--ngram": 0,
    "--eval-every": 50,
    "--sample-every": 0,
    "--save-every": 20,
}
OPTIONS = [str(word) for setting in SETTINGS.items() for word in setting]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SECONDS = 200


class Torchrun:
    """torchrun with one command of charnn; `within` is a command that runs another."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *words: str,
        under: Sequence[str] = (),
        size: int = 2,
        within: Sequence[str] = (),
        log: str = "",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.run = folder / "checkpoints" / name
        self.command = ["-m", "charnn", "train", *words, "--name", name]
        environment = {name: value for name, value in os.environ.items() if name[:4] != "OMP_"}
        self.out, self.err = folder / f"{name}{log}.out", folder / f"{name}{log}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.agent = subprocess.Popen(
                [*within, *TORCHRUN, "--nproc-per-node", str(size), *under, *self.command],
                cwd=folder,
                env={**environment, **variables, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self) -> int:
        try:
            return self.agent.wait(SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        for process in (*self.processes(), self.agent.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.agent.wait(SECONDS)

    def processes(self, rank: int | None = None) -> list[int]:
        """The processes that train, on all hosts, or that of one rank."""
        ranks = self._environments()
        return [pid for pid, its in ranks.items() if rank is None or its.get("RANK") == str(rank)]

    def variables(self, name: str) -> list[str]:
        """A variable of the environment of each process that trains."""
        return [its.get(name, "") for its in self._environments().values()]

    def _environments(self) -> dict[int, dict[str, str]]:
        found = {}
        tail = "\0".join(self.command).encode() + b"\0"
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "cmdline").read_bytes().endswith(tail):
                    lines = (folder / "environ").read_text("utf-8", "replace").split("\0")
                    its = dict(line.partition("=")[::2] for line in lines)
                    if "RANK" in its:
                        found[int(folder.name)] = its
        return found

    def after_step(self, step: int) -> None:
        until = time.monotonic() + SECONDS
        while self.steps() < step:
            assert self.agent.poll() is None, self.err.read_text()
            assert time.monotonic() < until, self.err.read_text()
            time.sleep(0.05)

    def steps(self) -> int:
        with suppress(OSError):
            return (self.run / "metrics.jsonl").read_text().count('"event": "step"')
        return 0

    def losses(self) -> list[float]:
        lines = map(json.loads, (self.run / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["event"] == "step"]

    def errors(self) -> list[str]:
        return [line for line in self.err.read_text().splitlines() if line.startswith("error:")]

    def ends_alone(self) -> None:
        until = time.monotonic() + 30
        while self.processes():
            assert time.monotonic() < until, "a process is left running"
            time.sleep(0.1)


def same_bits(one: Torchrun, other: Torchrun) -> bool:
    return same_arrays(*(each.run / "last.safetensors" for each in (one, other)))
