"""Networks made by hand, with units of known behaviour."""

from __future__ import annotations

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.text.tokenizers import CharTokenizer

UNITS = 4
WATCHER = 2  # the unit that is 1 after an opening character, and 0 after a closing one
STRONG = 20.0


def random_weights(config, seed=0, scale=0.5):
    generator = np.random.default_rng(seed)
    shapes = config.tensor_shapes()
    return {n: generator.normal(0, scale, s).astype(np.float32) for n, s in shapes.items()}


def watching(text, opens, closes, written_when_on=""):
    """Returns an LSTM with a unit that tracks a label, and the tokenizer of `text`.

    The model samples the characters `written_when_on` where the unit is on; the head has no other
    weights.
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
