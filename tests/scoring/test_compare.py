"""Which model wrote a line: against likelihoods added up by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from charnn.checkpoint import Checkpoint, save
from charnn.config import ModelConfig
from charnn.engines import make_predictor
from charnn.scoring.compare import (
    LineBits,
    Reader,
    calibrate,
    halves,
    known_characters,
    line_bits,
    verdicts,
)
from charnn.scoring.surprisal import Scorer
from charnn.text.sources import open_source
from charnn.text.token_file import write_token_file
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

COMMAND = [sys.executable, "-c", "from charnn.cli import main; main()", "compare"]


def model(tokenizer, likes):
    """One that mostly expects the characters of `likes`, whatever came before."""
    config = ModelConfig(tokenizer.vocab_size, "rnn", 8, 8, 1)
    weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
    weights["head.bias"][tokenizer.encode(likes)] = 3
    return Checkpoint(config, tokenizer.to_dict(), weights, 0)


def reader(tokenizer, likes):
    saved = model(tokenizer, likes)
    return Reader(Scorer(make_predictor(saved.config, saved.weights), 0), tokenizer)


def test_the_bits_of_lines_are_sums_over_their_characters():
    tokenizer = CharTokenizer.learn("\nabc")
    readers = [reader(tokenizer, "a"), reader(ByteTokenizer(), "b")]
    found = line_bits(readers, ["ab", "b"], newline=True)
    likely = np.log2(np.exp(3) + 3) - 3 / np.log(2), np.log2(np.exp(3) + 3)
    assert [3, 2] == found.chars.tolist()
    np.testing.assert_allclose(found.bits[:, 0], [likely[0] + 2 * likely[1], 2 * likely[1]], 1e-5)
    assert set("\nabc") == known_characters(readers)
    assert known_characters(readers[1:]) is None


def test_the_fewest_bits_a_character_win_less_the_offset():
    bits, chars = np.array([[10.0, 12.0], [10.0, 9.0]]), np.array([4, 4])
    assert [0, 1] == verdicts(bits, chars, np.zeros(2)).tolist()
    assert [1, 1] == verdicts(bits, chars, np.array([0, 0.51])).tolist()


@pytest.mark.parametrize("count", [2, 3])
def test_a_model_that_is_worse_everywhere_is_not_found_guilty_for_it(count):
    generator = np.random.default_rng(0)
    handicap = np.arange(count) * 1.5
    held_out = []
    for writer in range(count):
        rates = generator.normal(3, 0.1, (200, count)) + handicap
        rates[:, writer] -= 1
        chars = generator.integers(1, 50, 200)
        held_out.append(LineBits([""] * 200, chars, rates * chars[:, None]))
    found = calibrate(held_out)
    assert 0.97 < found.accuracy
    assert [100] * count == found.confusion.sum(1).tolist()
    if count == 2:  # no other offset does better on the lines that it was chosen by
        rates = [(each.bits / each.chars[:, None])[halves(200)[0]] for each in held_out]

        def right(offset):
            return sum(
                (np.argmin(rate - [0, offset], axis=1) == i).sum() for i, rate in enumerate(rates)
            )

        assert right(found.offsets[1]) >= max(right(x) for x in np.linspace(-3, 3, 601))


def test_nothing_is_calibrated_away_where_models_are_the_same():
    lines = LineBits(["x"] * 4, np.ones(4, int), np.ones((4, 2)))
    assert 0.5 == calibrate([lines, lines]).accuracy


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Runs the command beside two runs and a model alone: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("compare")
    for name, text, likes in (("a", "aab\nab\n", "a"), ("b", "bba\nbb\n", "b")):
        run = folder / "checkpoints" / name
        run.mkdir(parents=True)
        (folder / "text").write_text(text * 40)
        with open_source([folder / "text"]) as source:
            tokens = write_token_file(run / "tokens", source)
        save(run / "best.safetensors", model(tokens.tokenizer, likes))
        save(folder / "alone.safetensors", model(tokens.tokenizer, likes))

    def compare(*words, stdin=""):
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=folder,
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        return done.returncode, done.stdout, done.stderr

    return compare


def test_the_command_names_the_writer(compare):
    code, out, _ = compare("-", "-m", "a", "-m", "b", "--json", stdin="aaa\n\nbbbb\naa\nab")
    value = json.loads(out)
    assert (0, 4, 13) == (code, value["lines"], value["chars"] - 2)
    assert 1 == len(out.splitlines())
    assert ["a", "b"] == value["models"]
    assert 1.0 == value["calibration"]["accuracy"]
    rows = compare("-", "-m", "a", "-m", "b", "--jsonl", stdin="aaa\n\nbbbb\n")[1].splitlines()
    assert ["a", "b"] == [json.loads(row)["verdict"] for row in rows]
    _, shown, _ = compare("-", "-m", "a", "-m", "b", stdin="aaa\n")
    assert "a is the likeliest writer" in shown
    assert "known as its own: 100.0%" in compare("-m", "a", "-m", "b")[1]


def test_without_held_out_text_it_says_so(compare):
    code, out, err = compare("-", "-m", "a", "-m", "alone.safetensors", "--json", stdin="b")
    assert (0, None) == (code, json.loads(out)["calibration"])
    assert "nothing is calibrated" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-m", "a"), 2, "takes two models or more, got 1"),
        (("-m", "a", "-m", "a"), 2, "given twice"),
        (("-m", "a", "-m", "b", "--jsonl"), 2, "name one"),
        (("-", "-m", "a", "-m", "b", "--json", "--jsonl"), 2, "use one of them"),
        (("-", "-m", "a", "-m", "b"), 1, "nothing to compare"),
        (("-", "-m", "a", "-m", "c"), 1, "no run called 'c'"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(compare, words, code, said):
    found, _, err = compare(*words, "-q")
    assert code == found
    assert said in err
    assert 1 == len(err.splitlines())


def test_unknown_characters_are_refused_or_left_out_for_all(compare):
    assert "does not know 'z'" in compare("-", "-m", "a", "-m", "b", stdin="azb")[2]
    words = ("-", "-m", "a", "-m", "b", "--unknown", "skip", "--json")
    assert 3 == json.loads(compare(*words, stdin="azb")[1])["chars"]
