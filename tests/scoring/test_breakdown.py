"""Loss by position and by class of character."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_network import ids, network

from charnn.evaluation import carried_batches, cold_batches, line_batches, token_losses
from charnn.scoring.breakdown import CHARACTER_CLASSES, by_position, class_rows, classify


def test_losses_by_position_are_means_over_windows():
    tokens = ids(256 * 3 + 20)
    cold = token_losses(cold_batches(network(), tokens))
    windows = cold.nats.reshape(3, 256)
    for window, nats in enumerate(windows):
        part = tokens[256 * window : 256 * window + 257]
        alone = token_losses(carried_batches(network(), part))
        np.testing.assert_allclose(alone.nats, nats, rtol=1e-4)
    found = by_position(cold)
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256] == found.positions.tolist()
    assert ([3] * 9, 3) == (found.counts.tolist(), found.windows)
    assert windows[:, 3].mean() / math.log(2) == pytest.approx(found.bits[2])
    short = by_position(token_losses(cold_batches(network(), ids(6))))
    assert [1, 2, 4] == short.positions.tolist()


def test_losses_by_position_in_a_line_are_means_over_the_lines_that_are_long_enough():
    tokens = np.array([2, 3, 1, 4, 0, 0, 5, 2, 6, 1, 3, 2, 4, 0, 1, 1])
    losses = token_losses(line_batches(network(), tokens, 0))
    found = by_position(losses, 0)
    assert [2, 3, 1, 4, 0, 5, 2, 6, 1, 3, 2, 4, 0, 1, 1, 0] == losses.targets.tolist()
    assert ([1, 2, 4, 8], [3, 3, 2, 1], 3) == (
        found.positions.tolist(),
        found.counts.tolist(),
        found.windows,
    )
    at = [(0, 5, 13), (1, 6, 14), (3, 8), (12,)]
    expected = [np.mean([losses.nats[n] for n in each]) / math.log(2) for each in at]
    assert expected == pytest.approx(found.bits.tolist())


def test_characters_have_classes():
    text = "He's 25.\n\tyes\u2028é-x中\u0301"
    names = [CHARACTER_CLASSES[index] for index in classify(text)]
    upper, inside, first = "upper case", "letter inside a word", "letter after space"
    assert [upper, inside, "punctuation", inside, "space", "digit", "digit"] == names[:7]
    assert ["punctuation", "newline", "space", first, inside, inside] == names[7:13]
    assert ["space", first, "punctuation", inside, inside, "other"] == names[13:]


@given(st.text(max_size=30), st.text(max_size=1))
def test_the_classes_together_have_all_characters_and_all_bits(text, before):
    bits = np.arange(1.0, len(text) + 1)
    rows = class_rows(text, bits, before)
    assert len(text) == sum(row["chars"] for row in rows)
    assert bits.sum() == pytest.approx(sum(row["bits"] for row in rows))
    assert [len(text) > 0] * 2 == pytest.approx(
        [sum(row[f"share_of_{what}"] for row in rows) for what in ("chars", "bits")]
    )
