"""A peer of the sampling benchmark: the same network and weights in onnxruntime, on one thread.

Needs `pip install onnx onnxruntime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from charnn.config import ModelConfig

ONNX_GATES = [0, 3, 1, 2]  # ONNX has i, o, f, g; charnn has i, f, g, o


def make_session(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Any:
    """Returns a session for an LSTM of charnn: token and states in, logits and states out."""
    nodes, constants, hidden = [], [], config.hidden_size

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def gates(value: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([np.split(value, 4)[gate] for gate in ONNX_GATES])[None]

    def norm(x: str, name: str) -> str:
        places = [constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in NORM]
        nodes.append(
            helper.make_node("LayerNormalization", [x, *places], [f"{name}.y"], epsilon=1e-5)
        )
        return f"{name}.y"

    table = constant("embedding", weights["embedding.weight"])
    nodes.append(helper.make_node("Gather", [table, "token"], ["x0"]))  # (1, 1, E)
    inputs = [helper.make_tensor_value_info("token", TensorProto.INT64, [1, 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    x = "x0"
    for i in range(config.num_layers):
        cell = f"layers.{i}.cell"
        features = norm(x, f"layers.{i}.norm")
        bias = gates(weights[f"{cell}.bias"])
        given = [
            features,
            constant(f"w{i}", gates(weights[f"{cell}.weight_ih"])),
            constant(f"r{i}", gates(weights[f"{cell}.weight_hh"])),
            constant(f"b{i}", np.concatenate([bias, np.zeros_like(bias)], axis=1)),
            "",
            f"h{i}",
            f"c{i}",
        ]
        nodes.append(
            helper.make_node("LSTM", given, [f"y{i}", f"h{i}_", f"c{i}_"], hidden_size=hidden)
        )
        axis = constant(f"axis{i}", np.array([1], np.int64))
        nodes.append(helper.make_node("Squeeze", [f"y{i}", axis], [f"s{i}"]))
        nodes.append(helper.make_node("Add", [x, f"s{i}"], [f"x{i + 1}"]))
        x = f"x{i + 1}"
        for part in "hc":
            shape = [1, 1, hidden]
            inputs.append(helper.make_tensor_value_info(f"{part}{i}", TensorProto.FLOAT, shape))
            outputs.append(helper.make_tensor_value_info(f"{part}{i}_", TensorProto.FLOAT, shape))
    features = norm(x, "norm")
    head = constant("head", weights["head.weight"].T)
    nodes.append(helper.make_node("MatMul", [features, head], ["before"]))
    nodes.append(
        helper.make_node("Add", ["before", constant("bias", weights["head.bias"])], ["logits"])
    )
    graph = helper.make_graph(nodes, "charnn", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


NORM = ("weight", "bias")


class Plain:
    """Runs steps with numpy arrays as inputs and outputs."""

    def __init__(self, session: Any, config: ModelConfig) -> None:
        self.session = session
        zeros = np.zeros((1, 1, config.hidden_size), np.float32)
        self.names = [f"{part}{i}" for i in range(config.num_layers) for part in "hc"]
        self.feed = dict.fromkeys(self.names, zeros)

    def step(self, token: int) -> NDArray[np.float32]:
        """Reads a token; returns logits (V,)."""
        logits, *states = self.session.run(None, {"token": np.array([[token]]), **self.feed})
        self.feed = dict(zip(self.names, states, strict=True))
        return logits.reshape(-1)


class Bound:
    """Runs steps with two sets of buffers that are bound once and alternate."""

    def __init__(self, session: Any, config: ModelConfig) -> None:
        self.session, self.turn = session, 0
        self.token = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 1), np.int64))
        logits = np.zeros((1, 1, config.vocab_size), np.float32)
        self.logits = onnxruntime.OrtValue.ortvalue_from_numpy(logits)
        names = [f"{part}{i}" for i in range(config.num_layers) for part in "hc"]
        zeros = np.zeros((1, 1, config.hidden_size), np.float32)
        sets = [
            {name: onnxruntime.OrtValue.ortvalue_from_numpy(zeros.copy()) for name in names}
            for _ in range(2)
        ]
        self.bindings = []
        for before, after in (sets, sets[::-1]):
            binding = session.io_binding()
            binding.bind_ortvalue_input("token", self.token)
            binding.bind_ortvalue_output("logits", self.logits)
            for name in names:
                binding.bind_ortvalue_input(name, before[name])
                binding.bind_ortvalue_output(f"{name}_", after[name])
            self.bindings.append(binding)

    def step(self, token: int) -> NDArray[np.float32]:
        """Reads a token; returns logits (V,)."""
        self.token.update_inplace(np.array([[token]]))
        self.session.run_with_iobinding(self.bindings[self.turn])
        self.turn = 1 - self.turn
        return self.logits.numpy().reshape(-1)
