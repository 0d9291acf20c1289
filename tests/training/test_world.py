"""Runs of several processes, here threads: the losses, the files and the errors of one process."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from driving import TINY, finish, stop_after
from threads import together

from charnn import checkpoint
from charnn.checkpoint import Checkpoint
from charnn.cli.runs import describe
from charnn.config import TrainOptions
from charnn.errors import CharnnError, ConfigError, FileError, TrainingError
from charnn.training import machine, world
from charnn.training.events import Ended, StepDone
from charnn.training.follow import follow
from charnn.training.launch import resume, run_of_job, start
from charnn.training.optimizer import orthogonalize

CLOSE = 1e-5


class Company:
    """Trains with several processes: `train` starts a run, `go_on` resumes one."""

    def __init__(self, text: Any, root: Any) -> None:
        self.text, self.root = text, root

    def train(self, size: int, name: str, drive: Any = finish, **options: Any) -> list[Any]:
        wanted = replace(TINY, name=name, **options)

        def lead() -> None:
            with start([str(self.text)], wanted, self.root) as (trainer, _):
                drive(trainer)

        return self.work(size, lead, drive)

    def go_on(self, size: int, name: str, **options: Any) -> list[str]:
        notes: list[str] = []

        def lead() -> None:
            with resume(name, TrainOptions(**options), self.root, notify=notes.append) as trainer:
                finish(trainer)

        raise_first(self.work(size, lead))
        return notes

    def work(self, size: int, lead: Any, drive: Any = finish) -> list[Any]:
        def live(mine: Any) -> None:
            if mine.leads:
                lead()
            else:
                with follow(self.root) as trainer:
                    assert trainer is not None
                    drive(trainer)

        return together(size, live)

    def steps(self, name: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.root / name / "metrics.jsonl").read_text().splitlines())
        return [line for line in lines if line["event"] == "step"]

    def last(self, name: str) -> Checkpoint:
        return checkpoint.load(self.root / name / "last.safetensors")


def raise_first(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result


@pytest.fixture
def company(text, tmp_path, monkeypatch):
    monkeypatch.setattr("charnn.training.follow.LAG_SECONDS", 0.1)
    return Company(text, tmp_path / "runs")


def arrays_of(saved: Checkpoint) -> dict[str, np.ndarray]:
    assert saved.training is not None
    return {**saved.weights, **saved.training.arrays}


def same_bits(one: Checkpoint, other: Checkpoint) -> bool:
    a, b = arrays_of(one), arrays_of(other)
    return all(np.array_equal(a[name], b[name]) for name in a.keys() | b.keys())


def losses_differ(company: Company, one: str, other: str) -> float:
    a, b = company.steps(one), company.steps(other)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    assert [line["tokens"] for line in a] == [line["tokens"] for line in b]
    return max(abs(left["loss"] - right["loss"]) for left, right in zip(a, b, strict=True))


RECIPES = [
    {"cell": "lstm", "dropout": 0.2},
    {"cell": "gru", "optimizer": "adamw", "dropout": 0.2},
    {"cell": "rnn", "batch_size": 5},
    {"tokenizer": "sentencepiece", "vocab_size": 300, "batch_size": 4, "bptt": 4},
    {"lines": True, "batch_size": 80, "dropout": 0.2},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: "-".join(map(str, r.values())))
def test_any_number_of_processes_trains_like_one(company, recipe):
    for size in (1, 2, 3):  # three processes have uneven shares
        raise_first(company.train(size, f"of-{size}", **recipe))
    for size in (2, 3):
        assert losses_differ(company, "of-1", f"of-{size}") < CLOSE
        one, other = arrays_of(company.last("of-1")), arrays_of(company.last(f"of-{size}"))
        assert {name: array.shape for name, array in one.items()} == {
            name: array.shape for name, array in other.items()
        }


def test_several_processes_start_from_the_weights_of_a_base(company, tmp_path):
    raise_first(company.train(1, "base"))
    base = str(company.root / "base/last.safetensors")
    company.text = tmp_path / "new.txt"
    company.text.write_text("the goat is new.\n" * 30)
    for size in (1, 2):
        raise_first(company.train(size, f"of-{size}", from_model=base, max_steps=9))
    assert losses_differ(company, "of-1", "of-2") < CLOSE


def test_a_run_of_several_processes_resumes_to_the_same_bits(company):
    raise_first(company.train(2, "straight"))
    raise_first(company.train(2, "broken", lambda trainer: stop_after(trainer, 8)))
    assert 8 < company.last("broken").info["step"] < 20
    assert [] == company.go_on(2, "broken")
    assert same_bits(company.last("straight"), company.last("broken"))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(company, before, after):
    raise_first(company.train(1, "straight"))
    raise_first(company.train(before, "moved", lambda trainer: stop_after(trainer, 8)))
    (note,) = company.go_on(after, "moved")
    assert "processes" in note
    assert str(max(before, after)) in note
    assert losses_differ(company, "straight", "moved") < CLOSE
    assert after == describe("moved", company.root / "moved/last.safetensors")["processes"]


def test_a_stop_of_any_process_stops_all_at_one_step(company):
    steps = {}

    def drive(trainer):
        if trainer.world.rank == 1:
            trainer.stop()
        events = list(trainer.run())
        steps[trainer.world.rank] = trainer.step
        if trainer.world.leads:
            assert isinstance(events[-1], Ended)
            assert events[-1].reason == "interrupted"

    raise_first(company.train(2, "stopped", drive))
    assert steps == {0: 1, 1: 1}
    assert company.last("stopped").info["step"] == 1


def test_only_the_leader_yields_events(company):
    seen = {}

    def drive(trainer):
        seen[trainer.world.rank] = list(trainer.run())

    raise_first(company.train(2, "quiet", drive))
    assert [] == seen[1]
    assert 20 == sum(isinstance(event, StepDone) for event in seen[0])


def test_the_metrics_of_several_processes_hold_the_share_of_communication(company):
    raise_first(company.train(2, "both"))
    raise_first(company.train(1, "alone"))
    assert all(0 < line["communication"] <= 1 for line in company.steps("both"))
    assert not any("communication" in line for line in company.steps("alone"))


def test_a_loss_that_is_not_finite_ends_all_processes(company):
    results = company.train(2, "nan", learning_rate=1e9, muon_rate=1e9)
    assert all(isinstance(result, TrainingError) for result in results)
    assert "finite" in str(results[0])


def test_a_full_disk_ends_all_processes(company, monkeypatch):
    save = checkpoint.save

    def full(path, saved):
        if saved.info["step"] >= 5:
            raise FileError(f"cannot write {path}: {OSError(errno.ENOSPC, 'No space left')}")
        save(path, saved)

    monkeypatch.setattr("charnn.training.trainer.checkpoints.save", full)
    leader, follower = company.train(2, "full")
    assert isinstance(leader, FileError)
    assert isinstance(follower, TrainingError)
    assert company.last("full").info["step"] == 0


def test_a_process_without_the_token_file_ends_all_before_the_first_step(company, tmp_path):
    wanted = replace(TINY, name="apart")

    def live(mine):
        if mine.leads:
            with start([str(company.text)], wanted, company.root) as (trainer, _):
                finish(trainer)
        else:
            with follow(tmp_path / "elsewhere") as trainer:
                finish(trainer)

    results = together(2, live)
    for result in results:
        assert isinstance(result, TrainingError)
        assert "rank 1" in str(result)
        assert "--checkpoints" in str(result)
    assert not (company.root / "apart").exists()


def test_a_damaged_token_file_is_found_before_the_first_step(company):
    raise_first(company.train(2, "broken", lambda trainer: stop_after(trainer, 8)))
    tokens = company.root / "broken/tokens"

    def lead():
        with resume("broken", TrainOptions(), company.root) as trainer:
            data = bytearray(tokens.read_bytes())
            data[-1] ^= 1
            tokens.write_bytes(data)
            finish(trainer)

    for result in company.work(2, lead):
        assert isinstance(result, TrainingError)
        assert "rank 1" in str(result)


def test_processes_of_different_commands_do_not_start(company):
    def live(_):
        raise AssertionError("they must not start")

    for result in together(2, live, {0: "train a.txt", 1: "train b.txt"}):
        assert isinstance(result, TrainingError)
        assert "a.txt" in str(result)
        assert "b.txt" in str(result)


def test_fewer_streams_than_processes_are_refused(company):
    leader, *others = company.train(3, "narrow", batch_size=2)
    assert isinstance(leader, ConfigError)
    assert "--batch-size" in str(leader)
    assert all(isinstance(other, CharnnError) for other in others)


def test_an_error_of_one_process_is_reported_by_the_leader(company):
    def live(mine):
        if mine.rank == 1:
            raise FileError("cannot read the disk")
        mine.tell()
        mine.sum([torch.ones(1)], [])

    leader, follower = together(2, live)
    assert isinstance(follower, FileError)
    assert isinstance(leader, TrainingError)
    assert "rank 1" in str(leader)
    assert "cannot read the disk" in str(leader)


def test_a_process_that_hangs_is_not_awaited_for_ever(monkeypatch):
    monkeypatch.setattr(world, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(world.Processes, "_sign", lambda self: None)

    def live(mine):
        if mine.rank == 1:
            mine.tell()

    assert isinstance(together(2, live)[1], TrainingError)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_shared_orthogonalisation_gives_the_same_bits(count):
    matrices = torch.randn(count, 8, 6, generator=torch.Generator().manual_seed(1))
    alone = orthogonalize(matrices)
    for shared in together(3, lambda mine: mine.split(orthogonalize, matrices)):
        assert torch.equal(alone, shared)


def test_gathering_keeps_every_bit():
    whole = torch.tensor([[-0.0], [float("nan")], [1e-42], [2.0]])

    def live(mine):
        return mine.gather(whole[mine.share(4)].clone(), 4)

    assert torch.equal(whole.view(torch.int32), together(3, live)[0].view(torch.int32))


def test_a_single_different_bit_is_found():
    def live(mine):
        return mine.same([torch.tensor([1.0, 2.0 + 2.4e-7 * mine.rank])])

    assert [False, False] == together(2, live)


def test_processes_share_cores_and_memory(monkeypatch):
    def live(mine):
        mine.local_size = 2
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
        return machine.default_threads()

    assert [4] == together(1, live)


def test_a_restarted_job_finds_its_run(company):
    def live(mine):
        with start([str(company.text)], replace(TINY, name="mine"), company.root) as (trainer, _):
            stop_after(trainer, 8)

    raise_first(together(1, live, job="job-7"))
    assert run_of_job(company.root, "") is None
    assert run_of_job(company.root, "job-8") is None
    run, finished = run_of_job(company.root, "job-7")
    assert ("mine", False) == (run.name, finished)
