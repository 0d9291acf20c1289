"""AdamW, its rate over the budget, and its memory as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from charnn.config import TrainConfig
from charnn.model import LanguageModel

BETAS = (0.9, 0.99)
MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(network: LanguageModel, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """The optimizer (Loshchilov and Hutter 2019); matrices decay, biases and norms do not."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step: a linear rise over the warm-up, a linear fall to zero over the budget.

    Decay to zero over a known budget beats decay to a tenth (Bergsma et al. 2025).
    """
    done = step - config.schedule_start
    budget = config.max_steps - config.schedule_start
    rise = min(1.0, (done + 1) / (config.warmup_steps + 1))
    return config.learning_rate * rise * (1 - done / budget)


def pack_moments(network: LanguageModel, optimizer: torch.optim.AdamW) -> dict[str, np.ndarray]:
    """Both moments of every weight, as copies; zeros before the first update."""
    arrays = {}
    for name, weight in network.named_parameters():
        memory = optimizer.state.get(weight, {})
        for moment in MOMENTS:
            value = memory.get(moment, torch.zeros_like(weight))
            arrays[f"{moment}.{name}"] = value.detach().cpu().numpy().copy()
    return arrays


def unpack_moments(
    network: LanguageModel,
    optimizer: torch.optim.AdamW,
    arrays: Mapping[str, np.ndarray],
    updates: int,
) -> None:
    """Inverse of `pack_moments`, after `updates` updates."""
    for name, weight in network.named_parameters():
        if updates:
            optimizer.state[weight] = {
                "step": torch.tensor(float(updates), device=weight.device),
                **{
                    moment: torch.from_numpy(arrays[f"{moment}.{name}"].copy()).to(weight.device)
                    for moment in MOMENTS
                },
            }
