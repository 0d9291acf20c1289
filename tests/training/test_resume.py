"""Resumed runs: the same bits as uninterrupted ones, new budgets, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from driving import finish, stop_after

from charnn import checkpoint
from charnn.config import TrainOptions
from charnn.errors import DamagedFile, FileError, NewerFile, TrainingError
from charnn.model import CELLS
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file
from charnn.training import events
from charnn.training.launch import resume


def same(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> None:
    for name, weight in a.weights.items():
        assert np.array_equal(weight, b.weights[name]), name
    assert (a.training is None) == (b.training is None)
    if a.training and b.training:
        for name, array in a.training.arrays.items():
            assert np.array_equal(array, b.training.arrays[name]), name
        ignored = ("seconds",)
        left, right = (
            {k: v for k, v in c.training.progress.items() if k not in ignored} for c in (a, b)
        )
        assert left == right
    strip = [{k: v for k, v in h.items() if k != "seconds"} for h in a.info["history"]]
    assert strip == [{k: v for k, v in h.items() if k != "seconds"} for h in b.info["history"]]


def without_times(path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm"},
        {"cell": "gru", "dropout": 0.3},
        {"cell": "rnn", "tokenizer": "byte", "optimizer": "adamw"},
        {
            "cell": "lstm",
            "tokenizer": "sentencepiece",
            "vocab_size": 300,
            "batch_size": 2,
            "bptt": 4,
        },
    ],
    ids=lambda o: f"{o['cell']}-{o.get('tokenizer', 'char')}",
)
def test_a_resumed_run_equals_an_uninterrupted_one(launch, tmp_path, options):
    with launch(name="straight", **options) as trainer:
        finish(trainer)
        epochs = trainer.step / trainer.batches.windows_per_epoch
    assert epochs > 1 or options.get("tokenizer") == "sentencepiece", "should cross a seam"
    with launch(name="broken", **options) as trainer:
        stop_after(trainer, 8)
    for _ in range(2):  # twice: a stop just before the end, too
        with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
            if trainer.step == 8:
                stop_after(trainer, 17)
            else:
                finish(trainer)
    straight, broken = tmp_path / "runs/straight", tmp_path / "runs/broken"
    for name in ("last.safetensors", "best.safetensors"):
        same(checkpoint.load(straight / name), checkpoint.load(broken / name))
    kept = [
        [
            line
            for line in without_times(run / "metrics.jsonl")
            if line["event"] in ("step", "eval", "sample")
        ]
        for run in (straight, broken)
    ]
    assert kept[0] == kept[1]


def test_a_run_from_a_token_file_resumes_exactly(launch, text, tmp_path):
    given = tmp_path / "goat.tokens"
    with open_source([str(text)]) as source:
        write_token_file(given, source, tokenizer="byte")
    with launch(name="straight", source=given) as trainer:
        finish(trainer)
    with launch(name="broken", source=given) as trainer:
        stop_after(trainer, 11)
    given.unlink()
    with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
        finish(trainer)
    straight, broken = (
        checkpoint.load(tmp_path / f"runs/{n}/last.safetensors") for n in ("straight", "broken")
    )
    same(straight, broken)


def test_a_run_resumes_without_its_text(launch, text, tmp_path):
    with launch(name="broken") as trainer:
        stop_after(trainer, 6)
    text.unlink()
    with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
        finish(trainer)
    assert trainer.finished


@pytest.mark.parametrize("cell", CELLS)
def test_evaluations_samples_and_saves_do_not_change_training(launch, tmp_path, cell):
    with launch(name="watched", cell=cell, eval_every=2, sample_every=3, save_every=1) as trainer:
        finish(trainer)
        watched = trainer.network.state_dict()
    with launch(name="alone", cell=cell, eval_every=0, sample_every=0, save_every=0) as trainer:
        finish(trainer)
        alone = trainer.network.state_dict()
    assert all(watched[name].equal(alone[name]) for name in watched)
    losses = [
        [
            line["loss"]
            for line in without_times(tmp_path / f"runs/{name}/metrics.jsonl")
            if line["event"] == "step"
        ]
        for name in ("watched", "alone")
    ]
    assert losses[0] == losses[1]


def test_no_step_is_logged_twice_after_a_kill_between_save_and_log(launch, tmp_path):
    with launch(name="broken") as trainer:
        stop_after(trainer, 8)
        last = trainer.home.last.read_bytes()
    with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
        stop_after(trainer, 14)
    trainer.home.last.write_bytes(last)  # as if killed at step 14 before it was saved
    with open(trainer.home.metrics, "a") as log:
        log.write('{"event": "step", "st')
    with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
        finish(trainer)
    steps = [
        line["step"] for line in without_times(trainer.home.metrics) if line["event"] == "step"
    ]
    assert list(range(1, 21)) == steps


def test_a_new_budget_of_a_finished_run_raises_the_rate_again(launch, tmp_path):
    with launch(name="more") as trainer:
        finish(trainer)
    with pytest.raises(TrainingError, match="--minutes"):
        with resume("more", TrainOptions(), tmp_path / "runs"):
            pass
    told = []
    with resume(
        "more", TrainOptions(max_steps=10), tmp_path / "runs", notify=told.append
    ) as trainer:
        rates = [e.learning_rate for e in trainer.run() if isinstance(e, events.StepDone)]
    assert 10 == len(rates)
    assert 30 == trainer.step
    assert max(rates) == pytest.approx(trainer.config.learning_rate * (1 - 21 / 30))
    assert rates[-1] < rates[0] < max(rates)
    assert len(told) == 1


def test_an_unfinished_run_refuses_a_new_budget(launch, tmp_path):
    with launch(name="broken") as trainer:
        stop_after(trainer, 6)
    with pytest.raises(TrainingError, match="broken"):
        with resume("broken", TrainOptions(max_steps=10), tmp_path / "runs"):
            pass


def test_without_a_name_the_newest_unfinished_run_is_resumed(launch, tmp_path):
    for name, step in (("old", 3), ("new", 4)):
        with launch(name=name) as trainer:
            stop_after(trainer, step)
    with launch(name="done") as trainer:
        finish(trainer)
    with resume(None, TrainOptions(), tmp_path / "runs") as trainer:
        assert "new" == trainer.home.name


def test_resume_without_any_run_names_the_first_command(tmp_path):
    with pytest.raises(FileError, match="charnn train TEXT"):
        with resume(None, TrainOptions(), tmp_path / "runs"):
            pass


def test_another_number_of_threads_gives_one_note(launch, tmp_path):
    with launch(name="broken") as trainer:
        stop_after(trainer, 3)
    told = []
    with resume("broken", TrainOptions(threads=2), tmp_path / "runs", notify=told.append):
        pass
    assert 1 == len(told)
    assert "threads 1 -> 2" in told[0]


def test_a_replaced_token_file_is_refused(launch, tmp_path):
    with launch(name="a") as trainer:
        stop_after(trainer, 3)
        ours = trainer.home.tokens
    with launch(name="b", split=(80, 20)) as trainer:
        stop_after(trainer, 3)
        theirs = trainer.home.tokens
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(DamagedFile, match="tokens"):
        with resume("a", TrainOptions(), tmp_path / "runs"):
            pass


def test_a_damaged_run_with_a_best_model_suggests_from_and_a_newer_one_does_not(
    launch, tmp_path, monkeypatch
):
    with launch(name="a") as trainer:
        finish(trainer)
        home = trainer.home
    assert home.best.exists()
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "FORMAT", 0)
        with pytest.raises(NewerFile):
            with resume("a", TrainOptions(), tmp_path / "runs"):
                pass
    home.last.write_bytes(home.last.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"-m {tmp_path}/runs/a, .*--from"):
        with resume("a", TrainOptions(), tmp_path / "runs"):
            pass


def test_only_a_new_budget_gives_a_resumed_run_a_deadline(launch, tmp_path):
    with launch(name="a") as trainer:
        stop_after(trainer, 3)
    with resume("a", TrainOptions(), tmp_path / "runs") as trainer:
        assert trainer.deadline is None
        finish(trainer)
    with resume("a", TrainOptions(minutes=0.1), tmp_path / "runs") as trainer:
        assert trainer.deadline is not None


def test_a_new_budget_keeps_disabled_evaluations_and_samples_disabled(launch, tmp_path):
    with launch(name="a", sample_every=0, eval_every=0) as trainer:
        finish(trainer)
    with resume("a", TrainOptions(max_steps=9), tmp_path / "runs") as trainer:
        assert (0, 0) == (trainer.config.sample_every, trainer.config.eval_every)


def test_a_stop_before_the_final_scores_interrupts_the_run(launch, tmp_path, monkeypatch):
    with launch(name="a") as trainer:
        monkeypatch.setattr(trainer.validator, "tokens", [])  # no validation during training
        trainer.best_loss = 1.0
        for event in trainer.run():
            if isinstance(event, events.StepDone) and event.step == trainer.config.max_steps:
                trainer.stop()
        assert isinstance(event, events.Ended)
        assert "interrupted" == event.reason
    monkeypatch.undo()
    with resume("a", TrainOptions(), tmp_path / "runs") as trainer:
        assert trainer.step == trainer.config.max_steps
        finish(trainer)
    assert trainer.finished
