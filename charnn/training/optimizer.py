"""The optimizer: Muon for the gate matrices, AdamW for the rest, with a shared schedule.

Shapes: G gates, H hidden units, D features in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from charnn.config import ADAMW_MOMENTS, MUON_MOMENTUM, TrainConfig, is_gate_matrix
from charnn.model import LanguageModel
from charnn.training.world import WORLD

BETAS = (0.9, 0.99)
EPSILON = 1e-8
MOMENTUM = 0.95
TURNS = 2  # each matrix is updated every second step, half of them at a time: half the products
# Odd polynomials a x + b x^3 + c x^5, applied in turn, move singular values close to 1. Each is
# optimal for the range that the previous one leaves (Polar Express, Amsel et al. 2025), starting
# with SMALLEST to 1; made by benchmarks/polynomials.py. Values below SMALLEST end below 1.
SMALLEST = 0.02
POLYNOMIALS = (
    (7.7110, -22.1138, 16.2487),
    (3.2153, -2.4112, 0.5013),
    (2.2183, -1.5940, 0.4107),
)


class Optimizer:
    """Updates weights from their gradients, and keeps moments.

    With ``optimizer`` "muon", Muon (Jordan et al. 2024) updates input and recurrent matrices gate
    by gate: momentum, orthogonalised. AdamW (Loshchilov and Hutter 2019) updates the rest, or with
    "adamw" everything; matrices decay, biases and norms do not. This class calls torch's function
    for AdamW, since importing torch's class takes half as long as torch itself.
    """

    def __init__(self, network: LanguageModel, config: TrainConfig) -> None:
        self.config = config
        self.network = network
        self.world = WORLD.get()
        self.updates = 0
        named = dict(network.named_parameters())
        chosen = [name for name in named if config.optimizer == "muon" and is_gate_matrix(name)]
        self.momentum = {name: torch.zeros_like(named[name]) for name in chosen}
        rest = {name: p for name, p in named.items() if name not in self.momentum}
        self.moments = {
            moment: {name: torch.zeros_like(p) for name, p in rest.items()}
            for moment in ADAMW_MOMENTS
        }
        self.groups = (
            ([name for name, p in rest.items() if p.ndim > 1], config.weight_decay),
            ([name for name, p in rest.items() if p.ndim == 1], 0.0),
        )

    def step(self, fraction: float) -> None:
        """Updates the weights, at this fraction of the peak learning rates."""
        self._adamw_step(fraction * self.config.learning_rate)
        if self.momentum:
            self._muon_step(fraction * self.config.muon_rate)
        self.updates += 1

    @torch.no_grad()
    def _adamw_step(self, rate: float) -> None:
        averages, squares = (self.moments[moment] for moment in ADAMW_MOMENTS)
        for names, decay in self.groups:
            weights: list[Tensor] = [self.network.get_parameter(name) for name in names]
            adamw(
                weights,
                grads=[_gradient(weight) for weight in weights],
                exp_avgs=[averages[name] for name in names],
                exp_avg_sqs=[squares[name] for name in names],
                max_exp_avg_sqs=[],
                state_steps=[
                    torch.full((), float(self.updates), device=weight.device) for weight in weights
                ],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=rate,
                weight_decay=decay,
                eps=EPSILON,
                maximize=False,
            )

    @torch.no_grad()
    def _muon_step(self, rate: float) -> None:
        size = self.network.config.hidden_size
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for turn, (name, momentum) in enumerate(self.momentum.items()):
            weight = self.network.get_parameter(name)
            gradient = _gradient(weight)
            momentum.lerp_(gradient, 1 - MOMENTUM)
            if (self.updates - turn) % TURNS:
                continue
            ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov
            blocks = zip(torch.split(weight, size), torch.split(ahead, size), strict=True)
            by_shape.setdefault(weight.shape, []).extend(blocks)
        dtype = getattr(torch, self.config.precision)
        for pairs in by_shape.values():
            matrices = torch.stack([ahead for _, ahead in pairs]).to(dtype)
            steps = self.world.split(orthogonalize, matrices).float()
            rows, columns = steps.shape[1:]
            scale = math.sqrt(max(1.0, rows / columns))
            for (block, _), step in zip(pairs, steps.unbind(), strict=True):
                block.mul_(1 - rate * self.config.weight_decay).add_(step, alpha=-rate * scale)

    def memory(self) -> list[Tensor]:
        """Returns all moments, in the same order in every process."""
        return [m for memory in (self.momentum, *self.moments.values()) for m in memory.values()]

    def pack(self) -> dict[str, np.ndarray]:
        """Returns copies of the moments of every weight; zeros before the first update."""
        arrays = {f"{MUON_MOMENTUM}.{name}": copied(m) for name, m in self.momentum.items()}
        for moment, memory in self.moments.items():
            arrays |= {f"{moment}.{name}": copied(array) for name, array in memory.items()}
        return arrays

    def unpack(self, arrays: Mapping[str, np.ndarray], updates: int) -> None:
        """Inverse of `pack`, after `updates` updates."""
        self.updates = updates
        for kind, memory in {MUON_MOMENTUM: self.momentum, **self.moments}.items():
            for name, tensor in memory.items():
                tensor.copy_(torch.from_numpy(arrays[f"{kind}.{name}"]))


def _gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        raise RuntimeError("a weight has no gradient: run a backward pass before a step")
    return weight.grad


def orthogonalize(matrices: Tensor) -> Tensor:
    """Returns approximately U V' of each matrix U S V' in (N, H, D).

    Singular values end between 0.9 and 1.1; those below `SMALLEST` times the norm end lower.
    """
    norms = matrices.float().norm(dim=(1, 2), keepdim=True)
    x: Tensor = matrices / (norms + 1e-7).to(matrices.dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    for a, b, c in POLYNOMIALS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


def schedule(config: TrainConfig, step: int) -> float:
    """Returns the learning rate of a step as a fraction of its peak: warm-up, linear decay to 0.

    Decay to zero beats decay to a tenth (Bergsma et al. 2025). A further budget, which begins at
    ``schedule_start``, warms up to the decay line of both budgets together.
    """
    rise = min(1.0, (step - config.schedule_start + 1) / (config.warmup_steps + 1))
    return rise * (1 - step / config.max_steps)


def copied(tensor: Tensor) -> np.ndarray:
    """Returns a tensor as an array that later steps do not change."""
    return tensor.detach().cpu().numpy().copy()
