"""Baselines against counting by hand, and against the compressors of the library."""

from __future__ import annotations

import gzip
import lzma
import math
from itertools import pairwise

import numpy as np
import pytest
from small_network import V, ids

from charnn.scoring import baselines


def test_a_bigram_equals_kneser_ney_by_hand():
    train, tokens = ids(300, 3), ids(50, 4)

    def discounts(counts):
        n = [sum(c == k for c in counts) for k in (1, 2, 3, 4)]
        if not all(n):
            return [0, 0.5, 1, 1.5]
        y = n[0] / (n[0] + 2 * n[1])
        return [0, *(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))]

    pairs = np.zeros((V, V), int)
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    taken = discounts(pairs[pairs > 0].tolist())
    kept = (pairs > 0).sum(0)  # the different symbols that each follows
    low = discounts(kept.tolist())
    unigram = np.array([(k - low[min(k, 3)]) / kept.sum() for k in kept])
    unigram += sum(low[min(k, 3)] for k in kept) / kept.sum() / V
    bits = 0.0
    for context, symbol in pairwise(tokens.tolist()):
        row = pairs[context]
        rest = sum(taken[min(c, 3)] for c in row)
        own = row[symbol] - taken[min(row[symbol], 3)]
        bits -= math.log2((own + rest * unigram[symbol]) / row.sum())
    found = baselines.counted(tokens, V, train)
    assert bits == pytest.approx(found["2-gram"], rel=1e-6)
    assert 49 * math.log2(V) == pytest.approx(found["uniform"])
    assert ["uniform"] == list(baselines.counted(tokens, V, None))


def test_compressors_are_those_of_the_library(monkeypatch):
    data = b"the cat sat on the mat " * 40
    monkeypatch.setattr(baselines, "zstd", lambda: lambda data, level: b"x" * level)
    found = baselines.compressed(data)
    assert 8 * len(gzip.compress(data, 9)) == found["gzip -9"]
    assert 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) == found["xz -9e"]
    assert 8 * 19 == found["zstd -19"]
