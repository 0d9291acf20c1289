"""How well charnn has learnt a text after so many minutes, scored on its last tenth.

    python benchmarks/quality.py tinyshakespeare.txt
    python benchmarks/quality.py tinyshakespeare.txt --minutes 2 --seeds 3 --nanogpt ../nanoGPT

Every training is the whole command, `charnn train TEXT --minutes M --seed S` with defaults, and
the wall time around it. The arms take turns, seed by seed, and one scorer, which is not charnn's
own, scores them all. The defaults take about half an hour, and another eight minutes with
nanoGPT; leave the machine alone meanwhile. A table in markdown goes to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import harness
import nanogpt
import scorer
from harness import say, spread

COLD = 256


@dataclass(frozen=True)
class Result:
    """One training, scored: losses in nats a character, None where a model has no such number."""

    seconds: float
    steps: int
    passes: float
    parameters: int
    precision: str
    cold: float | None
    carried: float | None
    cold_short: float | None


def budgets(text: str) -> list[float]:
    """The numbers of a list such as 1,2,5."""
    return [float(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("text", type=Path, metavar="TEXT", help="a text file in UTF-8")
    made.add_argument(
        "--minutes", type=budgets, default="1,2,5", help="budgets to try [default: 1,2,5]"
    )
    made.add_argument("--seeds", type=int, default=3, help="trainings of each [default: 3]")
    made.add_argument("--cell", default="lstm", help="lstm, gru or rnn [default: lstm]")
    made.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    made.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="keep the models here [default: nowhere]"
    )
    made.add_argument(
        "--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT, also trained"
    )
    made.add_argument(
        "--nanogpt-steps", type=int, default=2000, help="of its recipe [default: 2000, as it has]"
    )
    return made


def run_charnn(
    options: argparse.Namespace, minutes: float, seed: int, root: Path, valid: str
) -> Result:
    """Trains with charnn in a process of its own, and scores what came out."""
    ran = harness.run(
        harness.charnn_command(
            "train",
            str(options.text),
            *("--minutes", f"{minutes:g}", "--seed", str(seed)),
            *("--cell", options.cell, "--precision", options.precision),
            *("--name", f"{minutes:g}min-{options.cell}-seed{seed}"),
            *("--checkpoints", str(root), "--json"),
        )
    )
    report = json.loads(ran.stdout)
    loaded = scorer.load_charnn(Path(report["best"]))
    ids = loaded.encode(valid)
    return Result(
        ran.seconds,
        report["step"],
        report["tokens"] / loaded.info["corpus"]["tokens"]["train"],
        loaded.parameters,
        loaded.info["recipe"]["precision"],
        scorer.cold(loaded.network, ids, COLD),
        scorer.carried(loaded.network, ids),
        scorer.cold(loaded.network, ids, nanogpt.CONTEXT) if options.nanogpt else None,
    )


def run_nanogpt(options: argparse.Namespace, seed: int, train: str, valid: str) -> Result:
    """Trains nanoGPT in a copy of its checkout, and scores it as far as its context reaches."""
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        folder = Path(temporary)
        nanogpt.copy(options.nanogpt, folder, seed)
        encode = nanogpt.prepare(folder, train, valid)
        ran = nanogpt.train(folder, options.nanogpt_steps)
        network, parameters, step = nanogpt.load(folder)
        tokens = step * nanogpt.BATCH * nanogpt.CONTEXT
        short = scorer.cold(network, encode(valid), nanogpt.CONTEXT)
        return Result(
            ran.seconds, step, tokens / len(train), parameters, "float32", None, None, short
        )


def row(name: str, results: list[Result], short: bool) -> list[str]:
    """The results of one arm as a row of the table: medians, and the range of the losses."""

    def loss(values: list[float | None]) -> list[str]:
        known = [value for value in values if value is not None]
        if not known:
            return ["–", "–"]
        return [spread(known, 3), f"{statistics.median(known) / math.log(2):.3f}"]

    return [
        name,
        f"{statistics.median(r.seconds for r in results):.1f}",
        f"{statistics.median(r.steps for r in results):,.0f}",
        f"{statistics.median(r.passes for r in results):.2f}",
        *loss([r.cold for r in results]),
        *loss([r.carried for r in results]),
        *(loss([r.cold_short for r in results]) if short else []),
        f"{results[0].parameters:,}",
        " or ".join(sorted({r.precision for r in results})),
    ]


def main() -> None:
    """Runs the arms and prints the table."""
    made = parser()
    options = made.parse_args()
    if not options.text.is_file():
        made.error(f"there is no file {options.text}")
    text = options.text.read_bytes().decode("utf-8-sig")
    cut = len(text) * 90 // 100
    train, valid = text[:cut], text[cut:]
    if len(valid) <= COLD:
        made.error(f"the last tenth of TEXT must have more than {COLD} characters")
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        root = options.checkpoints or Path(temporary)

        def charnn_arm(budget: float) -> Callable[[int], Result]:
            return lambda seed: run_charnn(options, budget, seed, root, valid)

        arms = {f"charnn {options.cell}, {m:g} min": charnn_arm(m) for m in options.minutes}
        if options.nanogpt:
            arms["nanoGPT, CPU recipe"] = lambda seed: run_nanogpt(options, seed, train, valid)
        results: dict[str, list[Result]] = {name: [] for name in arms}
        for seed in range(options.seeds):
            for name, arm in arms.items():
                result = arm(seed)
                results[name].append(result)
                loss = result.cold_short if result.cold is None else result.cold
                say(f"{name}, seed {seed}: {result.seconds:.1f} s, {loss:.4f} nats/char")
    short = bool(options.nanogpt)
    heads = ["training", "wall s", "steps", "passes", "cold-256", "bits", "carried", "bits"]
    heads += [f"cold-{nanogpt.CONTEXT}", "bits"] * short + ["parameters", "precision"]
    print(harness.table(heads, [row(name, found, short) for name, found in results.items()]))
    print(
        f"\nLast tenth of {options.text.name}, {len(valid):,} characters: nats a character, median "
        f"(lowest..highest) of {options.seeds}, then the median in bits a character. cold-256: "
        "windows of 256 that each start knowing nothing; carried: one pass that remembers."
    )
    if short:
        print(
            f"nanoGPT sees {nanogpt.CONTEXT} characters at most, so it is compared under cold-"
            f"{nanogpt.CONTEXT}: the same in windows of {nanogpt.CONTEXT}. Its steps are those of "
            "its best checkpoint, its wall time that of its whole training."
        )
    print(f"\n{harness.machine()}.")


if __name__ == "__main__":
    main()
