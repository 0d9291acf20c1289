"""The protocols against scorers that read token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from charnn.config import ModelConfig
from charnn.errors import TextError
from charnn.evaluation import TextSizes, carried_batches, cold_batches, line_batches
from charnn.model import CELLS, LanguageModel

V = 7
score = TextSizes(np.ones(V, int), np.ones(V, int)).score


def model_and_ids(cell: str, count: int):
    model = LanguageModel(ModelConfig(vocab_size=V, cell=cell, hidden_size=8, embedding_size=8))
    model.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.mul_(100)
    return model, np.random.default_rng(1).integers(0, V, count, dtype=np.uint8)


@torch.no_grad()
def score_naively(model: LanguageModel, ids: np.ndarray, window: int | None) -> tuple[float, int]:
    """Reads token by token; in windows from the initial state, if given, without a partial one."""
    model.eval()
    total, count = 0.0, 0
    last = len(ids) - 1 if window is None else (len(ids) - 1) // window * window
    for position in range(last):
        if position == 0 or (window and position % window == 0):
            state = model.initial_state(1)
        logits, state = model(torch.tensor([[int(ids[position])]]), state)
        total -= float(logits[0, 0].double().log_softmax(-1)[int(ids[position + 1])])
        count += 1
    return total / count, count


@pytest.mark.parametrize("cell", CELLS)
def test_both_protocols_equal_a_naive_scorer(cell):
    model, ids = model_and_ids(cell, 1400)
    for read, window in ((cold_batches, 256), (carried_batches, None)):
        expected, targets = score_naively(model, ids, window)
        found = score(read(model, ids))
        assert targets == found.targets
        assert expected == pytest.approx(found.nats_per_token, rel=1e-5)


def test_a_text_shorter_than_a_window_is_one_short_window():
    model, ids = model_and_ids("lstm", 100)
    found = score(cold_batches(model, ids))
    assert 99 == found.targets
    assert score_naively(model, ids, None)[0] == pytest.approx(found.nats_per_token, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_with_nothing_to_predict_is_refused(count):
    model, ids = model_and_ids("rnn", count)
    for read in (cold_batches, carried_batches):
        with pytest.raises(TextError, match=str(count)):
            score(read(model, ids))


def test_a_subset_of_windows_is_spread_over_the_whole_text():
    model, ids = model_and_ids("rnn", 256 * 40 + 1)
    seen = []
    found = score(cold_batches(model, ids, 256 * 4 + 10), lambda *p: seen.append(p))
    assert 256 * 4 == found.targets
    assert (256 * 4, 256 * 4) == seen[-1]
    windows = [ids[256 * k : 256 * k + 257] for k in (0, 13, 26, 39)]
    parts = [score(cold_batches(model, window)).nats for window in windows]
    assert sum(parts) == pytest.approx(found.nats, rel=1e-5)


def test_bits_use_the_characters_and_bytes_of_the_counted_targets():
    model, ids = model_and_ids("lstm", 300)
    chars, size = np.arange(V), np.arange(V) * 2
    found = TextSizes(chars, size).score(cold_batches(model, ids))
    targets = ids[1:257]
    assert chars[targets].sum() == found.chars
    bits = found.nats / math.log(2)
    assert bits / chars[targets].sum() == pytest.approx(found.bits_per_char)
    assert bits / size[targets].sum() == pytest.approx(found.bits_per_byte)
    bytes_only = TextSizes(chars, size, is_text=False).score(cold_batches(model, ids))
    assert bytes_only.bits_per_char is None


def test_scoring_leaves_the_mode_and_the_weights_as_they_were():
    model, ids = model_and_ids("gru", 600)
    model.train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    score(cold_batches(model, ids))
    score(carried_batches(model, ids))
    assert model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@torch.no_grad()
def score_lines_naively(model: LanguageModel, lines: list[list[int]]) -> tuple[float, int]:
    """Reads each line token by token after a newline, 0, up to the newline that ends it."""
    model.eval()
    total, count = 0.0, 0
    for line in lines:
        state, before = model.initial_state(1), 0
        for token in [*line, 0]:
            logits, state = model(torch.tensor([[before]]), state)
            total -= float(logits[0, 0].double().log_softmax(-1)[token])
            count, before = count + 1, token
    return total / count, count


@pytest.mark.parametrize("cell", CELLS)
def test_lines_equal_a_naive_scorer(cell, monkeypatch):
    monkeypatch.setattr("charnn.evaluation.LINE_WINDOW", 16)
    monkeypatch.setattr("charnn.evaluation.MAX_LINES", 5)
    model, _ = model_and_ids(cell, 2)
    rng = np.random.default_rng(3)
    texts = [rng.integers(1, V, size).tolist() for size in (1, 15, 16, 17, 2, 40, 3, 31, 0, 1, 9)]
    tokens = np.array([token for text in texts for token in (*text, 0)], np.uint8)
    found = score(line_batches(model, tokens, 0))
    expected, targets = score_lines_naively(model, [text for text in texts if text])
    assert targets == found.targets == found.chars
    assert expected == pytest.approx(found.nats_per_token, rel=1e-5)


def test_a_last_line_without_a_newline_counts_as_one_with_it():
    model, _ = model_and_ids("gru", 2)
    whole = score(line_batches(model, np.array([1, 2, 0, 3, 0]), 0))
    assert whole == score(line_batches(model, np.array([1, 2, 0, 3]), 0))
    assert 5 == whole.targets


def test_a_subset_of_lines_is_spread_over_the_whole_text():
    model, _ = model_and_ids("rnn", 2)
    tokens = np.array([[1 + n % 6, 1 + n % 5, 0] for n in range(100)]).ravel()
    seen = []
    found = score(line_batches(model, tokens, 0, 31), lambda *p: seen.append(p))
    picked = np.array([[1 + n % 6, 1 + n % 5, 0] for n in (0, 11, 22, 33, 44, 55, 66, 77, 88, 99)])
    assert score(line_batches(model, picked.ravel(), 0)).nats == pytest.approx(found.nats, rel=1e-5)
    assert (30, 30) == seen[-1]


@pytest.mark.parametrize("tokens", [[], [0, 0]])
def test_a_text_without_lines_is_refused(tokens):
    model, _ = model_and_ids("rnn", 2)
    with pytest.raises(TextError):
        score(line_batches(model, np.array(tokens, np.uint8), 0))
