"""The recurrent layers: vanilla RNN, GRU and LSTM.

Each holds one weight matrix for its input and one for its state, with the rows of its gates one
below the other, and runs a whole window through one call: of torch's own function for the cell or,
where it learns on a processor, of `charnn.model.kernels`, which has the RNN and the GRU.

Shapes: T steps, B streams, D features in, H hidden units, G gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn

from charnn.config import GATES
from charnn.model import kernels
from charnn.model.state import GRUState, LSTMState, RNNState

S = TypeVar("S", RNNState, GRUState, LSTMState)


class RecurrentLayer(nn.Module, ABC, Generic[S]):
    """One layer of a recurrent network, of any cell.

    ``weight_ih`` (G*H, D) reads the input, ``weight_hh`` (G*H, H) the state, ``bias`` (G*H,). The
    arithmetic is done in the type of the inputs; states are float32 whatever that is.
    """

    cell: str
    state_type: type[S]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        rows = len(GATES[self.cell]) * hidden_size
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Starts the weights anew: orthogonal recurrent blocks, gate by gate, scaled inputs.

        An orthogonal recurrent matrix neither shrinks nor stretches a state (Saxe et al. 2014).
        """
        with torch.no_grad():
            self.weight_ih.normal_(0.0, self.weight_ih.shape[1] ** -0.5, generator=generator)
            for block in torch.split(self.weight_hh, self.hidden_size):
                nn.init.orthogonal_(block, generator=generator)
            self.bias.zero_()

    def initial_state(self, batch_size: int) -> S:
        """The state at which every text starts: zeros, (B, H) each."""
        zeros = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        return self.state_type(*(zeros for _ in self.state_type._fields))

    def forward(
        self, inputs: Tensor, state: S, weight_ih: Tensor | None = None
    ) -> tuple[Tensor, S]:
        """Reads inputs (T, B, D) from `state`; returns outputs (T, B, H) and the state after.

        Another ``weight_ih`` (G*H, D), for inputs of another D, may stand in for the layer's own.
        """
        return self._run(inputs, state, self.weight_ih if weight_ih is None else weight_ih)

    @abstractmethod
    def _run(self, inputs: Tensor, state: S, weight_ih: Tensor) -> tuple[Tensor, S]: ...

    def _weights(self, dtype: torch.dtype, weight_ih: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return weight_ih.to(dtype), self.weight_hh.to(dtype), self.bias.to(dtype)


def _learns_on_a_processor(inputs: Tensor) -> bool:
    """Where the kernels of this package beat torch's; without gradients they do not."""
    return torch.is_grad_enabled() and inputs.device.type == "cpu"


@final
class RNN(RecurrentLayer[RNNState]):
    """Vanilla recurrent layer (Elman 1990).

    h' = tanh(W_ih x + W_hh h + b)
    """

    cell = "rnn"
    state_type = RNNState

    def _run(self, inputs: Tensor, state: RNNState, weight_ih: Tensor) -> tuple[Tensor, RNNState]:
        h = state.h.to(inputs.dtype)
        weights = self._weights(inputs.dtype, weight_ih)
        if _learns_on_a_processor(inputs):
            outputs = kernels.rnn(inputs, h, *weights)
        else:
            bias_hh = torch.zeros_like(weights[2])
            outputs, _ = torch.rnn_tanh(
                inputs, h[None], [*weights, bias_hh], True, 1, 0.0, self.training, False, False
            )
        return outputs, RNNState(outputs[-1].float())


@final
class GRU(RecurrentLayer[GRUState]):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate behind the recurrent product.

    r = sigmoid(W_ir x + W_hr h + b_r)
    z = sigmoid(W_iz x + W_hz h + b_z)
    n = tanh(W_in x + b_n + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

    ``bias_hn`` (H,) is the one bias that cannot be merged into ``bias``.
    """

    cell = "gru"
    state_type = GRUState

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.bias_hn = nn.Parameter(torch.empty(hidden_size))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """See `RecurrentLayer.reset_parameters`; the update gate starts out keeping the state."""
        super().reset_parameters(generator)
        with torch.no_grad():
            self.bias[self.hidden_size : 2 * self.hidden_size] = 1.0
            self.bias_hn.zero_()

    def _run(self, inputs: Tensor, state: GRUState, weight_ih: Tensor) -> tuple[Tensor, GRUState]:
        h, bias_hn = state.h.to(inputs.dtype), self.bias_hn.to(inputs.dtype)
        weights = self._weights(inputs.dtype, weight_ih)
        if _learns_on_a_processor(inputs):
            outputs = kernels.gru(inputs, h, *weights, bias_hn)
        else:
            bias_hh = torch.cat([bias_hn.new_zeros(2 * self.hidden_size), bias_hn])
            outputs, _ = torch.gru(
                inputs, h[None], [*weights, bias_hh], True, 1, 0.0, self.training, False, False
            )
        return outputs, GRUState(outputs[-1].float())


@final
class LSTM(RecurrentLayer[LSTMState]):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers 2000).

    i = sigmoid(W_ii x + W_hi h + b_i)      f = sigmoid(W_if x + W_hf h + b_f)
    g = tanh(W_ig x + W_hg h + b_g)         o = sigmoid(W_io x + W_ho h + b_o)
    c' = f * c + i * g
    h' = o * tanh(c')
    """

    cell = "lstm"
    state_type = LSTMState

    def reset_parameters(self, generator: torch.Generator) -> None:
        """See `RecurrentLayer.reset_parameters`; the forget bias is 1 (Jozefowicz et al. 2015)."""
        super().reset_parameters(generator)
        with torch.no_grad():
            self.bias[self.hidden_size : 2 * self.hidden_size] = 1.0

    def _run(self, inputs: Tensor, state: LSTMState, weight_ih: Tensor) -> tuple[Tensor, LSTMState]:
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


CELLS: dict[
    str,
    type[RecurrentLayer[RNNState]]
    | type[RecurrentLayer[GRUState]]
    | type[RecurrentLayer[LSTMState]],
] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
