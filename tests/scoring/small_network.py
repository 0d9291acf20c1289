"""A small torch network with random weights, and random ids for it."""

from __future__ import annotations

import numpy as np
from random_model import random_weights

from charnn.checkpoint import Checkpoint
from charnn.config import ModelConfig
from charnn.evaluation import network_of

V = 7


def network(cell="lstm"):
    config = ModelConfig(V, cell, 8, 8, 2)
    return network_of(Checkpoint(config, {}, random_weights(config), 0))


def ids(count, seed=1):
    return np.random.default_rng(seed).integers(0, V, count)
