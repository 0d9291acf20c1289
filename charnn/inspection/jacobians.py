"""Largest singular values of a network's state-to-state Jacobian, from products with it alone.

Products J v use torch's forward mode, products J^T u use its reverse mode, both through the model
itself, so every cell that has a torch layer works.

Shapes: K lags, S samples, T steps, R directions so far, N numbers in the state of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from charnn.model import LanguageModel, State, map_state

Progress = Callable[[str, int, int], None]
ITERATIONS = 10
CONVERGED = 2e-3  # relative change of every singular value from one iteration to the next
NEGLIGIBLE = 1e-4  # a unit vector's part outside the basis; a smaller one is rounding error


def flat_state(state: State) -> Tensor:
    """Returns a state as rows (S, N), layer by layer, h before c."""
    return torch.cat([part for layer in state for part in layer], dim=1)


def lagged_singular_values(
    model: LanguageModel,
    read: Tensor,
    state: Tensor,
    lags: Sequence[int],
    seed: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """Returns (S, K): the largest singular value of d state / d state k tokens earlier.

    `lags` ascend.

    The later state is the one after `read` (T, S), where T is the longest lag; `state` (S, N) is
    the state before it. Block Krylov iteration from a random v: the largest singular value of J
    restricted to the span of v, J^T J v, (J^T J)^2 v, … All lags run at once. Values that overflow
    float32 are infinite.
    """
    descending = lags[::-1]
    stops = [*descending[1:], 0]
    segments = [
        read[len(read) - lag : len(read) - stop]
        for lag, stop in zip(descending, stops, strict=True)
    ]
    with torch.no_grad():
        starts = [state]
        for tokens in segments[:-1]:
            starts.append(_advance(model, tokens, starts[-1]))
    start = torch.stack(starts).requires_grad_()
    final = partial(_final_states, model, segments)
    end = final(start)
    direction = _unit(torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)))
    basis: list[Tensor] = []
    images: list[Tensor] = []
    values = torch.zeros(start.shape[:2], dtype=torch.float64)
    for iteration in range(ITERATIONS):
        if images:
            # The image is normalised so that vanishing values stay within float32's range.
            (product,) = torch.autograd.grad(end, start, _unit(images[-1]), retain_graph=True)
            direction = _new_direction(product, basis)
        basis.append(direction)
        images.append(_forward_product(final, start.detach(), direction))
        before, values = values, _largest(torch.stack(images, dim=2))
        progress("singular values", iteration + 1, ITERATIONS)
        finite = values.isfinite()
        if ((values - before).abs() <= CONVERGED * values)[finite].all():
            break
    return np.asarray(values.flip(0).T.numpy())


def _advance(model: LanguageModel, tokens: Tensor, rows: Tensor) -> Tensor:
    """Returns the state (S, N) after reading tokens (T, S) from the state `rows` (S, N)."""
    parts = iter(torch.split(rows, model.config.hidden_size, dim=1))
    _, state = model(tokens, map_state(lambda _: next(parts), model.initial_state(1)))
    return flat_state(state)


def _final_states(model: LanguageModel, segments: Sequence[Tensor], start: Tensor) -> Tensor:
    """Returns the states (K, S, N) at the end of the text, each read on from its own `start`.

    The start of the longest lag comes first; each later start joins the batch where its lag begins.
    """
    rows = start[0, :0]
    for number, tokens in enumerate(segments):
        rows = _advance(model, tokens.repeat(1, number + 1), torch.cat([rows, start[number]]))
    return rows.view(start.shape)


def _forward_product(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Returns the product of the Jacobian of `function` at a point with a direction."""
    # oneDNN's fused LSTM has no forward derivative; torch's own layer has.
    onednn = torch.backends.mkldnn
    was_enabled = onednn.enabled
    onednn.enabled = False  # type: ignore[assignment]  # torch types the property's descriptor
    try:
        with torch.no_grad(), forward_ad.dual_level():
            image = function(forward_ad.make_dual(at, direction))  # type: ignore[no-untyped-call]  # torch's own signature
            tangent: Tensor = forward_ad.unpack_dual(image).tangent  # type: ignore[no-untyped-call]  # torch's own signature
            return tangent
    finally:
        onednn.enabled = was_enabled


def _largest(images: Tensor) -> Tensor:
    """Returns (K, S): the largest singular value of rows (K, S, R, N); inf where not finite."""
    products = images.double() @ images.double().transpose(2, 3)
    finite = products.isfinite().all(dim=3).all(dim=2)
    products = torch.where(finite[:, :, None, None], products, 0.0)
    squares = torch.linalg.eigvalsh(products)[:, :, -1].clamp_min(0)
    return torch.where(finite, squares.sqrt(), torch.inf)


def _new_direction(rows: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """Returns the normalised part of rows (K, S, N) outside the basis, or else zeros."""
    rest = _unit(torch.where(rows.isfinite().all(dim=2, keepdim=True), rows, 0.0))
    for _ in range(2):  # one pass of Gram-Schmidt leaves rounding errors
        for old in basis:
            rest = rest - (rest * old).sum(dim=2, keepdim=True) * old
    is_new = torch.linalg.vector_norm(rest, dim=2, keepdim=True) > NEGLIGIBLE
    return torch.where(is_new, _unit(rest), 0.0)


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-30)
    return unit
