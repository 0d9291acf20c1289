"""The network with int8 weights, in numpy: the arithmetic of docs/int8.md, bit for bit.

Whole numbers add up the same in any order; everything else is single float32 operations, sums in
one order, an exponential of our own. So this, the native engine, an exported program and an
exported page write the same text for the same seed.

Shapes: V symbols, E features of a symbol, H units, D what a layer reads, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charnn.config import STATES
from charnn.generation.arrangement import Arrangement, Matrix

Array = NDArray[np.float32]
F = np.float32
NORM_EPSILON = F(1e-5)
LANES = 8
# 2**f on -0.5..0.5, from the highest power down; fitted for the least relative error, 1e-7.
POWER_OF_TWO = tuple(
    map(F, (0.00132647273, 0.00967151299, 0.0555073358, 0.240222424, 0.693147004, 1.0))
)
LOG2_E = F(1.44269502)
PER_STEP = F(0.00787401572)  # 1/127
# Products of whole numbers add up exactly in float32 up to so many columns; in float64 always.
EXACT_COLUMNS = (1 << 24) // 127**2
quiet = partial(np.errstate, over="ignore", invalid="ignore", divide="ignore")


def logistic(a: Array) -> Array:
    """1 / (1 + exp(-a)), in single operations."""
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
    """2 logistic(2a) - 1."""
    s = logistic(a + a)
    return s + s - F(1)


def total(x: Array) -> np.float32:
    """The sum of x: eight running sums, joined in pairs."""
    lanes = np.zeros((-(-x.size // LANES), LANES), np.float32)
    lanes.reshape(-1)[: x.size] = x
    s = lanes.cumsum(axis=0, dtype=np.float32)[-1]
    while s.size > 1:
        s = s[: s.size // 2] + s[s.size // 2 :]
    return F(s[0])


def to_steps(x: Array, bound: np.float32) -> Array:
    """X in steps of 1/127 of `bound`, as whole numbers; what is no number is the highest step."""
    per_one = F(127) / bound if bound > 0 else F(0)
    steps: Array = np.rint(np.fmax(np.fmin(x * per_one, F(127)), F(-127)))
    return steps


def norm_factor(x: Array) -> np.float32:
    """1/std of an x whose mean is out."""
    return F(F(1) / np.sqrt(total(x * x) * (F(1) / F(x.size)) + NORM_EPSILON))


class Product:
    """An int8 matrix, ready to be multiplied by steps."""

    def __init__(self, matrix: Matrix) -> None:
        """Takes a quantised matrix (rows, D)."""
        assert matrix.scale is not None, "an int8 matrix has scales"
        exact = np.float32 if matrix.weights.shape[1] <= EXACT_COLUMNS else np.float64
        self.weights = matrix.weights.astype(exact)
        self.scale, self.bias = matrix.scale, matrix.bias

    def __call__(self, steps: Array, factor: np.float32) -> Array:
        """(W q) scaled, and b: steps (D,) to (rows,)."""
        whole = self.weights @ steps.astype(self.weights.dtype)
        values = whole.astype(np.float32) * (self.scale * factor)
        return values if self.bias is None else self.bias + values

    def of(self, x: Array) -> Array:
        """W norm(x) + b, for an x whose mean is out."""
        bound = np.abs(x).max()
        return self(to_steps(x, bound), (bound * PER_STEP) * norm_factor(x))


def rnn(a: Array, u: Array, state: Array, after: Array, bias_hn: Array | None) -> None:
    """The vanilla cell; a is W x + b, u is U h."""
    after[0] = tanh(a + u)


def gru(a: Array, u: Array, state: Array, after: Array, bias_hn: Array) -> None:
    """The gated recurrent unit, gates r, z, n."""
    size = after.shape[1]
    r, z = np.split(logistic(a[: 2 * size] + u[: 2 * size]), 2)
    n = tanh(a[2 * size :] + r * (u[2 * size :] + bias_hn))
    after[0] = n + z * (state[0] - n)


def lstm(a: Array, u: Array, state: Array, after: Array, bias_hn: Array | None) -> None:
    """Long short-term memory, gates i, f, g, o."""
    a_i, a_f, a_g, a_o = np.split(a + u, 4)
    i, f, o = np.split(logistic(np.concatenate([a_i, a_f, a_o])), 3)
    after[1] = f * state[1] + i * tanh(a_g)
    after[0] = o * tanh(after[1])


CELLS: dict[str, Callable[[Array, Array, Array, Array, Any], None]] = {
    "rnn": rnn,
    "gru": gru,
    "lstm": lstm,
}


class Int8Model:
    """A language model with int8 weights that reads one token at a time; see `NumpyModel`."""

    @quiet()
    def __init__(self, arrangement: Arrangement) -> None:
        """Takes what `quantise` gave."""
        self.config = arrangement.config
        self._embedding = arrangement.embedding
        self._layers = [
            (Product(layer.inputs), Product(layer.recurrent), layer.bias_hn, layer.residual)
            for layer in arrangement.layers
        ]
        self._head = Product(arrangement.head)
        self._cell = CELLS[self.config.cell]

    def initial_state(self) -> Array:
        """The state at the start of a text: zeros (num_layers, parts, H)."""
        config = self.config
        shape = (config.num_layers, len(STATES[config.cell]), config.hidden_size)
        return np.zeros(shape, np.float32)

    @quiet()
    def step(self, token: int, state: Array) -> tuple[Array, Array]:
        """Reads one token: logits (V,) of the next one, and the new state."""
        x, after = self._embedding[token], np.empty_like(state)
        for number, (inputs, recurrent, bias_hn, residual) in enumerate(self._layers):
            if number:
                x = x - total(x) * (F(1) / F(x.size))
            a = inputs.of(x)
            u = recurrent(to_steps(state[number, 0], F(1)), PER_STEP)
            self._cell(a, u, state[number], after[number], bias_hn)
            x = x + after[number, 0] if residual else after[number, 0]
        x = x - total(x) * (F(1) / F(x.size))
        return self._head.of(x), after

    def feed(self, tokens: Iterable[int], state: Array) -> tuple[Array, Array]:
        """Reads tokens, at least one: logits (V,) of what comes next, and the new state."""
        for token in tokens:
            logits, state = self.step(token, state)
        return logits, state
