"""The expected loss of a run, and the advice before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from charnn.config import ModelConfig
from charnn.ngrams.expected_loss import ExpectedLoss, expect
from charnn.text.sources import open_source
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file


def look(
    folder: Path, text: str, passes: float = 3.0, cell: str = "lstm", ngram: int = 0, **how
) -> ExpectedLoss:
    (folder / "text.txt").write_text(text)
    with open_source([str(folder / "text.txt")]) as source:
        tokens: TokenFile = write_token_file(folder / "text.tokens", source, **how)
    model = ModelConfig(tokens.tokenizer.vocab_size, cell, 8, 8, 1)
    return expect(tokens, model, passes, ngram)


def test_a_random_text_has_a_higher_expected_loss_than_a_regular_one(tmp_path):
    easy = look(tmp_path, "the goat is not a sailor.\n" * 200)
    hard = look(tmp_path, "".join(chr(97 + i * i * 7 % 26 ^ i % 3) for i in range(5000)))
    assert easy.cold_256 is not None
    assert hard.cold_256 is not None
    assert 0 < easy.cold_256 < hard.cold_256


@pytest.mark.parametrize("ngram", [0, 10])
def test_a_text_of_one_symbol_has_an_expected_loss_of_0(ngram, tmp_path):
    assert 0 == look(tmp_path, "a" * 3000, ngram=ngram).cold_256


@pytest.mark.parametrize("size", [2, 10, 60, 100])
def test_a_small_text_has_no_expected_loss(size, tmp_path):
    expected = look(tmp_path, "ab" * (size // 2))
    assert (None, None) == (expected.cold_256, expected.ngrams)
    assert expected.advice


def test_a_text_without_validation_split_has_no_expected_loss(tmp_path):
    assert look(tmp_path, "the goat\n" * 50, split=(100,)).ngrams is None


def test_a_cell_without_a_rule_has_no_expected_loss(tmp_path):
    expected = look(tmp_path, "the goat\n" * 50, cell="gru")
    assert expected.cold_256 is None
    assert expected.ngrams is not None


def test_only_unusual_numbers_of_passes_get_advice(tmp_path):
    large = "".join(f"Day {day}. Wind west.\n" for day in range(12_000))
    assert [] == look(tmp_path, large, passes=12).advice
    assert "50 passes" in " ".join(look(tmp_path, large, passes=50).advice)
    assert "20 %" in " ".join(look(tmp_path, large, passes=0.2).advice)


def test_n_grams_are_advised_if_they_have_a_lower_loss(tmp_path):
    text = "".join(f"Day {day}. Wind west.\n" for day in range(2_000))
    short, long = look(tmp_path, text, passes=0.05), look(tmp_path, text, passes=15.0)
    for each in (short, long):
        assert each.cold_256 is not None
        assert each.ngrams is not None
        better = each.cold_256 > each.ngrams
        assert better == any("--ngram" in line for line in each.advice)
    assert any("--ngram" in line for line in short.advice)


def test_the_expected_loss_of_a_mixture_is_below_both_parts(tmp_path):
    text = "".join(f"Day {day}. Wind west.\n" for day in range(2_000))
    gains = []
    for passes in (0.05, 15.0):
        alone = look(tmp_path, text, passes)
        mixed = look(tmp_path, text, passes, ngram=10)
        assert alone.cold_256 is not None
        assert mixed.cold_256 is not None
        assert alone.ngrams == mixed.ngrams
        lower = min(alone.cold_256, mixed.ngrams)
        gains.append(1 - mixed.cold_256 / lower)
        assert not any("--ngram" in line for line in mixed.advice)
    assert all(0 < gain < 0.05 for gain in gains)
