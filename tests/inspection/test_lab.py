"""The lab's experiments, small enough for seconds."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from charnn.cli import main
from charnn.cli.lab import describe
from charnn.config import LabOptions
from charnn.errors import ConfigError, TrainingError
from charnn.inspection.lab import experiment
from charnn.inspection.lab.experiment import (
    Report,
    Row,
    Trial,
    loss_of,
    rows_of,
    run,
    score_of,
    steps_for,
    train,
)
from charnn.inspection.lab.network import LabNetwork
from charnn.inspection.lab.tasks import TASKS, Batch
from charnn.training.machine import prepared

ROOT = Path(__file__).resolve().parents[2]
TINY = LabOptions("recall", sizes=(1, 2), seeds=2, max_steps=3, hidden_size=4, batch_size=4)
RNN, LSTM, CHRONO = Row("rnn", False), Row("lstm", False), Row("lstm", True)


@pytest.fixture(autouse=True)
def _judge_briefly(monkeypatch):
    monkeypatch.setattr(experiment, "TESTED", 50)
    with prepared(1):
        yield


def trial(row: Row, size: int, seed: int, solved: bool, score: float | None = 0.5) -> Trial:
    return Trial(row, size, seed, score, solved, 10, 20, 1.0, 0.5, 2.0, 0.1)


def report(solved: dict[Row, dict[int, tuple[bool, ...]]], cells=("rnn", "lstm")) -> Report:
    sizes = tuple(next(iter(solved.values())))
    options = replace(
        TINY, cells=cells, sizes=sizes, seeds=len(next(iter(solved.values()))[sizes[0]])
    )
    trials = [
        trial(row, size, seed, each)
        for row, by_size in solved.items()
        for size, seeds in by_size.items()
        for seed, each in enumerate(seeds)
    ]
    return Report(options, trials)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_tried_with_every_row(task: str) -> None:
    options = replace(TINY, task=task, sizes=(2,), seeds=1)
    *trials, whole = run(options)
    assert rows_of(options) == [t.row for t in trials]
    assert whole.trials == trials
    for each in trials:
        assert (3, 3) == (each.steps, each.max_steps)
        assert each.score is not None
        assert each.solved == TASKS[task].solved(each.score)
        assert each.largest_norm >= each.median_norm > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_two_processes_do_too(monkeypatch) -> None:
    monkeypatch.undo()  # the other processes know nothing of what is changed here
    options = replace(TINY, cells=("rnn",))
    (*one, _), (*two, _) = run(options), run(options, threads=2)
    assert [replace(t, seconds=0) for t in one] == [replace(t, seconds=0) for t in two]
    assert len({t.score for t in one}) > 1


def test_a_short_recall_is_solved_and_ends_early() -> None:
    options = LabOptions("recall", ("rnn",), (1,), seeds=1, hidden_size=24, max_steps=1000)
    (done, whole) = run(options)
    assert done.solved
    assert done.steps < 1000
    assert [1] == whole.reach(RNN)


LONG = replace(TINY, cells=("rnn",), sizes=(1, 9), max_steps=10**7)


@pytest.mark.slow
def test_a_worker_that_the_system_kills_ends_the_experiment(monkeypatch) -> None:
    monkeypatch.undo()
    others = set(multiprocessing.active_children())
    short_and_endless = LabOptions(
        "recall", ("rnn",), (1, 200), seeds=1, hidden_size=24, max_steps=10**7
    )
    found = run(short_and_endless, threads=2)
    assert isinstance(first := next(found), Trial)
    assert first.solved
    (set(multiprocessing.active_children()) - others).pop().kill()
    with pytest.raises(TrainingError, match=r"killed by the system \(SIGKILL\).*fewer --threads"):
        next(found)
    assert others == set(multiprocessing.active_children())


def test_a_reader_who_stops_reading_leaves_no_worker_behind(monkeypatch) -> None:
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda *_: pool)
    pool = StandInPool()
    found = run(LONG, threads=2)
    assert 1 == next(found)
    found.close()
    assert pool.closed


def test_an_end_while_workers_are_begun_kills_those_that_are_there(monkeypatch) -> None:
    begun, killed = [], []

    class Worker:
        def kill(self):
            killed.append(self)

    class EndedPool(StandInPool):
        def map(self, work, jobs):
            begun.append(Worker())
            raise SystemExit(143)

    pool = EndedPool()
    monkeypatch.setattr(experiment, "ProcessPoolExecutor", lambda *_: pool)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: begun)
    with pytest.raises(SystemExit):
        next(run(LONG, threads=2))
    assert begun == killed
    assert pool.closed


class StandInPool:
    closed = False

    def map(self, work, jobs):
        return map(len, [[0]] * len(jobs))

    def shutdown(self, cancel_futures):
        self.closed = cancel_futures


def in_group(number: int) -> bool:
    """Whether any process of a group is there."""
    with suppress(ProcessLookupError):
        os.killpg(number, 0)
        return True
    return False


# An end of the command -> exit code, and whether the signal goes to all processes, as Ctrl-C does.
ENDS = {signal.SIGINT: (130, True), signal.SIGTERM: (143, False), signal.SIGKILL: (-9, False)}
PARTIAL = ("--cells", "rnn", "--delays", "1,200", "--seeds", "2", "--max-steps", "10000000")


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
def test_however_the_command_ends_no_worker_stays_and_the_table_is_printed(number: int) -> None:
    command = [sys.executable, "-c", "from charnn.cli import main; main()", "lab", "recall"]
    code, to_all = ENDS[number]
    with subprocess.Popen(
        [*command, *PARTIAL, "--threads", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as running:
        said = running.stderr.readline() + running.stderr.readline()
        (os.killpg if to_all else os.kill)(running.pid, number)
        began = time.monotonic()
        out, err = running.communicate(timeout=30)
        assert (code, True) == (running.returncode, time.monotonic() - began < 10), err
    assert said.startswith("1/4 rnn, delay 1, seed 0")
    deadline = time.monotonic() + 10
    while in_group(running.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number != signal.SIGKILL:
        assert "note: the table is partial: 2 of 4 trainings have ended\n" == err
        head, row = out.splitlines()
        assert head.startswith("cell        delay")
        assert ["rnn", "1", "2/2"] == [row.split()[place] for place in (0, 1, 4)]


def test_a_table_that_was_broken_off_is_not_json(charnn, monkeypatch) -> None:
    def broken(*_):
        yield trial(RNN, 1, 0, True)
        raise TrainingError("it was too much")

    monkeypatch.setattr(experiment, "run", broken)
    words = ("lab", "recall", "--cells", "rnn", "--delays", "1,2", "-q")
    code, out, err = charnn(*words)
    assert (1, 2) == (code, len(out.splitlines()))
    partial = "note: the table is partial: 1 of 6 trainings have ended"
    assert [partial, "error: it was too much"] == err.splitlines()
    assert (1, "", "error: it was too much\n") == charnn(*words, "--json")


def test_minutes_become_steps() -> None:
    short, long = (
        steps_for(replace(TINY, max_steps=None, minutes=minutes), RNN) for minutes in (0.001, 1)
    )
    assert 1 <= short < long


def test_chrono_is_its_formula() -> None:
    network = LabNetwork("lstm", 3, 1000, 2)
    network.reset_parameters(torch.Generator().manual_seed(1), chrono=50)
    i, f, g, o = network.cell.bias.detach().view(4, -1)
    times = f.exp()
    assert 1 <= times.min() < 2
    assert 47 < times.max() <= 49
    assert pytest.approx(25, abs=1.5) == float(times.mean())  # uniform from 1 to 49
    torch.testing.assert_close(i, -f)
    assert 0 == g.abs().max() == o.abs().max()
    # A unit whose gate is constant keeps a share sigmoid(b) a step: 1 - 1/(1 + u).
    torch.testing.assert_close(torch.sigmoid(f), 1 - 1 / (1 + times))

    network = LabNetwork("gru", 3, 1000, 2)
    network.reset_parameters(torch.Generator().manual_seed(1), chrono=50)
    r, z, n = network.cell.bias.detach().view(3, -1)
    assert 47 < z.exp().max() <= 49
    assert 0 == r.abs().max() == n.abs().max()


def test_chrono_leaves_a_cell_without_gates_alone() -> None:
    plain, chrono = LabNetwork("rnn", 3, 8, 2), LabNetwork("rnn", 3, 8, 2)
    plain.reset_parameters(torch.Generator().manual_seed(1))
    chrono.reset_parameters(torch.Generator().manual_seed(1), chrono=50)
    for a, b in zip(plain.parameters(), chrono.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_recurrent_matrices_are_orthogonal_or_not_as_asked(orthogonal: bool) -> None:
    network = LabNetwork("gru", 3, 64, 2)
    network.reset_parameters(torch.Generator().manual_seed(1), orthogonal)
    for block in network.cell.weight_hh.detach().split(64):
        assert orthogonal == torch.allclose(block @ block.T, torch.eye(64), atol=1e-4)
        assert pytest.approx(1, abs=0.1) == float(block.square().sum(1).mean())


def test_clipping_holds_the_gradient_and_its_share_is_told() -> None:
    tight = train(replace(TINY, clip=1e-3), RNN, 2, 0, 5)
    free = train(replace(TINY, clip=0.0), RNN, 2, 0, 5)
    assert (1.0, 0.0) == (tight.clipped, free.clipped)
    assert tight.largest_norm > 1e-3  # before it is clipped


def test_a_training_that_overflows_is_not_solved_and_has_no_score() -> None:
    done = train(
        replace(TINY, task="adding", learning_rate=1e3, clip=0.0, sizes=(2,)),
        replace(RNN, cell="rnn"),
        2,
        0,
        40,
    )
    assert not done.solved
    assert done.score is None or math.isfinite(done.score)


def test_scores_are_what_they_say() -> None:
    outputs = torch.tensor([[[2.0, 1.0, 0.0]], [[1.0, 2.0, 3.0]]])
    inputs = np.zeros((2, 1, 1), np.float32)
    classes = Batch(inputs, np.array([[0], [1]]))
    assert 0.5 == score_of(outputs, classes)
    assert 1.0 == score_of(outputs, Batch(inputs, np.array([[0], [-1]])))
    expected = -torch.log_softmax(outputs, -1)
    assert pytest.approx(float(expected[0, 0, 0] + expected[1, 0, 1]) / 2) == float(
        loss_of(outputs, classes)
    )
    numbers = Batch(inputs, np.array([[-1], [0.5]], np.float32))
    assert 0.25 == score_of(outputs, numbers) == float(loss_of(outputs, numbers))
    may = np.array([[[True, True, False]], [[False, True, True]]])
    assert 1.0 == score_of(outputs, Batch(inputs, np.array([[0], [1]]), may))
    may[1] = [[True, False, True]]
    assert 0.0 == score_of(outputs, Batch(inputs, np.array([[0], [2]]), may))


def test_the_reach_ends_at_the_first_size_that_is_not_solved() -> None:
    found = report(
        {RNN: {10: (True, True, False), 20: (True, False, True), 50: (False, True, True)}}
    )
    assert [20, 10, 0] == found.reach(RNN)


def test_the_report_claims_no_more_than_its_numbers() -> None:
    solved = {10: (True, True), 20: (True, True)}
    half = {10: (True, True), 20: (False, False)}
    none = {10: (False, False), 20: (False, False)}
    lines = list(describe(report({RNN: half, LSTM: solved, CHRONO: none}), 80))
    assert "  rnn         10 (10..10)" in lines
    assert "  lstm        20 (20..20), all tried; at least 2 x rnn" in lines
    assert "  lstm chrono none (0..0)" in lines
    short = list(describe(report({RNN: half, LSTM: half, CHRONO: solved}), 80))
    assert "  lstm        10 (10..10); as far as rnn" in short
    equal = list(describe(report({RNN: solved, LSTM: solved, CHRONO: none}), 80))
    assert "  lstm        20 (20..20), all tried" in equal
    nothing = list(describe(report({RNN: none, LSTM: solved, CHRONO: none}), 80))
    assert "  lstm        20 (20..20), all tried" in nothing


def test_the_table_fits_forty_columns() -> None:
    found = report({RNN: {10: (True,), 200: (False,)}, CHRONO: {10: (True,), 200: (False,)}})
    found = replace(found, options=replace(found.options, chrono=True))
    lines = list(describe(found, 40))
    table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    assert 5 == len(table)
    assert max(map(len, table)) <= 40
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "juggling"}, "no task 'juggling'"),
        ({"cells": ("rnn", "tree")}, "got tree"),
        ({"cells": ("rnn", "rnn")}, "twice"),
        ({"sizes": (20, 10)}, "rising"),
        ({"sizes": (0,)}, "delay of recall"),
        ({"cells": ("rnn",), "chrono": True}, "rnn has none"),
        ({"minutes": 1.0, "max_steps": 5}, "both budgets"),
        ({"clip": -1.0}, "clip"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_what_cannot_be_tried_is_refused(settings, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(TINY, **settings)


@pytest.fixture
def charnn(monkeypatch, capsys):
    """Runs a command in this process; gives exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["charnn", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


SMALL = ("--seeds", "1", "--max-steps", "2", "--hidden-size", "4", "--threads", "1")


def test_the_command_lists_the_tasks_with_rule_and_baseline(charnn) -> None:
    code, out, _ = charnn("lab")
    assert 0 == code
    for name, task in TASKS.items():
        assert f"{name}: {task.about}" in out
        assert task.rule in out
    assert set(TASKS) == set(json.loads(charnn("lab", "--json")[1])["tasks"])


@pytest.mark.parametrize("task", TASKS)
def test_the_command_prints_a_line_for_each_row_and_size(charnn, task: str) -> None:
    code, out, err = charnn("lab", task, "--delays", "2", *SMALL)
    assert 0 == code
    table = out.split("\n\n")[1].splitlines()[1:]
    assert ["rnn", "gru", "gru chrono", "lstm", "lstm chrono"] == [r[:11].strip() for r in table]
    assert TASKS[task].rule in out
    assert f"baseline: {TASKS[task].baseline:.3f}"[:-1] in out
    assert err.startswith("1/5 rnn, ")


def test_switches_choose_the_rows_and_reach_the_training(charnn) -> None:
    words = ("lab", "recall", "--delays", "1,2", "--cells", "lstm,rnn", *SMALL, "-q", "--json")
    found = {}
    for switch in ("--chrono", "--no-chrono", "--no-orthogonal", "--clip=0"):
        code, out, err = charnn(*words, switch)
        assert (0, "") == (code, err)
        found[switch] = json.loads(out)
    rows = {switch: [(r["cell"], r["chrono"]) for r in it["rows"]] for switch, it in found.items()}
    assert [("lstm", True), ("rnn", False)] == rows["--chrono"]
    assert [("lstm", False), ("rnn", False)] == rows["--no-chrono"]
    assert [("lstm", False), ("lstm", True), ("rnn", False)] == rows["--clip=0"]
    assert 0.0 == found["--clip=0"]["clip"]
    assert found["--no-orthogonal"]["orthogonal"] is False
    first = [found[switch]["trials"][0]["score"] for switch in ("--no-chrono", "--no-orthogonal")]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lab", "juggling"), "no task"),
        (("lab", "recall", "--delays", "ten"), "whole numbers"),
        (("lab", "recall", "--minutes", "1", "--max-steps", "1"), "budgets"),
        (("lab", "recall", "--threads", "0"), "threads"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(charnn, words, said: str) -> None:
    code, out, err = charnn(*words)
    assert (2, "", 1) == (code, out, len(err.splitlines()))
    assert said in err
