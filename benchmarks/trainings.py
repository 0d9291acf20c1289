"""The trainings that the quality benchmark compares: each is one command, timed and then scored."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import charrnn
import harness
import nanogpt
import ngram
import scorer
import torch
from results import Result
from torch import Tensor

COLD = 256
SHORT = nanogpt.CONTEXT


@dataclass(frozen=True)
class Text:
    """A text file, cut into what is learnt and what is scored."""

    path: Path
    train: str
    valid: str

    @property
    def name(self) -> str:
        """What results and tables call it."""
        return self.path.name


def scores(network: scorer.Network, ids: Tensor) -> tuple[float, float, float]:
    """The losses cold-256, carried and cold-64."""
    return (
        scorer.cold(network, ids, COLD),
        scorer.carried(network, ids),
        scorer.cold(network, ids, SHORT),
    )


@dataclass(frozen=True)
class Charnn:
    """`charnn train` with no flag but these; models go into `root`, and stay there if `keep`."""

    cell: str
    minutes: float
    precision: str
    root: Path
    keep: bool
    ngram: int | None = None

    @property
    def name(self) -> str:
        """What results and tables call it."""
        known = f"charnn {self.cell}, {self.minutes:g} min"
        if self.precision != "auto":
            known += f", {self.precision}"
        return known if self.ngram is None else f"{known}, --ngram {self.ngram}"

    def __call__(self, text: Text, seed: int) -> Result:
        """Trains in a process of its own, and scores what came out."""
        from charnn import checkpoint
        from charnn.runs import free_name  # a training that was cut short has left its folder

        precision = "" if self.precision == "auto" else f"-{self.precision}"
        wanted = f"{text.path.stem[:24]}-{self.cell}-{self.minutes:g}min{precision}-seed{seed}"
        ran = harness.run(
            harness.charnn_command(
                "train",
                str(text.path),
                *("--minutes", f"{self.minutes:g}", "--seed", str(seed)),
                *("--cell", self.cell),
                *(() if self.precision == "auto" else ("--precision", self.precision)),
                *(() if self.ngram is None else ("--ngram", str(self.ngram))),
                *("--name", free_name(self.root, wanted)),
                *("--checkpoints", str(self.root), "--json"),
            )
        )
        report = json.loads(ran.stdout)
        best, last = Path(report["best"]), Path(report["last"])
        loaded = scorer.load_charnn(best)
        history = checkpoint.load(last).info["history"]
        result = Result(
            ran.seconds,
            report["step"],
            report["tokens"] / loaded.info["corpus"]["tokens"]["train"],
            loaded.parameters,
            loaded.info["recipe"]["precision"],
            *scores(loaded.network, loaded.encode(text.valid)),
            [(entry["seconds"], entry["cold_256"]) for entry in history if entry["cold_256"]],
            str(best.relative_to(self.root)) if self.keep else "",
        )
        if not self.keep:
            shutil.rmtree(best.parent)
        return result


def members(text: Text, root: Path, results: Sequence[Result]) -> Result:
    """Scores the mean of the probabilities that trained models give; its costs are their sums."""
    missing = [result.model for result in results if not (root / result.model).is_file()]
    if missing:
        sys.exit(f"error: {root / missing[0]} is gone, which --members needs: train it again")
    loaded = [scorer.load_charnn(root / result.model) for result in results]
    network = scorer.average([each.network for each in loaded])
    return Result(
        sum(result.seconds for result in results),
        sum(result.steps for result in results),
        sum(result.passes for result in results),
        sum(result.parameters for result in results),
        " or ".join(sorted({result.precision for result in results})),
        *scores(network, loaded[0].encode(text.valid)),
    )


def char_rnn(text: Text, minutes: float, seed: int) -> Result:
    """Trains the recipe of char-rnn in a process of its own, and scores its last state."""
    train, valid, vocab_size = harness.split_ids((text.train, text.valid))
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        file = Path(temporary) / "char-rnn.pt"
        options = ["--seconds", f"{60 * minutes:g}", "--seed", str(seed), "--output", str(file)]
        ran = harness.run([sys.executable, charrnn.__file__, str(text.path), *options])
        loaded = charrnn.load(file, vocab_size)
    passes = loaded.steps * charrnn.STREAMS * charrnn.WINDOW / len(train)
    losses = scores(loaded.network, torch.from_numpy(valid))
    return Result(ran.seconds, loaded.steps, passes, loaded.parameters, "float32", *losses)


def nano_gpt(text: Text, checkout: Path, steps: int, seed: int) -> Result:
    """Trains nanoGPT in a copy of its checkout, and scores it as far as its context reaches."""
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        folder = Path(temporary)
        nanogpt.copy(checkout, folder, seed)
        encode = nanogpt.prepare(folder, text.train, text.valid)
        ran = nanogpt.train(folder, steps)
        network, parameters, step = nanogpt.load(folder)
        passes = step * nanogpt.BATCH * nanogpt.CONTEXT / len(text.train)
        short = scorer.cold(network, encode(text.valid), SHORT)
        return Result(ran.seconds, step, passes, parameters, "float32", None, None, short)


def n_gram(text: Text) -> Result:
    """Counts n-grams, of an order that a part of the training text chooses; its step is one."""
    train, valid, vocab_size = harness.split_ids((text.train, text.valid))
    begin = time.perf_counter()
    order, _ = ngram.choose_order(train, vocab_size, ngram.MAX_ORDER)
    model = ngram.NGram(train, vocab_size, order)
    seconds = time.perf_counter() - begin
    losses = (model.cold(valid, COLD), model.carried(valid), model.cold(valid, SHORT))
    return Result(
        seconds,
        1,
        1.0,
        sum(len(level.keys) for level in model.levels),
        "float64",
        *(float(by_order[-1]) for by_order in losses),
        detail=f"order {order}",
    )
