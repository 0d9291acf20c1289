"""How fast charnn trains, tokenizes, starts and writes, each beside a peer.

    python benchmarks/speed.py                          # all sections
    python benchmarks/speed.py startup sample
    python benchmarks/speed.py tokenize --megabytes 1000

Arms take turns; figures are medians, ratios the median of ratios side by side. With the
defaults train takes about six minutes, parts two, the others one each; leave the machine alone
meanwhile. Tables in markdown go to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch
from harness import SHAPES, SYMBOLS, alternate, charnn_command, random_text, ratio, say
from speed_parts import parts
from speed_train import train
from torch import nn

from charnn import checkpoint
from charnn.config import ModelConfig
from charnn.model import LanguageModel
from charnn.text.tokenizers import CharTokenizer
from charnn.training import machine

SAMPLE_CHARS, PEER_CHARS = 20_000, 1_000

# `charnn ARGUMENTS`, telling at the end, on stderr, how many seconds the disk took to hold the file
# and how many bytes were resident at most. The kernel's count of the latter begins with this
# process on Linux; what wait4 and getrusage say there begins with the parent, which holds torch.
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
# What any tokenizer must do at least: read the file, and write as many bytes.
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


def tokenize(folder: Path, options: argparse.Namespace) -> None:
    """MB/s and peak memory of `charnn tokenize`, and of numpy copying the same file."""
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
        "\nWhole processes: start of Python included, final fsync of the token file not. The file "
        "was just read, so it comes from memory.\n"
    )


def startup(folder: Path, options: argparse.Namespace) -> None:
    """Whole processes from start to end, against importing torch."""
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
    alternate(arms, 1)  # the disk's cache is warm from here on
    found = alternate(arms, options.repeats)
    base = next(iter(found.values()))
    rows = [
        [f"`{name}`", f"{statistics.median(seconds):.3f}", f"{ratio(seconds, base):.2f}"]
        for name, seconds in found.items()
    ]
    print(harness.table(["process", "seconds", "of importing torch"], rows) + "\n")


def sample(folder: Path, options: argparse.Namespace) -> None:
    """Characters/s of `charnn sample` into a pipe, and of torch's LSTM in a loop."""
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
    """Characters/s of a plain loop over nn.LSTM, ids turned into text."""
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
    """A model that has learnt nothing, as a file: it writes as fast as one that has."""
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
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"{', '.join(SECTIONS)} [default: all]",
    )
    made.add_argument("--repeats", type=int, default=5, help="of every figure [default: 5]")
    made.add_argument(
        "--megabytes", type=int, default=200, help="of text to tokenize [default: 200]"
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
