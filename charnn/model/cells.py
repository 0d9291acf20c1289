"""The recurrent layers: vanilla RNN, GRU and LSTM.

A layer holds one weight matrix for its input and one for its state, with the rows of its gates one
below the other in the order of `config.GATES`. It runs a whole window in one call: of torch's own
function or, for an RNN or a GRU that trains on a CPU, of `charnn.model.kernels`.

Shapes: T steps, B streams, D features in, H hidden units, G gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from charnn.config import GATE_ROLES, GATES
from charnn.model import kernels
from charnn.model.state import HiddenState, LSTMState


class RecurrentLayer(nn.Module, ABC):
    """One layer of a recurrent network.

    ``weight_ih`` (G*H, D) reads the input, ``weight_hh`` (G*H, H) the state, ``bias`` (G*H,). The
    layer computes in the dtype of its inputs; states are always float32.

    Attributes:
        cell: the name in `CELLS`.
        state_type: the named tuple of the layer's state, its fields those of `config.STATES`.
    """

    cell: ClassVar[str]
    state_type: ClassVar[type[Any]] = HiddenState

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        rows = len(GATES[self.cell]) * hidden_size
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws new weights: an orthogonal recurrent matrix for each gate, scaled inputs.

        An orthogonal matrix neither shrinks nor stretches a state (Saxe et al. 2014). The bias of
        the gate that keeps the state is 1 (Jozefowicz et al. 2015), all others 0.
        """
        keep = GATE_ROLES[self.cell].keep
        with torch.no_grad():
            self.weight_ih.normal_(0.0, self.weight_ih.shape[1] ** -0.5, generator=generator)
            for block in torch.split(self.weight_hh, self.hidden_size):
                nn.init.orthogonal_(block, generator=generator)
            self.bias.zero_()
            if keep:
                self.bias.view(-1, self.hidden_size)[GATES[self.cell].index(keep)] = 1.0

    def initial_state(self, batch_size: int) -> Any:
        """Returns the state at the start of a text: zeros, (B, H) each."""
        zeros = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        return self.state_type(*(zeros for _ in self.state_type._fields))

    @abstractmethod
    def forward(
        self, inputs: Tensor, state: Any, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Reads inputs (T, B, D) from `state`; returns outputs (T, B, H) and the state after.

        `weight_ih` (G*H, D) replaces the layer's own, for inputs of another D.
        """

    def _weights(
        self, dtype: torch.dtype, weight_ih: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = self.weight_ih if weight_ih is None else weight_ih
        return own.to(dtype), self.weight_hh.to(dtype), self.bias.to(dtype)


def _use_kernels(inputs: Tensor) -> bool:
    """Tells whether this package's kernels are faster than torch's: with gradients on a CPU."""
    return torch.is_grad_enabled() and inputs.device.type == "cpu"


class RNN(RecurrentLayer):
    """Vanilla recurrent layer (Elman 1990).

    h' = tanh(W_ih x + W_hh h + b)
    """

    cell = "rnn"

    def forward(
        self, inputs: Tensor, state: HiddenState, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, HiddenState]:
        h = state.h.to(inputs.dtype)
        weights = self._weights(inputs.dtype, weight_ih)
        if _use_kernels(inputs):
            outputs = kernels.rnn(inputs, h, *weights)
        else:
            bias_hh = torch.zeros_like(weights[2])
            outputs, _ = torch.rnn_tanh(
                inputs, h[None], [*weights, bias_hh], True, 1, 0.0, self.training, False, False
            )
        return outputs, HiddenState(outputs[-1].float())


class GRU(RecurrentLayer):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the recurrent product.

    r = sigmoid(W_ir x + W_hr h + b_r)
    z = sigmoid(W_iz x + W_hz h + b_z)
    n = tanh(W_in x + b_n + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

    ``bias_hn`` (H,) is the one bias that cannot be merged into ``bias``.
    """

    cell = "gru"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.bias_hn = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """See `RecurrentLayer.reset_parameters`; ``bias_hn`` starts at 0."""
        super().reset_parameters(generator)
        nn.init.zeros_(self.bias_hn)

    def forward(
        self, inputs: Tensor, state: HiddenState, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, HiddenState]:
        h, bias_hn = state.h.to(inputs.dtype), self.bias_hn.to(inputs.dtype)
        weights = self._weights(inputs.dtype, weight_ih)
        if _use_kernels(inputs):
            outputs = kernels.gru(inputs, h, *weights, bias_hn)
        else:
            bias_hh = torch.cat([bias_hn.new_zeros(2 * self.hidden_size), bias_hn])
            outputs, _ = torch.gru(
                inputs, h[None], [*weights, bias_hh], True, 1, 0.0, self.training, False, False
            )
        return outputs, HiddenState(outputs[-1].float())


class LSTM(RecurrentLayer):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers 2000).

    i = sigmoid(W_ii x + W_hi h + b_i)      f = sigmoid(W_if x + W_hf h + b_f)
    g = tanh(W_ig x + W_hg h + b_g)         o = sigmoid(W_io x + W_ho h + b_o)
    c' = f * c + i * g
    h' = o * tanh(c')
    """

    cell = "lstm"
    state_type = LSTMState

    def forward(
        self, inputs: Tensor, state: LSTMState, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        weights = self._weights(inputs.dtype, weight_ih)
        outputs, h, c = torch.lstm(
            inputs,
            [part.to(inputs.dtype)[None] for part in state],
            [*weights, torch.zeros_like(weights[2])],
            True,
            1,
            0.0,
            self.training,
            False,
            False,
        )
        return outputs, LSTMState(h[0].float(), c[0].float())


CELLS: dict[str, type[RecurrentLayer]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
