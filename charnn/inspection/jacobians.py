"""A step of a network and its derivative, and the Jacobian of many steps through products with it.

Written out here, since torch's forward mode knows no fused layers and takes seconds to load. The
derivatives of each step are found once; a product with the Jacobian is then linear in what comes
in, which torch can turn round for products with the transpose. The state is one row of numbers,
(B, N) with N = L P H, layer by layer, and part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charnn.config import STATES
from charnn.model import LanguageModel, State

Progress = Callable[[str, int, int], None]
ITERATIONS = 10
ENOUGH = 2e-3  # relative change from one iteration to the next
SPENT = 1e-4  # of a direction, below which what is new in it is rounding


class Derivative(NamedTuple):
    """What a layer's step is made of, at S places: y and `factor` of its norm, factors of its cell.

    Factors (each (S, H)) multiply what comes in: see `pushed`.
    """

    y: Tensor
    factor: Tensor
    cell: tuple[Tensor, ...]


def flat_state(state: State) -> Tensor:
    """A state as rows (B, N)."""
    return torch.cat([part for layer in state for part in layer], dim=1)


def step(model: LanguageModel, tokens: Tensor, state: Tensor) -> tuple[Tensor, list[Derivative]]:
    """The state (S, N) after reading tokens (S,) in a state, as the model's own; its derivative."""
    config = model.config
    rows = iter(torch.split(state, config.hidden_size, dim=1))
    x, after, found = model.embedding.weight[tokens], [], []
    for block in model.blocks():
        cell, norm = block.cell, block.norm
        h, *c = (next(rows) for _ in STATES[config.cell])
        centred = x - x.mean(dim=1, keepdim=True)
        factor = (centred.square().mean(dim=1, keepdim=True) + norm.eps).rsqrt()
        y = centred * factor
        inputs = (y * norm.weight + norm.bias) @ cell.weight_ih.T + cell.bias
        recurrent = h @ cell.weight_hh.T
        factors: tuple[Tensor, ...]
        if config.cell == "rnn":
            new = [torch.tanh(inputs + recurrent)]
            factors = (1 - new[0] ** 2,)
        elif config.cell == "gru":
            (ri, zi, ni), (rh, zh, nh) = inputs.chunk(3, 1), recurrent.chunk(3, 1)
            r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
            nh = nh + cell.bias_hn
            n = torch.tanh(ni + r * nh)
            new = [n + z * (h - n)]
            by_n = (1 - z) * (1 - n**2)
            factors = (by_n * nh * r * (1 - r), (h - n) * z * (1 - z), by_n, by_n * r, z)
        else:
            i, f, g, o = (inputs + recurrent).chunk(4, 1)
            i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
            kept = f * c[0] + i * g
            shown = torch.tanh(kept)
            new = [o * shown, kept]
            by_gates = (g * i * (1 - i), c[0] * f * (1 - f), i * (1 - g**2), shown * o * (1 - o))
            factors = (*by_gates, f, o * (1 - shown**2))
        found.append(Derivative(y, factor, factors))
        after += new
        x = x + new[0] if block.residual else new[0]
    return torch.cat(after, dim=1), found


def pushed(model: LanguageModel, derivatives: Sequence[Derivative], tangent: Tensor) -> Tensor:
    """The derivative of a step in directions (R, S, N): so the state after changes."""
    config = model.config
    rows = iter(torch.split(tangent, config.hidden_size, dim=2))
    dx, after = None, []
    for block, (y, factor, factors) in zip(model.blocks(), derivatives, strict=True):
        cell = block.cell
        dh, *dc = (next(rows) for _ in STATES[config.cell])
        recurrent = dh @ cell.weight_hh.T
        inputs = torch.zeros_like(recurrent)  # what the first layer reads does not change
        if dx is not None:
            dy = dx - dx.mean(dim=2, keepdim=True) - y * (y * dx).mean(dim=2, keepdim=True)
            inputs = (factor * dy * block.norm.weight) @ cell.weight_ih.T
        if config.cell == "rnn":
            new = [factors[0] * (inputs + recurrent)]
        elif config.cell == "gru":
            (ri, zi, ni), (rh, zh, nh) = inputs.chunk(3, 2), recurrent.chunk(3, 2)
            by_r, by_z, by_n, by_nh, z = factors
            new = [by_r * (ri + rh) + by_z * (zi + zh) + by_n * ni + by_nh * nh + z * dh]
        else:
            i, f, g, o = (inputs + recurrent).chunk(4, 2)
            by_i, by_f, by_g, by_o, kept, shown = factors
            d_kept = kept * dc[0] + by_i * i + by_f * f + by_g * g
            new = [by_o * o + shown * d_kept, d_kept]
        after += new
        dx = dx + new[0] if block.residual and dx is not None else new[0]
    return torch.cat(after, dim=2)


def lagged_jacobian(
    model: LanguageModel,
    read: Tensor,
    state: Tensor,
    lags: Sequence[int],
    seed: int,
    say: Progress,
) -> NDArray[np.float64]:
    """(S, K): the largest singular value of d state / d state k steps back, at the end of `read`.

    That of J on the space of v, J^T J v, (J^T J)^2 v and so on, all lags at once; it grows to that
    of J, and soon. `read` (T, S) are the tokens, T the longest lag, `state` (S, N) is where they
    begin. What float32 cannot hold is infinite.
    """
    generator = torch.Generator().manual_seed(seed)
    order = sorted(lags, reverse=True)
    with torch.no_grad():
        derivatives = []
        for tokens in read:
            state, found = step(model, tokens, state)
            derivatives.append(found)
    draw = torch.randn(len(order), *state.shape, generator=generator)
    new = _unit(draw.to(state))
    basis, images = [new], []
    values = torch.zeros(draw.shape[:2], dtype=torch.float64)
    for iteration in range(ITERATIONS):
        new.requires_grad_()
        image = _product(model, derivatives, order, new)
        images.append(image.detach())
        before, values = values, _largest(torch.stack(images, dim=2))
        say("singular values", iteration + 1, ITERATIONS)
        finite = values.isfinite()
        if ((values - before).abs() <= ENOUGH * values)[finite].all() or len(basis) == ITERATIONS:
            break
        # Of unit length, so that what vanishes over the longest lags stays in float32's range.
        (found_back,) = torch.autograd.grad(image, new, _unit(image.detach()))
        new = _new_direction(found_back, basis)
        basis.append(new)
    return np.asarray(values[[order.index(lag) for lag in lags]].T.numpy())


def _product(
    model: LanguageModel,
    derivatives: Sequence[Sequence[Derivative]],
    order: Sequence[int],
    directions: Tensor,
) -> Tensor:
    """J times directions (K, S, N) for each lag, the longest first: they join one after another."""
    tangents = directions[:0]
    for number, lag in enumerate(order):
        tangents = torch.cat([tangents, directions[number : number + 1]])
        following = order[number + 1] if number + 1 < len(order) else 0
        for place in range(order[0] - lag, order[0] - following):
            tangents = pushed(model, derivatives[place], tangents)
    return tangents


def _largest(images: Tensor) -> Tensor:
    """(K, S): the largest singular value of rows (K, S, R, N); infinite where one is not finite."""
    products = images.double() @ images.double().transpose(2, 3)
    finite = products.isfinite().all(dim=3).all(dim=2)
    products = torch.where(finite[:, :, None, None], products, 0.0)
    squares = torch.linalg.eigvalsh(products)[:, :, -1].clamp_min(0)
    return torch.where(finite, squares.sqrt(), torch.inf)


def _new_direction(rows: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """Of rows (K, S, N), what is not in the basis; zeros where nothing is left, or not finite."""
    whole = _unit(torch.where(rows.isfinite().all(dim=2, keepdim=True), rows, 0.0))
    rest = whole
    for _ in range(2):  # once leaves rounding behind
        for old in basis:
            rest = rest - (rest * old.detach()).sum(dim=2, keepdim=True) * old.detach()
    left = torch.linalg.vector_norm(rest, dim=2, keepdim=True) > SPENT
    return torch.where(left, _unit(rest), 0.0)


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-30)
    return unit
