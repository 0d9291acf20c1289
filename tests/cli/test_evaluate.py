"""`charnn eval` with all of its reports."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from babbler import make_run, run_command

from charnn.checkpoint import save

TEXT = "the cat sat. The mat ate 12!\n\nA rat sat on the hat.\n" * 30
EXTRAS = ("--dynamic", "--baselines", "--positions", "--classes")


@pytest.fixture(scope="module")
def charnn_eval(tmp_path_factory):
    """Runs `charnn eval` beside a run, a model without its run, and a model of lines."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "book.txt").write_text(TEXT)
    model = make_run(folder, "r")
    save(folder / "alone.safetensors", model)
    save(folder / "lines.safetensors", replace(model, lines=True))

    def charnn_eval(*words):
        return run_command(folder, "eval", *words, "--threads", "1")

    charnn_eval.model = folder / "checkpoints/r/best.safetensors"
    return charnn_eval


def test_the_command_prints_every_extra_report(charnn_eval):
    before = charnn_eval.model.read_bytes()
    code, out, _ = charnn_eval(*EXTRAS, "--json", "-q")
    value = json.loads(out)
    assert 0 == code
    assert before == charnn_eval.model.read_bytes()
    assert "rms" == value["dynamic"]["rule"]
    assert value["dynamic"]["nats_per_token"] < value["carried"]["nats_per_token"]
    assert value["dynamic"]["targets"] == value["carried"]["targets"]
    names = [row["name"] for row in value["baselines"]["rows"]]
    assert ["uniform", "unigram", "2-gram"] == names[:3]
    assert {"gzip -9", "xz -9e"} <= set(names)
    assert 128 == value["positions"]["positions"][-1]
    total = value["carried"]["bits_per_char"] * value["carried"]["targets"]
    assert total == pytest.approx(sum(row["bits"] for row in value["classes"]), rel=1e-4)
    _, shown, _ = charnn_eval(*EXTRAS, "-q")
    for word in ("dynamic", "gzip -9", "position", "letter after space"):
        assert word in shown


def test_without_flags_there_are_the_protocols_alone(charnn_eval):
    value = json.loads(charnn_eval("--json", "-q")[1])
    assert {"carried", "cold_256"} < set(value)
    assert not {"dynamic", "baselines", "positions", "classes"} & set(value)
    assert 4 == len(charnn_eval("-q")[1].splitlines())


def test_a_model_without_its_run_is_scored_without_training_text(charnn_eval):
    words = ("book.txt", "-m", "alone.safetensors", "--dynamic", "--baselines", "--json")
    code, out, err = charnn_eval(*words)
    value = json.loads(out)
    assert (0, "sgd", None) == (code, value["dynamic"]["rule"], value["baselines"]["trained_on"])
    assert "tokens" in err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--dynamic-rate", "1"), 2, "--dynamic"),
        (("--dynamic", "--dynamic-rate", "-1"), 2, "-1"),
        (("book.txt", "-m", "alone.safetensors", "--dynamic", "--dynamic-rule", "rms"), 2, "sgd"),
        (("--protocol", "carried,warm"), 2, "warm"),
        (("book.txt", "--split", "train"), 2, "--split"),
        (("--unknown", "skip"), 2, "--unknown"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(charnn_eval, words, code, named):
    found, _, err = charnn_eval(*words, "-q")
    assert code == found
    assert named in err


def test_a_model_of_lines_is_scored_line_by_line(charnn_eval):
    words = ("book.txt", "-m", "lines.safetensors", "--dynamic", "--positions", "--classes")
    code, out, err = charnn_eval(*words, "--json", "-q")
    assert (0, "") == (code, err)
    value = json.loads(out)
    assert ("lines", "sgd") == (value["dynamic"]["protocol"], value["dynamic"]["rule"])
    assert value["lines"]["targets"] == value["dynamic"]["targets"]
    assert value["positions"]["windows"] == value["positions"]["counts"][0]
    total = value["lines"]["bits_per_char"] * value["lines"]["targets"]
    assert total == pytest.approx(sum(row["bits"] for row in value["classes"]), rel=1e-4)
