"""`charnn score`: rows, tables, colours and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from babbler import run_command
from random_model import random_model

from charnn.checkpoint import save
from charnn.text.tokenizers import CharTokenizer


@pytest.fixture(scope="module")
def charnn_score(tmp_path_factory):
    """Runs `charnn score` beside a model of texts and a model of lines."""
    folder = tmp_path_factory.mktemp("score")
    tokenizer = CharTokenizer.learn("\nabcd é.")
    model = random_model(tokenizer, layers=2)
    save(folder / "m.safetensors", model)
    save(folder / "l.safetensors", replace(model, lines=True))
    return partial(run_command, folder, "score")


def rows_of(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_row_describes_a_token(charnn_score):
    words = ("-", "-m", "m.safetensors", "--top", "2")
    code, out, _ = charnn_score(*words, stdin="é\na".encode())
    rows = rows_of(out)
    assert (0, ["é", "\n", "a"]) == (code, [row["token"] for row in rows])
    assert [(1, 1), (1, 2), (2, 3)] == [(row["line"], row["char"]) for row in rows]
    assert {2} == {len(row["top"]) for row in rows}
    keys = ["document", "line", "char", "token", "bits", "entropy", "rank", "top"]
    assert keys == list(rows[0])
    table = charnn_score("-", "-m", "m.safetensors", "--format", "tsv", stdin=b"a\n")[1]
    assert [7, 7, 7] == [len(line.split("\t")) for line in table.splitlines()]
    assert "\\n" == table.splitlines()[2].split("\t")[3]


def test_tokens_words_lines_and_documents_have_the_same_total(charnn_score):
    totals = []
    for per in ("token", "word", "line", "document"):
        words = ("-", "-m", "m.safetensors", "--per", per, "--json", "-q")
        rows = rows_of(charnn_score(*words, stdin=b"ab cd\n\n a.\nd")[1])
        totals.append(sum(row["bits"] + row.get("after_bits", 0) for row in rows))
    assert totals == pytest.approx([totals[0]] * 4)


def test_a_terminal_shows_the_text_in_colour(charnn_score):
    _, out, err = charnn_score("-", "-m", "m.safetensors", stdin=b"ab cd.\nd", FORCE_COLOR="1")
    assert "\x1b[" in out
    assert "bits/char" in err


@pytest.mark.parametrize(("model", "equal"), [("l.safetensors", True), ("m.safetensors", False)])
def test_only_a_model_of_lines_resets_at_each_line(charnn_score, model, equal):
    words = ("-", "--per", "line", "--json", "-q", "-m", model)
    first, second = rows_of(charnn_score(*words, stdin=b"ab\nab\n")[1])
    assert equal == (first["bits"] == pytest.approx(second["bits"]))


@pytest.mark.parametrize(
    ("words", "stdin", "code", "named"),
    [
        (("-",), b"", 1, "empty"),
        (("-",), b"az", 1, "'z'"),
        (("-",), b"a\xff", 1, "0xff"),
        (("-", "--top", "2", "--per", "word"), b"a", 2, "--top"),
        (("-", "--json", "--format", "tsv"), b"a", 2, "--json"),
        (("x.tokens",), b"", 2, "x.tokens"),
    ],
)
def test_refusals_are_one_line_with_an_exit_code(charnn_score, words, stdin, code, named):
    found, _, err = charnn_score(*words, "-m", "m.safetensors", stdin=stdin)
    assert code == found
    assert named in err
    assert 1 == len(err.splitlines())


def test_unknown_characters_can_be_skipped(charnn_score):
    words = ("-", "-m", "m.safetensors", "--unknown", "skip")
    code, out, err = charnn_score(*words, stdin=b"azb")
    assert (0, 2) == (code, len(out.splitlines()))
    assert "'z'" in err
