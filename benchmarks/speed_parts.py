"""The parts section of the speed benchmark: where the time of a training step goes."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import SHAPES, SYMBOLS, say, table
from speed_train import BATCH, BPTT
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile, record_function

from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.model import LanguageModel, detach
from charnn.training import machine
from charnn.training.optimizer import Optimizer

STEPS = 5
OPTIMIZER = "the optimizer"
# Parts by what the operators of torch are called. The fused layers of the LSTM hold their products
# and gates in one operator; the batched products (bmm) are Muon's.
PARTS = {
    "fused LSTM layers": ("aten::mkldnn_rnn_layer",),
    "products": ("aten::mm", "aten::addmm"),
    "gates, norms, loss": (
        *("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::addc", "aten::lerp"),
        *("aten::sigmoid", "aten::tanh", "aten::native_layer_norm", "aten::_log_softmax"),
        *("aten::nll_loss", "aten::sum", "aten::rsub", "aten::neg"),
    ),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "aten::constant_pad_nd"),
}


def parts(folder: Path, options: argparse.Namespace) -> None:
    """Prints the share of a step by part, and how near it comes to what products can do here."""
    with machine.prepared(machine.default_threads()):
        precisions = ["float32", "bfloat16"] if machine.has_bfloat16("cpu") else ["float32"]
        rows = []
        for precision in precisions:
            for cell in sorted(GATES, key=lambda cell: -len(GATES[cell])):
                for layers, hidden in SHAPES:
                    name = f"{cell} {layers}x{hidden}, {precision}"
                    say(f"parts: {name}")
                    rows.append([name, *measure_step(cell, layers, hidden, precision, options)])
    heads = ["a training step", "ms", *PARTS, OPTIMIZER, "the rest", "GFLOP/s", "of the product's"]
    print(table(heads, rows))
    print(
        f"\nBatches of {BATCH}x{BPTT}, Muon and AdamW. GFLOP/s: six for each weight of the layers "
        "and the head and each token, over the time of the step; the last column is its share of "
        "what one large product of the same width does in that precision, measured beside it.\n"
    )


def measure_step(
    cell: str, layers: int, hidden: int, precision: str, options: argparse.Namespace
) -> list[str]:
    """Milliseconds of a step, the share of each part, and the rate in GFLOP/s and in percent."""
    model = ModelConfig(len(SYMBOLS), cell, hidden, hidden, layers)
    config = TrainConfig(1_000_000, BATCH, BPTT, precision=precision)
    network = LanguageModel(model)
    network.recurrent_dtype = getattr(torch, precision)
    network.train()
    optimizer = Optimizer(network, config)
    tokens = torch.randint(len(SYMBOLS), (BPTT, BATCH))
    state = network.initial_state(BATCH)

    def step() -> None:
        nonlocal state
        logits, state = network(tokens, detach(state))
        network.zero_grad()
        cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        with record_function(OPTIMIZER):
            optimizer.step(0.0)

    wide = torch.randn(BATCH * BPTT, hidden).to(network.recurrent_dtype)
    weight = torch.randn(hidden, len(GATES[cell]) * hidden).to(network.recurrent_dtype)
    seconds = seconds_of(step, STEPS, options.repeats)
    product = seconds_of(lambda: torch.mm(wide, weight), 20, options.repeats)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    found = {event.key: event for event in profiled.key_averages()}
    whole = sum(event.self_cpu_time_total for event in found.values())
    optimizing = found[OPTIMIZER].cpu_time_total
    taken = dict.fromkeys(PARTS, 0.0)
    for key, event in found.items():
        part = next((part for part, names in PARTS.items() if key.startswith(names)), None)
        if part:  # the first that fits: addmm is a product, and no sum
            taken[part] += event.self_cpu_time_total
    rest = whole - optimizing - sum(taken.values())
    matrices = model.parameters - len(SYMBOLS) * hidden
    rate = 6 * matrices * BATCH * BPTT / seconds / 1e9
    limit = 2 * wide.numel() * weight.shape[1] / product / 1e9
    shares = [*taken.values(), optimizing, max(0.0, rest)]
    return [
        f"{1000 * seconds:,.0f}",
        *(f"{100 * share / whole:.0f} %" for share in shares),
        f"{rate:,.0f}",
        f"{100 * rate / limit:.0f} %",
    ]


def seconds_of(call: Callable[[], object], count: int, repeats: int) -> float:
    """Median seconds of a call, over `repeats` runs of `count`."""
    call()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - begin) / count)
    return statistics.median(found)
