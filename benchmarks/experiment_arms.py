"""Arms of the experiments: the recipe as it is, and changes of it.

An arm is a class; it overrides the part of the recipe that it changes.

Shapes: T steps, B streams, V symbols, H hidden units, N positions in the text, K order of n-grams.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from charnn.config import ModelConfig, TrainConfig
from charnn.model import LanguageModel
from charnn.model.cells import RecurrentLayer
from charnn.model.state import HiddenState, State, map_state
from charnn.ngrams.add import ONCE
from charnn.ngrams.tree import NGramTree
from charnn.training.optimizer import schedule

BPTT = 64
ORDER = 10  # of the n-grams


@dataclass(frozen=True)
class Corpus:
    """A text as ids: the training part and the held-out part."""

    name: str
    train: np.ndarray
    held_out: np.ndarray
    vocab_size: int


@dataclass(frozen=True)
class Setting:
    """The settings that all arms of an experiment share."""

    seed: int
    steps: int
    layers: int
    hidden: int
    batch: int
    optimizer: str
    dropout: float
    keep: Path | None

    def kept(self, corpus: Corpus, seed: int) -> Path:
        """Returns the file of the weights of a base network."""
        if not self.keep:
            sys.exit("error: the arm distil needs --keep DIR with the weights of base")
        return self.keep / f"{corpus.name}-{seed}.pt"


def said_at(tree: NGramTree, nodes: np.ndarray) -> Tensor:
    """Returns the log-probabilities (N, V) of n-grams at tree nodes (N, K)."""
    parts = np.array_split(nodes, 1 + len(nodes) // 4096)
    return torch.cat(
        [torch.from_numpy(tree.probabilities_at(part)).float().log() for part in parts]
    )


class Arm:
    """The recipe as it is."""

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
        """Returns the network to train."""
        network = LanguageModel(self.model())
        network.reset_parameters(torch.Generator().manual_seed(self.setting.seed))
        return network

    def model(self, **changes: Any) -> ModelConfig:
        """Returns the shape of the network."""
        hidden = changes.get("hidden_size", self.setting.hidden)
        usual = {"cell": "lstm", "num_layers": self.setting.layers, "hidden_size": hidden}
        usual |= {"embedding_size": hidden, "dropout": self.setting.dropout}
        return ModelConfig(self.corpus.vocab_size, **usual | changes)

    def length(self) -> int:
        """Returns the steps of the next window."""
        return BPTT

    def window(self, step: int) -> tuple[Tensor, bool]:
        """Returns positions (T + 1, B) in the text, and whether the streams begin there."""
        length = self.length()
        if self.at + length > self.stream:
            self.at, self.offset = 0, int(self.random.integers(len(self.corpus.train)))
        starts = np.arange(self.setting.batch) * self.stream
        places = self.offset + self.at + starts[None] + np.arange(length + 1)[:, None]
        first, self.at = self.at == 0, self.at + length
        return torch.from_numpy(places % len(self.corpus.train)), first

    def initial_state(self) -> State:
        """Returns the state at the beginning of streams."""
        return self.network.initial_state(self.setting.batch)

    def begin(self, state: State) -> State:
        """Returns the state before the next window, given the state after the last one."""
        return state

    def backward(self, places: Tensor, state: State, generator: torch.Generator) -> State:
        """Computes the gradients of the network; returns the state after the window."""
        self.network.zero_grad()
        ids = self.train[places]
        logits, state = self.network(ids[:-1], state, generator)
        loss = self.loss(logits.flatten(0, 1), ids, places, self.read / self.whole)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        self.read += places[1:].numel()
        for parameter in self.network.parameters():
            if parameter.grad is None:  # a learnt start state in a window where no stream begins
                parameter.grad = torch.zeros_like(parameter)
        return state

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the loss of logits (T * B, V) for ids (T + 1, B) at positions (T + 1, B).

        `done` is the finished share of the run.
        """
        return cross_entropy(logits, ids[1:].flatten())

    def rate(self, step: int) -> float:
        """Returns the learning rate as a share of the peak."""
        return schedule(self.config, step)


class Constant(Arm):
    """A constant learning rate, for averaged weights instead of decay."""

    def rate(self, step: int) -> float:
        """Warms up, then stays at the peak."""
        return min(1.0, (step + 1) / (self.config.warmup_steps + 1))


class Resets(Arm):
    """Resets each stream to the initial state before a window with some probability."""

    probability = 0.05

    def begin(self, state: State) -> State:
        """Resets some streams."""
        anew = torch.from_numpy(self.random.random(self.setting.batch) < self.probability)[:, None]
        return map_state(lambda a, b: torch.where(anew, b, a), state, self.initial_state())


class Start(Resets):
    """Learns the initial state; resets give it gradients."""

    probability = 0.1

    def build(self) -> LanguageModel:
        """Adds the initial state to the parameters."""
        network = super().build()
        zeros = network.initial_state(1)
        parts = [nn.Parameter(part.clone()[0]) for layer in zeros for part in layer]
        network.start = nn.ParameterList(parts)

        def initial_state(batch_size: int) -> State:
            learnt = iter(network.start)
            return map_state(lambda _: next(learnt).expand(batch_size, -1), zeros)

        network.initial_state = initial_state  # type: ignore[method-assign]  # on this instance alone
        return network


class Lengths(Arm):
    """Draws the length of each window."""

    def length(self) -> int:
        """Draws one of three lengths."""
        return int(self.random.choice((32, 64, 96)))


class Forget(Arm):
    """Initialises forget biases for time constants of 1 to 64 steps (Tallec and Ollivier 2018)."""

    def build(self) -> LanguageModel:
        """Sets the biases of the forget and input gates."""
        network = super().build()
        generator = torch.Generator().manual_seed(self.setting.seed + 1)
        with torch.no_grad():
            for block in network.blocks():
                i, f, _, _ = block.cell.bias.chunk(4)
                f.uniform_(1.0, 63.0, generator=generator).log_()
                i.copy_(-f)
        return network


class Softcap(Arm):
    """Caps logits softly at 15."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the loss of the capped logits."""
        return super().loss(15 * torch.tanh(logits / 15), ids, places, done)


class WeightDrop(Arm):
    """Drops recurrent weights for each window (Merity et al. 2018)."""

    probability = 0.2

    def backward(self, places: Tensor, state: State, generator: torch.Generator) -> State:
        """Computes the gradients with masked weights."""
        whole, masks = [], []
        with torch.no_grad():
            for block in self.network.blocks():
                weight = block.cell.weight_hh
                mask = torch.empty_like(weight).bernoulli_(
                    1 - self.probability, generator=generator
                )
                masks.append(mask.div_(1 - self.probability))
                whole.append(weight.clone())
                weight.mul_(mask)
        state = super().backward(places, state, generator)
        with torch.no_grad():
            for block, weight, mask in zip(self.network.blocks(), whole, masks, strict=True):
                block.cell.weight_hh.copy_(weight)
                block.cell.weight_hh.grad.mul_(mask)
        return state


class _Scan(torch.autograd.Function):
    """h[t] = a[t] h[t-1] + (1 - a[t]) n[t], for a and n (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, n: Tensor, h0: Tensor) -> Tensor:
        states = torch.cat([h0[None], torch.empty_like(a)])
        for t in range(len(a)):
            torch.lerp(n[t], states[t], a[t], out=states[t + 1])
        ctx.save_for_backward(a, n, states)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of a, n and h0."""
        a, n, states = ctx.saved_tensors
        dh = dy.clone()
        for t in range(len(a) - 1, 0, -1):
            dh[t - 1].addcmul_(dh[t], a[t])
        return dh * (states[:-1] - n), dh * (1 - a), dh[0] * a[0]


class ParallelLayer(RecurrentLayer):
    """A recurrence without a recurrent matrix (minGRU, Feng et al. 2024; SRU, Lei et al. 2018).

    h[t] = a[t] h[t-1] + (1 - a[t]) n[t],   y[t] = silu(o[t]) h[t]
    """

    cell = "gru"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        del self.weight_hh
        self.weight_hh = torch.zeros(0)  # type: ignore[assignment]  # the layer has no such weight

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Initialises the weights, and the bias of a for time constants of 1 to 64 steps."""
        with torch.no_grad():
            self.weight_ih.normal_(0.0, self.weight_ih.shape[1] ** -0.5, generator=generator)
            self.bias.zero_()
            a, _, _ = self.bias.chunk(3)
            a.uniform_(1.0, 63.0, generator=generator).log_()

    def forward(
        self, inputs: Tensor, state: HiddenState, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, HiddenState]:
        """See `RecurrentLayer.forward`."""
        weight_ih, _, bias = self._weights(inputs.dtype, weight_ih)
        sums = torch.nn.functional.linear(inputs, weight_ih, bias)
        a, n, o = sums.chunk(3, dim=-1)
        h = _Scan.apply(torch.sigmoid(a), n, state.h)
        return nn.functional.silu(o) * h, HiddenState(h[-1])


class Parallel(Arm):
    """Six layers of a parallel recurrence, as much work as two LSTM layers."""

    layers, hidden = 6, 256

    def build(self) -> LanguageModel:
        """Replaces the cells of a GRU network."""
        generator = torch.Generator().manual_seed(self.setting.seed)
        network = LanguageModel(
            self.model(
                cell="gru",
                num_layers=self.layers,
                hidden_size=self.hidden,
                embedding_size=self.hidden,
            )
        )
        for block in network.blocks():
            block.cell = ParallelLayer(self.hidden, self.hidden)
        network.reset_parameters(generator)
        return network


FOLDS = 8


def held_out_counts(corpus: Corpus) -> Tensor:
    """Returns log-probabilities (N, V) of n-grams of the other seven eighths of a text."""
    ids = corpus.train
    found = []
    for fold in np.array_split(np.arange(len(ids)), FOLDS):
        tree = NGramTree.of(np.delete(ids, fold), corpus.vocab_size, ORDER, ONCE)
        before = np.concatenate([ids[fold[:1] - 1], ids[fold[:-1]]])
        nodes = tree.walk(tree.start()[None], before[:, None])[:, 0]
        found.append(said_at(tree, nodes).half())
    return torch.cat(found)


class Counted(Arm):
    """An arm with log-probabilities of n-grams that were counted without the target's fold."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.counted = held_out_counts(corpus)

    def counted_at(self, places: Tensor) -> Tensor:
        """Returns the log-probabilities (T * B, V) before the targets of a window."""
        return self.counted[places[1:].flatten()].float()


class Shared(Counted):
    """Trains on the loss of a linear mixture with n-grams."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.share = 0.3

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns that loss; updates the share by expectation maximisation."""
        wanted = ids[1:].reshape(-1, 1)
        model = logits.log_softmax(-1).gather(-1, wanted)[:, 0] + math.log1p(-self.share)
        counted = self.counted_at(places).gather(-1, wanted)[:, 0] + math.log(self.share)
        mixed = torch.logaddexp(model, counted)
        with torch.no_grad():
            self.share += 0.02 * (float((counted - mixed).exp().mean()) - self.share)
        return -mixed.mean()


class LateShared(Shared):
    """Trains on the loss of a linear mixture in the second half of the run."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the loss of the mixture or of the network."""
        mixed = super().loss(logits, ids, places, done)
        return mixed if done >= 0.5 else cross_entropy(logits, ids[1:].flatten())


class Residual(Counted):
    """Trains a log-linear mixture with n-grams q: p ~ exp(logits + b log q), with b learnt."""

    def build(self) -> LanguageModel:
        """Adds b to the parameters."""
        network = super().build()
        network.ngram_weight = nn.Parameter(torch.ones(1))
        return network

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the loss of the mixture."""
        both = logits + self.network.ngram_weight * self.counted_at(places)
        return cross_entropy(both, ids[1:].flatten())


class HalfResidual(Residual):
    """Trains on the mean of the losses of the mixture and of the network."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the mean of both losses."""
        usual = cross_entropy(logits, ids[1:].flatten())
        return (super().loss(logits, ids, places, done) + usual) / 2


class LateResidual(Counted):
    """Trains on the loss of a log-linear mixture in the last quarter of the run."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the loss of the mixture or of the network."""
        if done >= 0.75:
            logits = 0.6 * logits + 0.45 * self.counted_at(places)
        return cross_entropy(logits, ids[1:].flatten())


class Distil(Arm):
    """Distils the mean of three base networks (Hinton et al. 2015)."""

    def __init__(self, corpus: Corpus, setting: Setting) -> None:
        super().__init__(corpus, setting)
        self.teachers: list[LanguageModel] = []
        for seed in range(3):
            network = LanguageModel(self.model())
            network.load_state_dict(torch.load(setting.kept(corpus, seed)))
            self.teachers.append(network.eval())
        self.states = [each.initial_state(setting.batch) for each in self.teachers]

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """Returns the mean of the losses against the teachers and against the text."""
        said = []
        with torch.inference_mode():
            for number, teacher in enumerate(self.teachers):
                theirs, self.states[number] = teacher(ids[:-1], self.states[number])
                said.append(theirs.softmax(-1))
            mean = torch.stack(said).mean(0).flatten(0, 1)
        own = logits.log_softmax(-1)
        soft = kl_div(own, mean.clone(), reduction="batchmean")
        return 0.5 * soft + 0.5 * cross_entropy(logits, ids[1:].flatten())
