"""The scorer of the quality benchmark, for charnn and its peers.

It shares no code with charnn's evaluation. A model is a function of ids (B, T) and a memory (None
at the start of a text) that returns logits (B, T, V) and the memory after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Network = Callable[[Tensor, Any], tuple[Tensor, Any]]

BATCH = 64
STRIDE = 512


@torch.inference_mode()
def cold(network: Network, ids: Tensor, window: int) -> float:
    """Returns mean nats over windows from the initial state; drops the last partial one."""
    count = (len(ids) - 1) // window
    inputs = ids[: count * window].view(count, window)
    targets = ids[1 : count * window + 1].view(count, window)
    nats = 0.0
    for some, wanted in zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True):
        logits, _ = network(some, None)
        nats += _sum(logits, wanted)
    return nats / (count * window)


@torch.inference_mode()
def carried(network: Network, ids: Tensor) -> float:
    """Returns mean nats over one pass that carries the memory."""
    nats, memory = 0.0, None
    for start in range(0, len(ids) - 1, STRIDE):
        stretch = ids[start : start + STRIDE + 1]
        logits, memory = network(stretch[None, :-1], memory)
        nats += _sum(logits, stretch[None, 1:])
    return nats / (len(ids) - 1)


def average(networks: Sequence[Network]) -> Network:
    """Returns a model with the arithmetic mean of the probabilities of several models."""

    def network(ids: Tensor, memory: Any) -> tuple[Tensor, Any]:
        memories = [None] * len(networks) if memory is None else memory
        outputs = [each(ids, own) for each, own in zip(networks, memories, strict=True)]
        logs = torch.stack([logits.float().log_softmax(-1) for logits, _ in outputs])
        return logs.logsumexp(0) - math.log(len(networks)), [own for _, own in outputs]

    return network


def mix(network: Network, tree: Any, weights: tuple[float, float]) -> Network:
    """A log-linear mixture of network and n-grams, which are looked up step by step."""

    def mixed(ids: Tensor, memory: Any) -> tuple[Tensor, Any]:
        own, nodes = memory or (None, np.stack([tree.start()] * len(ids)))
        logits, own = network(ids, own)
        places = []
        for symbols in ids.numpy().T:
            nodes = tree.after(nodes, symbols)
            places.append(nodes)
        found = tree.probabilities_at(np.concatenate(np.stack(places, 1)))
        counted = torch.from_numpy(found).view(logits.shape).clamp(min=2.0**-40)
        return weights[0] * logits.double() + weights[1] * counted.log(), (
            own,
            nodes,
        )

    return mixed


def _sum(logits: Tensor, targets: Tensor) -> float:
    losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return float(losses.double().sum())


class Loaded(NamedTuple):
    """A checkpoint of charnn, with its tokenizer's `encode` and its `info`."""

    network: Network
    encode: Callable[[str], Tensor]
    parameters: int
    info: dict[str, Any]


def load_charnn(path: Path, ngrams: bool = True) -> Loaded:
    """Loads a checkpoint of charnn, with its n-grams or the network alone."""
    from charnn.checkpoint import load
    from charnn.model import LanguageModel
    from charnn.ngrams.tree import tree_and_weights
    from charnn.text.tokenizers import tokenizer_from_dict

    saved = load(path)
    model = LanguageModel(saved.config)
    model.load_state_dict({name: torch.from_numpy(a) for name, a in saved.weights.items()})
    model.eval()
    tokenizer = tokenizer_from_dict(saved.tokenizer)

    def network(ids: Tensor, memory: Any) -> tuple[Tensor, Any]:
        state = model.initial_state(len(ids)) if memory is None else memory
        logits, state = model(ids.T, state)
        return logits.transpose(0, 1), state

    counts = tree_and_weights(saved.ngrams, saved.config.vocab_size)
    predictor = mix(network, *counts) if counts and ngrams else network

    def encode(text: str) -> Tensor:
        return torch.from_numpy(tokenizer.encode(text).astype("int64"))

    return Loaded(predictor, encode, saved.config.parameters, saved.info)
