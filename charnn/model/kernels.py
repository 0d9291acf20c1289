"""The vanilla RNN and the GRU over a whole window, with their gradients written out.

On a processor torch steps through these two in small operators. Here whatever does not depend on the
state is one product for the whole window, forward and backward, and a step is one product with the
recurrent matrix and a few operators that write where their result belongs. Streams are columns
inside, (T, H, B) and not (T, B, H): that makes the matrix the left operand of the product, which is
read as it is, where a right operand is packed anew at every step.

Shapes: T steps, B streams, D features in, H hidden units. All arguments are of one type; products
of bfloat16 add up in float32. Gradients are not differentiable again.
"""

from __future__ import annotations

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
    # What the kernel holds is u = 1 - z, the sigmoid of the negative: a gate that keeps the state
    # has z near 1, where bfloat16 is coarse, and u near 0, where it is fine.
    (ir, iz, in_), (hr, hz, hn), (br, bz, bn) = (
        w.chunk(3) for w in (weight_ih, weight_hh, bias)
    )
    weight_ih = torch.cat([in_, ir, -iz])
    weight_hh = torch.cat([hr, -hz, hn])
    bias = torch.cat([bn, br, -bz, bias_hn])
    return cast(Tensor, _GRU.apply(x, h0, weight_ih, weight_hh, bias))  # type: ignore[no-untyped-call]  # torch's own signature


class _RNN(torch.autograd.Function):
    """See `rnn`. With a[t] what the tanh is taken of, and dh the gradient of h[t] on all paths:

    da[t] = (1 - h[t]^2) * dh, and for the step before dh = dy[t-1] + W_hh^T da[t]
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        states = _states(h0, len(x))
        states[1:] = _input_sums(x, weight_ih, bias)
        steps = states.unbind()
        for before, h in zip(steps, steps[1:], strict=False):
            torch.addmm(h, weight_hh, before, out=h).tanh_()
        ctx.save_for_backward(x, weight_ih, weight_hh, states)
        return _turned(states[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, states = ctx.saved_tensors
        da = torch.empty_like(states[1:])
        weight = weight_hh.t().contiguous()
        dys = _gradients_before(dy)
        dh = dys.pop()
        steps = zip(da.unbind(), states[1:].unbind(), dys, strict=True)
        for da_t, h, dy_before in reversed([*steps]):
            _times_tanh_slope(dh, h, grad_input=da_t)
            dh = torch.addmm(dy_before, weight, da_t)
        da = _rows(da)
        dx = _input_gradient(da, weight_ih, x) if ctx.needs_input_grad[0] else None
        return dx, dh.t(), da @ x.flatten(0, 1), da @ _rows(states[:-1]).t(), da.sum(1)


class _GRU(torch.autograd.Function):
    """See `gru`. Rows are n, r, u and c, where c[t] = W_hn h[t-1] + b_hn and

    h[t] = h[t-1] + u * (n - h[t-1])

    The input product reaches the first three, the recurrent product the last three. With dh the
    gradient of h[t] on all paths, and each d that of what the gate's function is taken of:

    dn = (1 - n^2) * u * dh         du = u (1 - u) * (n - h[t-1]) * dh
    dr = r (1 - r) * c * dn         dc = r * dn
    and for the step before dh = dy[t-1] + (1 - u) * dh + W_hh^T (dr, du, dc)
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor
    ) -> Tensor:
        size = h0.shape[1]
        states = _states(h0, len(x))
        gates = states.new_empty(len(x), 4 * size, len(h0))
        gates[:, : 3 * size] = _input_sums(x, weight_ih, bias[: 3 * size])
        gates[:, 3 * size :] = bias[3 * size :, None]
        steps = states.unbind()
        for gates_t, before, h in zip(gates.unbind(), steps, steps[1:], strict=False):
            sums = gates_t[size:]
            torch.addmm(sums, weight_hh, before, out=sums)
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
        size = states.shape[1]
        n, r, u, c = gates.chunk(4, dim=1)
        da = torch.empty_like(gates)  # first the factors of dh, in the loop times dh
        dn, dr, du, dc = da.chunk(4, dim=1)
        _times_tanh_slope(u, n, grad_input=dn)
        _times_sigmoid_slope(n - states[:-1], u, grad_input=du)
        _times_sigmoid_slope(c * dn, r, grad_input=dr)
        torch.mul(r, dn, out=dc)
        weight = weight_hh.t().contiguous()
        dys = _gradients_before(dy)
        dh = dys.pop()
        by_gate = da.unflatten(1, (4, size))
        steps = zip(by_gate.unbind(), da[:, size:].unbind(), (1 - u).unbind(), dys, strict=True)
        for da_t, da_state, z, dy_before in reversed([*steps]):
            da_t.mul_(dh)
            dh = torch.addcmul(dy_before, z, dh).addmm_(weight, da_state)
        da = _rows(da)
        dbias = da.sum(1)
        dweight_hh = da[size:] @ _rows(states[:-1]).t()
        da = da[: 3 * size]
        dx = _input_gradient(da, weight_ih, x) if ctx.needs_input_grad[0] else None
        return dx, dh.t(), da @ x.flatten(0, 1), dweight_hh, dbias


def _turned(x: Tensor) -> Tensor:
    """(T, B, H) as (T, H, B), or back."""
    return x.transpose(1, 2).contiguous()


def _rows(a: Tensor) -> Tensor:
    """(T, G, B) as (G, T * B): the places of a row one after another."""
    return a.transpose(0, 1).flatten(1)


def _states(h0: Tensor, steps: int) -> Tensor:
    """Room for h0 and the states after it (T + 1, H, B), the first filled in."""
    states = h0.new_empty(steps + 1, *h0.t().shape)
    states[0] = h0.t()
    return states


def _input_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b (T, G, B)."""
    sums = torch.addmm(bias[:, None], weight, x.flatten(0, 1).t())
    return sums.unflatten(1, x.shape[:2]).transpose(0, 1)


def _input_gradient(da: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    return (da.t() @ weight).view_as(x)


def _gradients_before(dy: Tensor) -> list[Tensor]:
    """The gradients (H, B) of the outputs, after one of zeros for the state that was given."""
    dys = _turned(dy).unbind()
    return [torch.zeros_like(dys[0]), *dys]
