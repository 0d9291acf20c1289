"""Records for TensorBoard, read back by TensorBoard."""

from __future__ import annotations

import os
import sys
from functools import partial

import pytest
from driving import finish

from charnn.config import TrainOptions
from charnn.errors import CharnnError, FileError
from charnn.runs import read_metrics
from charnn.training.events import StepDone, Warned
from charnn.training.launch import resume
from charnn.training.tensorboard import FOLDER, recorded, writer_class


def record(trainer) -> None:
    for _ in recorded(trainer.run(), trainer.home, trainer.step):
        pass


def scalars(trainer) -> dict[str, dict[int, float]]:
    """Returns the values of each scalar by step, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(trainer.home.folder / FOLDER))
    seen.Reload()
    found = {name: seen.Scalars(name) for name in seen.Tags()["scalars"]}
    assert all(len({each.step for each in values}) == len(values) for values in found.values())
    return {name: {each.step: each.value for each in values} for name, values in found.items()}


def test_the_record_has_the_values_of_the_log(launch) -> None:
    with launch(name="a") as trainer:
        record(trainer)
        log = read_metrics(trainer.home.metrics)
    found = scalars(trainer)
    close = partial(pytest.approx, rel=1e-6)  # the record is in float32
    for name, key in (("loss/train", "loss"), *((k, k) for k in ("learning_rate", "grad_norm"))):
        logged = {line["step"]: line[key] for line in log if line["event"] == "step"}
        assert close(logged) == found[name]
    assert list(range(1, 21)) == list(found["tokens_per_second"])
    evals = {x["step"]: x["cold_256"]["nats_per_token"] for x in log if x["event"] == "eval"}
    assert close(evals) == found["loss/cold_256"]
    (end,) = [line for line in log if line["event"] == "end"]
    for protocol in ("cold_256", "carried"):
        assert close({20: end[protocol]["nats_per_token"]}) == found[f"best/{protocol}"]


def test_recording_does_not_change_the_model(launch) -> None:
    digests = []
    for name, drive in (("plain", finish), ("recorded", record)):
        with launch(name=name) as trainer:
            drive(trainer)
            saved = trainer.checkpoint()
        arrays = {**saved.weights, **saved.training.arrays}
        digests.append({key: array.tobytes() for key, array in arrays.items()})
    assert digests[0] == digests[1]


def test_a_resumed_run_hides_the_steps_that_it_repeats(launch, tmp_path) -> None:
    with launch(name="a") as trainer:
        for event in recorded(trainer.run(), trainer.home, trainer.step):
            if isinstance(event, StepDone) and event.step == 8:
                break  # as if killed: the last save was at step 5
    assert list(range(1, 9)) == list(scalars(trainer)["loss/train"])
    with resume("a", TrainOptions(), tmp_path / "runs") as trainer:
        assert 5 == trainer.step
        record(trainer)
        log = read_metrics(trainer.home.metrics)
    logged = {line["step"]: line["loss"] for line in log if line["event"] == "step"}
    assert list(range(1, 21)) == list(logged)
    assert pytest.approx(logged, rel=1e-6) == scalars(trainer)["loss/train"]


def test_a_full_disk_ends_the_record_and_not_the_run(launch, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_class(), "add_scalar", full)
    with launch(name="a") as trainer:
        events = list(recorded(trainer.run(), trainer.home, trainer.step))
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert "--tensorboard" in warning
    assert 20 == trainer.step
    assert trainer.finished


def test_a_link_in_place_of_the_record_is_refused(launch, tmp_path) -> None:
    with launch(name="a") as trainer:
        os.symlink(tmp_path, trainer.home.folder / FOLDER)
        with pytest.raises(FileError, match="link"):
            record(trainer)


def test_a_missing_package_gives_one_line(launch, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with launch(name="a") as trainer, pytest.raises(CharnnError, match=r"pip install"):
        record(trainer)
    assert [] == [event for event in trainer.history if event]
