"""Clamps: units of the state held at a value while a network runs, in any engine.

A clamp changes weights. The unit's rows become zero and its biases shut its gates: an LSTM's cell
with i = 0, f = 1, g = 0 keeps its c, a GRU's unit with z = 1, n = 0 its h, and an RNN's unit is
tanh(b) at every step. The initial state holds the value. So the layer above, the head and the next
step see the value at every step, up to the rounding of tanh.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import EXTRA_BIASES, GATE_ROLES, GATES, STATES, ModelConfig
from charnn.errors import ConfigError

Array = NDArray[np.float32]
SHUT = 100.0  # sigmoid(100) is 1, and sigmoid(-100) times a new value of 0 is 0, in any engine
FULL = 20.0  # tanh(20) is 1 in float32
MAX_CELL_VALUE = 1e4  # far beyond it, float32 loses the digits of c
UNIT = re.compile(r"(\d{1,6}):(\d{1,6})(?::([hc]))?", re.ASCII)


class Unit(NamedTuple):
    """One number of the state: layer and unit, both from 0, and the part of the state, h or c."""

    layer: int
    number: int
    part: str

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}:{self.part}"


class Clamp(NamedTuple):
    """A unit and the value that it is held at."""

    unit: Unit
    value: float


def parse_unit(text: str, config: ModelConfig) -> Unit:
    """Reads a unit such as ``1:37`` or ``1:37:h``; the default part is an LSTM's c, else h.

    Raises:
        ConfigError: the form is wrong, or the model has no such unit.
    """
    found = UNIT.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"a unit must be LAYER:UNIT, such as 0:37, or LAYER:UNIT:h, got {text!r}")
    parts = STATES[config.cell]
    unit = Unit(int(found[1]), int(found[2]), found[3] or parts[-1])
    if unit.layer >= config.num_layers or unit.number >= config.hidden_size:
        raise ConfigError(
            f"the model has no unit {text.strip()}: choose a layer from 0 to "
            f"{config.num_layers - 1} and a unit from 0 to {config.hidden_size - 1}"
        )
    if unit.part not in parts:
        raise ConfigError(
            f"the model has no unit {text.strip()}: a {config.cell} has no {unit.part}, write "
            f"{text.strip()[:-2]}"
        )
    return unit


def parse_clamp(text: str, config: ModelConfig) -> Clamp:
    """Reads a clamp such as ``1:37=0.5``.

    Raises:
        ConfigError: the form is wrong, or the model has no such unit.
    """
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        equals = ""
    if not equals:
        raise ConfigError(f"a clamp must be LAYER:UNIT=VALUE, such as 0:37=1, got {text!r}")
    return Clamp(parse_unit(name, config), value)


def check_clamps(clamps: Sequence[Clamp]) -> None:
    """Raises ConfigError if a value is out of range, or one unit has two of them."""
    seen = set()
    for unit, value in clamps:
        bound = 1.0 if unit.part == "h" else MAX_CELL_VALUE
        if not abs(value) <= bound:
            raise ConfigError(
                f"unit {unit} must be clamped to a value from {-bound:g} to {bound:g}, "
                f"got {value:g}"
            )
        if (unit.layer, unit.number) in seen:
            raise ConfigError(f"unit {unit} is clamped twice: give it one value")
        seen.add((unit.layer, unit.number))


def clamped_weights(
    config: ModelConfig, weights: Mapping[str, Array], clamps: Sequence[Clamp]
) -> dict[str, Array]:
    """Returns weights with which the clamped units keep their values; copies what it changes.

    Raises:
        ConfigError: a value is out of range, or one unit is clamped twice.
    """
    check_clamps(clamps)
    changed = dict(weights)
    gates, extra = GATES[config.cell], EXTRA_BIASES.get(config.cell, ())
    for layer in {clamp.unit.layer for clamp in clamps}:
        for name in ("weight_ih", "weight_hh", "bias", *extra):
            changed[f"layers.{layer}.cell.{name}"] = weights[f"layers.{layer}.cell.{name}"].copy()
    for unit, value in clamps:
        cell = f"layers.{unit.layer}.cell"
        for gate, bias in _held_biases(config.cell, unit.part, value).items():
            row = gates.index(gate) * config.hidden_size + unit.number
            changed[f"{cell}.weight_ih"][row] = 0.0
            changed[f"{cell}.weight_hh"][row] = 0.0
            changed[f"{cell}.bias"][row] = bias
        for name in extra:
            changed[f"{cell}.{name}"][unit.number] = 0.0
    return changed


def _held_biases(cell: str, part: str, value: float) -> dict[str, float]:
    """Returns the bias of each gate with which a unit keeps its value."""
    roles = GATE_ROLES[cell]
    held = dict.fromkeys(GATES[cell], 0.0)
    if roles.keep:
        held[roles.keep] = SHUT
    if roles.write:
        held[roles.write] = -SHUT
    if not (roles.keep or roles.write):  # the cell computes its state anew at every step
        held = {gate: 0.0 if gate in roles.sigmoid else _inverse_tanh(value) for gate in held}
    if roles.output and part == "h":
        held[roles.output] = SHUT
    elif roles.output:
        del held[roles.output]  # the output gate still decides how much of c the layer shows
    return held


def clamped_start(config: ModelConfig, clamps: Sequence[Clamp]) -> Array:
    """Returns the state at the start of a text (L, P, H): zeros, but for the clamped units."""
    start = np.zeros(config.state_shape, np.float32)
    parts = STATES[config.cell]
    for unit, value in clamps:
        start[unit.layer, parts.index(unit.part), unit.number] = value
        if "c" in parts and unit.part == "h":
            start[unit.layer, parts.index("c"), unit.number] = _inverse_tanh(value)
    return start


def _inverse_tanh(value: float) -> float:
    """Returns the number whose tanh is `value` in float32."""
    return math.atanh(value) if abs(value) < 1.0 else math.copysign(FULL, value)
