"""HUP, Ctrl-C and TERM end a training in order; two trainers never share a run."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from charnn import checkpoint as checkpoints
from charnn.cli.signals import OrderlyEnd
from charnn.portable import SIGNALS
from charnn.runs import read_metrics

FOREVER = ("book.txt", "--max-steps", "100000000")


def test_a_signal_whose_interrupt_is_swallowed_stops_the_run_as_soon_as_it_can() -> None:
    stopped = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with OrderlyEnd() as end:
        with suppress(KeyboardInterrupt):  # as Python does in a callback
            os.kill(os.getpid(), signal.SIGTERM)
        end.stop = lambda: stopped.append(True)
    for number, handler in before.items():  # the block leaves them ignored
        signal.signal(number, handler)
    assert [True] == stopped
    assert 143 == end.code


def assert_saved_in_order(workplace: Any, ended: Any, code: int) -> int:
    """The step at hand was finished and saved, and the command that goes on was told."""
    assert code == ended.wait(), ended.said
    assert "Traceback" not in ended.said
    assert "error" not in ended.said
    saved = workplace.last()[1]
    log = read_metrics(workplace.run().metrics)
    assert saved == max(line["step"] for line in log if line["event"] == "step")
    assert ("end", "interrupted") == (log[-1]["event"], log[-1]["reason"])
    assert f"saved at step {saved:,}" in ended.said
    assert "charnn train --resume --name book" in ended.said
    return saved


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_finishes_the_step_saves_and_prints_how_to_continue(
    workplace: Any, number: int, code: int
) -> None:
    running = workplace.train(*FOREVER, "--save-every", "0")
    workplace.until_step(3, running)
    running.send(number)
    saved = assert_saved_in_order(workplace, running, code)
    assert "Ctrl-C again to quit now" in running.said
    again = workplace.start("train", "--resume")
    workplace.until_step(saved + 3, again)
    again.send(number)
    assert assert_saved_in_order(workplace, again, code) > saved


def test_an_ignored_hangup_stays_ignored(workplace: Any) -> None:
    running = workplace.train(*FOREVER, ignored=(signal.SIGHUP,))
    workplace.until_step(1, running)
    running.send(signal.SIGHUP)
    workplace.until_step(workplace.steps() + 50, running)
    running.send(signal.SIGTERM)
    assert_saved_in_order(workplace, running, 143)


# A save that takes long: the first call of fsync after training began waits for a file.
SLOW_SAVE = """
import os, time
from pathlib import Path
fsync = os.fsync
def slow_fsync(descriptor):
    if Path("slow").exists():
        Path("saving").touch()
        while not Path("go").exists():
            time.sleep(0.005)
    fsync(descriptor)
os.fsync = slow_fsync
from charnn.cli import main
main()
"""


def in_a_save(workplace: Any) -> Any:
    """A training that was told to end, and hangs in the save that follows."""
    running = workplace.train(*FOREVER, "--save-every", "0", program=SLOW_SAVE)
    workplace.until_step(3, running)
    (workplace.folder / "slow").touch()
    running.send(signal.SIGINT)
    deadline = time.monotonic() + 30
    while not (workplace.folder / "saving").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert running.poll() is None
    return running


def test_a_second_ctrl_c_leaves_at_once_with_the_old_files_whole(workplace: Any) -> None:
    running = in_a_save(workplace)
    running.send(signal.SIGINT)
    assert 130 == running.wait(5), running.said
    assert "Traceback" not in running.said
    assert 0 == workplace.last()[1]
    (workplace.folder / "go").touch()
    logged = workplace.steps()
    again = workplace.start("train", "--resume")
    workplace.until_step(logged + 1, again)
    again.send(signal.SIGINT)
    assert_saved_in_order(workplace, again, 130)
    assert not list(workplace.run().folder.glob(".*"))


def test_other_signals_during_the_last_save_let_it_finish(workplace: Any) -> None:
    running = in_a_save(workplace)
    running.send(signal.SIGTERM)
    running.send(signal.SIGHUP)
    time.sleep(0.05)
    assert running.poll() is None
    (workplace.folder / "go").touch()
    assert running.wait() in (129, 143)
    assert workplace.last()[1] >= 3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_while_the_text_is_read_leaves_no_run_behind(
    workplace: Any, number: int, code: int
) -> None:
    os.mkfifo(workplace.folder / "pipe")
    running = workplace.train("pipe", "--name", "early")
    with open(workplace.folder / "pipe", "wb", buffering=0) as pipe:
        pipe.write(b"the beginning of a text ")
        deadline = time.monotonic() + 30
        while not workplace.run("early").folder.exists():
            assert time.monotonic() < deadline, running.said
            time.sleep(0.005)
        running.send(number)
        assert code == running.wait(), running.said
    assert "Traceback" not in running.said
    assert "error" not in running.said
    assert [] == list(workplace.root.iterdir())


# --- at a terminal


@pytest.fixture
def terminal() -> Iterator[Any]:
    master, slave = pty.openpty()
    yield master, os.ttyname(slave)
    for descriptor in (master, slave):
        with suppress(OSError):
            os.close(descriptor)


def heard(master: int) -> bytes:
    """Reads the terminal until now, or until its other side is closed."""
    said = b""
    os.set_blocking(master, False)
    with suppress(OSError):
        while data := os.read(master, 1 << 16):
            said += data
    return said


def test_ctrl_c_at_a_terminal_stops_in_order_and_restores_the_cursor(
    workplace: Any, terminal: Any
) -> None:
    master, name = terminal
    running = workplace.train(*FOREVER, terminal=name)
    workplace.until_step(3, running)
    os.write(master, b"\x03")
    said = b""
    while running.poll() is None:
        said += heard(master)
    said += heard(master)
    assert 130 == running.wait()
    assert b"Ctrl-C again to quit now" in said
    assert b"charnn train --resume --name book" in said
    assert b"Traceback" not in said
    assert said.rfind(b"\x1b[?25h") >= said.rfind(b"\x1b[?25l")
    assert workplace.last()[1] == workplace.steps()


def test_a_closed_terminal_stops_training_in_order(workplace: Any, terminal: Any) -> None:
    master, name = terminal
    running = workplace.train(*FOREVER, "--save-every", "0", terminal=name)
    workplace.until_step(3, running)
    os.close(master)
    assert 129 == running.wait()
    assert workplace.last()[1] == workplace.steps()


# --- two trainers


def test_a_second_trainer_is_refused_with_the_holder_of_the_run(workplace: Any) -> None:
    first = workplace.train(*FOREVER)
    workplace.until_step(3, first)
    for words in (("train", "--resume", "--name", "book"), ("train", "--resume")):
        line = workplace.start(*words).error()
        assert f"process {first.pid} on {os.uname().nodename} since 20" in line
    line = workplace.train(*FOREVER, "--name", "book").error()
    assert "--resume --name book" in line
    first.send(signal.SIGKILL)
    first.wait()
    logged = workplace.steps()
    again = workplace.start("train", "--resume")
    workplace.until_step(logged + 1, again)
    again.send(signal.SIGTERM)
    assert_saved_in_order(workplace, again, 143)


def test_a_second_trainer_cannot_take_a_name_while_the_first_reads_its_text(workplace: Any) -> None:
    os.mkfifo(workplace.folder / "pipe")
    first = workplace.train("pipe", "--name", "book", "--max-steps", "3")
    with open(workplace.folder / "pipe", "wb") as pipe:
        deadline = time.monotonic() + 30
        while not (lock := workplace.run().lock_file).exists() or not lock.read_text().strip():
            assert time.monotonic() < deadline, first.said
            time.sleep(0.005)
        line = workplace.train(*FOREVER, "--name", "book").error()
        assert f"process {first.pid}" in line
        pipe.write(workplace.text.read_bytes())
    assert 0 == first.wait(), first.said
    assert 3 == workplace.last()[1]


def test_a_model_is_sampled_while_it_is_trained(workplace: Any) -> None:
    running = workplace.train(*FOREVER, "--save-every", "1", "--eval-every", "2")
    workplace.until_step(3, running)
    for _ in range(30):
        checkpoints.load(workplace.run().last)
        checkpoints.load(workplace.run().best)
    sampled = workplace.finish("sample", "Ada ", "-n", "20", "--seed", "1")
    assert sampled.written.startswith("Ada ")
    running.send(signal.SIGTERM)
    assert_saved_in_order(workplace, running, 143)
