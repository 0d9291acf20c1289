"""`charnn plan`: what would be trained, what to expect, what would help."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from charnn.cli import main

TEXT = "the goat is not a sailor, and knows it.\nwind west; count the stairs.\n" * 60


@pytest.fixture
def charnn(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder that holds book.txt; gives its exit code, stdout and stderr."""
    (tmp_path / "book.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)
    # Which sizes minutes allow has its own tests; here a small network is enough.
    monkeypatch.setattr("charnn.training.plan.SHAPES", ((float("inf"), 1, 16),))
    monkeypatch.setattr("charnn.bases.choose.BASES", {})

    def run(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["charnn", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_a_plan_prints_the_recipe_and_leaves_nothing(charnn):
    words = ("--minutes", "0.1", "--threads", "1", "--from", "scratch")
    code, out, _ = charnn("plan", "book.txt", *words)
    assert 0 == code
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines.keys() >= {"text", "plan", "speed", "expected", "n-grams alone", "advice"}
    assert "lstm 1x16" in lines["plan"]
    assert "tokens/s" in lines["speed"]
    assert ["book.txt"] == [path.name for path in Path.cwd().iterdir()]


def test_a_plan_as_json_has_the_keys_that_programs_read(charnn):
    code, out, _ = charnn("plan", "book.txt", "--minutes", "0.1", "--threads", "1", "--json", "-q")
    assert 0 == code
    plan = json.loads(out)
    assert plan.keys() == {
        *("model", "parameters", "recipe", "tokens", "epochs", "seconds", "tokens_per_second"),
        *("memory_bytes", "file_bytes", "expected", "advice"),
    }
    assert 0 < plan["expected"]["ngram"] < 3
    assert 0 < plan["expected"]["cold_256"] < 5
    counted = plan["tokens"]["train"] if plan["recipe"].get("ngram") else 0
    assert 4 * (plan["parameters"] + counted) == plan["file_bytes"]
    alone = json.loads(charnn("plan", "book.txt", "--minutes", "0.1", "--ngram", "0", "--json")[1])
    assert 4 * alone["parameters"] == alone["file_bytes"]


def test_a_plan_names_the_n_grams(charnn):
    words = ("plan", "book.txt", "--minutes", "0.1", "--threads", "1", "--ngram", "5")
    out = charnn(*words)[1]
    assert "n-grams of up to 5" in out
    assert 5 == json.loads(charnn(*words, "--json", "-q")[1])["recipe"]["ngram"]


def test_a_dry_run_of_train_gives_the_plan_and_leaves_nothing(charnn):
    wanted = ("--cell", "gru", "--threads", "1", "--tokenizer", "byte", "--json")
    plan = json.loads(charnn("plan", "book.txt", *wanted)[1])
    dry = json.loads(charnn("train", "book.txt", "--dry-run", "--seed", "0", *wanted)[1])
    assert plan["model"] == dry["model"]
    same = plan["recipe"].keys() - {"max_steps", "eval_every", "sample_every", "save_every"}
    assert {k: plan["recipe"][k] for k in same} == {k: dry["recipe"][k] for k in same}
    assert ["book.txt"] == [path.name for path in Path.cwd().iterdir()]


def test_a_plan_of_a_text_without_a_validation_part_expects_nothing(charnn):
    done = charnn("train", "book.txt", "--dry-run", "--split", "100", "--max-steps", "3", "--json")
    assert {"cold_256": None, "ngram": None} == json.loads(done[1])["expected"]


def test_a_plan_from_a_named_base_expects_a_loss_and_from_another_model_none(charnn):
    words = ("--max-steps", "3", "--threads", "1", "--json")
    expected = json.loads(charnn("plan", "book.txt", "--from", "english", *words)[1])["expected"]
    assert 0 < expected["cold_256"] < math.log(100)
    charnn("train", "book.txt", "--max-steps", "1", "--hidden-size", "8", "--name", "mine")
    plan = json.loads(charnn("plan", "book.txt", "--from", "mine", *words)[1])
    assert plan["expected"]["cold_256"] is None


def test_a_plan_of_a_missing_file_is_an_error_in_one_line(charnn):
    code, out, err = charnn("plan", "nowhere.txt")
    assert (1, "") == (code, out)
    assert 1 == len(err.strip().splitlines())
