"""Surprisal of tokens, characters and spans, against a naive loop over the torch model."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.engines import compiled, make_predictor
from charnn.evaluation import network_of
from charnn.scoring.surprisal import CharacterBits, TokenScorer, score_text, spans
from charnn.text.line_breaks import Reading
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
def naive_logs(saved, ids):
    """Returns log2 of the distribution of each token (T, V), read from the initial state."""
    model = network_of(saved).eval()
    state, rows = model.initial_state(1), []
    for token in [saved.start_token, *ids[:-1]]:
        logits, state = model(torch.tensor([[int(token)]]), state)
        rows.append(logits[0, 0].double().log_softmax(-1).numpy() / math.log(2))
    return np.array(rows)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_bits_entropy_ranks_and_alternatives_equal_a_naive_loop(engine, cell):
    saved = checkpoint(cell=cell)
    ids = np.random.default_rng(1).integers(0, TOKENIZER.vocab_size, 60)
    scorer = TokenScorer(
        make_predictor(saved.config, saved.weights, engine), 0, details=True, top=3
    )
    logs = naive_logs(saved, ids)
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
def test_lines_scored_together_have_the_bits_of_each_alone(engine, int8, monkeypatch):
    monkeypatch.setattr("charnn.scoring.surprisal.BATCH_LINES", 4)
    monkeypatch.setattr("charnn.scoring.surprisal.BLOCK_LOGITS", 50)
    saved = checkpoint()
    generator = np.random.default_rng(2)
    lengths = np.array([3, 1, 30, 7, 7, 1, 2, 50, 4, 9])
    ids = generator.integers(0, TOKENIZER.vocab_size, lengths.sum())
    network = make_predictor(saved.config, saved.weights, engine, int8)
    scorer = TokenScorer(network, 0, details=True, top=2, threads=2)
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
    scorer = TokenScorer(make_predictor(saved.config, saved.weights), 0)
    with open_source(paths, reading=Reading(keep_crlf=True)) as source:
        return saved, list(score_text(scorer, tokenizer, source, reset, unknown))


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize("reset", ["line", "document", "never"])
def test_the_state_is_reset_at_each_line_or_document_or_never(tmp_path, reset, chunk, monkeypatch):
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
        expected += (-naive_logs(saved, ids)[np.arange(len(ids)), ids]).tolist()
    found = np.concatenate([block.char_bits for block in blocks])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "".join(joined) == "".join(block.text for block in blocks)
    assert {0, 1} == {block.document for block in blocks}


def test_skipped_characters_are_counted_for_their_document(tmp_path, monkeypatch):
    monkeypatch.setattr("charnn.text.sources.CHUNK_BYTES", 2)
    _, blocks = blocks_of(tmp_path, [b"xxxxab\nyyz", b"zzzz\n", b"ab", b"xx"], "document")
    skipped = [Counter(), Counter(), Counter(), Counter()]
    for block in blocks:
        skipped[block.document].update(block.unknown)
    assert [{"x": 4, "y": 2, "z": 1}, {"z": 4}, {}, {"x": 2}] == skipped
    assert "ab\n\n\nab\n" == "".join(block.text for block in blocks)


NASTY = st.text(st.sampled_from("a b\n\té\u2028\U0001f600\r\0\u0301"), max_size=40)


@given(NASTY, st.sampled_from(["line", "document"]), st.sampled_from([1, 5, 1 << 20]))
def test_words_lines_and_documents_have_the_same_total_of_bits(
    tmp_path_factory, text, reset, chunk
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charnn.text.sources.CHUNK_BYTES", chunk)
        folder = tmp_path_factory.mktemp("nasty")
        _, blocks = blocks_of(folder, [text.encode()], reset, ByteTokenizer())
    total = sum(block.surprisals.bits.sum() for block in blocks)
    sizes = {}
    for kind in ("word", "line", "document"):
        found = list(spans(blocks, kind))
        assert total == pytest.approx(sum(span.bits + span.after_bits for span in found))
        sizes[kind] = sum(span.chars + len(span.after) for span in found)
    assert {len(text)} == set(sizes.values())
    lines = [span.text for span in spans(blocks, "line")]
    wanted = text.split("\n")
    assert (wanted[:-1] if not wanted[-1] else wanted) == lines
    assert text.split() == [span.text for span in spans(blocks, "word") if span.text]


@given(st.binary(max_size=30), st.lists(st.integers(0, 30)))
def test_characters_have_all_bits_of_their_tokens_however_bytes_are_cut(data, cuts):
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


PUNCTUATED = "It’s the keeper's well-kept stairs. “No,” he said: 3.14 (é\u0301) हिन्दी!?\n\n'Tis -- "


@given(st.lists(st.integers(0, len(PUNCTUATED)), max_size=6))
def test_punctuation_is_split_from_words_however_blocks_are_cut(cuts):
    bits = np.random.default_rng(0).random(len(PUNCTUATED))
    edges = [0, *sorted(cuts), len(PUNCTUATED)]
    blocks = [
        SimpleNamespace(document=0, text=PUNCTUATED[a:b], char_bits=bits[a:b])
        for a, b in pairwise(edges)
    ]
    found = list(spans(blocks, "word", split=True))
    expected = (
        "It’s the keeper's well-kept stairs . “ No ,” he said : 3.14 ( é\u0301 ) हिन्दी !? ' Tis --"
    )
    assert expected.split() == [span.text for span in found]
    assert sum(span.bits + span.after_bits for span in found) == pytest.approx(bits.sum())
    assert PUNCTUATED == "".join(span.text + span.after for span in found)
    starts = [PUNCTUATED.index("stairs"), PUNCTUATED.index("Tis")]
    assert [(1, starts[0] + 1), (3, starts[1] + 1)] == [
        (span.line, span.char) for span in found if span.text in ("stairs", "Tis")
    ]


def test_characters_of_one_token_share_its_bits():
    text = "the cat sat on the mat\n" * 20
    tokenizer = SentencePieceTokenizer.learn([text], 280)
    ids = tokenizer.encode("the cat\n🙂")
    bits = np.arange(1.0, len(ids) + 1)
    found, spent = CharacterBits(tokenizer).push(ids, bits)
    assert "the cat\n🙂" == found
    assert bits.sum() == pytest.approx(spent.sum())
    first = len(tokenizer.token_bytes[ids[0]])
    assert [1 / first] * first == pytest.approx(spent[:first].tolist())
