"""The network with int8 weights in numpy: the arithmetic of docs/int8.md, bit for bit.

Integers sum to the same in any order; everything else is single float32 operations, sums in one
order, and an exponential of charnn's own. So this engine, the native one, an exported program and
an exported page write the same text for the same seed.

All functions work on the last axis: several streams are the rows of a matrix.

Shapes: B streams, V tokens, E embedding size, H units, D input size of a layer, L layers, P parts
of a state; `rows` is G*H, for G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.config import for_cell
from charnn.engines.weights import Arrangement, Matrix
from charnn.predictor import Predictor

Array = NDArray[np.float32]
F = np.float32
NORM_EPSILON = F(1e-5)
LANES = 8
# Coefficients of 2**f on [-0.5, 0.5], highest power first; fitted for the lowest relative error,
# 1e-7.
POWER_OF_TWO = tuple(
    map(F, (0.00132647273, 0.00967151299, 0.0555073358, 0.240222424, 0.693147004, 1.0))
)
LOG2_E = F(1.44269502)
STEPS = F(127)
PER_STEP = F(0.00787401572)  # 1/127
# Up to this many columns, products of integers sum exactly in float32; in float64 always.
EXACT_COLUMNS = (1 << 24) // 127**2
quiet = partial(np.errstate, over="ignore", invalid="ignore", divide="ignore")


def logistic(a: Array) -> Array:
    """Returns 1 / (1 + exp(-a)), in single operations."""
    a = np.fmax(np.fmin(a, F(30)), F(-30))
    y = a * -LOG2_E
    n = np.rint(y)
    f = y - n
    p = np.full_like(f, POWER_OF_TWO[0])
    for coefficient in POWER_OF_TWO[1:]:
        p *= f
        p += coefficient
    return np.asarray(F(1) / (F(1) + np.ldexp(p, n.astype(np.int32))), np.float32)


def tanh(a: Array) -> Array:
    """Returns 2 logistic(2a) - 1."""
    s = logistic(a + a)
    return s + s - F(1)


def total(x: Array) -> Array:
    """Returns the sum of x (..., 1): eight running sums, joined in pairs."""
    *streams, size = x.shape
    lanes = np.zeros((*streams, -(-size // LANES) * LANES), np.float32)
    lanes[..., :size] = x
    s = lanes.reshape(*streams, -1, LANES).cumsum(axis=-2, dtype=np.float32)[..., -1, :]
    while s.shape[-1] > 1:
        half = s.shape[-1] // 2
        s = s[..., :half] + s[..., half:]
    return s


def centred(x: Array) -> Array:
    """Returns x less its mean."""
    return np.asarray(x - total(x) * (F(1) / F(x.shape[-1])), np.float32)


def to_steps(x: Array, per_one: Array | np.float32) -> Array:
    """Quantises x to integers in [-127, 127], `per_one` to 1; NaN becomes 127."""
    steps: Array = np.rint(np.fmax(np.fmin(x * per_one, STEPS), -STEPS))
    return steps


def norm_factor(x: Array) -> Array:
    """Returns 1/std of an x of mean 0."""
    factor: Array = F(1) / np.sqrt(total(x * x) * (F(1) / F(x.shape[-1])) + NORM_EPSILON)
    return factor


class Product:
    """An int8 matrix with its scales and bias, ready to multiply integers."""

    def __init__(self, matrix: Matrix) -> None:
        """Takes a quantised matrix (rows, D)."""
        exact = np.float32 if matrix.weights.shape[1] <= EXACT_COLUMNS else np.float64
        self.weights = matrix.weights.astype(exact).T
        self.scale, self.bias = matrix.scale, matrix.bias

    def __call__(self, steps: Array, factor: Array | np.float32) -> Array:
        """Returns (W q) scaled, plus b: steps (D,) to (rows,)."""
        whole = steps.astype(self.weights.dtype) @ self.weights
        values: Array = whole.astype(np.float32) * (self.scale * factor)
        return values if self.bias is None else self.bias + values

    def of_normalised(self, x: Array) -> Array:
        """Returns W norm(x) + b, for an x of mean 0."""
        bound = np.abs(x).max(axis=-1, keepdims=True)
        per_one = np.where(bound > 0, STEPS / bound, F(0))
        return self(to_steps(x, per_one), (bound * PER_STEP) * norm_factor(x))


# The equations of a cell: a is W x + b and u is U h, both by gates.
def _rnn(a: Array, u: Array, state: Array, after: Array, bias_hn: Array | None) -> None:
    after[0] = tanh(a + u)


def _gru(a: Array, u: Array, state: Array, after: Array, bias_hn: Array) -> None:
    size = 2 * after.shape[-1]
    r, z = np.split(logistic(a[..., :size] + u[..., :size]), 2, axis=-1)
    n = tanh(a[..., size:] + r * (u[..., size:] + bias_hn))
    after[0] = n + z * (state[0] - n)


def _lstm(a: Array, u: Array, state: Array, after: Array, bias_hn: Array | None) -> None:
    a_i, a_f, a_g, a_o = np.split(a + u, 4, axis=-1)
    i, f, o = np.split(logistic(np.concatenate([a_i, a_f, a_o], axis=-1)), 3, axis=-1)
    after[1] = f * state[1] + i * tanh(a_g)
    after[0] = o * tanh(after[1])


CELLS: dict[str, Callable[[Array, Array, Array, Array, Any], None]] = {
    "rnn": _rnn,
    "gru": _gru,
    "lstm": _lstm,
}


class Int8Predictor(Predictor):
    """A network with int8 weights in numpy."""

    exact = True

    @quiet()
    def __init__(self, arrangement: Arrangement) -> None:
        """Takes an arrangement from `quantise`.

        Raises:
            ConfigError: the cell has no int8 arithmetic.
        """
        self.config = arrangement.config
        self._cell = for_cell(
            CELLS, self.config.cell, "int8 arithmetic", "leave --int8 out to use float32"
        )
        self.start = np.zeros(self.config.state_shape, np.float32)
        self._embedding = arrangement.embedding
        self._layers = [
            (Product(layer.inputs), Product(layer.recurrent), layer.bias_hn, layer.residual)
            for layer in arrangement.layers
        ]
        self._head = Product(arrangement.head)

    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        after = np.empty_like(state)
        return self._step(self._embedding[token], state, after), after

    def step_batch(self, tokens: Sequence[int], states: Array) -> Array:
        """See `Predictor.step_batch`; states are (B, L, P, H)."""
        inner = states.transpose(1, 2, 0, 3)
        after = np.empty_like(inner)
        logits = self._step(self._embedding[np.asarray(tokens)], inner, after)
        inner[...] = after
        return logits

    @quiet()
    def _step(self, x: Array, state: Array, after: Array) -> Array:
        """Reads embeddings (..., E) in a state (L, P, ..., H); returns logits, fills `after`."""
        for number, (inputs, recurrent, bias_hn, residual) in enumerate(self._layers):
            if number:
                x = centred(x)
            a = inputs.of_normalised(x)
            u = recurrent(to_steps(state[number, 0], STEPS), PER_STEP)
            self._cell(a, u, state[number], after[number], bias_hn)
            x = x + after[number, 0] if residual else after[number, 0]
        return self._head.of_normalised(centred(x))
