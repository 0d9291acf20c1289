"""The shape of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from charnn.config.settings import REQUIRED, Config, choice, number, whole
from charnn.errors import ConfigError

# Gates of each cell, in the order of their rows in the weights.
GATES = {"rnn": ("h",), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}
STATES = {"rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}
# Biases (H,) of a cell besides the one that has a row for each gate.
EXTRA_BIASES = {"gru": ("bias_hn",)}


class GateRoles(NamedTuple):
    """Roles of a cell's gates.

    ``sigmoid`` gates range from 0 (shut) to 1 (open). ``keep`` is the gate that keeps the state
    when open; ``write`` the gate that lets new values in, if that is another gate; ``output`` the
    gate between the state and the output of the layer. The other gates are new values (tanh).
    """

    sigmoid: tuple[str, ...] = ()
    keep: str | None = None
    write: str | None = None
    output: str | None = None


GATE_ROLES = {
    "rnn": GateRoles(),
    "gru": GateRoles(("r", "z"), keep="z"),
    "lstm": GateRoles(("i", "f", "o"), keep="f", write="i", output="o"),
}

T = TypeVar("T")


def for_cell(table: Mapping[str, T], cell: str, feature: str, instead: str) -> T:
    """Returns a cell's entry in the table of a feature that not every cell has.

    Raises:
        ConfigError: the cell lacks the feature; `instead` names the way out.
    """
    if cell not in table:
        raise ConfigError(
            f"{feature} cannot run a model of the cell {cell!r}, only of {', '.join(table)}: "
            f"{instead}"
        )
    return table[cell]


# Far above what a laptop trains; checking a header with more would exhaust the memory.
MAX_VOCAB_SIZE = 1 << 21
MAX_HIDDEN_SIZE = 1 << 15
MAX_LAYERS = 256

NETWORK = "Network"  # a section of the help


def is_gate_matrix(name: str) -> bool:
    """Tells whether a weight is the input or recurrent matrix of a layer, which Muon trains."""
    return name.endswith((".weight_ih", ".weight_hh"))


@dataclass(frozen=True)
class ModelConfig(Config):
    """The shape of a language model: everything needed to rebuild its tensors.

    V is ``vocab_size``, E ``embedding_size``, H ``hidden_size``; layer 0 reads E features, the
    others H. A residual path joins input and output of a layer where the two widths agree.
    """

    vocab_size: int = whole(REQUIRED, 1, MAX_VOCAB_SIZE, "Different tokens.")
    cell: str = choice("lstm", GATES, "Recurrent cell.", section=NETWORK)
    embedding_size: int = whole(
        256, 1, MAX_HIDDEN_SIZE, "Numbers that represent one token.", section=NETWORK
    )
    hidden_size: int = whole(256, 1, MAX_HIDDEN_SIZE, "Units of a layer.", section=NETWORK)
    num_layers: int = whole(3, 1, MAX_LAYERS, "Recurrent layers.", section=NETWORK)
    dropout: float = number(
        0.0, 0, 0.95, "Share of the units dropped in training.", section=NETWORK
    )

    def input_size(self, layer: int) -> int:
        """Returns the features that a layer reads: E for layer 0, H above it."""
        return self.embedding_size if layer == 0 else self.hidden_size

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of one stream's state: layers, parts of a state in the order of `STATES`, H."""
        return self.num_layers, len(STATES[self.cell]), self.hidden_size

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns name and shape of every weight, in the order of the forward pass."""
        v, h, rows = self.vocab_size, self.hidden_size, len(GATES[self.cell]) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (v, self.embedding_size)}
        for layer in range(self.num_layers):
            d = self.input_size(layer)
            shapes[f"layers.{layer}.norm.weight"] = (d,)
            shapes[f"layers.{layer}.norm.bias"] = (d,)
            shapes[f"layers.{layer}.cell.weight_ih"] = (rows, d)
            shapes[f"layers.{layer}.cell.weight_hh"] = (rows, h)
            shapes[f"layers.{layer}.cell.bias"] = (rows,)
            for name in EXTRA_BIASES.get(self.cell, ()):
                shapes[f"layers.{layer}.cell.{name}"] = (h,)
        shapes["norm.weight"] = shapes["norm.bias"] = (h,)
        shapes["head.weight"] = (v, h)
        shapes["head.bias"] = (v,)
        return shapes

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())
