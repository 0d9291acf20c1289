"""Real processes under torchrun: their losses, their ends, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import numpy as np
import pytest
from processes import OPTIONS, SECONDS, TEXT, Torchrun, same_bits

from charnn import checkpoint as checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]


@pytest.fixture
def torchrun(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    started: list[Torchrun] = []

    def start(name: str, *words: str, under: tuple[str, ...] = (), size: int = 2) -> Torchrun:
        words = words or ("text.txt", *OPTIONS, "--max-steps", "200")
        started.append(Torchrun(tmp_path, name, *words, under=under, size=size))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_processes_train_alike_and_a_killed_one_is_replaced(torchrun: Any) -> None:
    """One run of each size, and runs of which a process, rank 0 too, is killed with SIGKILL."""
    one, two, three = (torchrun(f"of-{size}", size=size) for size in (1, 2, 3))
    assert [0, 0, 0] == [each.wait() for each in (one, two, three)]
    assert 200 == len(one.losses())
    assert np.abs(np.subtract(one.losses(), two.losses())).max() < 1e-5
    assert np.abs(np.subtract(one.losses(), three.losses())).max() < 1e-5
    for rank in (0, 1):
        killed = torchrun(f"killed-{rank}", under=("--max-restarts", "1"))
        killed.after_step(70)
        os.kill(killed.processes(rank)[0], signal.SIGKILL)
        assert 0 == killed.wait()
        assert killed.losses() == two.losses()
        assert same_bits(two, killed)


@pytest.mark.parametrize("rank", [0, 1])
def test_without_restarts_a_kill_ends_all_and_the_last_save_loads(torchrun: Any, rank: int) -> None:
    run = torchrun("killed", "text.txt", *OPTIONS, "--max-steps", "100000")
    run.after_step(25)
    os.kill(run.processes(rank)[0], signal.SIGKILL)
    assert run.agent.wait(30)
    run.ends_alone()
    assert 20 <= checkpoints.load(run.run / "last.safetensors").info["step"]
    assert len(run.errors()) == rank  # rank 0 explains, and torchrun tells who was killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_torchrun_saves_at_the_step_that_was_reached(
    torchrun: Any, number: signal.Signals
) -> None:
    run = torchrun("stopped", "text.txt", *OPTIONS, "--max-steps", "100000")
    run.after_step(25)
    for process in (*run.processes(), run.agent.pid):  # all at once, as a cluster does
        os.kill(process, number)
    assert run.wait()
    assert checkpoints.load(run.run / "last.safetensors").info["step"] == run.steps()
    assert [] == run.errors()


def test_a_signal_to_one_process_stops_all(torchrun: Any) -> None:
    run = torchrun("stopped", "text.txt", *OPTIONS, "--max-steps", "100000")
    run.after_step(25)
    os.kill(run.processes(1)[0], signal.SIGTERM)
    assert run.wait()
    assert checkpoints.load(run.run / "last.safetensors").info["step"] == run.steps()
    assert 2 == run.err.read_text().count("exitcode  : 143")


def test_a_killed_torchrun_leaves_nothing_running_and_loses_nothing(torchrun: Any) -> None:
    run = torchrun("orphans", "text.txt", *OPTIONS, "--max-steps", "100000")
    run.after_step(25)
    run.agent.kill()
    run.ends_alone()
    assert checkpoints.load(run.run / "last.safetensors").info["step"] == run.steps()


def test_one_process_talks_and_one_error_is_told(torchrun: Any) -> None:
    told = torchrun("told", "text.txt", *OPTIONS, "--max-steps", "5", "--json")
    assert 0 == told.wait()
    (line,) = told.out.read_text().splitlines()
    assert 5 == json.loads(line)["step"]
    assert 1 == told.err.read_text().count("plan:")
    few = torchrun("few", "text.txt", *OPTIONS, "--max-steps", "5", "--batch-size", "1")
    assert few.wait()
    assert 1 == len(few.errors())
    assert "--batch-size" in few.errors()[0]
