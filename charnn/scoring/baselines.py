"""What needs no network: counting, and the compressors that everybody has."""

from __future__ import annotations

import gzip
import importlib
import lzma
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from charnn.ngrams.kneser_ney import NGram
from charnn.scoring.surprisal import Array

ORDERS = (2, 3, 4, 5, 6)
MAX_TRAIN_TOKENS = 10_000_000  # counted, the latest; more take gigabytes
ZSTD_MODULES = ("compression.zstd", "backports.zstd", "zstandard")  # Python 3.14, packages


class Baseline(NamedTuple):
    """A way to predict or compress a text, and the bits that all of it takes."""

    name: str
    bits: float


def counted(
    tokens: Array, vocab_size: int, train: Array | None, orders: tuple[int, ...] = ORDERS
) -> list[Baseline]:
    """Bits of every token but the first: uniform; with a training text, unigram and n-grams.

    The n-grams are interpolated (modified Kneser-Ney), and read on from token to token.
    """
    found = [Baseline("uniform", (len(tokens) - 1) * math.log2(vocab_size))]
    if train is not None and len(train):
        model = NGram(train[-MAX_TRAIN_TOKENS:], vocab_size, max(orders))
        nats = model.nats(tokens.astype(np.int64), np.arange(len(tokens)))[:, 1:].sum(1)
        for order in (1, *orders):
            if order <= len(nats):
                name = "unigram" if order == 1 else f"{order}-gram"
                found.append(Baseline(name, float(nats[order - 1]) / math.log(2)))
    return found


def compressed(data: bytes) -> list[Baseline]:
    """Bits of a text in the files that compressors make of it alone, at their highest levels."""
    found = [
        Baseline("gzip -9", 8.0 * len(gzip.compress(data, 9, mtime=0))),
        Baseline("xz -9e", 8.0 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))),
    ]
    if compress := zstd():
        found.append(Baseline("zstd -19", 8.0 * len(compress(data, 19))))
    return found


def zstd() -> Callable[[bytes, int], bytes] | None:
    """Python's zstd, or that of a package; None where there is none."""
    for name in ZSTD_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        compress: Callable[[bytes, int], bytes] = module.compress
        return compress
    return None
