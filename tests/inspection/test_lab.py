"""Experiments of the lab and its command, small enough for seconds."""

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
    LabReport,
    LabTrainer,
    Row,
    Trial,
    loss_of,
    rows_of,
    run_trials,
    score_of,
    steps_for,
    train,
)
from charnn.inspection.lab.tasks import TASKS, LabBatch
from charnn.training.machine import prepared

ROOT = Path(__file__).resolve().parents[2]
TINY = LabOptions("recall", sizes=(1, 2), seeds=2, max_steps=3, hidden_size=4, batch_size=4)
RNN, LSTM, CHRONO = Row("rnn", False), Row("lstm", False), Row("lstm", True)


@pytest.fixture(autouse=True)
def short_tests(monkeypatch):
    """Scores trials on few sequences, on one thread."""
    monkeypatch.setattr(experiment, "TESTED", 50)
    with prepared(1):
        yield


# --- trials


@pytest.mark.parametrize("task", TASKS)
def test_every_row_is_trained_on_every_task(task):
    options = replace(TINY, task=task, sizes=(2,), seeds=1)
    trials = list(run_trials(options))
    assert rows_of(options) == [trial.row for trial in trials]
    for trial in trials:
        assert (3, 3) == (trial.steps, trial.max_steps)
        assert trial.solved == TASKS[task].solved(trial.score)
        assert trial.largest_norm >= trial.median_norm > 0


def test_a_short_recall_is_solved_and_stops_early():
    options = LabOptions("recall", ("rnn",), (1,), seeds=1, hidden_size=24, max_steps=1000)
    (trial,) = run_trials(options)
    assert trial.solved
    assert trial.steps < 1000
    assert [1] == LabReport(options, [trial]).reach(RNN)


def test_minutes_become_steps():
    short, long = (
        steps_for(replace(TINY, max_steps=None, minutes=minutes), RNN) for minutes in (0.001, 1)
    )
    assert 1 <= short < long


def test_clipping_limits_the_gradient_and_its_share_is_counted():
    tight = train(replace(TINY, clip=1e-3), RNN, 2, 0, 5)
    free = train(replace(TINY, clip=0.0), RNN, 2, 0, 5)
    assert (1.0, 0.0) == (tight.clipped, free.clipped)
    assert tight.largest_norm > 1e-3


def test_a_trial_that_overflows_is_not_solved():
    options = replace(TINY, task="adding", learning_rate=1e3, clip=0.0, sizes=(2,))
    trial = train(options, RNN, 2, 0, 40)
    assert not trial.solved
    assert trial.score is None or math.isfinite(trial.score)


# --- worker processes


@pytest.mark.slow
def test_trials_in_two_processes_equal_those_in_one(monkeypatch):
    monkeypatch.undo()  # worker processes do not see the patch
    options = replace(TINY, cells=("rnn",))
    one, two = run_trials(options), run_trials(options, threads=2)
    assert [replace(trial, seconds=0) for trial in one] == [
        replace(trial, seconds=0) for trial in two
    ]


@pytest.mark.slow
def test_a_killed_worker_ends_the_experiment(monkeypatch):
    monkeypatch.undo()
    others = {*multiprocessing.active_children()}
    short_and_endless = LabOptions(
        "recall", ("rnn",), (1, 200), seeds=1, hidden_size=24, max_steps=10**7
    )
    found = run_trials(short_and_endless, threads=2)
    assert next(found).solved
    ({*multiprocessing.active_children()} - others).pop().kill()
    with pytest.raises(TrainingError, match="--threads"):
        next(found)
    assert others == {*multiprocessing.active_children()}


def processes_in(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


# Signal -> exit code, and whether all processes of the group get it, as with Ctrl-C.
ENDS = {signal.SIGINT: (130, True), signal.SIGTERM: (143, False), signal.SIGKILL: (-9, False)}


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
def test_a_signal_leaves_no_worker_and_prints_the_table_so_far(number):
    command = [sys.executable, "-c", "from charnn.cli import main; main()", "lab", "recall"]
    endless = ["--cells", "rnn", "--delays", "1,200", "--seeds", "2", "--max-steps", "10000000"]
    code, to_all = ENDS[number]
    with subprocess.Popen(
        [*command, *endless, "--threads", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    ) as running:
        first = running.stderr.readline() + running.stderr.readline()
        (os.killpg if to_all else os.kill)(running.pid, number)
        out, err = running.communicate(timeout=30)
    assert code == running.returncode, err
    assert "delay 1, seed 0" in first
    deadline = time.monotonic() + 10
    while processes_in(running.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number != signal.SIGKILL:
        assert "2 of 4" in err
        assert 1 == len(err.splitlines())
        assert ["cell", "rnn"] == [line.split()[0] for line in out.splitlines()]


# --- weights, losses and scores


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_chrono_sets_the_biases_of_its_formula(cell):
    options = replace(TINY, hidden_size=1000, sizes=(48,))  # recall at 48 takes 50 steps
    biases = LabTrainer(options, Row(cell, True), 48, 1).cell.bias.detach()
    if cell == "lstm":
        i, keep, *others = biases.view(4, -1)
        torch.testing.assert_close(i, -keep)
    elif cell == "gru":
        r, keep, n = biases.view(3, -1)
        others = [r, n]
    else:
        assert 0 == biases.abs().max()
        return
    times = keep.exp()
    assert 1 <= times.min() < 2
    assert 47 < times.max() <= 49
    assert pytest.approx(25, abs=1.5) == float(times.mean())  # uniform from 1 to 49
    assert 0 == max(other.abs().max() for other in others)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_recurrent_matrices_are_orthogonal_or_normal(orthogonal):
    options = replace(TINY, hidden_size=64, orthogonal=orthogonal)
    for block in LabTrainer(options, Row("gru", False), 2, 1).cell.weight_hh.detach().split(64):
        assert orthogonal == torch.allclose(block @ block.T, torch.eye(64), atol=1e-4)
        assert pytest.approx(1, abs=0.1) == float(block.square().sum(1).mean())


def test_losses_and_scores_equal_hand_computed_ones():
    outputs = torch.tensor([[[2.0, 1.0, 0.0]], [[1.0, 2.0, 3.0]]])
    inputs = np.zeros((2, 1, 1), np.float32)
    classes = LabBatch(inputs, np.array([[0], [1]]))
    assert 0.5 == score_of(outputs, classes)
    assert 1.0 == score_of(outputs, LabBatch(inputs, np.array([[0], [-1]])))
    logs = torch.log_softmax(outputs, -1)
    mean = -float(logs[0, 0, 0] + logs[1, 0, 1]) / 2
    assert mean == pytest.approx(float(loss_of(outputs, classes)))
    numbers = LabBatch(inputs, np.array([[-1], [0.5]], np.float32))
    assert 0.25 == score_of(outputs, numbers) == float(loss_of(outputs, numbers))
    allowed = np.array([[[True, True, False]], [[False, True, True]]])
    assert 1.0 == score_of(outputs, LabBatch(inputs, np.array([[0], [1]]), allowed))
    allowed[1] = [[True, False, True]]
    assert 0.0 == score_of(outputs, LabBatch(inputs, np.array([[0], [2]]), allowed))


# --- the report


def report(solved: dict[Row, dict[int, tuple[bool, ...]]], **changed) -> LabReport:
    sizes = tuple(next(iter(solved.values())))
    seeds = len(next(iter(solved.values()))[sizes[0]])
    trials = [
        Trial(*row, size, seed, 0.5, each, 10, 20, 1.0, 0.5, 2.0, 0.1)
        for row, by_size in solved.items()
        for size, by_seed in by_size.items()
        for seed, each in enumerate(by_seed)
    ]
    options = replace(TINY, cells=("rnn", "lstm"), sizes=sizes, seeds=seeds, **changed)
    return LabReport(options, trials)


def test_the_reach_stops_at_the_first_size_that_is_not_solved():
    solved = {10: (True, True, False), 20: (True, False, True), 50: (False, True, True)}
    assert [20, 10, 0] == report({RNN: solved}).reach(RNN)


def test_the_report_shows_each_row_and_its_reach_in_forty_columns():
    found = report(
        {RNN: {10: (True,), 200: (False,)}, CHRONO: {10: (True,), 200: (True,)}}, chrono=True
    )
    lines = list(describe(found, 40))
    table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    assert 5 == len(table)
    assert max(map(len, table)) <= 40
    rnn, chrono = lines[2:4]
    assert "rnn" in rnn
    assert "10" in rnn
    assert "lstm chrono" in chrono
    assert "200" in chrono


# --- the command


@pytest.fixture
def charnn(monkeypatch, capsys):
    """Runs a command in this process; returns exit code, stdout and stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["charnn", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return call


SMALL = ("--seeds", "1", "--max-steps", "2", "--hidden-size", "4", "--threads", "1")


def test_the_command_lists_the_tasks(charnn):
    code, out, _ = charnn("lab")
    assert 0 == code
    for name, task in TASKS.items():
        assert f"{name}: {task.about}" in out
        assert not task.is_error or task.rule in out
    assert set(TASKS) == set(json.loads(charnn("lab", "--json")[1])["tasks"])


def test_the_command_prints_a_line_for_each_row_and_size(charnn):
    code, out, err = charnn("lab", "brackets", "--delays", "2", *SMALL)
    assert 0 == code
    table = out.split("\n\n")[1].splitlines()[1:]
    assert ["rnn", "gru", "gru chrono", "lstm", "lstm chrono"] == [r[:11].strip() for r in table]
    assert "99% right" in out
    assert err.startswith("1/5 rnn, ")


def test_flags_choose_the_rows_and_reach_the_trials(charnn):
    words = ("lab", "recall", "--delays", "1,2", "--cells", "lstm,rnn", *SMALL, "-q", "--json")
    found = {}
    for flag in ("--chrono", "--no-chrono", "--no-orthogonal", "--clip=0"):
        code, out, err = charnn(*words, flag)
        assert (0, "") == (code, err)
        found[flag] = json.loads(out)
    rows = {flag: [(r["cell"], r["chrono"]) for r in it["rows"]] for flag, it in found.items()}
    assert [("lstm", True), ("rnn", False)] == rows["--chrono"]
    assert [("lstm", False), ("rnn", False)] == rows["--no-chrono"]
    assert [("lstm", False), ("lstm", True), ("rnn", False)] == rows["--clip=0"]
    assert 0.0 == found["--clip=0"]["clip"]
    assert found["--no-orthogonal"]["orthogonal"] is False
    first = [found[flag]["trials"][0]["score"] for flag in ("--no-chrono", "--no-orthogonal")]
    assert first[0] != first[1]


def test_a_failure_prints_the_table_so_far_but_no_json(charnn, monkeypatch):
    def broken(*_):
        yield Trial(*RNN, 1, 0, 0.5, True, 10, 20, 1.0, 0.5, 2.0, 0.1)
        raise TrainingError("it was too much")

    monkeypatch.setattr(experiment, "run_trials", broken)
    words = ("lab", "recall", "--cells", "rnn", "--delays", "1,2", "-q")
    code, out, err = charnn(*words)
    assert (1, 2, 2) == (code, len(out.splitlines()), len(err.splitlines()))
    assert "1 of 6" in err
    assert (1, "", "error: it was too much\n") == charnn(*words, "--json")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"task": "juggling"}, "juggling"),
        ({"cells": ("rnn", "tree")}, "tree"),
        ({"cells": ("rnn", "rnn")}, "--cells"),
        ({"sizes": (20, 10)}, "--delays"),
        ({"task": "brackets", "sizes": (65,)}, "depth of brackets"),
        ({"cells": ("rnn",), "chrono": True}, "--chrono"),
        ({"minutes": 1.0, "max_steps": 5}, "--max-steps"),
        ({"clip": -1.0}, "clip"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_settings_that_cannot_be_tried_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        replace(TINY, **settings)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("lab", "juggling"), "juggling"),
        (("lab", "recall", "--delays", "ten"), "ten"),
        (("lab", "recall", "--threads", "0"), "threads"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(charnn, words, named):
    code, out, err = charnn(*words)
    assert (2, "") == (code, out)
    assert named in err
