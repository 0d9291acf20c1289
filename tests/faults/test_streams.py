"""A command without stdin, stdout or stderr does its work, and no file takes their place."""

from __future__ import annotations

import os
from typing import Any

import pytest

from charnn import checkpoint as checkpoints
from charnn.model import IN_MEMORY
from charnn.text.token_file import TokenFile

CLOSED = """
import os, sys
for number in map(int, os.environ["CLOSED"]):
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)
from charnn.cli import main
main()
"""
SILENT = (
    ("train", "book.txt", "--name", "new", "--max-steps", "3", "--hidden-size", "8"),
    ("train", "--resume", "--name", "book", "--max-steps", "2"),
    ("tokenize", "book.txt", "-o", "new.tokens"),
    ("export", "book", "--to", "c", "-o", "new-c"),
    ("export", "book", "--to", "html", "-o", "new.html"),
)
SPEAKING = (
    ("sample", "-n", "9", "-m", "book"),
    ("sample", "-n", "9", "-m", "book", "--num-samples", "3"),
    ("eval", "-m", "book"),
    ("score", "book.txt", "-m", "book", "--json"),
    ("score", "book.txt", "-m", "book"),
    ("lab", "recall", "--cells", "rnn", "--delays", "2", "--seeds", "1", "--max-steps", "1"),
    ("runs",),
    ("show", "book"),
    ("corpus",),
    (),
    ("--version",),
    ("--help",),
    ("sample", "--help"),
)


@pytest.mark.parametrize(
    "closed", ["2", *[pytest.param(each, marks=pytest.mark.slow) for each in ("0", "1", "012")]]
)
def test_every_command_works_without_standard_streams(trained: Any, closed: str) -> None:
    workplace = trained
    for words in (*SILENT, *SPEAKING):
        command = workplace.start(*words, program=CLOSED, CLOSED=closed)
        speaks = words in SPEAKING
        assert int(speaks and "1" in closed) == command.wait(), (words, command.said)
        assert "Traceback" not in command.said
        assert bool(command.written) == (speaks and "1" not in closed), words
        if speaks and "1" in closed and "2" not in closed:
            assert "stdout is closed" in command.error()
    assert 3 == workplace.last("new")[1]
    assert 8 == workplace.last("book")[1]
    checkpoints.load(workplace.run("new").best)
    TokenFile.open(workplace.folder / "new.tokens")
    assert (workplace.folder / "new.html").read_bytes().startswith(b"<!doctype html>")


def test_a_text_or_prompt_from_a_closed_stdin_is_refused(workplace: Any) -> None:
    for words in (
        ("tokenize", "-", "-o", "new.tokens"),
        ("sample", "-", "-m", "english", "-n", "3"),
        ("write", "-m", "english", "-q"),
    ):
        line = workplace.start(*words, program=CLOSED, CLOSED="0").error()
        assert "stdin is closed" in line


NO_TEMPORARY_FOLDER = """
import importlib, tempfile
import charnn.model
tempfile.tempdir, tempfile._candidate_tempdir_list = None, lambda: []
importlib.reload(charnn.model)
from charnn.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access(IN_MEMORY, os.W_OK), reason="no folder in memory")
def test_a_plan_and_a_horizon_need_no_folder_for_temporary_files(trained: Any) -> None:
    for words in (("plan", "book.txt", "--from", "scratch"), ("horizon", "-m", "book")):
        command = trained.start(*words, program=NO_TEMPORARY_FOLDER)
        assert command.wait() == 0, command.said
        assert command.written
