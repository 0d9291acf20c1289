"""Whatever the instant at which a process is killed, its run loads and goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest
from forging import same_arrays
from wrapped import WRAPPED

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint, TrainingState
from charnn.config import ModelConfig, TrainConfig
from charnn.runs import read_metrics

# Saves two checkpoints in turn, and dies at call N of those that change the disk. A write is two
# calls, so that a file can be cut in its middle. The names of the calls go to stdout.
SAVER = (
    WRAPPED
    + """
import os, sys
from pathlib import Path
from charnn import checkpoint

run, fatal = Path(sys.argv[1]), int(sys.argv[2])
states = [checkpoint.load(run / name) for name in ("a.safetensors", "b.safetensors")]
calls = 0

def dies_at(name):
    global calls
    calls += 1
    if calls == fatal:
        os.kill(os.getpid(), 9)
    print(name, flush=True)

def dying(function):
    def call(*args, **options):
        dies_at(function.__name__)
        return function(*args, **options)
    return call

class DyingFile(InHalves):
    def before_half(self):
        dies_at("write")

fdopen = os.fdopen
os.fdopen = lambda *args: DyingFile(fdopen(*args))
for name in ("open", "fsync", "replace", "close"):
    setattr(os, name, dying(getattr(os, name)))
for count in range(8):
    checkpoint.save(run / "last.safetensors", states[(count + 1) % 2])
"""
)
SAVES = 8
KILLS = 50


def tiny(seed: int) -> Checkpoint:
    draw = np.random.default_rng(seed)
    model = ModelConfig(256, "gru", embedding_size=4, hidden_size=4, num_layers=1)
    recipe = TrainConfig(max_steps=9, batch_size=2)

    def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {name: draw.normal(size=s).astype(np.float32) for name, s in shapes.items()}

    state = TrainingState(recipe, {"step": seed}, filled(recipe.tensor_shapes(model)))
    return Checkpoint(model, {"kind": "byte"}, filled(model.tensor_shapes()), 10, {}, state)


def test_a_save_killed_at_any_call_leaves_the_state_before_or_after(workplace: Any) -> None:
    run = workplace.run()
    run.create()
    files = {name: run.folder / f"{name}.safetensors" for name in ("a", "b", "last")}
    for seed, name in enumerate(("a", "b")):
        checkpoints.save(files[name], tiny(seed))
    states = [checkpoints.load(files[name]).digest for name in ("a", "b")]
    checkpoints.save(files["last"], tiny(0))
    whole = workplace.finish(str(run.folder), "0", program=SAVER).written.split()
    assert len(whole) >= KILLS
    assert SAVES == whole.count("replace")
    cut = 0
    for fatal in range(1, KILLS + 1):
        checkpoints.save(files["last"], tiny(0))
        killed = workplace.start(str(run.folder), str(fatal), program=SAVER)
        assert -signal.SIGKILL == killed.wait(), killed.said
        done = killed.written.split()
        assert whole[: fatal - 1] == done
        assert states[done.count("replace") % 2] == checkpoints.load(files["last"]).digest
        cut += len(list(run.folder.glob(".*.tmp")))
        with run.lock():
            assert {"lock", *(f.name for f in files.values())} == set(os.listdir(run.folder))
    assert cut > KILLS / 4  # some kills left a file aside, which the lock swept away


def assert_no_step_twice(lines: list[dict[str, Any]], steps: int) -> None:
    assert list(range(1, steps + 1)) == [x["step"] for x in lines if x["event"] == "step"]
    for event in ("eval", "sample"):
        seen = [line["step"] for line in lines if line["event"] == event]
        assert sorted(set(seen)) == seen
    assert 1 == sum(line["event"] == "end" for line in lines)


def assert_the_same_run(workplace: Any, name: str, straight: str) -> None:
    """Weights, moments, carried state, history, log: all but the times are the same."""
    (one, step), (other, expected) = workplace.last(name), workplace.last(straight)
    assert expected == step
    runs = workplace.run(name), workplace.run(straight)
    assert same_arrays(*(run.last for run in runs))
    assert same_arrays(*(run.best for run in runs))

    def timeless(values: Any) -> Any:
        times = {"seconds", "tokens_per_second"}
        return [{k: v for k, v in value.items() if k not in times} for value in values]

    assert timeless(other.info["history"]) == timeless(one.info["history"])
    logs = [read_metrics(workplace.run(n).metrics) for n in (name, straight)]
    for log in logs:
        assert_no_step_twice(log, step)
    lines = [timeless(x for x in log if x["event"] in ("step", "eval", "sample")) for log in logs]
    assert lines[0] == lines[1]


def kill_and_resume(workplace: Any, kills: int, seed: int, *words: str) -> None:
    steps = str(80 * (kills + 1))  # more than are trained between two kills
    draw = random.Random(seed)
    straight = workplace.train("book.txt", "--name", "straight", "--max-steps", steps, *words)
    running = workplace.train("book.txt", "--name", "killed", "--max-steps", steps, *words)
    for _ in range(kills):
        reached = workplace.last("killed")[1] if workplace.run("killed").exists else 0
        workplace.until_step(reached + draw.randint(1, 20), running, "killed")
        time.sleep(draw.uniform(0, 0.02))
        running.send(signal.SIGKILL)
        assert -signal.SIGKILL == running.wait()
        for file in (workplace.run("killed").last, workplace.run("killed").best):
            if file.exists():
                checkpoints.load(file)
        assert workplace.last("killed")[1] >= reached
        running = workplace.start("train", "--resume", "--name", "killed")
    for command in (running, straight):
        assert 0 == command.wait(), command.said
    assert_the_same_run(workplace, "killed", "straight")
    files = {"best.safetensors", "last.safetensors", "lock", "metrics.jsonl", "tokens"}
    assert files == set(os.listdir(workplace.run("killed").folder))


def test_training_killed_five_times_ends_with_the_same_model(workplace: Any) -> None:
    kill_and_resume(workplace, 5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--cell", "gru", "--dropout", "0.2"),
        ("--cell", "rnn", "--tokenizer", "byte"),
        ("--num-layers", "2", "--tokenizer", "sentencepiece", "--vocab-size", "300"),
        ("--split", "100"),
    ],
)
def test_training_killed_ten_times_ends_with_the_same_model(workplace: Any, words: Any) -> None:
    kill_and_resume(workplace, 10, 2, *words)


def test_a_log_cut_by_a_kill_is_read_and_continued(workplace: Any) -> None:
    running = workplace.train("book.txt", "--max-steps", "40")
    workplace.until_step(12, running)
    running.send(signal.SIGKILL)
    running.wait()
    with workplace.run().metrics.open("a") as file:
        file.write('{"event": "step", "step": 4')
    saved = workplace.last()[1]
    workplace.finish("train", "--resume")
    lines = workplace.run().metrics.read_text().splitlines()
    assert_no_step_twice([json.loads(line) for line in lines], 40)
    assert saved < 40
