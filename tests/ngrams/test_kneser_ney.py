"""N-gram models equal the published formula, sum to 1 and see only their context."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from charnn.ngrams.kneser_ney import NGram, choose_order

VOCAB = 6  # of the texts below, which have five letters and leave one unseen


def letters(size: int) -> np.ndarray:
    """Returns letters of very different frequencies."""
    chances = [0.5, 0.3, 0.1, 0.05, 0.05]
    return np.random.default_rng(3).choice(5, size, p=chances)


@pytest.mark.parametrize("context", [[], [4], [0, 0, 0], [4, 4, 4], [1, 5, 0], [0, 1, 0, 2, 1]])
@pytest.mark.parametrize("size", [3, 20, 2000])
def test_probabilities_sum_to_one_after_any_context(context: list[int], size: int) -> None:
    model = NGram(letters(size), VOCAB, 5)
    for reach in range(len(context) + 1):
        losses = [model.nats(np.array([*context, c]), reach)[:, -1] for c in range(VOCAB)]
        assert np.isfinite(losses).all()
        assert np.exp(-np.array(losses)).sum(0) == pytest.approx(1, abs=1e-12)


def kneser_ney(text: bytes, context: bytes, char: bytes, whole: bool = True) -> float:
    """Returns the probability by the formula of Chen and Goodman, slowly."""
    size = len(context) + 1
    places = range(len(text) - size + 1)
    counts = Counter(text[i : i + size] for i in places)
    if not whole:
        longer = {text[i : i + size + 1] for i in places[:-1]}
        counts = Counter(gram[1:] for gram in longer)
    n = [list(counts.values()).count(k) for k in range(5)]
    taken = [0, 0.5, 1, 1.5]
    if all(n[1:]):
        y = n[1] / (n[1] + 2 * n[2])
        plain = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        taken = [0, *(min(max(d, 0.1), k) for k, d in enumerate(plain, 1))]
    lower = kneser_ney(text, context[1:], char, whole=False) if context else 1 / VOCAB
    here = [count for gram, count in counts.items() if gram[:-1] == context]
    if not here:
        return lower
    rest = sum(taken[min(count, 3)] for count in here)
    count = counts[context + char]
    return (count - taken[min(count, 3)] + rest * lower) / sum(here)


def test_losses_equal_the_formula() -> None:
    ids, scored = letters(300), np.array([0, 1, 0, 0, 2, 5, 1, 4, 4, 4, 0, 1, 1, 0, 3])
    model = NGram(ids, VOCAB, 4)
    text, new = bytes(ids.tolist()), bytes(scored.tolist())
    for reach in (1, 3):
        found = model.nats(scored, np.minimum(np.arange(len(scored)), reach))
        for order in range(1, 5):
            looks = min(reach, order - 1)
            expected = [
                -math.log(kneser_ney(text, new[max(0, i - looks) : i], new[i : i + 1]))
                for i in range(len(new))
            ]
            assert expected == pytest.approx(found[order - 1].tolist())


def test_cold_losses_equal_those_of_single_windows() -> None:
    model = NGram(letters(500), VOCAB, 3)
    ids = letters(40)[:23]
    windows = [model.carried(ids[start : start + 5]) for start in range(0, 20, 4)]
    assert np.mean(windows, axis=0) == pytest.approx(
        model.cold(ids, 4)
    )  # drops the last two tokens


def test_the_order_has_the_lowest_loss_on_the_end_of_the_training_text() -> None:
    ids = np.arange(2000) % 3
    order, losses = choose_order(ids, 3, 4)
    assert 4 == len(losses)
    assert order == 1 + losses.argmin()
    assert order > 1
