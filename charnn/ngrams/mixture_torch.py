"""A network and the n-grams of its text, mixed, for scoring; see `charnn.ngrams.mixture`.

Shapes: B streams, T steps, V symbols, K = order of the n-grams.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charnn.config import ModelConfig, Powers
from charnn.model.language_model import LanguageModel
from charnn.model.state import NGramState, State
from charnn.ngrams.tree import LEAST, NGramTree


class MixedLanguageModel(nn.Module):
    """Scores as a `LanguageModel` does, by the network and the counts to the power of each.

    Where the network's power is 0 it is not asked, and its state stays as it is.
    """

    def __init__(self, network: LanguageModel, tree: NGramTree, powers: Powers) -> None:
        super().__init__()
        self.network, self.tree, self.powers = network, tree, powers

    @property
    def config(self) -> ModelConfig:
        """The shape of the network."""
        return self.network.config

    def initial_state(self, batch_size: int) -> State:
        """The state from which every text starts: that of the network, and the empty context."""
        nodes = torch.from_numpy(self.tree.start()).repeat(batch_size, 1)
        return (*self.network.initial_state(batch_size), NGramState(nodes))

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Reads tokens (T, B) from `state`; returns logits (T, B, V) and the state after."""
        *layers, last = state
        assert isinstance(last, NGramState), "the state is one of `initial_state`"
        counted, nodes = self._counted(tokens, last)
        mixed = self.powers.ngrams * counted
        if not self.powers.network:
            return mixed, (*layers, nodes)
        logits, after = self.network(tokens, tuple(layers))
        return self.powers.network * logits + mixed.to(logits.device), (*after, nodes)

    def _counted(self, tokens: Tensor, state: NGramState) -> tuple[Tensor, NGramState]:
        """The logarithms of what the counts say after tokens (T, B): (T, B, V), and the state."""
        nodes = self.tree.walk(state.nodes.numpy(), tokens.cpu().numpy())
        p = self.tree.probabilities_at(nodes.reshape(-1, self.tree.order))
        shape = (*tokens.shape, self.config.vocab_size)
        logs = torch.from_numpy(p).clamp_(LEAST).log_().float()
        return logs.view(shape), NGramState(torch.from_numpy(nodes[-1]))
