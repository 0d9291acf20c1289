"""Clamped weights against a naive network that overwrites the state within each step."""

from __future__ import annotations

import numpy as np
import pytest
from random_model import random_weights

from charnn.config import GATES, STATES, ModelConfig
from charnn.engines import ENGINES, make_predictor
from charnn.engines.clamps import (
    Clamp,
    Unit,
    check_clamps,
    clamped_weights,
    parse_clamp,
    parse_unit,
)
from charnn.engines.compiled import kernels
from charnn.errors import ConfigError
from charnn.generation.sampler import Sampler

CELLS = list(GATES)
HERE = [name for name in ENGINES if name != "native" or kernels()]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def norm(x, weights, name):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def plain_logits(config, weights, ids, clamp):
    """Returns the logits after ids in float64, with a unit overwritten within each step."""
    (layer_held, unit, part), value = clamp
    state = np.zeros((config.num_layers, 2, config.hidden_size))
    state[layer_held, STATES[config.cell].index(part), unit] = value
    for token in ids:
        x = weights["embedding.weight"][token].astype(float)
        for layer in range(config.num_layers):
            cell = f"layers.{layer}.cell"
            h, c = state[layer]
            inputs = weights[f"{cell}.weight_ih"] @ norm(x, weights, f"layers.{layer}.norm")
            inputs = np.split(inputs + weights[f"{cell}.bias"], len(GATES[config.cell]))
            from_state = np.split(weights[f"{cell}.weight_hh"] @ h, len(GATES[config.cell]))
            if config.cell == "rnn":
                new = np.tanh(inputs[0] + from_state[0])
            elif config.cell == "gru":
                r, z = (sigmoid(inputs[k] + from_state[k]) for k in (0, 1))
                n = np.tanh(inputs[2] + r * (from_state[2] + weights[f"{cell}.bias_hn"]))
                new = (1 - z) * n + z * h
            else:
                i, f, g, o = (a + b for a, b in zip(inputs, from_state, strict=True))
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                if layer == layer_held and part == "c":
                    c[unit] = value
                new = sigmoid(o) * np.tanh(c)
            if layer == layer_held and part == "h":
                new[unit] = value
            state[layer] = new, c
            x = x + new if config.input_size(layer) == config.hidden_size else new
    return weights["head.weight"] @ norm(x, weights, "norm") + weights["head.bias"]


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("cell", CELLS)
def test_a_clamped_unit_has_its_value_inside_each_step(cell, engine):
    config = ModelConfig(7, cell, 5, 6, 3)
    weights, ids = random_weights(config), [1, 5, 2, 6, 0, 3]
    for unit in {Unit(1, 4, part) for part in STATES[cell]} | {Unit(0, 0, STATES[cell][-1])}:
        clamp = Clamp(unit, -0.75)
        clamped = make_predictor(config, weights, engine, clamps=[clamp])
        logits, state = clamped.feed(ids, clamped.initial_state())
        held = state[unit.layer, STATES[cell].index(unit.part), unit.number]
        assert held == pytest.approx(-0.75, abs=1e-6)
        assert plain_logits(config, weights, ids, clamp) == pytest.approx(logits, abs=2e-5)


@pytest.mark.parametrize("engine", HERE)
@pytest.mark.parametrize("cell", CELLS)
def test_a_clamped_unit_keeps_its_value_in_int8(cell, engine):
    config = ModelConfig(7, cell, 8, 8, 2)
    clamp = Clamp(Unit(1, 3, STATES[cell][-1]), 0.3)
    clamped = make_predictor(config, random_weights(config), engine, True, [clamp])
    state = clamped.initial_state()
    for token in range(7):
        assert state[1, -1, 3] == pytest.approx(0.3, abs=1e-6)
        state = clamped.step(token, state)[1]


@pytest.mark.parametrize("cell", CELLS)
def test_the_bounds_of_h_are_held_exactly(cell):
    config = ModelConfig(7, cell, 5, 6, 1)
    for value in (1.0, -1.0):
        clamps = [Clamp(Unit(0, 2, "h"), value)]
        clamped = make_predictor(config, random_weights(config), "numpy", clamps=clamps)
        _, state = clamped.feed([1, 2, 3], clamped.initial_state())
        assert value == state[0, 0, 2]


def test_clamping_copies_only_the_weights_that_it_changes():
    config = ModelConfig(7, "gru", 5, 6, 2)
    weights = random_weights(config)
    before = {name: array.copy() for name, array in weights.items()}
    changed = clamped_weights(config, weights, [Clamp(Unit(1, 2, "h"), 0.5)])
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
    assert changed["layers.0.cell.weight_hh"] is weights["layers.0.cell.weight_hh"]
    assert not np.array_equal(
        changed["layers.1.cell.weight_hh"], weights["layers.1.cell.weight_hh"]
    )


@pytest.mark.parametrize("engine", HERE)
def test_a_clamped_network_writes_the_same_for_the_same_seed(engine):
    config = ModelConfig(7, "lstm", 5, 6, 2)
    clamp = Clamp(Unit(0, 1, "c"), 2.0)
    texts = []
    for _ in range(2):
        predictor = make_predictor(config, random_weights(config), engine, clamps=[clamp])
        sampler = Sampler(predictor, seed=1)
        sampler.feed([0])
        texts.append(list(sampler.stream(50)))
    assert texts[0] == texts[1]


def test_units_and_clamps_are_parsed():
    lstm, rnn = ModelConfig(7, "lstm", 5, 6, 2), ModelConfig(7, "rnn", 5, 6, 2)
    assert Unit(1, 5, "c") == parse_unit("1:5", lstm)
    assert Unit(1, 5, "h") == parse_unit("1:5:h", lstm) == parse_unit(" 1:5 ", rnn)
    assert Clamp(Unit(0, 3, "c"), -1.5) == parse_clamp("0:3=-1.5", lstm)
    assert "1:5:c" == str(parse_unit("1:5", lstm))


@pytest.mark.parametrize("text", ["1", "1:5", "1:5=x", "a:5=1", "2:5=1", "1:6=1", "1:5:c=1"])
def test_a_wrong_clamp_is_refused_and_named(text):
    with pytest.raises(ConfigError) as error:
        parse_clamp(text, ModelConfig(7, "gru", 5, 6, 2))
    assert text.removesuffix("=1") in str(error.value)


@pytest.mark.parametrize(("part", "value"), [("h", 1.5), ("c", 1e9), ("h", float("nan"))])
def test_a_value_out_of_range_is_refused(part, value):
    with pytest.raises(ConfigError, match="0:0"):
        check_clamps([Clamp(Unit(0, 0, part), value)])


def test_two_values_for_one_unit_are_refused():
    with pytest.raises(ConfigError, match="0:0"):
        check_clamps([Clamp(Unit(0, 0, "h"), 1), Clamp(Unit(0, 0, "c"), 1)])
