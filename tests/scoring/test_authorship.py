"""Attribution of lines to models, against likelihoods computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.engines import make_predictor
from charnn.scoring.authorship import (
    Candidate,
    LineBits,
    calibrate,
    halves,
    line_bits,
    shared_characters,
    verdicts,
)
from charnn.scoring.surprisal import TokenScorer
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer


def model(tokenizer, likes):
    """Returns a model that mostly expects the characters of `likes`, in any context."""
    config = ModelConfig(tokenizer.vocab_size, "rnn", 8, 8, 1)
    weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
    weights["head.bias"][tokenizer.encode(likes)] = 3
    return Checkpoint(config, tokenizer.to_dict(), weights, 0)


def candidate(tokenizer, likes):
    saved = model(tokenizer, likes)
    return Candidate(TokenScorer(make_predictor(saved.config, saved.weights), 0), tokenizer)


def test_the_bits_of_lines_are_sums_over_their_characters():
    tokenizer = CharTokenizer.learn("\nabc")
    candidates = [candidate(tokenizer, "a"), candidate(ByteTokenizer(), "b")]
    found = line_bits(candidates, ["ab", "b"], newline=True)
    likely = np.log2(np.exp(3) + 3) - 3 / np.log(2), np.log2(np.exp(3) + 3)
    assert [3, 2] == found.chars.tolist()
    np.testing.assert_allclose(found.bits[:, 0], [likely[0] + 2 * likely[1], 2 * likely[1]], 1e-5)
    assert set("\nabc") == shared_characters(candidates)
    assert shared_characters(candidates[1:]) is None


def test_the_lowest_bits_per_character_after_offsets_decide():
    lines = LineBits(["", ""], np.array([4, 4]), np.array([[10.0, 12.0], [10.0, 9.0]]))
    assert [0, 1] == verdicts(lines, np.zeros(2)).tolist()
    assert [1, 1] == verdicts(lines, np.array([0, 0.51])).tolist()


@pytest.mark.parametrize("count", [2, 3])
def test_offsets_compensate_for_a_model_that_is_worse_everywhere(count):
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


def test_equal_models_are_told_apart_by_chance_alone():
    lines = LineBits(["x"] * 4, np.ones(4, int), np.ones((4, 2)))
    assert 0.5 == calibrate([lines, lines]).accuracy
