"""Surprisal as data, against a naive loop over the torch model."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charnn.checkpoint import Checkpoint, save
from charnn.config import ModelConfig
from charnn.engines import compiled, make_predictor
from charnn.evaluation import network_of
from charnn.scoring.blocks import CharacterBits, read
from charnn.scoring.spans import units
from charnn.scoring.surprisal import Scorer
from charnn.text.sources import open_source
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

TOKENIZER = CharTokenizer.learn("\nabcd é.")
ENGINES = ["numpy", *(["native"] if compiled.kernels() else [])]


def checkpoint(tokenizer=TOKENIZER, cell="gru", lines=False):
    config = ModelConfig(tokenizer.vocab_size, cell, 8, 8, 2)
    generator = np.random.default_rng(0)
    weights = {
        n: generator.normal(0, 0.5, s).astype(np.float32) for n, s in config.tensor_shapes().items()
    }
    return Checkpoint(config, tokenizer.to_dict(), weights, 0, lines=lines)


@torch.no_grad()
def naive(saved, ids):
    """Logarithms to base 2 (T, V) of each token's distribution, from the start state."""
    model = network_of(saved).eval()
    state, rows = model.initial_state(1), []
    for token in [saved.start_token, *ids[:-1]]:
        logits, state = model(torch.tensor([[int(token)]]), state)
        rows.append(logits[0, 0].double().log_softmax(-1).numpy() / math.log(2))
    return np.array(rows)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_every_number_equals_that_of_a_naive_loop(engine, cell):
    saved = checkpoint(cell=cell)
    ids = np.random.default_rng(1).integers(0, TOKENIZER.vocab_size, 60)
    scorer = Scorer(make_predictor(saved.config, saved.weights, engine), 0, details=True, top=3)
    logs = naive(saved, ids)
    first, second = scorer.read(ids[:25]), scorer.read(ids[25:])
    own = logs[np.arange(60), ids]
    np.testing.assert_allclose(np.concatenate([first.bits, second.bits]), -own, atol=1e-4)
    entropy = -(np.exp2(logs) * logs).sum(1)
    np.testing.assert_allclose(np.concatenate([first.entropy, second.entropy]), entropy, atol=1e-4)
    ranks = 1 + (logs > own[:, None]).sum(1)
    assert ranks.tolist() == [*first.rank, *second.rank]
    best = np.argsort(-logs, axis=1)[:, :3]
    assert best.tolist() == [*first.top.tolist(), *second.top.tolist()]
    np.testing.assert_allclose(first.top_bits, -np.take_along_axis(logs, best, 1)[:25], atol=1e-4)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_lines_side_by_side_get_the_bits_of_each_alone(engine, int8, monkeypatch):
    monkeypatch.setattr("charnn.scoring.surprisal.SIDE_BY_SIDE", 4)
    monkeypatch.setattr("charnn.scoring.surprisal.BLOCK_LOGITS", 50)
    saved = checkpoint()
    generator = np.random.default_rng(2)
    lengths = np.array([3, 1, 30, 7, 7, 1, 2, 50, 4, 9])
    ids = generator.integers(0, TOKENIZER.vocab_size, lengths.sum())
    network = make_predictor(saved.config, saved.weights, engine, int8)
    scorer = Scorer(network, 0, details=True, top=2, threads=2)
    found = scorer.lines(ids, lengths)
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        scorer.reset()
        alone = scorer.read(ids[start : start + length])
        for whole, part in zip(found, alone, strict=True):
            rounding = 1e-5 if (engine, int8) == ("numpy", False) else 0
            np.testing.assert_allclose(whole[start : start + length], part, 1e-6, rounding)


def blocks_of(tmp_path, texts, reset, tokenizer=TOKENIZER, unknown="skip"):
    saved = checkpoint(tokenizer)
    paths = []
    for place, data in enumerate(texts):
        paths.append(tmp_path / f"{place}.txt")
        paths[-1].write_bytes(data)
    scorer = Scorer(make_predictor(saved.config, saved.weights), 0)
    with open_source(paths) as source:
        return saved, list(read(scorer, tokenizer, source, reset, unknown))


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize("reset", ["line", "document", "never"])
def test_a_reset_begins_anew_where_it_says(tmp_path, reset, chunk, monkeypatch):
    monkeypatch.setattr("charnn.text.sources.CHUNK_BYTES", chunk)
    texts = ["ab\n\nabc é.d\ncd", "b\nab"]
    saved, blocks = blocks_of(tmp_path, [text.encode() for text in texts], reset)
    joined = [texts[0] + "\n", texts[1]]
    parts = {
        "line": [line for text in joined for line in text.splitlines(keepends=True)],
        "document": joined,
        "never": ["".join(joined)],
    }[reset]
    expected = []
    for part in parts:
        ids = TOKENIZER.encode(part)
        expected += (-naive(saved, ids)[np.arange(len(ids)), ids]).tolist()
    found = np.concatenate([block.char_bits for block in blocks])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "".join(joined) == "".join(block.text for block in blocks)
    assert {0, 1} == {block.document for block in blocks}


def test_what_is_left_out_is_counted_where_nothing_else_is_in_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("charnn.text.sources.CHUNK_BYTES", 2)
    _, blocks = blocks_of(tmp_path, [b"xxxxab\nyyz", b"zzzz\n", b"ab", b"xx"], "document")
    left_out = [Counter(), Counter(), Counter(), Counter()]
    for block in blocks:
        left_out[block.document].update(block.unknown)
    assert [{"x": 4, "y": 2, "z": 1}, {"z": 4}, {}, {"x": 2}] == left_out
    assert "ab\n\n\nab\n" == "".join(block.text for block in blocks)


NASTY = st.text(st.sampled_from("a b\n\té\u2028\U0001f600\r\0\u0301"), max_size=40)


@given(NASTY, st.sampled_from(["line", "document"]), st.sampled_from([1, 5, 1 << 20]))
def test_words_lines_and_documents_have_the_same_bits_together(
    tmp_path_factory, text, reset, chunk
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charnn.text.sources.CHUNK_BYTES", chunk)
        folder = tmp_path_factory.mktemp("nasty")
        _, blocks = blocks_of(folder, [text.encode()], reset, ByteTokenizer())
    total = sum(block.surprisals.bits.sum() for block in blocks)
    sizes = {}
    for kind in ("word", "line", "document"):
        found = list(units(blocks, kind))
        assert total == pytest.approx(sum(unit.bits + unit.after_bits for unit in found))
        sizes[kind] = sum(unit.chars + len(unit.after) for unit in found)
    assert {len(text)} == set(sizes.values())
    lines = [unit.text for unit in units(blocks, "line")]
    wanted = text.split("\n")
    assert (wanted[:-1] if not wanted[-1] else wanted) == lines
    assert text.split() == [unit.text for unit in units(blocks, "word") if unit.text]


@given(st.binary(max_size=30), st.lists(st.integers(0, 30)))
def test_no_bit_is_lost_in_any_bytes_however_they_are_cut(data, cuts):
    tokenizer = ByteTokenizer()
    characters = CharacterBits(tokenizer)
    ids, bits = np.frombuffer(data, np.uint8), np.arange(1.0, len(data) + 1)
    text, total, last = "", 0.0, 0
    for cut in [*sorted(cuts), len(data)]:
        part, spent = characters.push(ids[last:cut], bits[last:cut])
        assert len(part) == len(spent)
        text, total, last = text + part, total + spent.sum(), max(last, cut)
    part, spent = characters.push(ids[:0], bits[:0], final=True)
    assert data.decode("utf-8", "surrogateescape") == text + part
    assert bits.sum() == pytest.approx(total + spent.sum())


def test_a_piece_of_several_characters_shares_its_bits_among_them():
    text = "the cat sat on the mat\n" * 20
    tokenizer = SentencePieceTokenizer.learn([text], 280)
    ids = tokenizer.encode("the cat\n🙂")
    bits = np.arange(1.0, len(ids) + 1)
    found, spent = CharacterBits(tokenizer).push(ids, bits)
    assert "the cat\n🙂" == found
    assert bits.sum() == pytest.approx(spent.sum())
    first = len(tokenizer.token_bytes[ids[0]])
    assert [1 / first] * first == pytest.approx(spent[:first].tolist())


COMMAND = [sys.executable, "-c", "from charnn.cli import main; main()"]


@pytest.fixture(scope="module")
def charnn(tmp_path_factory):
    """Runs a command beside two models: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("score")
    save(folder / "m.safetensors", checkpoint())
    save(folder / "l.safetensors", checkpoint(lines=True))

    def charnn(*words, stdin=b"", **environment):
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=folder,
            input=stdin,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return charnn


def test_the_command_gives_rows_of_tokens(charnn):
    code, out, _ = charnn("score", "-", "-m", "m.safetensors", "--top", "2", stdin="é\na".encode())
    rows = [json.loads(line) for line in out.splitlines()]
    assert (0, ["é", "\n", "a"]) == (code, [row["token"] for row in rows])
    assert [(1, 1), (1, 2), (2, 3)] == [(row["line"], row["char"]) for row in rows]
    assert {2} == {len(row["top"]) for row in rows}
    keys = ["document", "line", "char", "token", "bits", "entropy", "rank", "top"]
    assert keys == list(rows[0])
    table = charnn("score", "-", "-m", "m.safetensors", "--format", "tsv", stdin=b"a\n")[1]
    assert [7, 7, 7] == [len(line.split("\t")) for line in table.splitlines()]
    assert "\\n" == table.splitlines()[2].split("\t")[3]


def test_words_and_lines_add_up_in_the_command_too(charnn):
    text = b"ab cd\n\n a.\nd"
    totals = []
    for per in ("token", "word", "line", "document"):
        words = ("score", "-", "-m", "m.safetensors", "--per", per, "--json", "-q")
        rows = [json.loads(line) for line in charnn(*words, stdin=text)[1].splitlines()]
        totals.append(sum(row["bits"] + row.get("after_bits", 0) for row in rows))
    assert totals == pytest.approx([totals[0]] * 4)


def test_the_text_is_shown_in_colour_where_there_is_colour(charnn):
    text = b"ab cd.\nd"
    _, out, err = charnn("score", "-", "-m", "m.safetensors", stdin=text, FORCE_COLOR="1")
    assert "\x1b[" in out
    assert "bits/char" in err


def test_a_model_of_lines_forgets_at_each_line(charnn):
    words = ("score", "-", "--per", "line", "--json", "-q", "-m")
    rows = charnn(*words, "l.safetensors", stdin=b"ab\nab\n")[1].splitlines()
    assert json.loads(rows[0])["bits"] == pytest.approx(json.loads(rows[1])["bits"])
    rows = charnn(*words, "m.safetensors", stdin=b"ab\nab\n")[1].splitlines()
    assert json.loads(rows[0])["bits"] != pytest.approx(json.loads(rows[1])["bits"])


@pytest.mark.parametrize(
    ("words", "stdin", "code", "said"),
    [
        (("-",), b"", 1, "nothing to score"),
        (("-",), b"az", 1, "does not know 'z'"),
        (("-",), b"a\xff", 1, "not UTF-8: byte 0xff at offset 1"),
        (("-", "--top", "2", "--per", "word"), b"a", 2, "--top tells of tokens"),
        (("-", "--json", "--format", "tsv"), b"a", 2, "--json is --format jsonl"),
        (("x.tokens",), b"", 2, "not .tokens files"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(charnn, words, stdin, code, said):
    found, _, err = charnn("score", *words, "-m", "m.safetensors", stdin=stdin)
    assert code == found
    assert said in err
    assert 1 == len(err.splitlines())


def test_unknown_characters_can_be_left_out(charnn):
    code, out, err = charnn("score", "-", "-m", "m.safetensors", "--unknown", "skip", stdin=b"azb")
    assert (0, 2) == (code, len(out.splitlines()))
    assert "note: --unknown skip: 1 unknown character: 'z' left out\n" in err


def test_scoring_leaves_torch_out():
    code = (
        "import sys, charnn.scoring.blocks, charnn.scoring.spans, charnn.cli.score\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
