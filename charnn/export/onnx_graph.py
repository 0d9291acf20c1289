"""A network as an ONNX file: one step, with the state as input and output.

The graph is written from the weights with the equations of `charnn.model.cells`, without torch.

Shapes: B streams, V symbols, L layers, P parts of a state in the order of `STATES`, H units.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import STATES, ModelConfig, for_cell
from charnn.errors import CharnnError, needed
from charnn.pages import plain_name
from charnn.pages.records import card_rows
from charnn.tensor_file import replacing
from charnn.text.tokenizers import tokenizer_from_dict
from charnn.version import __version__

OPSET = 17  # the first that has LayerNormalization
IR_VERSION = 8  # belongs to this opset
NORM_EPSILON = 1e-5
MAX_BYTES = 2**31 - 2**20  # protobuf refuses files of 2 GiB

Parts = list[str]  # names of the parts of a layer's state, h first


class _Graph:
    """The nodes and constants of a graph; strings name its values."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = dict(weights)

    def add(self, kind: str, *inputs: str, count: int = 1, **attributes: Any) -> list[str]:
        """Adds a node; returns the names of its `count` outputs."""
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{output}" for output in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns its name."""
        return self.add(kind, *inputs, **attributes)[0]

    def output(self, name: str, value: str) -> None:
        """Gives a value the name of an output of the graph."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, name: str, numbers: list[int]) -> str:
        """Adds a constant of whole numbers; returns its name."""
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def norm(self, x: str, name: str) -> str:
        """Adds a layer norm."""
        weights = (f"{name}.weight", f"{name}.bias")
        return self.one("LayerNormalization", x, *weights, axis=-1, epsilon=NORM_EPSILON)

    def product(self, x: str, weight: str, bias: str = "") -> str:
        """Adds x W^T + b."""
        return self.one("Gemm", *filter(None, (x, weight, bias)), transB=1)


def _rnn(graph: _Graph, cell: str, x: str, state: Parts) -> Parts:
    inputs = graph.product(x, f"{cell}.weight_ih", f"{cell}.bias")
    return [graph.one("Tanh", graph.product(state[0], f"{cell}.weight_hh", inputs))]


def _gru(graph: _Graph, cell: str, x: str, state: Parts) -> Parts:
    (h,) = state
    inputs = graph.product(x, f"{cell}.weight_ih", f"{cell}.bias")
    ir, iz, from_x = graph.add("Split", inputs, count=3, axis=1)
    hr, hz, hn = graph.add("Split", graph.product(h, f"{cell}.weight_hh"), count=3, axis=1)
    r, z = (graph.one("Sigmoid", graph.one("Add", *pair)) for pair in ((ir, hr), (iz, hz)))
    from_h = graph.one("Mul", r, graph.one("Add", hn, f"{cell}.bias_hn"))
    n = graph.one("Tanh", graph.one("Add", from_x, from_h))
    return [graph.one("Add", n, graph.one("Mul", z, graph.one("Sub", h, n)))]


def _lstm(graph: _Graph, cell: str, x: str, state: Parts) -> Parts:
    h, c = state
    inputs = graph.product(x, f"{cell}.weight_ih", f"{cell}.bias")
    gates = graph.product(h, f"{cell}.weight_hh", inputs)
    i, f, g, o = graph.add("Split", gates, count=4, axis=1)
    i, f, o = (graph.one("Sigmoid", gate) for gate in (i, f, o))
    written = graph.one("Mul", i, graph.one("Tanh", g))
    c = graph.one("Add", graph.one("Mul", f, c), written)
    return [graph.one("Mul", o, graph.one("Tanh", c)), c]


Cell = Callable[[_Graph, str, str, Parts], Parts]
CELLS: dict[str, Cell] = {
    "rnn": _rnn,
    "gru": _gru,
    "lstm": _lstm,
}


def write_onnx(checkpoint: Checkpoint, name: str, output: Path) -> None:
    """Writes the network of a model as an ONNX file, whole or not at all.

    Inputs are ``token`` (B,) int64 and ``state`` (B, L, P, H), zeros at the start of a text;
    outputs are ``logits`` (B, V) and ``next_state``. `name` is the title.

    Raises:
        MissingPackage: onnx is not installed.
        CharnnError: the network is too large for the format, or its cell has no graph.
        FileError: the file cannot be written.
    """
    config = checkpoint.config
    cell = for_cell(CELLS, config.cell, "the exported ONNX graph", "sample with charnn")
    if 4 * config.parameters > MAX_BYTES:
        raise CharnnError(
            f"an ONNX file holds at most 2 GiB, and the weights take "
            f"{4 * config.parameters / 2**30:.1f}: export a smaller model"
        )
    with needed("--to onnx"):
        from onnx import TensorProto, helper, numpy_helper
    graph, title, real = _Graph(checkpoint.weights), plain_name(name), TensorProto.FLOAT
    _add_step(graph, config, cell)
    state_shape: list[str | int | None] = ["batch", *config.state_shape]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "step",
            [
                helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]),
                helper.make_tensor_value_info("state", real, state_shape),
            ],
            [
                helper.make_tensor_value_info("logits", real, ["batch", config.vocab_size]),
                helper.make_tensor_value_info("next_state", real, state_shape),
            ],
            [numpy_helper.from_array(array, key) for key, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="charnn",
        producer_version=__version__,
        doc_string=f"{title}: one step of a recurrent language model",
    )
    helper.set_model_props(model, {"name": title, **_metadata(checkpoint)})
    with replacing(output) as file:
        file.write(model.SerializeToString())


def _add_step(graph: _Graph, config: ModelConfig, cell: Cell) -> None:
    """Adds the nodes from ``token`` and ``state`` to ``logits`` and ``next_state``."""
    parts = len(STATES[config.cell])
    count = config.num_layers * parts
    flat_shape = graph.constant("flat_shape", [-1, count * config.hidden_size])
    flat = graph.one("Reshape", "state", flat_shape)
    before = graph.add("Split", flat, count=count, axis=1) if count > 1 else [flat]
    x, after = graph.one("Gather", "embedding.weight", "token"), Parts()
    for layer in range(config.num_layers):
        state = before[layer * parts : (layer + 1) * parts]
        new = cell(graph, f"layers.{layer}.cell", graph.norm(x, f"layers.{layer}.norm"), state)
        after += new
        residual = config.input_size(layer) == config.hidden_size
        x = graph.one("Add", x, new[0]) if residual else new[0]
    state_shape = graph.constant("state_shape", [-1, *config.state_shape])
    logits = graph.product(graph.norm(x, "norm"), "head.weight", "head.bias")
    next_state = graph.one("Reshape", graph.one("Concat", *after, axis=1), state_shape)
    graph.output("logits", logits)
    graph.output("next_state", next_state)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns strings and JSON by name: the vocabulary, the ids before a text, and facts."""
    config = checkpoint.config
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer, config.vocab_size)
    spelt = [token.decode("utf-8", "surrogateescape") for token in tokenizer.token_bytes]
    return {
        "digest": checkpoint.digest,
        "tokenizer": tokenizer.kind,
        "vocabulary": json.dumps(spelt),
        "start": json.dumps(checkpoint.start),
        "lines": json.dumps(checkpoint.lines),
        "card": json.dumps(dict(card_rows(config, tokenizer.units, checkpoint.info))),
    }
