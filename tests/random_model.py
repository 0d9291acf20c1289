"""Models with random weights, the same on every run."""

from __future__ import annotations

from typing import Any

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.text.tokenizers import Tokenizer


def random_weights(
    config: ModelConfig, scale: float = 0.5, seed: int = 0, mean: float = 0.0
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = config.tensor_shapes().items()
    return {name: draw.normal(mean, scale, shape).astype(np.float32) for name, shape in shapes}


def random_model(
    tokenizer: Tokenizer,
    cell: str = "gru",
    hidden: int = 8,
    layers: int = 1,
    *,
    embedding: int | None = None,
    scale: float = 0.5,
    seed: int = 0,
    start_token: int = 0,
    **more: Any,
) -> Checkpoint:
    """Returns a network of this shape; `embedding` is `hidden` by default."""
    config = ModelConfig(tokenizer.vocab_size, cell, embedding or hidden, hidden, layers)
    weights = random_weights(config, scale, seed)
    return Checkpoint(config, tokenizer.to_dict(), weights, start_token, **more)
