"""A model's weights as a step needs them: layer norms folded into the matrices that follow them.

Every engine and exporter begins here. Sums are made in float64 and in one order, so every machine
gets the same numbers.

Shapes: V tokens, E embedding size, H units, D input size of a layer, G gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import ModelConfig

Array = NDArray[np.float32]


class Matrix(NamedTuple):
    """W (rows, D) in float32, or in int8 with a scale (rows,), and b (rows,) if it has a bias."""

    weights: NDArray[Any]
    bias: Any = None
    scale: Any = None


class Layer(NamedTuple):
    """The matrices for input (G*H, D) and state (G*H, H) of a layer, and a GRU's b_hn (H,)."""

    inputs: Matrix
    recurrent: Matrix
    bias_hn: Any
    residual: bool


class Arrangement(NamedTuple):
    """A model: embedding (V, E), each row less its mean; layers; head (V, H)."""

    config: ModelConfig
    embedding: Array
    layers: tuple[Layer, ...]
    head: Matrix


# Weights so large that a fold overflows give logits that are not finite; sampling reports those.
@np.errstate(over="ignore", invalid="ignore")
def arrange(config: ModelConfig, weights: Mapping[str, Array]) -> Arrangement:
    """Arranges a copy of `weights`, named and shaped as ``config.tensor_shapes()`` lists them."""
    layers = []
    for i in range(config.num_layers):
        cell = f"layers.{i}.cell"
        inputs = _fold_norm(
            weights[f"{cell}.weight_ih"], weights[f"{cell}.bias"], weights, f"layers.{i}.norm"
        )
        recurrent = Matrix(np.array(weights[f"{cell}.weight_hh"], np.float32))
        bias_hn = weights.get(f"{cell}.bias_hn")
        residual = config.input_size(i) == config.hidden_size
        layers.append(Layer(inputs, recurrent, bias_hn, residual))
    embedding = weights["embedding.weight"].astype(np.float64)
    embedding -= embedding.cumsum(axis=1)[:, -1:] / config.embedding_size
    head = _fold_norm(weights["head.weight"], weights["head.bias"], weights, "norm")
    return Arrangement(config, embedding.astype(np.float32), tuple(layers), head)


def _fold_norm(weight: Array, bias: Array, weights: Mapping[str, Array], norm: str) -> Matrix:
    """Writes W (scale * n + shift) + b as W' n + b'."""
    shift = weights[f"{norm}.bias"].astype(np.float64)
    shifted = (weight * shift).cumsum(axis=1)[:, -1]
    return Matrix(weight * weights[f"{norm}.weight"], (bias + shifted).astype(np.float32))


@np.errstate(over="ignore", invalid="ignore")
def quantise(arrangement: Arrangement) -> Arrangement:
    """Rounds the matrices to int8: each row to steps of 1/127 of its largest absolute weight."""
    layers = tuple(
        layer._replace(inputs=_to_int8(layer.inputs), recurrent=_to_int8(layer.recurrent))
        for layer in arrangement.layers
    )
    return arrangement._replace(layers=layers, head=_to_int8(arrangement.head))


def _to_int8(matrix: Matrix) -> Matrix:
    greatest = np.abs(matrix.weights).max(axis=1, initial=0)
    scale = greatest / np.float32(127)
    steps = np.divide(
        matrix.weights,
        scale[:, None],
        out=np.zeros(matrix.weights.shape, np.float32),
        where=scale[:, None] > 0,
    )
    np.clip(np.rint(steps, out=steps), -127, 127, out=steps)
    return Matrix(steps.astype(np.int8), matrix.bias, scale)
