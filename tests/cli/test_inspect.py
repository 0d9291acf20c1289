"""`charnn inspect`, `charnn horizon` and `charnn sample --clamp`, each in a new process."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
from babbler import make_run, run_command

from charnn.checkpoint import Checkpoint, load, save

TEXT = 'the "cat (12) sat". The "Mat" ate!\n\n  A rat sat on "the Hat" [3].\n' * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with a run of an LSTM, and a run of an RNN on lines."""
    folder = tmp_path_factory.mktemp("inside")
    (folder / "book.txt").write_text(TEXT)
    make_run(folder, "lstm", "lstm", 2, split=(50, 50))
    make_run(folder, "rnn", "rnn", 2, lines=True, split=(50, 50))
    return folder


@pytest.fixture
def charnn(folder):
    """Runs a command; returns exit code, stdout and stderr."""
    return partial(run_command, folder)


def test_find_ranks_units(charnn):
    code, out, err = charnn("inspect", "-m", "lstm", "--top", "2")
    assert (0, "") == (code, err)
    for name in ("quotes", "brackets", "number"):
        assert name in out.splitlines()[0]
    assert max(map(len, out.splitlines()[1:])) <= 80
    found = json.loads(charnn("inspect", "-m", "lstm", "--find", "quotes,number", "--json")[1])
    assert {"quotes", "number"} == set(found["labels"])
    best = found["labels"]["quotes"]["units"][0]
    assert 0.5 <= best["chosen_auc"] <= 1
    assert f"{best['layer']}:{best['number']}:{best['part']}" == best["unit"]


def test_units_that_predict_badly_are_hidden_and_rows_are_sorted(charnn):
    words = ("inspect", "-m", "lstm", "--top", "5")
    found = json.loads(charnn(*words, "--json")[1])["labels"]
    areas = [unit["auc"] for label in found.values() for unit in label["units"]]
    good = [area for area in areas if area >= 0.85]
    assert 0 < len(good) < len(areas)
    _, out, _ = charnn(*words, "--table")
    assert f"hidden: {len(areas) - len(good)} units" in out
    rows = re.findall(r"^(\w+) +\d+:\d+:\w +([\d.]+) ", out, re.M)
    assert len(good) == len(rows)
    first = [(name, float(area)) for name, area in rows if name == rows[0][0]]
    assert first == sorted(first, key=lambda row: -row[1])
    assert len({name for name, _ in rows}) == len(
        re.findall(r"^\w+ +\d+:\d+:", charnn(*words)[1], re.M)
    )


def test_a_given_text_is_ranked_by_a_given_regular_expression(charnn):
    words = ("inspect", "book.txt", "-m", "lstm", "--label-regex", "[Tt]he", "--json")
    found = json.loads(charnn(*words)[1])
    assert ["regex"] == list(found["labels"])
    assert len(TEXT) == found["tokens"]
    expected = TEXT.lower().count("the") * 3 / len(TEXT)
    assert expected == pytest.approx(found["labels"]["regex"]["share"])


def test_an_effect_is_the_same_for_the_same_seed(charnn):
    words = ("inspect", "-m", "lstm", "--find", "quotes", "--effect", "--effect-chars", "800")
    code, out, err = charnn(*words, "--seed", "1", "--together", "2")
    assert (0, "") == (code, err)
    assert out.startswith("Clamping ")
    assert ["not", "as", "as", "difference"] == [line.split()[0] for line in out.splitlines()[3:7]]
    one, two = (json.loads(charnn(*words, "--seed", "1", "--json")[1]) for _ in range(2))
    assert one == two
    assert one["effect"]["verdict"] in ("cause", "opposite", "none")
    assert [] == list(one["effect"]["alone"]["held"])


def test_a_unit_is_shown_in_colour_or_as_numbers(charnn):
    words = ("inspect", "-m", "lstm", "--unit", "1:3", "--chars", "50")
    lines = charnn(*words)[1].splitlines()
    assert 50 == len(lines)
    values = json.loads(charnn(*words, "--json")[1])["values"]
    assert values == pytest.approx([float(line.split("\t")[0]) for line in lines], abs=1e-4)
    shown = charnn(*words, terminal=True, TERM="xterm-256color")[1]
    assert "\x1b[" in shown
    assert "\x1b[" not in charnn(*words, terminal=True, NO_COLOR="1")[1]


def test_the_shares_of_open_gates_are_printed_for_each_layer(charnn):
    assert "below 0.1" in charnn("inspect", "-m", "lstm", "--gates")[1]
    found = json.loads(charnn("inspect", "-m", "lstm", "--gates", "--json")[1])
    assert ["i", "f", "o"] == found["gates"]
    assert 2 == len(found["layers"])
    assert 8 == len(found["layers"][0]["i"]["units_below"])


def test_clamps_change_the_sample_and_repeat(charnn):
    words = ("sample", "-m", "lstm", "-n", "80", "--seed", "1", "-q")
    plain = charnn(*words)[1]
    held = charnn(*words, "--clamp", "1:3=4", "--clamp", "0:2:h=-1")[1]
    assert plain != held
    assert held == charnn(*words, "--clamp", "0:2:h=-1", "--clamp", "1:3=4")[1]
    many = charnn(*words, "--num-samples", "9", "--clamp", "1:3=4", "--json")[1].splitlines()
    assert charnn(*words, "--clamp", "1:3=4", "--json")[1].splitlines() == many[:1]


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["inspect", "-m", "lstm", "--find", "rhymes"], 2, "rhymes"),
        (["inspect", "-m", "lstm", "--effect"], 2, "--find"),
        (["inspect", "-m", "lstm", "--find", "quotes,line", "--effect"], 2, "--find"),
        (["inspect", "-m", "lstm", "--together", "2"], 2, "--effect"),
        (["inspect", "-m", "lstm", "--gates", "--unit", "0:1"], 2, "--unit and --gates"),
        (["inspect", "-m", "lstm", "--unit", "2:1"], 2, "2:1"),
        (["inspect", "-m", "lstm", "--gates", "--table"], 2, "--table"),
        (["inspect", "-m", "lstm", "--label-regex", "("], 2, "--label-regex"),
        (["inspect", "-m", "lstm", "--label-regex", "zzz"], 1, "--chars"),
        (["inspect", "-m", "rnn", "--gates"], 2, "gru or lstm"),
        (["inspect", "none.txt", "-m", "lstm"], 1, "none.txt"),
        (["sample", "-m", "lstm", "--clamp", "1:3"], 2, "1:3"),
        (["sample", "-m", "rnn", "--clamp", "1:3=2"], 2, "1:3:h"),
        (["horizon", "-m", "lstm", "--minutes", "0.1"], 2, "--cells"),
        (["horizon", "--cells", "rnn,tree", "book.txt"], 2, "tree"),
        (["horizon", "--cells", "rnn"], 2, "TEXT"),
        (["horizon", "--cells", "rnn", "--fresh", "book.txt"], 2, "--fresh"),
    ],
)
def test_refusals_are_one_line_with_the_value_at_fault(charnn, words, code, named):
    found, out, err = charnn(*words)
    assert (code, "", 1) == (found, out, len(err.splitlines()))
    assert named in err


@pytest.mark.slow
def test_the_horizon_of_a_model_and_of_a_fresh_one(charnn):
    code, out, err = charnn("horizon", "-m", "lstm", "--samples", "8", "-q")
    assert (0, "") == (code, err)
    assert max(map(len, out.splitlines()[1:])) <= 80
    found = json.loads(charnn("horizon", "-m", "lstm", "--fresh", "--samples", "8", "--json")[1])
    (values,) = found.values()
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256] == values["lags"]
    assert (2, 9) == np.shape(values["gradient"])


@pytest.mark.slow
def test_the_horizon_of_a_model_of_lines_leaves_out_long_lags(charnn):
    code, out, err = charnn("horizon", "-m", "rnn", "--samples", "8")
    assert 0 == code, err
    assert 2 == err.count("note: ")
    assert "256" not in out
    assert "256" in err


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "--unit", "0:1"],
        pytest.param(["horizon", "--samples", "8"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_a_text_for_a_model_of_lines_is_cleaned_as_in_training(charnn, folder, words):
    lines = [line for line in TEXT.splitlines() if line]
    (folder / "plain.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    (folder / "dos.txt").write_bytes("\r\n".join(["\ufeff", *lines]).encode())
    names = ("plain.txt", "dos.txt")
    plain, dos = [charnn(*words, "-m", "rnn", name, "--json", "-q") for name in names]
    assert (0, "") == plain[::2]
    assert plain == dos


@pytest.mark.slow
def test_norms_that_are_not_finite_are_null_in_json(charnn, folder):
    run = folder / "checkpoints" / "rnn"
    saved = load(run / "best.safetensors")
    weights = {
        name: np.full_like(array, 1e30 if "weight_hh" in name else 0)
        for name, array in saved.weights.items()
    }
    exploding = Checkpoint(saved.config, saved.tokenizer, weights, saved.start_token)
    save(folder / "exploding.safetensors", exploding)
    words = ("horizon", "book.txt", "-m", "exploding.safetensors", "--samples", "8", "-q")
    words += ("--table",)
    code, out, err = charnn(*words)
    assert (0, "") == (code, err)
    assert " inf " in out
    code, out, _ = charnn(*words, "--json")
    (values,) = json.loads(out, parse_constant=pytest.fail).values()
    assert values["singular"][-1] is None
    assert 9 == len(values["truncated"])


@pytest.mark.slow
def test_cells_are_plotted_together(charnn):
    words = ("horizon", "--cells", "rnn,gru", "book.txt", "--minutes", "0.02", "--samples", "8")
    code, out, err = charnn(*words)
    assert 0 == code, err
    assert "* rnn  o gru" in out
    assert "training gru" in err
