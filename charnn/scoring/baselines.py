"""Baselines for a held-out text: uniform, n-grams, and common compressors."""

from __future__ import annotations

import gzip
import importlib
import lzma
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from charnn.evaluation import NOTHING, TextSizes
from charnn.ngrams.kneser_ney import NGram
from charnn.scoring.surprisal import Array
from charnn.text.tokenizers import Tokenizer

ORDERS = (2, 3, 4, 5, 6)
MAX_TRAIN_TOKENS = 10_000_000  # the last of a text; more tokens take gigabytes of memory
ZSTD_MODULES = ("compression.zstd", "backports.zstd", "zstandard")  # Python 3.14, packages


def baseline_rows(
    tokenizer: Tokenizer, tokens: Array, sizes: TextSizes, train: Array | None
) -> list[dict[str, Any]]:
    """Returns the name, bits per character and bits per byte of each baseline.

    Uniform and n-grams predict every token but the first, as a model does. Compressors read the
    whole text.
    """
    predicted = sizes.add(NOTHING, 0.0, tokens[1:])
    whole = sizes.add(predicted, 0.0, tokens[:1])
    data = b"".join([tokenizer.token_bytes[token] for token in tokens.tolist()])
    return [
        {
            "name": name,
            "bits_per_char": bits / size.chars if size.chars else None,
            "bits_per_byte": bits / size.bytes if size.bytes else None,
        }
        for found, size in (
            (counted(tokens, tokenizer.vocab_size, train), predicted),
            (compressed(data), whole),
        )
        for name, bits in found.items()
    ]


def counted(
    tokens: Array, vocab_size: int, train: Array | None, orders: tuple[int, ...] = ORDERS
) -> dict[str, float]:
    """Returns the bits of every token but the first: uniform, and by n-grams of `train`.

    The n-grams are interpolated modified Kneser-Ney; their context is carried over the text.
    """
    found = {"uniform": (len(tokens) - 1) * math.log2(vocab_size)}
    if train is not None and len(train):
        model = NGram(train[-MAX_TRAIN_TOKENS:], vocab_size, max(orders))
        nats = model.nats(tokens.astype(np.int64), np.arange(len(tokens)))[:, 1:].sum(1)
        for order in (1, *orders):
            if order <= len(nats):
                name = "unigram" if order == 1 else f"{order}-gram"
                found[name] = float(nats[order - 1]) / math.log(2)
    return found


def compressed(data: bytes) -> dict[str, float]:
    """Returns the bits of a text in the output of each compressor at its highest level."""
    found = {
        "gzip -9": 8.0 * len(gzip.compress(data, 9, mtime=0)),
        "xz -9e": 8.0 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    }
    if compress := zstd():
        found["zstd -19"] = 8.0 * len(compress(data, 19))
    return found


def zstd() -> Callable[[bytes, int], bytes] | None:
    """Returns the `compress` of Python's zstd or of a zstd package; None if there is none."""
    for name in ZSTD_MODULES:
        try:
            compress: Callable[[bytes, int], bytes] = importlib.import_module(name).compress
        except ImportError:
            continue
        return compress
    return None
