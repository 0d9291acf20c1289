"""Measures how fast a trained network samples: charnn's engines, torch and onnxruntime.

    python benchmarks/sampling.py                         # the tables
    python benchmarks/sampling.py --model RUN             # also the loss with int8 weights

Temperature 0.8, 65 symbols, one thread unless the table says otherwise; arms take turns, figures
are medians. The limit is the processor's bandwidth for a block as large as the weights, divided by
that size. Takes three minutes; leave the machine idle meanwhile. onnxruntime takes part if it is
installed.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import harness
import numpy as np
import torch
from harness import SHAPES, SYMBOLS, alternate, say
from speed import eager_speed, save_untrained

from charnn import checkpoint
from charnn.config import ModelConfig
from charnn.engines import compiled, make_predictor
from charnn.generation.sampler import Sampler
from charnn.predictor import Predictor, draw
from charnn.scoring.surprisal import TokenScorer

# numpy reads these when it is loaded; `charnn sample` sets them too.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
CHARS = 3_000
BATCH = 64
TEMPERATURE = 0.8


def engine_speed(network: Predictor) -> float:
    """Returns characters/s of charnn's sampler."""
    sampler = Sampler(network, 1, filters={"temperature": TEMPERATURE})
    sampler.feed([0])
    begin = time.perf_counter()
    for _ in sampler.stream(CHARS):
        pass
    return CHARS / (time.perf_counter() - begin)


def onnx_speed(step: Callable[[int], np.ndarray]) -> float:
    """Returns characters/s of a loop over onnxruntime that draws as charnn does in numpy."""
    token, generator = 0, np.random.default_rng(1)
    begin = time.perf_counter()
    for _ in range(CHARS):
        token = draw(step(token).astype(np.float64) / TEMPERATURE, generator.random())
    return CHARS / (time.perf_counter() - begin)


def torch_speed(threads: int, shape: tuple[int, int]) -> float:
    """Returns characters/s of torch's LSTM in a loop."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return eager_speed(*shape)
    finally:
        torch.set_num_threads(before)


def bandwidth(size: int) -> float:
    """Returns bytes/s at which one thread reads a block of `size` bytes repeatedly."""
    block = np.ones(max(1, size // 4), np.float32)
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(50):
            np.dot(block, block)
        best = max(best, 50 * block.nbytes / (time.perf_counter() - begin))
    return best


def weights_read(config: ModelConfig, bytes_each: int) -> int:
    """Returns the bytes of weights read for a character; the input of layer 0 is a table."""
    rows = 4 * config.hidden_size
    matrices = config.num_layers * rows * config.hidden_size
    matrices += (config.num_layers - 1) * rows * config.hidden_size
    return bytes_each * (matrices + config.vocab_size * config.hidden_size)


def one_stream(folder: Path, repeats: int) -> None:
    """Prints the table of one stream."""
    rows = []
    for layers, hidden in SHAPES:
        say(f"one stream: {layers}x{hidden}")
        loaded = checkpoint.load(save_untrained(folder, layers, hidden))
        config, weights = loaded.config, loaded.weights
        arms: dict[str, Callable[[], float]] = {
            f"torch.nn, {n} thread{'s' * (n > 1)}": lambda n=n, shape=(layers, hidden): torch_speed(
                n, shape
            )
            for n in (1, 2)
        }
        if find_spec("onnxruntime") and find_spec("onnx"):
            import onnx_peer

            session = onnx_peer.make_session(config, weights)
            for kind in (onnx_peer.Plain, onnx_peer.Bound):
                step = kind(session, config).step
                arms[f"onnxruntime, {kind.__name__.lower()}"] = lambda step=step: onnx_speed(step)
        for engine in ("numpy", "native") if compiled.kernels() else ("numpy",):
            for int8 in (False, True):
                network = make_predictor(config, weights, engine, int8)
                label = f"charnn, {engine}, {'int8' if int8 else 'float32'}"
                arms[label] = lambda network=network: engine_speed(network)
        found = alternate(arms, repeats)
        peer = max(statistics.median(found[arm]) for arm in found if arm.startswith("torch"))
        for arm, speeds in found.items():
            speed = statistics.median(speeds)
            limit = "-"
            if arm.startswith("charnn"):
                size = weights_read(config, 1 if "native, int8" in arm else 4)
                limit = f"{speed / (bandwidth(size) / size):.0%}"
            rows.append([f"{layers}x{hidden}", arm, f"{speed:,.0f}", f"{speed / peer:.1f}", limit])
    heads = ["lstm", "", "characters/s", "of torch.nn", "of the limit"]
    print(harness.table(heads, rows))
    print()


def many_streams(folder: Path, repeats: int) -> None:
    """Prints the table of many streams at once, beside float32 products of the same shapes."""
    if not compiled.kernels():
        return
    rows = []
    for layers, hidden in SHAPES:
        say(f"{BATCH} streams: {layers}x{hidden}")
        loaded = checkpoint.load(save_untrained(folder, layers, hidden))
        config = loaded.config
        flops = 2 * BATCH * weights_read(config, 1)
        left = np.ones((BATCH, hidden), np.float32)
        right = np.ones((hidden, 4 * hidden), np.float32)

        def product(left: np.ndarray = left, right: np.ndarray = right) -> float:
            begin = time.perf_counter()
            for _ in range(50):
                left @ right
            return 50 * 2 * left.size * right.shape[1] / (time.perf_counter() - begin)

        def steps(int8: bool, loaded: checkpoint.Checkpoint = loaded, work: int = flops) -> float:
            network = make_predictor(loaded.config, loaded.weights, "native", int8).twin(BATCH)
            states = np.stack([network.initial_state()] * BATCH)
            tokens = np.arange(BATCH) % loaded.config.vocab_size
            begin = time.perf_counter()
            for _ in range(50):
                network.step_batch(tokens, states)
            return 50 * work / (time.perf_counter() - begin)

        arms = {"product": product, "float32": lambda: steps(False), "int8": lambda: steps(True)}
        found = {arm: statistics.median(s) for arm, s in alternate(arms, repeats).items()}
        for arm in ("float32", "int8"):
            speed = BATCH * found[arm] / flops
            rows.append(
                [
                    f"{layers}x{hidden}",
                    arm,
                    f"{speed:,.0f}",
                    f"{found[arm] / 1e9:.0f}",
                    f"{found[arm] / found['product']:.0%}",
                ]
            )
    heads = [f"lstm, {BATCH} streams", "", "characters/s", "GFLOP/s", "of numpy's float32 product"]
    print(harness.table(heads, rows))
    print()


def loss_of_int8(model: str, checkpoints: str) -> None:
    """Prints the carried loss on the run's validation text, with and without int8 weights."""
    from charnn.runs import find_model
    from charnn.text.token_file import TokenFile

    path = find_model(model, Path(checkpoints))
    loaded = checkpoint.load(path)
    tokens = TokenFile.open(path.parent / "tokens").split("valid")[:20_000].astype(np.int64)
    losses = {}
    for int8 in (False, True):
        network = make_predictor(loaded.config, loaded.weights, "auto", int8)
        bits = TokenScorer(network, int(tokens[0])).read(tokens[1:]).bits
        losses[int8] = float(bits.mean()) * math.log(2)
    print(
        f"{path}: {losses[False]:.4f} nats/token in float32, {losses[True]:.4f} with int8 weights, "
        f"{losses[True] - losses[False]:+.4f}, over {len(tokens) - 1:,} targets\n"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="measurements of each figure [default: 7]"
    )
    parser.add_argument("--model", metavar="RUN", help="also measure the loss of this run in int8")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR")
    options = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.environ.update(dict.fromkeys(THREADS, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - restarts this script
    if options.model:
        loss_of_int8(options.model, options.checkpoints)
    with tempfile.TemporaryDirectory() as folder:
        one_stream(Path(folder), options.repeats)
        many_streams(Path(folder), options.repeats)
    kernel = compiled.kernels()[0] if compiled.kernels() else "not built"
    print(f"{harness.machine()}; native kernel: {kernel}; {len(SYMBOLS)} symbols")


if __name__ == "__main__":
    main()
