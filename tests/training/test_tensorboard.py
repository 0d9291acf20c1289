"""What TensorBoard gets to see, through a stand-in for torch's writer, and through itself."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest
from driving import finish

from charnn.config import TrainOptions
from charnn.errors import CharnnError, FileError
from charnn.runs import read_metrics
from charnn.training.events import StepDone, Warned
from charnn.training.launch import resume
from charnn.training.tensorboard import FOLDER, recorded


class Writer:
    """Takes scalars as torch's writer of event files does."""

    made: list[Writer]
    full = False

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step, self.closed = log_dir, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writer(monkeypatch):
    """The class of the stand-in; `made` has those that were opened."""
    module = ModuleType("torch.utils.tensorboard")
    kind = type("Writer", (Writer,), {"made": []})
    module.SummaryWriter = kind
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return kind


def record(trainer) -> None:
    for _ in recorded(trainer.run(), trainer.home, trainer.step):
        pass


def test_the_record_holds_what_the_log_holds(launch, writer) -> None:
    with launch(name="a") as trainer:
        record(trainer)
        log = read_metrics(trainer.home.metrics)
    (made,) = writer.made
    assert made.closed
    assert str(trainer.home.folder / FOLDER) == made.log_dir
    for name, key in (("loss/train", "loss"), *((k, k) for k in ("learning_rate", "grad_norm"))):
        logged = [(line[key], line["step"]) for line in log if line["event"] == "step"]
        assert logged == [(value, step) for n, value, step in made.scalars if n == name]
    assert 20 == len([name for name, _, _ in made.scalars if name == "tokens_per_second"])
    validated = [(x["cold_256"]["nats_per_token"], x["step"]) for x in log if x["event"] == "eval"]
    assert validated == [(value, step) for n, value, step in made.scalars if n == "loss/cold_256"]
    (end,) = [line for line in log if line["event"] == "end"]
    for protocol in ("cold_256", "carried"):
        assert (f"best/{protocol}", end[protocol]["nats_per_token"], 20) in made.scalars


def test_recording_does_not_change_a_bit_of_the_model(launch, writer) -> None:
    digests = []
    for name, drive in (("plain", finish), ("recorded", record)):
        with launch(name=name) as trainer:
            drive(trainer)
            saved = trainer.checkpoint()
        arrays = {**saved.weights, **saved.training.arrays}
        digests.append({key: array.tobytes() for key, array in arrays.items()})
    assert digests[0] == digests[1]


def test_a_resumed_run_hides_what_it_does_again(launch, writer, tmp_path) -> None:
    with launch(name="a") as trainer:
        for event in recorded(trainer.run(), trainer.home, trainer.step):
            if isinstance(event, StepDone) and event.step == 8:
                trainer.stop()
    with resume("a", TrainOptions(), tmp_path / "runs") as trainer:
        record(trainer)
    first, second = writer.made
    assert (1, 9) == (first.purge_step, second.purge_step)
    steps = [step for each in writer.made for name, _, step in each.scalars if name == "loss/train"]
    assert list(range(1, 21)) == steps


def test_a_full_disk_costs_the_record_and_not_the_training(launch, writer) -> None:
    writer.full = True
    with launch(name="a") as trainer:
        events = list(recorded(trainer.run(), trainer.home, trainer.step))
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert warning.endswith("training goes on without --tensorboard")
    assert 20 == trainer.step
    assert trainer.finished


def test_a_link_where_the_record_would_be_is_refused(launch, writer, tmp_path) -> None:
    with launch(name="a") as trainer:
        os.symlink(tmp_path, trainer.home.folder / FOLDER)
        with pytest.raises(FileError, match="link"):
            record(trainer)


def test_without_the_package_one_line_says_what_to_install(launch, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with launch(name="a") as trainer, pytest.raises(CharnnError, match=r"pip install"):
        record(trainer)
    assert [] == [event for event in trainer.history if event]


def test_tensorboard_itself_reads_the_record(launch) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with launch(name="a") as trainer:
        record(trainer)
        log = read_metrics(trainer.home.metrics)
    seen = reader.EventAccumulator(str(trainer.home.folder / FOLDER))
    seen.Reload()
    logged = [(line["step"], line["loss"]) for line in log if line["event"] == "step"]
    found = [(scalar.step, scalar.value) for scalar in seen.Scalars("loss/train")]
    assert [step for step, _ in logged] == [step for step, _ in found]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in logged], rel=1e-6)
