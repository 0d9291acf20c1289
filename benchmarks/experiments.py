"""Compares changes of the recipe with the recipe, with equal steps, texts and seeds.

    python benchmarks/experiments.py TEXT... --arms base,resets,start --seeds 3 --results FILE

The last tenth of a text is never read. Of the rest, the part from 45 to 55 % is held out and
scored in windows of 256 (`long`: 4,096), by the network alone and mixed with the n-grams of its
training text. `experiment_arms.py` has the arms. Runs that FILE has are not repeated.

Shapes: T steps, B streams, V symbols.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiment_arms as arms
import harness
import numpy as np
import torch
from experiment_arms import ORDER, Arm, Corpus, Setting, said_at
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.model import LanguageModel, detach
from charnn.ngrams.add import ONCE
from charnn.ngrams.fit import fit_weights
from charnn.ngrams.tree import NGramTree
from charnn.training.optimizer import Optimizer

ARMS: dict[str, type[Arm]] = {
    "base": Arm,
    "constant": arms.Constant,
    "resets": arms.Resets,
    "start": arms.Start,
    "lengths": arms.Lengths,
    "forget": arms.Forget,
    "softcap": arms.Softcap,
    "weight-drop": arms.WeightDrop,
    "parallel": arms.Parallel,
    "shared": arms.Shared,
    "late-shared": arms.LateShared,
    "residual": arms.Residual,
    "half-residual": arms.HalfResidual,
    "late-residual": arms.LateResidual,
    "distil": arms.Distil,
}
WINDOW, LONG, ROWS = 256, 4096, 64
HALF_LIFE = 0.03  # of the averaged weights, as a share of all steps
COLUMNS = ("alone", "long", "shared", "mixed", "averaged", "half", "half_averaged")


def read(path: Path) -> Corpus:
    """Returns a text without its last tenth, with 45 to 55 % of the rest held out."""
    train, _, _ = harness.split_ids(harness.read_split(path))
    _, ids = np.unique(train, return_inverse=True)
    ids = ids.astype(np.int64)
    low, high = len(ids) * 45 // 100, len(ids) * 55 // 100
    learnt = np.concatenate([ids[:low], ids[high:]])
    return Corpus(path.name, learnt, ids[low:high], int(ids.max()) + 1)


class Judge:
    """The held-out part of a text, and the log-probabilities of n-grams there.

    Attributes:
        counted: log-probabilities (T, V) of n-grams, in windows from the initial state.
        targets: the symbols (T,).
    """

    def __init__(self, corpus: Corpus) -> None:
        ids = corpus.held_out
        number = (len(ids) - 1) // WINDOW
        self.inputs = torch.from_numpy(ids[: number * WINDOW]).view(number, WINDOW)
        self.targets = torch.from_numpy(ids[1 : number * WINDOW + 1])
        tree = NGramTree.of(corpus.train, corpus.vocab_size, ORDER, ONCE)
        nodes = tree.walk(np.stack([tree.start()] * number), self.inputs.numpy().T)
        self.counted = said_at(tree, nodes.swapaxes(0, 1).reshape(-1, tree.order))

    def losses(self, network: LanguageModel) -> dict[str, Any]:
        """Returns nats per symbol: of the network, and of both mixtures with n-grams."""
        model = self.log_probabilities(network)
        weights = fit_weights(model, self.counted, self.targets)
        both = weights.network * model + weights.ngrams * self.counted
        places = torch.arange(len(self.targets)), self.targets
        own, theirs = model[places].double().exp(), self.counted[places].double().exp()
        return {
            "alone": -float(own.log().mean()),
            "long": self.long(network),
            "shared": best_share(own, theirs),
            "mixed": float(cross_entropy(both, self.targets)),
            "weights": weights,
        }

    @torch.inference_mode()
    def long(self, network: LanguageModel) -> float:
        """Returns the loss of the network alone in long windows."""
        ids = self.inputs.flatten()
        size = min(LONG, len(ids) - 1)
        inputs = ids[: len(ids) // size * size].view(-1, size)
        logits, _ = network.eval()(inputs.T, network.initial_state(len(inputs)))
        return float(cross_entropy(logits[:-1].flatten(0, 1), inputs.T[1:].flatten()))

    @torch.inference_mode()
    def log_probabilities(self, network: LanguageModel) -> Tensor:
        """Returns the log-probabilities (T, V) of the network."""
        network.eval()
        found = []
        for some in self.inputs.split(ROWS):
            logits, _ = network(some.T, network.initial_state(len(some)))
            found.append(logits.log_softmax(-1).transpose(0, 1).flatten(0, 1))
        return torch.cat(found)


def best_share(own: Tensor, theirs: Tensor) -> float:
    """Returns the lowest loss of (1 - share) own + share theirs, of probabilities (T,)."""
    low, high = 0.0, 1.0
    for _ in range(30):  # the loss is convex in the share: bisects to a slope of 0
        share = (low + high) / 2
        slope = float(((theirs - own) / ((1 - share) * own + share * theirs)).mean())
        low, high = (share, high) if slope > 0 else (low, share)
    return -float(((1 - low) * own + low * theirs).log().mean())


def train(name: str, corpus: Corpus, setting: Setting, judge: Judge) -> dict[str, Any]:
    """Trains one arm, and returns its losses, time and size."""
    arm: Arm = ARMS[name](corpus, setting)
    network, config = arm.network, arm.config
    optimizer = Optimizer(network, config)
    averages = {key: value.clone() for key, value in network.state_dict().items()}
    decay = 0.5 ** (1 / (HALF_LIFE * config.max_steps))
    generator = torch.Generator()
    found: dict[str, Any] = {"arm": name, "text": corpus.name, "seed": setting.seed}
    seconds, state, step, read_tokens = 0.0, arm.initial_state(), 0, 0
    while step < config.max_steps:
        began = time.perf_counter()
        places, first = arm.window(step)
        state = arm.initial_state() if first else arm.begin(detach(state))
        network.train()
        generator.manual_seed((setting.seed << 31) + step)
        state = arm.backward(places, state, generator)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step(arm.rate(step))
        for key, value in network.state_dict().items():
            averages[key].lerp_(value, max(1 - decay, 1 / (step + 1)))
        step += 1
        read_tokens += places[1:].numel()
        seconds += time.perf_counter() - began
        if step == config.max_steps // 2:
            found["half"] = judge.losses(network)["mixed"]
            with Swapped(network, averages):
                found["half_averaged"] = judge.losses(network)["mixed"]
    found |= judge.losses(network)
    with Swapped(network, averages):
        found["averaged"] = judge.losses(network)["mixed"]
    if setting.keep and name == "base":
        torch.save(network.state_dict(), setting.kept(corpus, setting.seed))
    return found | {
        "steps": step,
        "seconds": seconds,
        "tokens": read_tokens,
        "parameters": sum(each.numel() for each in network.parameters()),
    }


class Swapped:
    """A context in which the network has other weights."""

    def __init__(self, network: LanguageModel, weights: dict[str, Tensor]) -> None:
        self.network, self.weights = network, weights

    def __enter__(self) -> None:
        self.own = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.weights)

    def __exit__(self, *_: object) -> None:
        self.network.load_state_dict(self.own)


def rows(known: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yields a row for each arm and text: medians over the seeds, with the range."""
    for text in dict.fromkeys(each["text"] for each in known):
        for arm in dict.fromkeys(each["arm"] for each in known):
            runs = [each for each in known if (each["arm"], each["text"]) == (arm, text)]
            if runs:
                speed = statistics.median(each["tokens"] / each["seconds"] for each in runs)
                cells = [harness.spread([run[column] for run in runs], 4) for column in COLUMNS]
                yield [text, arm, str(len(runs)), *cells, f"{speed:,.0f}"]


def main() -> None:
    """Runs the arms on each text and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, nargs="*", help="text files in UTF-8")
    parser.add_argument("--arms", default="base", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of a run")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256, help="units of a layer")
    parser.add_argument("--batch", type=int, default=32, help="streams")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, help="a file of JSON lines, read and added to")
    parser.add_argument("--keep", type=Path, help="a folder for the weights of base, for distil")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = []
    if options.results and options.results.exists():
        known = [json.loads(line) for line in options.results.read_text().splitlines()]
    done = {(each["arm"], each["text"], each["seed"]) for each in known}
    for path in options.texts:
        corpus = read(path)
        judge = Judge(corpus)
        harness.say(f"{corpus.name}: counts {cross_entropy(judge.counted, judge.targets):.4f}")
        for name in options.arms.split(","):  # base first: distil reads its weights
            for seed in range(options.seeds):
                if (name, corpus.name, seed) in done:
                    continue
                setting = Setting(
                    seed,
                    options.steps,
                    options.layers,
                    options.hidden,
                    options.batch,
                    options.optimizer,
                    options.dropout,
                    options.keep,
                )
                found = train(name, corpus, setting, judge)
                known.append(found)
                harness.say(json.dumps(found))
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(found) + "\n")
    print(harness.table(["text", "arm", "seeds", *COLUMNS, "tokens/s"], list(rows(known))))


if __name__ == "__main__":
    main()
