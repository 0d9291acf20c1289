"""Measures how fast `charnn score` reads lines: together, one by one, and beside torch.

    python benchmarks/scoring.py                 # untrained networks of the usual shapes
    python benchmarks/scoring.py --model RUN.safetensors --text FILE

Every arm computes the bits of each character of the same lines, each from the initial state. The
baseline is a plain loop over torch's network, one token at a time. Arms take turns; figures are
medians per second of processor time over all threads, which other load on the machine hardly
changes.
"""

from __future__ import annotations

import os

# numpy reads this when it is loaded; the scorer has threads of its own.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch
from harness import SHAPES, alternate, random_text, say
from speed import save_untrained

from charnn import checkpoint
from charnn.checkpoint import Checkpoint
from charnn.engines import compiled, make_predictor
from charnn.evaluation import network_of
from charnn.scoring.surprisal import TokenScorer
from charnn.text.tokenizers import tokenizer_from_dict

FEW, MANY = 1_500, 60_000  # characters for arms that read token by token, and for others
LINE = 60


@torch.inference_mode()
def torch_speed(saved: Checkpoint, ids: np.ndarray, lengths: np.ndarray) -> float:
    """Returns characters/s of processor time of a plain loop over the network in torch."""
    model = network_of(saved).eval()
    begin = time.process_time()
    at = 0
    for length in lengths.tolist():
        state, token = model.initial_state(1), saved.start_token
        for target in ids[at : at + length].tolist():
            logits, state = model(torch.tensor([[token]]), state)
            float(logits[0, 0].log_softmax(-1)[target])
            token = target
        at += length
    return at / (time.process_time() - begin)


def stream_speed(scorer: TokenScorer, ids: np.ndarray, lengths: np.ndarray) -> float:
    """Returns characters/s of processor time of a scorer that reads line after line."""
    begin = time.process_time()
    at = 0
    for length in lengths.tolist():
        scorer.reset()
        scorer.read(ids[at : at + length])
        at += length
    return at / (time.process_time() - begin)


def lines_speed(scorer: TokenScorer, ids: np.ndarray, lengths: np.ndarray) -> float:
    """Returns characters/s of processor time of a scorer that reads lines together."""
    begin = time.process_time()
    scorer.lines(ids, lengths)
    return len(ids) / (time.process_time() - begin)


def cut(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first `count` ids, and random lengths around `LINE` to cut them into lines."""
    ids = np.resize(ids, count)
    lengths = np.random.default_rng(0).integers(LINE // 2, LINE * 3 // 2, count // LINE * 2)
    ends = np.cumsum(lengths)
    lengths = lengths[ends <= count]
    return ids[: lengths.sum()], lengths


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = options.text.read_text() if options.text else random_text(MANY).decode()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = (
            [options.model]
            if options.model
            else [save_untrained(Path(folder), layers, hidden) for layers, hidden in SHAPES]
        )
        for path in paths:
            saved = checkpoint.load(path)
            shape = f"{saved.config.cell} {saved.config.num_layers}x{saved.config.hidden_size}"
            say(shape)
            ids = tokenizer_from_dict(saved.tokenizer).encode(text, "skip").astype(np.int64)
            few, many = cut(ids, FEW), cut(ids, MANY)
            arms: dict[str, Callable[[], float]] = {
                "torch, one token at a time": lambda saved=saved, few=few: torch_speed(saved, *few)
            }
            for engine in ("numpy", "native") if compiled.kernels() else ("numpy",):
                for int8 in (False, True):
                    network = make_predictor(saved.config, saved.weights, engine, int8)
                    scorer = TokenScorer(network, saved.start_token)
                    kind = f"{engine}, {'int8' if int8 else 'float32'}"
                    arms[f"{kind}, one line at a time"] = lambda s=scorer, few=few: stream_speed(
                        s, *few
                    )
                    arms[f"{kind}, side by side"] = lambda s=scorer, many=many: lines_speed(
                        s, *many
                    )
            found = alternate(arms, options.repeats)
            base = statistics.median(found["torch, one token at a time"])
            rows += [
                [shape, arm, f"{statistics.median(s):,.0f}", f"{statistics.median(s) / base:.1f}"]
                for arm, s in found.items()
            ]
    print(harness.table(["network", "", "characters/s of processor time", "of torch"], rows))


if __name__ == "__main__":
    main()
