"""A log-linear mixture of a network and n-grams in torch, for scoring.

Shapes: B streams, T steps, V symbols, K = order of the n-grams.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from charnn.config import ModelConfig
from charnn.model.language_model import LanguageModel
from charnn.model.state import State
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import LEAST, NGramTree


class NGramState(NamedTuple):
    """Nodes (B, K) of each stream in the tree of n-grams, int64."""

    nodes: Tensor


class MixedLanguageModel(nn.Module):
    """A language model whose logits mix those of a network and the log-probabilities of n-grams.

    A network weight of 0 skips the network and leaves its state as it is.
    """

    def __init__(self, network: LanguageModel, tree: NGramTree, weights: MixtureWeights) -> None:
        super().__init__()
        self.network, self.tree, self.weights = network, tree, weights

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        return self.network.config

    def initial_state(self, batch_size: int) -> State:
        """Returns the initial state of the network and the empty context."""
        nodes = torch.from_numpy(self.tree.start()).repeat(batch_size, 1)
        return (*self.network.initial_state(batch_size), NGramState(nodes))

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads tokens (T, B) from `state`; returns logits (T, B, V) and the state after."""
        *layers, contexts = state
        nodes = self.tree.walk(contexts[0].numpy(), tokens.cpu().numpy())  # (T, B, K)
        p = self.tree.probabilities_at(nodes.reshape(-1, self.tree.order))
        ngrams = torch.from_numpy(p).clamp_(LEAST).log_().float().view(*tokens.shape, -1)
        mixed = self.weights.ngrams * ngrams
        after = NGramState(torch.from_numpy(nodes[-1]))
        if not self.weights.network:
            return mixed, (*layers, after)
        logits, inner = self.network(tokens, tuple(layers))
        return self.weights.network * logits + mixed.to(logits.device), (*inner, after)
