"""The vanilla RNN and the GRU over a whole window, with explicit gradients, for training on a CPU.

There torch runs these two cells in many small operators. Here everything that does not depend on
the state is one product for the whole window, forward and backward; a step is one product with the
recurrent matrix and a few in-place operators.

Shapes: T steps, B streams, D features in, H hidden units, G rows of gates. All arguments have one
dtype; products of bfloat16 sum in float32. Gradients cannot be differentiated again.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Each writes g * f'(a), given g and f(a), to grad_input.
_times_tanh_slope = torch.ops.aten.tanh_backward.grad_input
_times_sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input


def rnn(x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> Tensor:
    """Reads x (T, B, D) from h0 (B, H); returns h (T, B, H).

    h[t] = tanh(W_ih x[t] + W_hh h[t-1] + b)

    weight_ih (H, D), weight_hh (H, H), bias (H,).
    """
    return cast(Tensor, _RNN.apply(x, h0, weight_ih, weight_hh, bias))  # type: ignore[no-untyped-call]  # torch's own signature


def gru(
    x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, bias_hn: Tensor
) -> Tensor:
    """Reads x (T, B, D) from h0 (B, H); returns h (T, B, H).

    r = sigmoid(W_ir x[t] + W_hr h[t-1] + b_r)
    z = sigmoid(W_iz x[t] + W_hz h[t-1] + b_z)
    n = tanh(W_in x[t] + b_n + r * (W_hn h[t-1] + b_hn))
    h[t] = (1 - z) * n + z * h[t-1]

    weight_ih (3H, D), weight_hh (3H, H) and bias (3H,) with rows r, z, n; bias_hn (H,).
    """
    (w_r, w_z, w_n), (v_r, v_z, v_n), (b_r, b_z, b_n) = (
        each.chunk(3) for each in (weight_ih, weight_hh, bias)
    )
    # The kernel uses u = 1 - z, the sigmoid of the negative: while the state is kept, z is near 1,
    # where bfloat16 is coarse, and u near 0, where it is fine.
    weight_ih = torch.cat([w_n, w_r, -w_z])
    weight_hh = torch.cat([v_r, -v_z, v_n])
    bias = torch.cat([b_n, b_r, -b_z, bias_hn])
    return cast(Tensor, _GRU.apply(x, h0, weight_ih, weight_hh, bias))  # type: ignore[no-untyped-call]  # torch's own signature


class _RNN(torch.autograd.Function):
    """See `rnn`.

    With h[t] = tanh(a) and dh the gradient of h[t] on all paths:

    da = (1 - h[t]^2) * dh, and for the step before, dh = dy[t-1] + W_hh^T da
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        states = torch.cat([h0[None], h0.new_empty(len(x), *h0.shape)])
        sums = states[1:].flatten(0, 1)
        torch.addmm(bias, x.flatten(0, 1), weight_ih.t().contiguous(), out=sums)
        weight = weight_hh.t().contiguous()
        for before, h in pairwise(states.unbind()):
            h.addmm_(before, weight).tanh_()
        ctx.save_for_backward(x, weight_ih, weight_hh, states)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, states = ctx.saved_tensors
        da = torch.empty_like(states[1:])
        dys = [torch.zeros_like(dy[0]), *dy.unbind()]  # h0 is not an output
        dh = dys.pop()
        steps = zip(da.unbind(), states[1:].unbind(), dys, strict=True)
        for da_t, h, dy_before in reversed([*steps]):
            _times_tanh_slope(dh, h, grad_input=da_t)
            dh = torch.addmm(dy_before, da_t, weight_hh)
        dx = da @ weight_ih if ctx.needs_input_grad[0] else None
        da = da.flatten(0, 1)
        dweight_ih = da.t() @ x.flatten(0, 1)
        dweight_hh = da.t() @ states[:-1].flatten(0, 1)
        return dx, dh, dweight_ih, dweight_hh, da.new_ones(len(da)) @ da


class _GRU(torch.autograd.Function):
    """See `gru`. The rows are n, r, u and c.

    c = W_hn h[t-1] + b_hn          h[t] = h[t-1] + u * (n - h[t-1])

    ``weight_ih`` (3H, D) has the first three, ``weight_hh`` (3H, H) the last three, ``bias`` (4H,)
    all. With dh the gradient of h[t] on all paths, and the other d gradients before the sigmoid or
    tanh:

    dn = (1 - n^2) * u * dh         du = u * (1 - u) * (n - h[t-1]) * dh
    dc = r * dn                     dr = r * (1 - r) * c * dn
    and for the step before, dh = dy[t-1] + (1 - u) * dh + W_hh^T (dr, du, dc)

    Inside, streams are columns (T, H, B). The matrix is then the left operand of its product, which
    needs no packing; a right operand is packed at every step.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        batch, size = h0.shape
        states = torch.cat([h0.t()[None], h0.new_empty(len(x), size, batch)])
        gates = h0.new_empty(len(x), 4 * size, batch)
        sums = torch.addmm(bias[: 3 * size, None], weight_ih, x.flatten(0, 1).t())
        gates[:, : 3 * size] = sums.view(3 * size, len(x), batch).transpose(0, 1)
        gates[:, 3 * size :] = bias[3 * size :, None]
        for gates_t, (before, h) in zip(gates.unbind(), pairwise(states.unbind()), strict=True):
            gates_t[size:].addmm_(weight_hh, before)
            gates_t[size : 3 * size].sigmoid_()
            n, r, u, c = gates_t.chunk(4)
            n.addcmul_(r, c).tanh_()
            torch.lerp(before, n, u, out=h)
        ctx.save_for_backward(x, weight_ih, weight_hh, states, gates)
        return _turned(states[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, states, gates = ctx.saved_tensors
        _, size, batch = states.shape
        n, r, u, c = gates.chunk(4, dim=1)
        da = torch.empty_like(gates)  # without the factor dh so far
        dn, dr, du, dc = da.chunk(4, dim=1)
        _times_tanh_slope(u, n, grad_input=dn)
        _times_sigmoid_slope(n - states[:-1], u, grad_input=du)
        _times_sigmoid_slope(c * dn, r, grad_input=dr)
        torch.mul(r, dn, out=dc)
        dys = [torch.zeros_like(states[0]), *_turned(dy).unbind()]  # h0 is not an output
        dh = dys.pop()
        weight = weight_hh.t().contiguous()
        by_gate = da.view(len(x), 4, size, batch)
        steps = zip(by_gate.unbind(), da[:, size:].unbind(), (1 - u).unbind(), dys, strict=True)
        for da_t, da_state, z, dy_before in reversed([*steps]):
            da_t.mul_(dh)
            dh = torch.addcmul(dy_before, z, dh).addmm_(weight, da_state)
        da = _rows(da)
        dweight_ih = da[: 3 * size] @ x.flatten(0, 1)
        dweight_hh = da[size:] @ _rows(states[:-1]).t()
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (da[: 3 * size].t() @ weight_ih).view(x.shape)
        return dx, dh.t(), dweight_ih, dweight_hh, da.sum(1)


def _turned(x: Tensor) -> Tensor:
    """Turns (T, B, H) into (T, H, B) or back."""
    return x.transpose(1, 2).contiguous()


def _rows(a: Tensor) -> Tensor:
    """Turns (T, G, B) into (G, T * B)."""
    return a.transpose(0, 1).flatten(1)
