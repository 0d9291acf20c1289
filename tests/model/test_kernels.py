"""The kernels of the RNN and the GRU against torch's own cells and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from charnn.model import CELLS, kernels

GATES = {"rnn": 1, "gru": 3}
KERNELS: dict[str, Callable[..., Tensor]] = {"rnn": kernels.rnn, "gru": kernels.gru}
SHAPES = [(7, 3, 5, 4), (1, 3, 5, 4), (7, 1, 5, 4), (1, 1, 1, 1), (9, 16, 32, 16)]  # T, B, D, H


def arguments(cell: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """Returns x, h0, weight_ih, weight_hh, bias and, of a GRU, bias_hn, the same in every dtype."""
    steps, batch, features, size = shape
    rows = GATES[cell] * size
    shapes = [(steps, batch, features), (batch, size), (rows, features), (rows, size), (rows,)]
    if cell == "gru":
        shapes.append((size,))
    generator = torch.Generator().manual_seed(1)
    scales = [1.0, 1.0, features**-0.5, size**-0.5, 0.5, 0.5]
    return [
        (torch.randn(s, generator=generator) * scale).to(dtype).requires_grad_()
        for s, scale in zip(shapes, scales, strict=False)
    ]


def torchs_own(cell: str, x: Tensor, h0: Tensor, *weights: Tensor) -> Tensor:
    weight_ih, weight_hh, bias = weights[:3]
    if cell == "rnn":
        bias_hh = torch.zeros_like(bias)
    else:
        bias_hh = torch.cat([bias.new_zeros(2 * h0.shape[1]), weights[3]])
    function = {"rnn": torch.rnn_tanh, "gru": torch.gru}[cell]
    all_weights = [weight_ih, weight_hh, bias, bias_hh]
    return function(x, h0[None], all_weights, True, 1, 0.0, True, False, False)[0]


def with_gradients(outputs: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Returns the outputs and the gradients of their randomly weighted sum."""
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(outputs.shape, generator=generator).to(outputs.dtype)
    return [outputs.detach(), *torch.autograd.grad((outputs * factors).sum(), leaves)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("cell", KERNELS)
def test_outputs_and_all_gradients_equal_torchs_own(cell, dtype, tolerance, shape):
    leaves = arguments(cell, shape, dtype)
    expected = with_gradients(torchs_own(cell, *leaves), leaves)
    actual = with_gradients(KERNELS[cell](*leaves), leaves)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


@pytest.mark.parametrize("cell", KERNELS)
def test_gradients_equal_finite_differences(cell):
    leaves = arguments(cell, (4, 2, 3, 2), torch.float64)
    assert torch.autograd.gradcheck(KERNELS[cell], leaves)


@pytest.mark.parametrize("cell", KERNELS)
def test_gradients_of_the_last_state_equal_torchs_own(cell):
    leaves = arguments(cell, SHAPES[0], torch.float64)
    expected = torch.autograd.grad(torchs_own(cell, *leaves)[-1].sum(), leaves)
    actual = torch.autograd.grad(KERNELS[cell](*leaves)[-1].sum(), leaves)
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", KERNELS)
def test_two_windows_with_the_state_carried_equal_one(cell):
    x, h0, *weights = leaves = arguments(cell, SHAPES[0], torch.float64)
    kernel = KERNELS[cell]
    first = kernel(x[:3], h0, *weights)
    second = kernel(x[3:], first[-1], *weights)
    expected = with_gradients(kernel(*leaves), leaves)
    actual = with_gradients(torch.cat([first, second]), leaves)
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", KERNELS)
def test_bfloat16_is_close_to_float32(cell):
    shape = (20, 32, 32, 64)
    leaves, coarse = (arguments(cell, shape, dtype) for dtype in (torch.float32, torch.bfloat16))
    expected = with_gradients(KERNELS[cell](*leaves), leaves)
    actual = with_gradients(KERNELS[cell](*coarse), coarse)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - e).abs().max() < 0.04 * e.abs().max()


def test_a_gru_with_z_near_1_decays_in_bfloat16_as_in_float32():
    x, h0, weight_ih, weight_hh, bias, bias_hn = arguments("gru", (100, 4, 8, 8), torch.float32)
    with torch.no_grad():
        h0.fill_(0.5)
        bias[8:16] = 6.0  # z near 1: of the state, a 400th goes at each step
    leaves = (x, h0, weight_ih, weight_hh, bias, bias_hn)
    exact = kernels.gru(*leaves)
    coarse = kernels.gru(*(leaf.bfloat16() for leaf in leaves))
    assert_close(coarse.float(), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("cell", KERNELS)
def test_inputs_without_gradient_change_no_other_gradient(cell):
    x, *others = arguments(cell, SHAPES[0], torch.float64)
    expected = with_gradients(KERNELS[cell](x, *others), others)
    actual = with_gradients(KERNELS[cell](x.detach(), *others), others)
    assert_close(actual, expected)


@pytest.mark.parametrize("cell", KERNELS)
def test_a_second_derivative_is_refused(cell):
    leaves = arguments(cell, SHAPES[0], torch.float64)
    loss = KERNELS[cell](*leaves).square().sum()
    (gradient,) = torch.autograd.grad(loss, leaves[1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("cell", KERNELS)
def test_a_layer_gives_the_same_with_gradients_and_without(cell):
    layer = CELLS[cell](5, 4)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    x, h0, *_ = arguments(cell, SHAPES[0], torch.float32)
    state = layer.state_type(h0.detach())
    outputs, after = layer(x, state)
    with torch.no_grad():
        plain_outputs, plain_after = layer(x, state)
    assert "_RNN" in str(outputs.grad_fn) or "_GRU" in str(outputs.grad_fn)
    assert_close(outputs, plain_outputs)
    assert_close(after.h, plain_after.h)
