"""A run folder from a stranger neither stops a command, nor bloats it, nor hides other runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from forging import forged

from charnn.errors import BusyError, DamagedFile, FileError
from charnn.runs import Run, list_runs, read_metrics
from charnn.text.token_file import TokenFile

FILES = ("lock", "last.safetensors", "best.safetensors", "tokens", "text-index", "metrics.jsonl")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name(".pipe"))
    path.symlink_to(".pipe")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "make",
    [fifo, *[pytest.param(each, marks=pytest.mark.slow) for each in (device, link_to_fifo, loop)]],
)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_regular_file_stops_nothing(trained: Any, name: str, make: Any) -> None:
    evil = trained.root / "evil"
    evil.mkdir()
    (evil / "best.safetensors").write_bytes(trained.run().best.read_bytes())
    (evil / "tokens").write_bytes(trained.run().tokens.read_bytes())
    (evil / name).unlink(missing_ok=True)
    make(evil / name)
    for run in list_runs(trained.root):
        assert run.order >= 0
        assert run.holder is None
        read_metrics(run.metrics)
    listed = trained.start("runs", "--json")
    sampled = trained.start("sample", "-n", "3", "-m", "book")
    copied = trained.start("sample", "-n", "3", "-m", "evil", "--max-copy", "9")
    scored = trained.start("eval", "-m", "evil")
    assert (0, 0) == (listed.wait(20), sampled.wait(20))
    assert "book" in [row["name"] for row in json.loads(listed.written)["runs"]]
    for command in (copied, scored):
        if command.wait(20):
            command.error()
    if name in ("lock", "last.safetensors", "tokens"):
        trained.start("train", "--resume", "--name", "evil").error()


def test_one_damaged_run_hides_no_other(trained: Any) -> None:
    good = trained.run().last
    changes: dict[str, Any] = {
        "step": lambda m, _: m["info"].update(step="x"),
        "none": lambda m, _: m["info"].update(step=None),
        "giant": lambda m, _: m["info"]["results"]["cold_256"].update(nats_per_token=10**299),
        "best": lambda m, _: m["training"]["progress"].update(best_loss=10**299),
        "results": lambda m, _: m["info"].update(results=[]),
        "negative": lambda m, _: m["info"].update(step=-5),
    }
    for name, change in changes.items():
        (trained.root / name).mkdir()
        (trained.root / name / "last.safetensors").write_bytes(forged(good, change))
    (trained.root / "cut").mkdir()
    (trained.root / "cut" / "last.safetensors").write_bytes(good.read_bytes()[:99])
    listed = trained.finish("runs").written
    assert all(name in listed for name in ("book", "cut", *changes))
    found = json.loads(trained.finish("runs", "--json").written)["runs"]
    assert {"cut", *changes} == {row["name"] for row in found if "error" in row}


@pytest.mark.parametrize("digits", [301, 4300, 5000])
def test_a_number_of_thousands_of_digits_is_damage(trained: Any, digits: int) -> None:
    data = trained.run().last.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'\\"step\\":6', b'\\"step\\":' + b"9" * digits)
    assert len(header) > length
    grown = len(header).to_bytes(8, "little") + header + data[8 + length :]
    (trained.root / "giant").mkdir()
    (trained.root / "giant" / "last.safetensors").write_bytes(grown)
    assert "damaged" in trained.finish("runs").written
    for words in (("show", "giant"), ("sample", "-m", "giant"), ("train", "--resume")):
        name = ("--name", "giant") if words[0] == "train" else ()
        assert "damaged" in trained.start(*words, *name).error()


NONSENSE: dict[str, tuple[Any, ...]] = {
    "step": (-5, 10, 2**62, "1", 1.5, None, True),
    "updates": (-1, 2**62),
    "best_loss": ("x", -1, 10**200),
    "loss_sum": ("x", -1.0),
    "rate_scale": (10**200, 1e308, -1, "1"),
    "seconds": ("inf", -1, []),
    "history": ({}, "x", [1], [{}], [{"step": "x"}], [{"step": 2**40}]),
    "results": ("x", 1),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param(key, value, marks=[pytest.mark.slow] * (place > 0))
        for key, values in NONSENSE.items()
        for place, value in enumerate(values)
    ],
)
def test_nonsense_in_a_training_state_is_not_resumed(trained: Any, key: str, value: Any) -> None:
    def change(metadata: Any, _: Any) -> None:
        where = metadata["info"] if key in ("history", "results") else None
        (where or metadata["training"]["progress"])[key] = value

    run = trained.run()
    bad = forged(run.last, change)
    run.last.write_bytes(bad)
    line = trained.start("train", "--resume", "--name", "book", "--max-steps", "3").error()
    assert "damaged" in line
    assert bad == run.last.read_bytes()


@pytest.mark.parametrize("order", ["9" * 4300, "true", "-1", "1e999", "1.5", '"1"', str(2**53)])
def test_a_lock_with_a_nonsense_order_changes_no_other_lock(tmp_path: Path, order: str) -> None:
    for name in ("evil", "good"):
        with Run(tmp_path, name).lock():
            (tmp_path / name / "last.safetensors").write_bytes(b"")
    (tmp_path / "evil" / "lock").write_text(f'{{"order": {order}}}')
    assert 0 == Run(tmp_path, "evil").order
    with Run(tmp_path, "new").lock():
        assert Run(tmp_path, "good").order + 1 == Run(tmp_path, "new").order


def test_a_flipped_token_is_found_by_every_command_that_reads_tokens(trained: Any) -> None:
    run = trained.run()
    data = bytearray(run.tokens.read_bytes())
    data[-9] ^= 1
    run.tokens.write_bytes(data)
    with pytest.raises(DamagedFile):
        TokenFile.open(run.tokens)
    for words in (
        ("sample", "--max-copy", "9", "-n", "9"),
        ("sample", "--lines", "2", "--new"),
        ("eval",),
        ("inspect",),
        ("horizon",),
        ("train", "--resume", "--max-steps", "3"),
    ):
        assert "damaged" in trained.start(*words).error(), words
    assert "is not used" in trained.finish("eval", "book.txt", "--baselines").said


def test_tokens_that_are_replaced_while_they_are_read_are_refused(trained: Any) -> None:
    tokens = TokenFile.open(trained.run().tokens)
    trained.finish("tokenize", "book.txt", "-o", "other.tokens", "--split", "50,50")
    os.replace(trained.folder / "other.tokens", trained.run().tokens)
    with pytest.raises(FileError):
        tokens.verify()


def test_a_run_whose_lock_is_deleted_is_locked_again_or_given_up(tmp_path: Path) -> None:
    run, other = Run(tmp_path, "book"), Run(tmp_path, "book")
    with run.lock():
        run.last.write_bytes(b"")
        run.lock_file.unlink()
        run.relock()
        assert run.holder is not None
        with pytest.raises(BusyError), other.lock():
            pass
        run.lock_file.unlink()
        with other.lock():
            with pytest.raises(BusyError):
                run.relock()
    assert Run(tmp_path, "book").holder is None
