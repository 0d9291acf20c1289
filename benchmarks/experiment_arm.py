"""The recipe as an experiment trains it, for the arms that change something of it.

Shapes: T steps, B streams, V symbols, N places, K symbols of the n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.config import ModelConfig, TrainConfig
from charnn.model import LanguageModel
from charnn.model.state import State
from charnn.ngrams.tree import NGramTree
from charnn.training.optimizer import schedule

BPTT = 64
ORDER = 10  # of the n-grams


@dataclass(frozen=True)
class Corpus:
    """Ids to learn from and to score."""

    name: str
    train: np.ndarray
    held_out: np.ndarray
    vocab_size: int


@dataclass(frozen=True)
class Setting:
    """What all arms of an experiment share."""

    seed: int
    steps: int
    layers: int
    hidden: int
    batch: int
    optimizer: str
    dropout: float
    keep: Path | None

    def kept(self, corpus: Corpus, seed: int) -> Path:
        """Where the weights of a network lie."""
        assert self.keep, "the weights of base are wanted: --keep"
        return self.keep / f"{corpus.name}-{seed}.pt"


def said_at(tree: NGramTree, nodes: np.ndarray) -> Tensor:
    """The logarithms of what n-grams say at nodes (N, K): (N, V)."""
    parts = np.array_split(nodes, 1 + len(nodes) // 4096)
    return torch.cat(
        [torch.from_numpy(tree.probabilities_at(part)).float().log() for part in parts]
    )


class Arm:
    """The recipe as it is. An arm overrides what it does otherwise."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        self.corpus, self.setting = corpus, setting
        self.config = TrainConfig(
            setting.steps,
            batch_size=setting.batch,
            bptt=BPTT,
            optimizer=setting.optimizer,
            muon_rate=0.06 if setting.batch == 32 else TrainConfig.muon_rate,
            warmup_steps=min(TrainConfig.warmup_steps, setting.steps // 10),
            seed=setting.seed,
        )
        self.stream = (len(corpus.train) - 1) // setting.batch
        self.at, self.offset = 0, 0
        self.read, self.whole = 0, setting.steps * setting.batch * BPTT
        self.random = np.random.default_rng(setting.seed)
        self.train = torch.from_numpy(corpus.train)
        self.network = self.build()

    def build(self) -> LanguageModel:
        """The network at its start."""
        network = LanguageModel(self.model())
        network.reset_parameters(torch.Generator().manual_seed(self.setting.seed))
        return network

    def model(self, **changes: Any) -> ModelConfig:
        """Its shape."""
        hidden = changes.get("hidden_size", self.setting.hidden)
        usual = {"cell": "lstm", "num_layers": self.setting.layers, "hidden_size": hidden}
        usual |= {"embedding_size": hidden, "dropout": self.setting.dropout}
        return ModelConfig(self.corpus.vocab_size, **usual | changes)

    def length(self) -> int:
        """Steps of the next window."""
        return BPTT

    def window(self, step: int) -> tuple[Tensor, bool]:
        """Places (T + 1, B) in the text, and whether streams begin there."""
        length = self.length()
        if self.at + length > self.stream:
            self.at, self.offset = 0, int(self.random.integers(len(self.corpus.train)))
        starts = np.arange(self.setting.batch) * self.stream
        places = self.offset + self.at + starts[None] + np.arange(length + 1)[:, None]
        first, self.at = self.at == 0, self.at + length
        return torch.from_numpy(places % len(self.corpus.train)), first

    def initial_state(self) -> State:
        """Where streams begin."""
        return self.network.initial_state(self.setting.batch)

    def begin(self, state: State) -> State:
        """Where the next window begins: where the one before it ended."""
        return state

    def backward(self, places: Tensor, state: State, generator: torch.Generator) -> State:
        """Leaves the gradient in the network; the state after."""
        self.network.zero_grad()
        ids = self.train[places]
        logits, state = self.network(ids[:-1], state, generator)
        loss = self.loss(logits.flatten(0, 1), ids, places, self.read / self.whole)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        self.read += places[1:].numel()
        for parameter in self.network.parameters():
            if parameter.grad is None:  # of a start state, where no stream starts
                parameter.grad = torch.zeros_like(parameter)
        return state

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Of logits (T * B, V) for ids (T + 1, B) at places (T + 1, B), `done` of the training."""
        return cross_entropy(logits, ids[1:].flatten())

    def rate(self, step: int) -> float:
        """Share of the peak rates."""
        return schedule(self.config, step)
