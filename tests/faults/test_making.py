"""A report or an export that is interrupted leaves the old output or the whole new one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from random_model import random_model
from wrapped import WRAPPED

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint
from charnn.text.tokenizers import ByteTokenizer

# charnn itself, sent a signal at call N of those that change the disk; a text is written in two
# calls. A report is not measured: it is a page with a chart, and the digest of its model.
PROGRAM = (
    WRAPPED
    + """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import charnn.report.page, charnn.report.facts, charnn.cli
from charnn import tensor_file
from charnn.pages.charts import Series, line_chart

number, fatal = int(os.environ["SIGNAL"]), int(os.environ["FATAL"])
calls = 0

def counted():
    global calls
    calls += 1
    print(calls, flush=True)
    if calls == fatal:
        os.kill(os.getpid(), number)

def dying(function):
    def call(*args, **options):
        if "w" in options or not (args and str(args[0]).startswith("/dev")):
            counted()
        return function(*args, **options)
    return call

class Halves(InHalves):
    def before_half(self):
        counted()

def write_text(path, text, encoding, newline):
    with Halves(open(path, "wb")) as file:
        file.write(text.encode(encoding))

fdopen = os.fdopen
os.fdopen = lambda *args: Halves(fdopen(*args))
Path.write_text = write_text
for name in ("fsync", "replace", "rename", "mkdir"):
    setattr(os, name, dying(getattr(os, name)))
tensor_file.exchange = dying(tensor_file.exchange)

def find_facts(saved, *_):
    return SimpleNamespace(digest=saved.digest, scores=None, chars_per_second=1, left_out={})

def make_report(facts):
    points = [(int(each, 16), 1) for each in facts.digest[:8]]
    return facts.digest + line_chart("losses", "a", "b", [Series("c", points)], "x", "y")

charnn.report.facts.find_facts = find_facts
charnn.report.page.make_report = make_report
charnn.cli.main()
"""
)
MADE = {
    "report": ("report", "{model}", "-o", "made.html"),
    "page": ("export", "{model}", "--to", "html", "-o", "made.html"),
    "c": ("export", "{model}", "--to", "c", "-o", "made"),
    "hub": ("export", "{model}", "--to", "hub", "-o", "made"),
    "onnx": ("export", "{model}", "--to", "onnx", "-o", "made.onnx"),
}


def model(seed: int) -> Checkpoint:
    return random_model(ByteTokenizer(), hidden=4, scale=1.0, seed=seed, start_token=10)


def contents(folder: Path) -> dict[str, bytes]:
    """All files that are not hidden."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = [str(file.relative_to(folder)) for file in files]
    return {
        name: file.read_bytes()
        for name, file in zip(names, files, strict=True)
        if not any(part.startswith(".") for part in Path(name).parts)
        and not name.endswith((".out", ".err", ".safetensors", "book.txt"))
    }


@pytest.mark.parametrize("what", MADE)
def test_an_interrupted_command_leaves_the_old_or_the_whole_new_output(
    workplace: Any, what: str
) -> None:
    def start(name: str, number: int = 0, fatal: int = 0) -> Any:
        words = [word.format(model=f"{name}.safetensors") for word in MADE[what]]
        return workplace.start(
            *words, "--force", program=PROGRAM, SIGNAL=str(int(number)), FATAL=str(fatal)
        )

    def made(name: str) -> tuple[dict[str, bytes], int]:
        done = start(name)
        assert 0 == done.wait(), done.said
        return contents(workplace.folder), len(done.written.split())

    for seed, name in enumerate(("old", "new")):
        checkpoints.save(workplace.folder / f"{name}.safetensors", model(seed))
    new, calls = made("new")
    old, _ = made("old")
    assert set(old) == set(new)
    assert old != new
    middle = [calls // 2, calls]
    ends = [(signal.SIGKILL, fatal) for fatal in range(1, calls + 1)]
    ends += [(number, at) for number in (signal.SIGTERM, signal.SIGINT) for at in middle]
    ways = set()
    for number, fatal in ends:
        ended = start("new", number, fatal)
        assert (130 if number == signal.SIGINT else -number) == ended.wait(), ended.said
        assert "Traceback" not in ended.said
        found = contents(workplace.folder)
        hidden = [path for path in workplace.folder.rglob(".*") if path.parent.exists()]
        if number == signal.SIGINT:
            assert not hidden
        for name, data in found.items():
            assert data in (old[name], new[name]), (name, number, fatal)
        assert set(old) == set(found)
        assert found in (old, new)
        ways.add("old" if found == old else "new")
        if found != old or hidden:
            made("old")
            assert not list(workplace.folder.glob(".made*"))  # the next command sweeps
    assert {"old", "new"} == ways
