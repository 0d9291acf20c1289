"""Arms that learn from what others say: from n-grams, from other networks.

Shapes: N places, V symbols, K symbols of the n-grams.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from experiment_arm import ORDER, Arm, Corpus, Setting, said_at
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from charnn.model import LanguageModel
from charnn.ngrams.fit import ONCE
from charnn.ngrams.tree import NGramTree

FOLDS = 8


def held_out_counts(corpus: Corpus) -> Tensor:
    """The logarithms of what n-grams of the other seven eighths of the text say, (N, V)."""
    ids = corpus.train
    found = []
    for fold in np.array_split(np.arange(len(ids)), FOLDS):
        tree = NGramTree.of(np.delete(ids, fold), corpus.vocab_size, ORDER, ONCE)
        before = np.concatenate([ids[fold[:1] - 1], ids[fold[:-1]]])
        nodes = tree.walk(tree.start()[None], before[:, None])[:, 0]
        found.append(said_at(tree, nodes).half())
    return torch.cat(found)


class Counted(Arm):
    """An arm that knows what n-grams say that were counted without the place in question."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.counted = held_out_counts(corpus)

    def theirs(self, places: Tensor) -> Tensor:
        """The logarithms of what they say, (T * B, V), of the targets of a window."""
        return self.counted[places[1:].flatten()].float()


class Shared(Counted):
    """The loss is that of a mixture in which the n-grams have a share of the probability."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.share = 0.3

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Fits the share by expectation maximisation as it goes."""
        wanted = ids[1:].reshape(-1, 1)
        model = logits.log_softmax(-1).gather(-1, wanted)[:, 0] + math.log1p(-self.share)
        counted = self.theirs(places).gather(-1, wanted)[:, 0] + math.log(self.share)
        mixed = torch.logaddexp(model, counted)
        with torch.no_grad():
            self.share += 0.02 * (float((counted - mixed).exp().mean()) - self.share)
        return -mixed.mean()


class LateShared(Shared):
    """The same, from half time on."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """The usual one before."""
        mixed = super().loss(logits, ids, places, done)
        return mixed if done >= 0.5 else cross_entropy(logits, ids[1:].flatten())


class Residual(Counted):
    """The network learns what the n-grams lack: p ~ exp(logits + b log q), the power b learnt."""

    def build(self) -> LanguageModel:
        """With the power."""
        network = super().build()
        network.power = nn.Parameter(torch.ones(1))
        return network

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """That of both together."""
        both = logits + self.network.power * self.theirs(places)
        return cross_entropy(both, ids[1:].flatten())


class HalfResidual(Residual):
    """The mean of that loss and of the usual one."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Half of either."""
        usual = cross_entropy(logits, ids[1:].flatten())
        return (super().loss(logits, ids, places, done) + usual) / 2


class LateResidual(Counted):
    """For the last quarter, the loss of the mixture, by powers that suit it."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """The usual one before."""
        if done >= 0.75:
            logits = 0.6 * logits + 0.45 * self.theirs(places)
        return cross_entropy(logits, ids[1:].flatten())


class Distil(Arm):
    """Learns, half of it, what the mean of three base networks says (Hinton et al. 2015)."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.teachers: list[LanguageModel] = []
        for seed in range(3):
            network = LanguageModel(self.model())
            network.load_state_dict(torch.load(setting.kept(corpus, seed)))
            self.teachers.append(network.eval())
        self.states = [each.initial_state(setting.batch) for each in self.teachers]

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Half of it by what they say, half by what the text says."""
        said = []
        with torch.inference_mode():
            for number, teacher in enumerate(self.teachers):
                theirs, self.states[number] = teacher(ids[:-1], self.states[number])
                said.append(theirs.softmax(-1))
            mean = torch.stack(said).mean(0).flatten(0, 1)
        own = logits.log_softmax(-1)
        soft = kl_div(own, mean.clone(), reduction="batchmean")
        return 0.5 * soft + 0.5 * cross_entropy(logits, ids[1:].flatten())
