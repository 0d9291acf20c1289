"""Compares fine-tuning a trained model on a new text with training from scratch.

    python benchmarks/finetune.py tinyshakespeare.txt corpora/lighthouse.txt
    python benchmarks/finetune.py checkpoints/book/best.safetensors chapter.txt --seeds 1

A BASE that is a text is trained on once. The first 100,000 characters of NEW are the new text: the
arms learn its first nine tenths, in turn, seed by seed, and a scorer that is independent of
charnn's own scores the last tenth. A run is the whole command with defaults, timed from outside.
The defaults take about ten minutes; leave the machine idle meanwhile. A table in markdown goes to
stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
import scorer
from harness import say, spread

COLD = 256
CHARACTERS = 100_000
FINE_TUNED, FROM_SCRATCH = "fine-tuned", "from scratch"


@dataclass(frozen=True)
class Result:
    """A scored run: losses in nats per character."""

    seconds: float
    steps: int
    passes: float
    cold: float
    carried: float


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "base", type=Path, metavar="BASE", help="a text in UTF-8, or a .safetensors model"
    )
    made.add_argument("new", type=Path, metavar="NEW", help="another text in UTF-8")
    made.add_argument("--pretrain", type=float, default=2.0, help="minutes on BASE [default: 2]")
    made.add_argument("--tune", type=float, default=0.5, help="minutes on NEW [default: 0.5]")
    made.add_argument(
        "--anew", type=float, default=2.0, help="minutes on NEW from scratch [default: 2]"
    )
    made.add_argument("--seeds", type=int, default=3, help="runs of each arm [default: 3]")
    return made


def train(text: Path, minutes: float, seed: int, root: Path, *more: str) -> tuple[Path, float]:
    """Trains with charnn in another process; returns its best model and the wall seconds."""
    budget = ("--minutes", f"{minutes:g}", "--seed", str(seed))
    command = harness.charnn_command(
        "train", str(text), *budget, "--checkpoints", str(root), "--json", *more
    )
    ran = harness.run(command)
    return Path(json.loads(ran.stdout)["best"]), ran.seconds


def score(model: Path, seconds: float, valid: str) -> Result:
    """Scores a model on held-out text."""
    loaded = scorer.load_charnn(model)
    ids, info = loaded.encode(valid), loaded.info
    return Result(
        seconds,
        info["step"],
        info["epoch"],
        scorer.cold(loaded.network, ids, COLD),
        scorer.carried(loaded.network, ids),
    )


def row(name: str, results: list[Result]) -> list[str]:
    """Returns the row of an arm: medians, and the range of the losses."""
    losses = [[r.cold for r in results], [r.carried for r in results]]
    return [
        name,
        f"{statistics.median(r.seconds for r in results):.1f}",
        f"{statistics.median(r.steps for r in results):,.0f}",
        f"{statistics.median(r.passes for r in results):.1f}",
        *(
            cell
            for loss in losses
            for cell in (spread(loss, 3), f"{statistics.median(loss) / math.log(2):.3f}")
        ),
    ]


def main() -> None:
    """Pretrains, runs the arms, and prints the table."""
    made = parser()
    options = made.parse_args()
    for path in (options.base, options.new):
        if not path.is_file():
            made.error(f"there is no file {path}")
    text = options.new.read_bytes().decode("utf-8-sig")[:CHARACTERS]
    valid = text[len(text) * 90 // 100 :]
    if len(valid) <= COLD:
        made.error(f"the last tenth of NEW must have more than {COLD} characters")
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        root, new = Path(temporary), Path(temporary) / "new.txt"
        new.write_text(text, "utf-8", newline="")
        base, source = options.base, options.base.name
        if base.suffix != ".safetensors":
            base, seconds = train(base, options.pretrain, 0, root)
            source = f"{options.pretrain:g} min of {source}"
            say(f"pretrained in {seconds:.1f} s")
        arms = {
            f"{FINE_TUNED}, {options.tune:g} min": (options.tune, ("--from", str(base))),
            f"{FROM_SCRATCH}, {options.anew:g} min": (options.anew, ()),
        }
        results: dict[str, list[Result]] = {name: [] for name in arms}
        for seed in range(options.seeds):
            for name, (minutes, more) in arms.items():
                result = score(*train(new, minutes, seed, root, *more), valid)
                results[name].append(result)
                say(f"{name}, seed {seed}: {result.seconds:.1f} s, {result.cold:.4f} nats/char")
    heads = ["run", "wall s", "steps", "passes", "cold-256", "bits", "carried", "bits"]
    print(harness.table(heads, [row(name, found) for name, found in results.items()]))
    print(
        f"\nFine-tuned from {source}. New text: {len(text):,} characters of {options.new.name}, "
        f"scored on their last {len(valid):,}: nats a character, median (lowest..highest) of "
        f"{options.seeds}, then the median in bits a character. Steps and passes are those of the "
        "best model. cold-256: windows of 256, each from the initial state; carried: one pass "
        "that carries the state."
    )
    print(f"\n{harness.machine()}.")


if __name__ == "__main__":
    main()
