"""Networks made by hand, of which it is known what each unit does."""

from __future__ import annotations

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.text.tokenizers import CharTokenizer

UNITS = 4
WATCHER = 2  # the unit that keeps 1 from an opening character on, and 0 from a closing one
STRONG = 20.0


def random_weights(config, seed=0, scale=0.5):
    generator = np.random.default_rng(seed)
    shapes = config.tensor_shapes()
    return {n: generator.normal(0, scale, s).astype(np.float32) for n, s in shapes.items()}


def watching(text, opens, closes, written_when_on=""):
    """An LSTM with one unit that watches, and others that do as they please; no head, but for

    `written_when_on`, which the model writes where the unit is on, and nearly nothing else.
    """
    tokenizer = CharTokenizer.learn(text)
    size = tokenizer.vocab_size
    config = ModelConfig(size, "lstm", size, UNITS, 1)
    weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
    weights["embedding.weight"] = np.eye(size, dtype=np.float32)  # the norm leaves one high place
    weights["layers.0.norm.weight"][:] = 1
    weights["norm.weight"][:] = 1
    inputs, bias = weights["layers.0.cell.weight_ih"], weights["layers.0.cell.bias"]
    inputs[:] = np.random.default_rng(3).normal(0, 0.3, inputs.shape)
    i, f, g, o = (WATCHER + UNITS * gate for gate in range(4))
    inputs[[i, f, g, o]] = 0
    for char in opens:
        inputs[i, tokenizer.encode(char)] = STRONG
    for char in opens + closes:
        inputs[f, tokenizer.encode(char)] = -STRONG
    # Elsewhere a row of k high places reads -k STRONG / sqrt(size - 1).
    drift = STRONG / np.sqrt(size - 1)
    bias[i] = -STRONG - drift
    bias[f] = STRONG - drift * (len(opens) + len(closes))
    bias[g] = bias[o] = STRONG
    for char in written_when_on:
        weights["head.weight"][tokenizer.encode(char), WATCHER] = 5
    checkpoint = Checkpoint(config, tokenizer.to_dict(), weights, int(tokenizer.encode(text[0])[0]))
    return checkpoint, tokenizer
