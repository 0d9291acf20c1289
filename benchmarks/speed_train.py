"""The training section of the speed benchmark: charnn's trainer beside torch.nn in a bare loop."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import SHAPES, SYMBOLS, alternate, random_text, ratio, say, table
from torch import nn
from torch.nn.functional import cross_entropy

from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.runs import Run
from charnn.text.sources import open_source
from charnn.text.token_file import TokenFile, write_token_file
from charnn.training import machine
from charnn.training.events import StepDone
from charnn.training.trainer import Trainer

BATCH, BPTT = TrainConfig.batch_size, TrainConfig.bptt
STEPS = 5  # between two looks at the clock
PEERS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def train(folder: Path, options: argparse.Namespace) -> None:
    """Tokens/s of charnn's `Trainer`, and of torch's own layers in a bare loop."""
    with machine.prepared(machine.default_threads()):  # for both: threads, no denormals, malloc
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Prints the table of `train`."""
    text = folder / "text.txt"
    text.write_bytes(random_text(1_000_000))
    with open_source([str(text)]) as source:
        tokens = write_token_file(folder / "text.tokens", source)
    precisions = ["float32", "bfloat16"] if machine.has_bfloat16("cpu") else ["float32"]
    cells = sorted(GATES, key=lambda cell: -len(GATES[cell]))
    rows = []
    for cell, (layers, hidden), precision in itertools.product(cells, SHAPES, precisions):
        name = f"{cell} {layers}x{hidden}, {precision}"
        say(f"train: {name}")
        model = ModelConfig(len(SYMBOLS), cell, hidden, hidden, layers)
        run = Run(folder, f"{cell}-{layers}-{hidden}-{precision}")
        other = Run(folder, f"{run.name}-adamw")
        arms = {
            "charnn": block(trainer_steps(run, tokens, model, precision)),
            "adamw": block(trainer_steps(other, tokens, model, precision, "adamw")),
            "torch": block(bare_steps(tokens, model, precision)),
        }
        alternate(arms, 1)  # warms up
        found = alternate(arms, options.repeats)
        medians = [f"{statistics.median(found[arm]):,.0f}" for arm in arms]
        ratios = [f"{ratio(found[arm], found['torch']):.2f}" for arm in ("charnn", "adamw")]
        rows.append([name, *medians, *ratios])
    heads = ["charnn", "with AdamW", "torch.nn", "charnn/torch.nn", "with AdamW"]
    print(table(["training, tokens/s", *heads], rows))
    print(
        f"\nBatches of {BATCH}x{BPTT}. charnn: the trainer itself, with layer norm, residual path, "
        "data and log. torch.nn: embedding, the layers in one module, head; fused AdamW, "
        "clipping; bfloat16 by autocast.\n"
    )


def block(steps: Iterator[None]) -> Callable[[], float]:
    """A measurement: tokens/s over the next few steps."""

    def measure() -> float:
        begin = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        return STEPS * BATCH * BPTT / (time.perf_counter() - begin)

    return measure


def trainer_steps(
    run: Run,
    tokens: TokenFile,
    model: ModelConfig,
    precision: str,
    optimizer: str = TrainConfig.optimizer,
) -> Iterator[None]:
    """Trains with charnn, one step at each `next`."""
    run.create()
    threads = machine.default_threads()
    config = TrainConfig(1_000_000, BATCH, BPTT, optimizer, precision=precision, threads=threads)
    for event in Trainer(run, tokens, model, config).run():
        if isinstance(event, StepDone):
            yield


def bare_steps(tokens: TokenFile, model: ModelConfig, precision: str) -> Iterator[None]:
    """Trains torch's own layers in the shortest loop, one step at each `next`."""
    size = model.hidden_size
    embedding = nn.Embedding(model.vocab_size, size)
    layers = PEERS[model.cell](size, size, model.num_layers)
    head = nn.Linear(size, model.vocab_size)
    parameters = list(nn.ModuleList([embedding, layers, head]).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.99), fused=True)
    streams = torch.from_numpy(tokens.split("train").astype(np.int64))
    streams = streams[: len(streams) // BATCH * BATCH].view(BATCH, -1).T
    low = precision == "bfloat16"
    state: Any = None
    while True:
        for start in range(0, len(streams) - BPTT - 1, BPTT):
            window = streams[start : start + BPTT + 1]
            with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
                outputs, state = layers(embedding(window[:-1]), state)
                logits = head(outputs)
            loss = cross_entropy(logits.flatten(0, 1).float(), window[1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            lstm = isinstance(state, tuple)
            state = tuple(part.detach() for part in state) if lstm else state.detach()
            yield
