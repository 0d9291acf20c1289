"""Faults end in one line and exit code 1, and the good files stay unchanged."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from forging import forged
from wrapped import WRAPPED

from charnn.runs import read_metrics

STEPS = ("--max-steps", "6", "--save-every", "2")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}


# --- folders and names


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(workplace: Any) -> None:
    (workplace.folder / "file").write_bytes(b"")
    line = workplace.train("book.txt", "--checkpoints", "file/runs").error()
    assert "cannot write to file/runs/book: Not a directory" in line


def test_a_read_only_folder_is_refused(workplace: Any) -> None:
    workplace.root.mkdir(mode=0o555)
    nobody = 0
    if os.geteuid() == 0:  # root may write to any folder, so somebody else has to try
        nobody = 65534
        for folder in (workplace.folder, *workplace.folder.parents):
            if "pytest-" in str(folder):
                folder.chmod(0o755)
    line = workplace.train("book.txt", uid=nobody).error()
    assert "cannot write to checkpoints/book: Permission denied" in line
    assert [] == list(workplace.root.iterdir())


@pytest.mark.parametrize("name", ["../x", "/abs", "-rf", "a\nb", "x" * 300])
def test_a_name_that_could_be_a_path_is_refused(workplace: Any, name: str) -> None:
    for words in (("book.txt", *STEPS, f"--name={name}"), ("--resume", f"--name={name}")):
        line = workplace.start("train", *words).error(2)
        assert "cannot name a run" in line
    assert not workplace.root.exists()
    assert workplace.folder.parent.joinpath("x").exists() is False


def test_a_link_that_leads_out_is_refused(workplace: Any) -> None:
    workplace.root.mkdir()
    outside = workplace.folder / "outside"
    outside.mkdir()
    (workplace.root / "link").symlink_to(outside)
    for words in (("book.txt", *STEPS, "--name", "link"), ("--resume", "--name", "link")):
        assert "link" in workplace.start("train", *words).error()
    assert [] == list(outside.iterdir())


def test_a_folder_with_other_files_survives_a_run_that_fails(workplace: Any) -> None:
    (workplace.folder / "empty.txt").write_bytes(b"")
    notes = workplace.root / "notes"
    notes.mkdir(parents=True)
    (notes / "tokens").write_text("mine")
    (notes / "letter.txt").write_text("mine too")
    for text in ("empty.txt", "book.txt"):
        line = workplace.train(text, *STEPS, "--name", "notes").error()
        assert "notes" in line or "empty" in line
        assert {"tokens": b"mine", "letter.txt": b"mine too"} == contents(notes)


def test_a_run_that_cannot_start_leaves_no_folder(workplace: Any) -> None:
    for name, data in {"empty.txt": b"", "bad.txt": b"\xff\xfe\xfd" * 99}.items():
        (workplace.folder / name).write_bytes(data)
        workplace.train(name, *STEPS).error()
    assert [] == list(workplace.root.iterdir())


# --- disks

FULL_AFTER = (
    WRAPPED
    + """
import errno, os
from charnn.cli import main

class FullDisk(Wrapped):
    # WHOLE files can be written, then the disk is full.
    def write(self, data):
        if files > whole:
            self.file.write(data[:100])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

def opened(*args):
    global files
    files += 1
    return FullDisk(fdopen(*args))

whole, files = int(os.environ["WHOLE"]), 0
fdopen, os.fdopen = os.fdopen, opened
main()
"""
)


def test_a_full_disk_stops_a_run_and_keeps_its_last_good_files(workplace: Any) -> None:
    for whole in (0, 1, 2, 3, 4):  # of the token file, last, best …
        name = f"run-{whole}"
        command = workplace.train(
            "book.txt", "--name", name, *STEPS, program=FULL_AFTER, WHOLE=str(whole)
        )
        line = command.error()
        assert "the disk is full" in line
        assert "bytes free" in line
        run = workplace.run(name)
        if whole < 2:
            assert not run.folder.exists()
        else:
            assert not list(run.folder.glob(".*"))
            saved = workplace.last(name)[1]
            workplace.finish("train", "--resume", "--name", name)
            assert saved < workplace.last(name)[1]


FULL_FOR_METRICS = """
import errno, os
from charnn.cli import main
openat = os.open
def full(path, *args, **options):
    if str(path).endswith("metrics.jsonl"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return openat(path, *args, **options)
os.open = full
main()
"""


def test_a_disk_too_full_for_the_log_warns_once_and_training_continues(workplace: Any) -> None:
    command = workplace.train("book.txt", *STEPS, program=FULL_FOR_METRICS)
    assert 0 == command.wait(), command.said
    assert 1 == command.said.count("metrics.jsonl")
    assert "warning: cannot write" in command.said
    assert 6 == workplace.last()[1]
    assert [] == read_metrics(workplace.run().metrics)


# --- numbers that are not finite

BAD_LOSS = """
import os
from charnn.cli import main
from charnn.training import gradient
good, bad = gradient.cross_entropy, [int(call) for call in os.environ["BAD"].split(",")]
calls = 0
def cross_entropy(*args, **options):
    global calls
    calls += 1
    return good(*args, **options) * (float("nan") if calls in bad else 1.0)
gradient.cross_entropy = cross_entropy
main()
"""


def finite(checkpoint: Any) -> bool:
    arrays = [*checkpoint.weights.values(), *checkpoint.training.arrays.values()]
    return all(bool(np.isfinite(array).all()) for array in arrays)


def test_three_losses_in_a_row_that_are_not_finite_stop_the_run(workplace: Any) -> None:
    skipping = workplace.train("book.txt", "--name", "two", *STEPS, program=BAD_LOSS, BAD="2,4,5")
    assert 0 == skipping.wait(), skipping.said
    assert 3 == skipping.said.count("not finite")
    loaded, step = workplace.last("two")
    assert (6, 3, 0.125) == (
        step,
        loaded.training.progress["updates"],
        loaded.training.progress["rate_scale"],
    )
    assert finite(loaded)

    ending = workplace.train("book.txt", "--name", "three", *STEPS, program=BAD_LOSS, BAD="3,4,5")
    line = ending.error()
    assert "--learning-rate" in line
    assert "lower --learning-rate" in line
    loaded, _ = workplace.last("three")
    assert 2 == loaded.training.progress["updates"]
    assert finite(loaded)


def test_weights_that_are_not_finite_are_never_saved(workplace: Any) -> None:
    words = ("--max-steps", "300", "--save-every", "1", "--eval-every", "1", "--sample-every", "0")
    command = workplace.train("book.txt", *words, "--learning-rate", "1e9", "--weight-decay", "10")
    line = command.error()
    assert "not finite" in line
    loaded, _ = workplace.last()
    assert finite(loaded)
    assert json.dumps(loaded.info, allow_nan=False)


# --- damaged runs and hostile files


def test_a_damaged_run_is_not_resumed_and_not_touched(trained: Any) -> None:
    run = trained.run()
    good = contents(run.folder)
    for name in ("last.safetensors", "tokens"):
        data = good[name]
        middle = len(data) // 2
        damages = {
            "half": data[:middle],
            "bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "zeros": data[:middle] + bytes(len(data) - middle),
            "nothing": b"",
        }
        for what, damaged in damages.items():
            (run.folder / name).write_bytes(damaged)
            before = contents(run.folder)
            line = trained.start("train", "--resume", "--name", "book", "--max-steps", "3").error()
            assert "damaged" in line, what
            assert str(Path("checkpoints") / "book" / name) in line
            assert before == contents(run.folder)
        (run.folder / name).write_bytes(data)
    (run.folder / "tokens").unlink()
    line = trained.start("train", "--resume", "--name", "book", "--max-steps", "3").error()
    assert "checkpoints/book/tokens: No such file" in line


def test_a_run_with_the_tokens_of_another_is_not_resumed(trained: Any) -> None:
    (trained.folder / "other.txt").write_text("another text, of the same tokenizer. " * 50)
    assert 0 == trained.train("other.txt", *STEPS).wait()
    trained.run().tokens.write_bytes(trained.run("other").tokens.read_bytes())
    line = trained.start("train", "--resume", "--name", "book", "--max-steps", "3").error()
    assert "checkpoints/book/tokens" in line


def hostile_files(good: Path, tokens: Path, folder: Path) -> dict[str, bytes]:
    data = good.read_bytes()
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 99)
    return {
        "cut": data[:-1],
        "flipped": data[:-5] + bytes([data[-5] ^ 16]) + data[-4:],
        "huge header": b"\xff" * 8 + data[8:],
        "trailing byte": data + b"\0",
        "empty": b"",
        "zip": (folder / "zip").read_bytes(),
        "pickle": pickle.dumps({"weights": [1.0] * 99}),
        "page": b"<!DOCTYPE html><title>404</title>" * 9,
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "plain": safetensors.numpy.save({"a": np.zeros(3, np.float32)}),
        "tokens": tokens.read_bytes(),
        "wide": forged(good, lambda m, _: m["model"].update(hidden_size=10**9)),
        "vocabulary": forged(good, lambda m, _: m["model"].update(vocab_size=9)),
        "newer": forged(good, lambda m, _: m.update(format=99, charnn="9.9")),
        "deep": forged(good, lambda m, _: m.update(model=json.loads("[" * 500 + "]" * 500))),
        "not finite": forged(good, lambda _, a: a["head.bias"].__setitem__(0, np.nan)),
        "tokenizer": forged(good, lambda m, _: m["tokenizer"].update(kind="../../x")),
        "codes": forged(good, lambda _, a: a["tokenizer.vocabulary"].__setitem__(0, 2**31)),
        "shrunk": forged(
            good, lambda _, a: a.update({"tokenizer.vocabulary": a["tokenizer.vocabulary"][1:]})
        ),
        "escapes": forged(good, lambda m, _: m["tokenizer"].update(kind="\x1b]52;c;eA==\x07\n")),
    }


def test_a_hostile_model_is_refused_by_every_command_that_reads_one(trained: Any) -> None:
    model = trained.folder / "model.safetensors"
    files = hostile_files(trained.run().best, trained.run().tokens, trained.folder)
    for what, data in files.items():
        model.write_bytes(data)
        commands = [
            trained.start("sample", "-n", "1", "-m", str(model)),
            trained.start("eval", "book.txt", "-m", str(model)),
            trained.start("show", str(model)),
        ]
        # `show` reads the header and the numbers; a vocabulary is no business of it.
        for command in commands[:2] if what in ("codes", "shrunk") else commands:
            assert 1 == command.wait(), (what, command.written)
            line = command.error()
            assert "\x1b" not in line
            assert len(line) < 800
            assert "" == command.written


def test_a_model_given_as_a_text_or_tokens_is_refused(trained: Any) -> None:
    (trained.folder / "model.tokens").write_bytes(trained.run().best.read_bytes())
    (trained.folder / "cut.tokens").write_bytes(trained.run().tokens.read_bytes()[:-1])
    (trained.folder / "page.tokens").write_bytes(b"<!DOCTYPE html><title>404</title>")
    for name in ("model.tokens", "cut.tokens", "page.tokens"):
        assert name in trained.train(name, *STEPS, "--name", "new").error()
    assert not trained.run("new").folder.exists()


def test_a_log_and_a_lock_of_junk_do_not_stop_a_run(trained: Any) -> None:
    run = trained.run()
    run.lock_file.write_bytes(b"{}")
    run.metrics.write_bytes(b"[" * 100_000 + b'\n\xff\n{"step": "x"}\n')
    for words in (("runs",), ("show", "book"), ("sample", "-n", "1")):
        trained.finish(*words)
    trained.finish("train", "--resume", "--name", "book", "--max-steps", "3")
    assert 9 == trained.last()[1]


def test_a_missing_model_or_text_is_one_line(workplace: Any) -> None:
    for words in (
        ("sample", "-m", "x" * 5000),
        ("sample", "-m", "/etc/hostname/x"),
        ("eval", "-m", "../x"),
        ("train", "x" * 5000),
        ("tokenize", "book.txt", "-o", "missing/book.tokens"),
        ("tokenize", "book.txt", "-o", "/dev/full/book.tokens"),
    ):
        command = workplace.start(*words)
        command.error()
        assert "" == command.written


def test_a_token_file_that_cannot_be_written_keeps_the_old_one(workplace: Any) -> None:
    workplace.finish("tokenize", "book.txt", "-o", "book.tokens")
    old = (workplace.folder / "book.tokens").read_bytes()
    words = ("tokenize", "book.txt", "--tokenizer", "byte", "-o", "book.tokens")
    line = workplace.start(*words, program=FULL_AFTER, WHOLE="0").error()
    assert "the disk is full" in line
    assert old == (workplace.folder / "book.tokens").read_bytes()
    assert not list(workplace.folder.glob(".*"))
