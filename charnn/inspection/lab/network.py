"""The lab's network: one recurrent layer of charnn's, and a linear layer that reads it.

Shapes: T steps, B sequences, D features in, H hidden units, K outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from charnn.config import GATE_ROLES, GATES
from charnn.model.cells import CELLS


class LabNetwork(nn.Module):
    """Reads (T, B, D) from the start state, and gives (T, B, K)."""

    def __init__(self, cell: str, inputs: int, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.cell: Any = CELLS[cell](inputs, hidden_size)  # a module of any cell
        self.head = nn.Linear(hidden_size, outputs)

    def reset_parameters(
        self, generator: torch.Generator, orthogonal: bool = True, chrono: int | None = None
    ) -> None:
        """Starts all weights anew, as charnn does unless told otherwise.

        Recurrent matrices that are not `orthogonal` are drawn from a normal distribution of
        variance 1/H, so that on average they keep a state's length, too. `chrono` is the longest
        time that there is to bridge (see `set_chrono`).
        """
        self.cell.reset_parameters(generator)
        with torch.no_grad():
            if not orthogonal:
                scale = self.cell.hidden_size**-0.5
                self.cell.weight_hh.normal_(0.0, scale, generator=generator)
            self.head.weight.normal_(0.0, self.cell.hidden_size**-0.5, generator=generator)
            self.head.bias.zero_()
        if chrono is not None:
            set_chrono(self.cell, chrono, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        outputs, _ = self.cell(inputs, self.cell.initial_state(inputs.shape[1]))
        result: Tensor = self.head(outputs)
        return result


def set_chrono(cell: Any, longest: int, generator: torch.Generator) -> None:
    """Chrono initialisation (Tallec and Ollivier 2018) of the layer's biases.

    b_keep = log u with u uniform from 1 to `longest` - 1, so that a unit forgets in about u steps;
    the LSTM's input gate gets -b_keep. A cell without gates is left as it is.
    """
    roles = GATE_ROLES[cell.cell]
    gates, size = GATES[cell.cell], cell.hidden_size
    with torch.no_grad():
        times = torch.empty(size).uniform_(1.0, max(longest - 1.0, 1.0), generator=generator)
        rows = cell.bias.view(len(gates), size)
        if roles.keep:
            rows[gates.index(roles.keep)] = times.log()
        if roles.write:
            rows[gates.index(roles.write)] = -times.log()
