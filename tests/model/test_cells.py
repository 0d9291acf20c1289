"""Each cell against its equations, torch's own cell and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from charnn.config import GATES
from charnn.model import CELLS

T, B, D, H = 7, 3, 5, 4


def layer_of(cell: str, dtype: torch.dtype = torch.float32):
    layer = CELLS[cell](D, H).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.empty_like(weight).normal_(0, 0.5, generator=generator))
    return layer


def inputs_and_state(layer, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(T, B, D, generator=generator, dtype=dtype)
    zeros = layer.initial_state(B)
    parts = [torch.randn(B, H, generator=generator, dtype=dtype) * 0.5 for _ in zeros]
    return inputs, type(zeros)(*parts)


def naive(cell: str, layer, inputs: Tensor, state) -> tuple[Tensor, list[Tensor]]:
    """Computes the equations of the docstrings gate by gate and step by step."""
    w = dict(zip(GATES[cell], layer.weight_ih.split(H), strict=True))
    u = dict(zip(GATES[cell], layer.weight_hh.split(H), strict=True))
    b = dict(zip(GATES[cell], layer.bias.split(H), strict=True))
    h = state[0]
    c = state[-1]
    outputs = []
    for x in inputs:

        def gate(name: str, x: Tensor = x, h: Tensor = h) -> Tensor:
            return x @ w[name].T + h @ u[name].T + b[name]

        if cell == "rnn":
            h = torch.tanh(gate("h"))
        elif cell == "gru":
            r, z = torch.sigmoid(gate("r")), torch.sigmoid(gate("z"))
            n = torch.tanh(x @ w["n"].T + b["n"] + r * (h @ u["n"].T + layer.bias_hn))
            h = (1 - z) * n + z * h
        else:
            i, f, o = (torch.sigmoid(gate(name)) for name in "ifo")
            c = f * c + i * torch.tanh(gate("g"))
            h = o * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), [h, c]


@pytest.mark.parametrize("cell", CELLS)
def test_a_window_equals_the_equations(cell):
    layer = layer_of(cell)
    inputs, state = inputs_and_state(layer)
    outputs, after = layer(inputs, state)
    expected, expected_state = naive(cell, layer, inputs, state)
    assert_close(outputs, expected)
    for part, expected_part in zip(after, expected_state, strict=False):
        assert_close(part, expected_part)


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_equals_torchs_own(cell):
    layer = layer_of(cell)
    inputs, state = inputs_and_state(layer)
    theirs = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](D, H)
    bias_hh = torch.zeros_like(layer.bias)
    if cell == "gru":
        bias_hh[2 * H :] = layer.bias_hn
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(layer.weight_ih)
        theirs.weight_hh_l0.copy_(layer.weight_hh)
        theirs.bias_ih_l0.copy_(layer.bias)
        theirs.bias_hh_l0.copy_(bias_hh)
    parts = tuple(part[None] for part in state)
    expected, _ = theirs(inputs, parts if cell == "lstm" else parts[0])
    outputs, after = layer(inputs, state)
    assert_close(outputs, expected)
    assert_close(after.h, expected[-1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_whole_window_equals_token_by_token(cell):
    layer = layer_of(cell)
    inputs, state = inputs_and_state(layer)
    whole, end = layer(inputs, state)
    pieces = []
    for x in inputs:
        output, state = layer(x[None], state)
        pieces.append(output)
    assert_close(torch.cat(pieces), whole)
    assert_close(tuple(state), tuple(end))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal_finite_differences_in_float64(cell):
    layer = layer_of(cell, torch.float64)
    inputs, state = inputs_and_state(layer, torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def outputs(inputs: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
        parts = (h, c)[: len(state)]
        named = dict(zip(names, weights, strict=True))
        # The state after the window is float32 for any arithmetic, too coarse to differentiate.
        result, _ = torch.func.functional_call(layer, named, (inputs, type(state)(*parts)))
        return result

    leaves = [
        inputs,
        state[0],
        state[-1].clone(),
        *(w.detach().clone() for w in layer.parameters()),
    ]
    assert torch.autograd.gradcheck(outputs, [x.requires_grad_() for x in leaves])


@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_matrix_starts_orthogonal_gate_by_gate(cell):
    layer = CELLS[cell](D, H)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    for block in layer.weight_hh.detach().split(H):
        assert_close(block @ block.T, torch.eye(H))


def test_the_forget_gate_of_an_lstm_starts_open():
    layer = CELLS["lstm"](D, H)
    layer.reset_parameters(torch.Generator())
    assert [0.0] * H + [1.0] * H + [0.0] * 2 * H == layer.bias.tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_does_not_change_its_input_state(cell):
    layer = layer_of(cell)
    inputs, state = inputs_and_state(layer)
    before = [part.clone() for part in state]
    layer(inputs, state)
    assert_close(list(state), before)
