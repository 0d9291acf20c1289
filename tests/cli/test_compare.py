"""`charnn compare`: verdicts, calibration and refusals."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from babbler import run_command

from charnn.checkpoint import Checkpoint, save
from charnn.config import ModelConfig
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file


@pytest.fixture(scope="module")
def charnn_compare(tmp_path_factory):
    """Runs `charnn compare` beside the runs a and b and the model alone.safetensors.

    Each mostly expects one character: a the "a", b and alone the "b".
    """
    folder = tmp_path_factory.mktemp("compare")
    for name, text in (("a", "aab\nab\n"), ("b", "bba\nbb\n")):
        run = folder / "checkpoints" / name
        run.mkdir(parents=True)
        (folder / "text").write_text(text * 40)
        with open_source([folder / "text"]) as source:
            tokenizer = write_token_file(run / "tokens", source).tokenizer
        config = ModelConfig(tokenizer.vocab_size, "rnn", 8, 8, 1)
        weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
        weights["head.bias"][tokenizer.encode(name)] = 3
        model = Checkpoint(config, tokenizer.to_dict(), weights, 0)
        save(run / "best.safetensors", model)
    save(folder / "alone.safetensors", model)
    return partial(run_command, folder, "compare")


def test_the_likeliest_writer_is_named(charnn_compare):
    both = ("-", "-m", "a", "-m", "b")
    code, out, _ = charnn_compare(*both, "--json", stdin=b"aaa\n\nbbbb\naa\nab")
    value = json.loads(out)
    assert (0, 4, 15) == (code, value["lines"], value["chars"])
    assert 1 == len(out.splitlines())
    assert (["a", "b"], "a") == (value["models"], value["verdict"])
    assert 1.0 == value["calibration"]["accuracy"]
    rows = charnn_compare(*both, "--jsonl", stdin=b"aaa\n\nbbbb\n")[1].splitlines()
    assert ["a", "b"] == [json.loads(row)["verdict"] for row in rows]
    shown = charnn_compare(*both, stdin=b"aaa\n")[1].splitlines()
    assert any(line.startswith("a is") for line in shown)


def test_without_a_text_the_calibration_is_reported(charnn_compare):
    code, out, _ = charnn_compare("-m", "a", "-m", "b")
    assert (0, True) == (code, "100.0%" in out)


def test_without_held_out_text_there_is_no_calibration(charnn_compare):
    words = ("-", "-m", "a", "-m", "alone.safetensors", "--json")
    code, out, err = charnn_compare(*words, stdin=b"b")
    assert (0, None) == (code, json.loads(out)["calibration"])
    assert "alone.safetensors" in err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("-m", "a"), 2, "-m"),
        (("-m", "a", "-m", "a"), 2, "twice"),
        (("-m", "a", "-m", "b", "--jsonl"), 2, "--jsonl"),
        (("-", "-m", "a", "-m", "b", "--json", "--jsonl"), 2, "--jsonl"),
        (("-", "-m", "a", "-m", "b"), 1, "empty"),
        (("-", "-m", "a", "-m", "c"), 1, "'c'"),
    ],
)
def test_refusals_are_one_line_with_an_exit_code(charnn_compare, words, code, named):
    found, _, err = charnn_compare(*words, "-q")
    assert code == found
    assert named in err
    assert 1 == len(err.splitlines())


def test_unknown_characters_are_refused_with_the_model_or_skipped_for_all(charnn_compare):
    words = ("-", "-m", "checkpoints/b", "-m", "a")
    code, _, err = charnn_compare(*words, stdin=b"azb")
    assert 1 == code
    assert "checkpoints/b" in err
    assert "'z'" in err
    out = charnn_compare(*words, "--unknown", "skip", "--json", stdin=b"azb")[1]
    assert 3 == json.loads(out)["chars"]
