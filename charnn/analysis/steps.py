"""A step of a network and its derivative, and the Jacobian of many steps through products with it.

Products J v are written out here, since torch's forward mode knows no fused layers and takes
seconds to load; products J^T u are torch's. The state is one row of numbers, (B, N) with N = L P H,
layer by layer, and part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charnn.config import STATES
from charnn.model import LanguageModel, State

Progress = Callable[[str, int, int], None]
ITERATIONS = 12
ENOUGH = 5e-3  # relative change from one iteration to the next


def flat_state(state: State) -> Tensor:
    """A state as rows (B, N)."""
    return torch.cat([part for layer in state for part in layer], dim=1)


def step(model: LanguageModel, tokens: Tensor, state: Tensor) -> Tensor:
    """The state (B, N) after reading tokens (B,) in a state (B, N); as the model's own."""
    config = model.config
    parts = STATES[config.cell]
    rows = iter(torch.split(state, config.hidden_size, dim=1))
    x, after = model.embedding.weight[tokens], []
    for block in model.blocks():
        cell = block.cell
        h, *c = (next(rows) for _ in parts)
        inputs = block.norm(x) @ cell.weight_ih.T + cell.bias
        recurrent = h @ cell.weight_hh.T
        if config.cell == "rnn":
            new = [torch.tanh(inputs + recurrent)]
        elif config.cell == "gru":
            (ri, zi, ni), (rh, zh, nh) = inputs.chunk(3, 1), recurrent.chunk(3, 1)
            r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
            n = torch.tanh(ni + r * (nh + cell.bias_hn))
            new = [n + z * (h - n)]
        else:
            i, f, g, o = (inputs + recurrent).chunk(4, 1)
            kept = torch.sigmoid(f) * c[0] + torch.sigmoid(i) * torch.tanh(g)
            new = [torch.sigmoid(o) * torch.tanh(kept), kept]
        after += new
        x = x + new[0] if block.residual else new[0]
    return torch.cat(after, dim=1)


def pushed_step(
    model: LanguageModel, tokens: Tensor, state: Tensor, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """`step`, and its derivative at the state in the direction of `tangent` (B, N)."""
    config = model.config
    parts = STATES[config.cell]
    rows = iter(torch.split(state, config.hidden_size, dim=1))
    pushed = iter(torch.split(tangent, config.hidden_size, dim=1))
    x = model.embedding.weight[tokens]
    dx = torch.zeros_like(x)
    after, after_tangent = [], []
    for block in model.blocks():
        cell = block.cell
        h, *c = (next(rows) for _ in parts)
        dh, *dc = (next(pushed) for _ in parts)
        y, dy = _pushed_norm(block.norm, x, dx)
        inputs, d_inputs = y @ cell.weight_ih.T + cell.bias, dy @ cell.weight_ih.T
        recurrent, d_recurrent = h @ cell.weight_hh.T, dh @ cell.weight_hh.T
        if config.cell == "rnn":
            new = [torch.tanh(inputs + recurrent)]
            d_new = [(1 - new[0] ** 2) * (d_inputs + d_recurrent)]
        elif config.cell == "gru":
            (ri, zi, ni), (rh, zh, nh) = inputs.chunk(3, 1), recurrent.chunk(3, 1)
            (dri, dzi, dni), (drh, dzh, dnh) = d_inputs.chunk(3, 1), d_recurrent.chunk(3, 1)
            r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
            dr, dz = r * (1 - r) * (dri + drh), z * (1 - z) * (dzi + dzh)
            n = torch.tanh(ni + r * (nh + cell.bias_hn))
            dn = (1 - n**2) * (dni + dr * (nh + cell.bias_hn) + r * dnh)
            new = [n + z * (h - n)]
            d_new = [dn + dz * (h - n) + z * (dh - dn)]
        else:
            i, f, g, o = (inputs + recurrent).chunk(4, 1)
            di, df, dg, do = (d_inputs + d_recurrent).chunk(4, 1)
            i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
            kept = f * c[0] + i * g
            d_kept = f * (1 - f) * df * c[0] + f * dc[0] + i * (1 - i) * di * g
            d_kept = d_kept + i * (1 - g**2) * dg
            shown = torch.tanh(kept)
            new = [o * shown, kept]
            d_new = [o * (1 - o) * do * shown + o * (1 - shown**2) * d_kept, d_kept]
        after += new
        after_tangent += d_new
        x, dx = (x + new[0], dx + d_new[0]) if block.residual else (new[0], d_new[0])
    return torch.cat(after, dim=1), torch.cat(after_tangent, dim=1)


def _pushed_norm(norm: nn.LayerNorm, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """A layer norm, and its derivative in the direction dx."""
    centred = x - x.mean(dim=1, keepdim=True)
    factor = (centred.square().mean(dim=1, keepdim=True) + norm.eps).rsqrt()
    y = centred * factor
    dy = factor * (dx - dx.mean(dim=1, keepdim=True) - y * (y * dx).mean(dim=1, keepdim=True))
    return y * norm.weight + norm.bias, dy * norm.weight


def lagged_jacobian(
    model: LanguageModel,
    read: Tensor,
    state: Tensor,
    lags: Sequence[int],
    seed: int,
    say: Progress,
) -> NDArray[np.float64]:
    """(S, K): the largest singular value of d state / d state k steps back, at the end of `read`.

    Power iteration on J^T J, all lags at once: each begins with a copy of the rows, which joins
    the others k steps before the end. `read` (T, S) are the tokens, T the longest lag, `state`
    (S, N) is where they begin.
    """
    generator = torch.Generator().manual_seed(seed)
    places = len(state)
    directions = _unit_rows(torch.randn(len(lags) * places, state.shape[1], generator=generator))
    starts, end = _backward_graph(model, read, state, lags)
    values = torch.zeros(len(directions), dtype=torch.float64)
    for iteration in range(ITERATIONS):
        images = _forward_product(model, read, state, lags, directions)
        norms = torch.linalg.vector_norm(images, dim=1).double()
        change = ((norms - values).abs() / norms.clamp_min(1e-30)).max()
        values = norms
        say("singular values", iteration + 1, ITERATIONS)
        if change < ENOUGH:
            break
        # Of unit length, so that what vanishes over the longest lags stays in float32's range.
        found = torch.autograd.grad(end, starts, _unit_rows(images), retain_graph=True)
        directions = _unit_rows(torch.cat(found))
    return np.asarray(values.view(len(lags), places).T[:, _back(lags)].numpy())


def _order(lags: Sequence[int]) -> list[int]:
    """Lags as they join: the longest first."""
    return sorted(lags, reverse=True)


def _back(lags: Sequence[int]) -> list[int]:
    """For each lag its place among those in the order in which they join."""
    order = _order(lags)
    return [order.index(lag) for lag in lags]


def _backward_graph(
    model: LanguageModel, read: Tensor, state: Tensor, lags: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    """The rows with which each lag begins, the longest first, and all of them at the end."""
    starts: list[Tensor] = []
    rows = state.detach()
    order = _order(lags)
    with torch.enable_grad():
        for number in range(len(order)):
            first = rows[: len(state)].detach().clone().requires_grad_()
            starts.append(first)
            rows = torch.cat([rows, first]) if number else first
            for place in _steps(order, number):
                rows = step(model, read[place].repeat(number + 1), rows)
    return starts, rows


def _forward_product(
    model: LanguageModel, read: Tensor, state: Tensor, lags: Sequence[int], directions: Tensor
) -> Tensor:
    """J times directions (K S, N), in the order of joining."""
    order = _order(lags)
    parts = torch.split(directions, len(state))
    rows, tangents = state, parts[0][:0]
    with torch.no_grad():
        for number in range(len(order)):
            first = rows[: len(state)]
            rows = torch.cat([rows, first]) if number else first
            tangents = torch.cat([tangents, parts[number]])
            for place in _steps(order, number):
                rows, tangents = pushed_step(model, read[place].repeat(number + 1), rows, tangents)
    return tangents


def _steps(order: Sequence[int], number: int) -> range:
    """The places of the tokens read between the joining of one lag and of the next."""
    following = order[number + 1] if number + 1 < len(order) else 0
    return range(order[0] - order[number], order[0] - following)


def _unit_rows(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-30)
    return unit
