"""Tiny runs: a text of a few kB, a network of a few units, one thread."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
from driving import TINY

from charnn.training.launch import start

SENTENCES = (
    "the goat is not a sailor.\n",
    "wind west, and knows it.\n",
    "Mem. count the stairs.\n",
)
TEXT = "".join(SENTENCES[i * i % 3] + SENTENCES[i % 3] for i in range(18))


@pytest.fixture(autouse=True)
def _measure_briefly(monkeypatch):
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "goat.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def launch(text, tmp_path):
    """Opens a tiny run: `with launch(name="a", cell="gru") as trainer`."""

    @contextmanager
    def opened(source=text, **options):
        with start([str(source)], replace(TINY, **options), tmp_path / "runs") as (trainer, _):
            yield trainer

    return opened
