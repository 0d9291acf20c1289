"""A small torch network with random weights, and random ids for it."""

from __future__ import annotations

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.evaluation import network_of

V = 7


def network(cell="lstm"):
    config = ModelConfig(V, cell, 8, 8, 2)
    generator = np.random.default_rng(0)
    weights = {
        n: generator.normal(0, 0.5, s).astype(np.float32) for n, s in config.tensor_shapes().items()
    }
    return network_of(Checkpoint(config, {}, weights, 0))


def ids(count, seed=1):
    return np.random.default_rng(seed).integers(0, V, count)
