"""Measures how fast charnn trains, tokenizes, starts and samples, each beside a peer.

    python benchmarks/speed.py                          # all sections
    python benchmarks/speed.py startup sample
    python benchmarks/speed.py tokenize --megabytes 1000

Arms take turns; figures are medians, ratios are medians of ratios measured side by side. With the
defaults train takes six minutes, parts two, the others one each; leave the machine idle meanwhile.
Tables in markdown go to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import SHAPES, SYMBOLS, alternate, charnn_command, random_text, ratio, say, table
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile, record_function

from charnn import checkpoint
from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.model import LanguageModel, detach
from charnn.runs import Run
from charnn.text.sources import open_source
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import CharTokenizer
from charnn.training import machine
from charnn.training.events import StepDone
from charnn.training.optimizer import Optimizer
from charnn.training.trainer import Trainer

SAMPLE_CHARS, PEER_CHARS = 20_000, 1_000

# Runs `charnn ARGUMENTS` and prints the seconds of fsync and the peak resident bytes on stderr.
# On Linux, VmHWM counts this process alone; wait4 and getrusage count from the parent with torch.
OBSERVED = """
import atexit, os, pathlib, resource, sys, time
fsync, seconds = os.fsync, 0.0
def timed(descriptor):
    global seconds
    begin = time.perf_counter()
    fsync(descriptor)
    seconds += time.perf_counter() - begin
def tell():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        peak = 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    print(seconds, peak, file=sys.stderr)
os.fsync = timed
atexit.register(tell)
from charnn.cli import main
main()
"""
# The lower bound for a tokenizer: reads the file and writes as many bytes.
COPY_TO_FILE = """
import sys, numpy as np
text = np.memmap(sys.argv[1], np.uint8, "r")
with open(sys.argv[2], "wb") as file:
    for start in range(0, len(text), 1 << 22):
        file.write(text[start : start + (1 << 22)])
"""
COPY_TO_MEMORY = """
import sys, numpy as np
text = np.memmap(sys.argv[1], np.uint8, "r")
copy = np.empty_like(text)
np.copyto(copy, text)
"""


BATCH, BPTT = TrainConfig.batch_size, TrainConfig.bptt
STEPS = 5  # timed together
PEERS: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@machine.prepared(machine.default_threads())
def train(folder: Path, options: argparse.Namespace) -> None:
    """Prints tokens/s of charnn's `Trainer`, and of torch's own layers in a bare loop.

    Both run with charnn's settings of the machine: threads, denormals, malloc.
    """
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
    """Returns a function that measures tokens/s over the next few steps."""

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
    """Trains with charnn; yields after each step."""
    run.create()
    threads = machine.default_threads()
    config = TrainConfig(1_000_000, BATCH, BPTT, optimizer, precision=precision, threads=threads)
    for event in Trainer(run, tokens, model, config).run():
        if isinstance(event, StepDone):
            yield


def bare_steps(tokens: TokenFile, model: ModelConfig, precision: str) -> Iterator[None]:
    """Trains torch's own layers in the shortest loop; yields after each step."""
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


OPTIMIZER = "the optimizer"
# Parts of a step by the names of torch's operators. The fused LSTM layers have their products and
# gates in one operator; the batched products (bmm) belong to Muon.
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
    """Prints the share of each part of a training step, and its rate beside matrix products."""
    with machine.prepared(machine.default_threads()):
        precisions = ["float32", "bfloat16"] if machine.has_bfloat16("cpu") else ["float32"]
        rows = []
        for precision in precisions:
            for cell in sorted(GATES, key=lambda cell: -len(GATES[cell])):
                for layers, hidden in SHAPES:
                    name = f"{cell} {layers}x{hidden}, {precision}"
                    say(f"parts: {name}")
                    rows.append([name, *measure_step(cell, layers, hidden, precision, options)])
    heads = ["a training step", "ms", *PARTS, OPTIMIZER, "the rest", "GFLOP/s", "of a product's"]
    print(table(heads, rows))
    print(
        f"\nBatches of {BATCH}x{BPTT}, Muon and AdamW. GFLOP/s: six operations for each weight of "
        "the layers and the head and each token, by the time of the step; the last column divides "
        "by the rate of one large product of that width.\n"
    )


def measure_step(
    cell: str, layers: int, hidden: int, precision: str, options: argparse.Namespace
) -> list[str]:
    """Returns the milliseconds of a step, the share of each part, GFLOP/s, and their percent."""
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
        if part:  # the first match: addmm is a product, not a sum
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
    """Returns the median seconds of a call, over `repeats` runs of `count` calls."""
    call()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - begin) / count)
    return statistics.median(found)


def tokenize(folder: Path, options: argparse.Namespace) -> None:
    """Prints MB/s and peak memory of `charnn tokenize`, and of numpy copying the same file."""
    text, output = folder / "text.txt", folder / "text.tokens"
    part = random_text(10**7)
    size = options.megabytes * 10**6
    with text.open("wb") as file:
        for start in range(0, size, len(part)):
            file.write(part[: size - start])

    peaks: dict[str, list[int]] = {"char": [], "byte": []}

    def charnn(tokenizer: str) -> float:
        arguments = ["tokenize", str(text), "-o", str(output), "--tokenizer", tokenizer, "-q"]
        ran = harness.run([sys.executable, "-c", OBSERVED, *arguments])
        fsync, peak = ran.stderr.split()[-2:]
        peaks[tokenizer].append(int(peak))
        return ran.seconds - float(fsync)

    def copy(code: str) -> float:
        return harness.run([sys.executable, "-c", code, str(text), str(output)]).seconds

    say(f"tokenize: {options.megabytes} MB")
    found = alternate(
        {
            "numpy, copy to a file": lambda: copy(COPY_TO_FILE),
            "numpy, copy to memory": lambda: copy(COPY_TO_MEMORY),
            "charnn, char": lambda: charnn("char"),
            "charnn, byte": lambda: charnn("byte"),
        },
        options.repeats,
    )
    base = next(iter(found.values()))
    rows = []
    for name, seconds in found.items():
        speed = size / 1e6 / statistics.median(seconds)
        peak = peaks.get(name.split()[-1])
        memory = f"{max(peak) / 2**20:,.0f}" if peak else "–"
        rows.append([name, f"{speed:,.0f}", f"{ratio(base, seconds):.2f}", memory])
    heads = [f"{options.megabytes:,} MB of ASCII", "MB/s", "of the copy's speed", "peak MiB"]
    print(harness.table(heads, rows))
    print(
        "\nWhole processes, with the start of Python, without the final fsync of the token file. "
        "The text is in the cache of the system.\n"
    )


def startup(folder: Path, options: argparse.Namespace) -> None:
    """Prints the seconds of whole processes, beside importing torch."""
    model = str(save_untrained(folder, *SHAPES[0]))
    layers, hidden = SHAPES[0]
    python = [sys.executable, "-c"]
    commands = {
        'python -c "import torch"': [*python, "import torch"],
        "charnn --help": charnn_command("--help"),
        f"charnn sample -n 1 ({layers}x{hidden})": charnn_command(
            "sample", "-m", model, "-n", "1", "--seed", "1"
        ),
        'python -c "import numpy"': [*python, "import numpy"],
        'python -c "pass"': [*python, "pass"],
    }
    say("startup")

    def seconds_of(command: list[str]) -> Callable[[], float]:
        return lambda: harness.run(command).seconds

    arms = {name: seconds_of(command) for name, command in commands.items()}
    alternate(arms, 1)  # warms the cache of the disk
    found = alternate(arms, options.repeats)
    base = next(iter(found.values()))
    rows = [
        [f"`{name}`", f"{statistics.median(seconds):.3f}", f"{ratio(seconds, base):.2f}"]
        for name, seconds in found.items()
    ]
    print(harness.table(["process", "seconds", "of importing torch"], rows) + "\n")


def sample(folder: Path, options: argparse.Namespace) -> None:
    """Prints characters/s of `charnn sample` into a pipe, and of torch's LSTM in a loop."""
    rows = []
    for layers, hidden in SHAPES:
        say(f"sample: {layers}x{hidden}")
        model = str(save_untrained(folder, layers, hidden))

        def charnn(model: str = model) -> float:
            count = str(SAMPLE_CHARS)
            ran = harness.run(
                charnn_command("sample", "-m", model, "-n", count, "-t", "0.8", "--seed", "1")
            )
            assert len(ran.stdout) == SAMPLE_CHARS
            return SAMPLE_CHARS / ran.seconds

        def peer(threads: int, shape: tuple[int, int] = (layers, hidden)) -> float:
            torch.set_num_threads(threads)
            try:
                return eager_speed(*shape)
            finally:
                torch.set_num_threads(machine.default_threads())

        found = alternate(
            {"charnn": charnn, "1 thread": lambda: peer(1), "2 threads": lambda: peer(2)},
            options.repeats,
        )
        better = max(("1 thread", "2 threads"), key=lambda arm: statistics.median(found[arm]))
        rows.append(
            [
                f"lstm {layers}x{hidden}",
                f"{statistics.median(found['charnn']):,.0f}",
                f"{statistics.median(found[better]):,.0f} ({better})",
                f"{ratio(found['charnn'], found[better]):.1f}",
            ]
        )
    print(harness.table(["sampling, characters/s", "charnn", "torch.nn", "ratio"], rows))
    print(
        f"\ncharnn: the whole command, start included, {SAMPLE_CHARS:,} characters at temperature "
        "0.8 into a pipe. torch.nn: nn.LSTM in a loop, the better of 1 and 2 threads, without "
        "its start and without layer norm.\n"
    )


@torch.inference_mode()
def eager_speed(layers: int, hidden: int) -> float:
    """Returns characters/s of a plain loop over nn.LSTM that turns ids into text."""
    embedding = nn.Embedding(len(SYMBOLS), hidden)
    lstm = nn.LSTM(hidden, hidden, layers)
    head = nn.Linear(hidden, len(SYMBOLS))
    ids, state, text = torch.zeros(1, dtype=torch.long), None, []
    for count in range(PEER_CHARS + PEER_CHARS // 10):
        if count == PEER_CHARS // 10:
            begin = time.perf_counter()
        outputs, state = lstm(embedding(ids)[None], state)
        ids = torch.multinomial(torch.softmax(head(outputs[0]) / 0.8, -1), 1)[0]
        text.append(SYMBOLS[int(ids)])
    return PEER_CHARS / (time.perf_counter() - begin)


def save_untrained(folder: Path, layers: int, hidden: int) -> Path:
    """Saves an untrained model, as fast as a trained one; returns its path."""
    shape = ModelConfig(len(SYMBOLS), "lstm", hidden, hidden, layers)
    network = LanguageModel(shape)
    network.reset_parameters(torch.Generator().manual_seed(0))
    tokenizer = CharTokenizer(np.array(sorted(map(ord, SYMBOLS)), np.uint32))
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    path = folder / f"untrained-{layers}x{hidden}.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(shape, tokenizer.to_dict(), weights, 0))
    return path


SECTIONS = {
    "train": train,
    "parts": parts,
    "tokenize": tokenize,
    "startup": startup,
    "sample": sample,
}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"{', '.join(SECTIONS)} [default: all]",
    )
    made.add_argument(
        "--repeats", type=int, default=5, help="measurements of each figure [default: 5]"
    )
    made.add_argument(
        "--megabytes", type=int, default=200, help="size of the text to tokenize [default: 200]"
    )
    made.add_argument(
        "--folder", type=Path, metavar="DIR", help="for temporary files [default: the system's]"
    )
    return made


def main() -> None:
    """Runs the sections and prints their tables."""
    made = parser()
    options = made.parse_args()
    unknown = sorted(set(options.sections) - set(SECTIONS))
    if unknown:
        made.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    for name in options.sections or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="charnn-bench-", dir=options.folder) as folder:
            SECTIONS[name](Path(folder), options)
    print(f"{harness.machine()}.")


if __name__ == "__main__":
    main()
