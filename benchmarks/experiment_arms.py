"""Arms that train otherwise: rates, states, windows, weights, logits, another kind of layer.

Shapes: T steps, B streams, H hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from experiment_arm import Arm
from torch import Tensor, nn

from charnn.model import LanguageModel
from charnn.model.cells import RecurrentLayer
from charnn.model.state import HiddenState, State, map_state


class Constant(Arm):
    """No fall of the rate: averaged weights are to take its place."""

    def rate(self, step: int) -> float:
        """Rises, and stays."""
        return min(1.0, (step + 1) / (self.config.warmup_steps + 1))


class Resets(Arm):
    """Each stream begins anew at a window with some probability."""

    probability = 0.05

    def begin(self, state: State) -> State:
        """Anew for some."""
        anew = torch.from_numpy(self.random.random(self.setting.batch) < self.probability)[:, None]
        return map_state(lambda a, b: torch.where(anew, b, a), state, self.initial_state())


class Start(Resets):
    """A start state that is learnt, and resets so that it is."""

    probability = 0.1

    def build(self) -> LanguageModel:
        """With a start state."""
        network = super().build()
        zeros = network.initial_state(1)
        parts = [nn.Parameter(part.clone()[0]) for layer in zeros for part in layer]
        network.start = nn.ParameterList(parts)

        def initial_state(batch_size: int) -> State:
            learnt = iter(network.start)
            return map_state(lambda _: next(learnt).expand(batch_size, -1), zeros)

        network.initial_state = initial_state  # type: ignore[method-assign]  # of this network alone
        return network


class Lengths(Arm):
    """Windows of several lengths."""

    def length(self) -> int:
        """Drawn."""
        return int(self.random.choice((32, 64, 96)))


class Forget(Arm):
    """Forget biases for memories of 1 to 64 steps (Tallec and Ollivier 2018)."""

    def build(self) -> LanguageModel:
        """With its biases."""
        network = super().build()
        generator = torch.Generator().manual_seed(self.setting.seed + 1)
        with torch.no_grad():
            for block in network.blocks():
                i, f, _, _ = block.cell.bias.chunk(4)
                f.uniform_(1.0, 63.0, generator=generator).log_()
                i.copy_(-f)
        return network


class Softcap(Arm):
    """Logits bent to lie within 15."""

    def loss(self, logits: Tensor, ids: Tensor, places: Tensor, done: float) -> Tensor:
        """That of what is bent."""
        return super().loss(15 * torch.tanh(logits / 15), ids, places, done)


class WeightDrop(Arm):
    """A part of the recurrent weights is left out in each window (Merity et al. 2018)."""

    probability = 0.2

    def backward(self, places: Tensor, state: State, generator: torch.Generator) -> State:
        """With what is left of the weights."""
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
        """With what is left of the weights."""
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
        self.weight_hh = torch.zeros(0)  # type: ignore[assignment]  # it has no such weight

    def reset_parameters(self, generator: torch.Generator) -> None:
        """No bias but that of what is kept."""
        with torch.no_grad():
            self.weight_ih.normal_(0.0, self.weight_ih.shape[1] ** -0.5, generator=generator)
            self.bias.zero_()
            a, _, _ = self.bias.chunk(3)
            a.uniform_(1.0, 63.0, generator=generator).log_()

    def _run(
        self, inputs: Tensor, state: HiddenState, weight_ih: Tensor
    ) -> tuple[Tensor, HiddenState]:
        sums = torch.nn.functional.linear(inputs, weight_ih, self.bias)
        a, n, o = sums.chunk(3, dim=-1)
        h = _Scan.apply(torch.sigmoid(a), n, state.h)
        return nn.functional.silu(o) * h, HiddenState(h[-1])


class Parallel(Arm):
    """Layers of a parallel recurrence: six of them are as much work as two of the LSTM."""

    layers, hidden = 6, 256

    def build(self) -> LanguageModel:
        """With other layers."""
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
