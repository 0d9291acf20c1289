"""The manual page is that of the present help, and roff reads it without a complaint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from charnn.cli import COMMANDS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "charnn.1"


def test_the_manual_page_is_made_from_the_present_help() -> None:
    done = subprocess.run([sys.executable, str(DOCS / "make_man.py")], capture_output=True)
    assert PAGE.read_bytes() == done.stdout, (
        "run 'python docs/make_man.py > docs/charnn.1'",
        done.stderr,
    )


@pytest.mark.parametrize("checker", ["mandoc -Tlint", "man --warnings -l"])
def test_a_reader_of_manual_pages_accepts_the_page(checker: str) -> None:
    command = [*checker.split(), str(PAGE)]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True)
    told = done.stderr + (done.stdout if "lint" in checker else "")
    # The same help gives the same page, so it has no date.
    assert [] == [line for line in told.splitlines() if "missing date" not in line]


def test_the_page_shows_commands_options_and_examples_as_they_are_typed() -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    shown = subprocess.run(["man", "-l", str(PAGE)], capture_output=True, text=True).stdout
    assert 0 == sum(f" charnn {name} " not in shown for name in COMMANDS)
    assert "charnn train chapter.txt --from book --minutes 0.5" in shown
    assert r"--stop $'\n'" in shown
