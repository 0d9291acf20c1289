"""An interrupted `charnn.train` in a separate process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import charnn
from charnn.checkpoint import load

CODE = (
    "import charnn\n"
    "charnn.train('text.txt', minutes=9, hidden_size=16, num_layers=1, threads=1, name='a', "
    "eval_every=2, ngram=4)\n"
)


def events(log: Path) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["event"] for line in lines]


def test_an_interrupt_saves_the_run_and_completes_its_best_model(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The goat reads the log.\n" * 900)
    training = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    run = tmp_path / "checkpoints" / "a"
    while "eval" not in events(run / "metrics.jsonl"):
        assert training.poll() is None
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=60)
    assert -signal.SIGINT == training.returncode
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert load(run / "last.safetensors").info["step"] > 0
    end = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert ("end", "interrupted") == (end["event"], end["reason"])
    assert 4 == end["ngrams"]["order"] == load(run / "best.safetensors").ngrams.order
    assert 9 == len("".join(charnn.load(run).stream("The", max_tokens=9)).removeprefix("The"))
