"""Compares starts of training on new texts: from a base and from scratch, at equal budgets.

    python benchmarks/finetune.py english corpora/lighthouse.txt --minutes 0.3,1,2
    python benchmarks/finetune.py checkpoints/book/best.safetensors chapter.txt --seeds 1

BASE is a base that ships, a model file, or a text that is trained on once. The arms learn the first
nine tenths of each NEW, in turn, seed by seed, and a scorer that is independent of charnn's own
scores the last tenth. A run is the whole command with defaults, timed from outside; leave the
machine idle meanwhile. "default" is what `charnn train` does without --from. A table in markdown
goes to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness
import scorer
from harness import say, spread

COLD = 256
SCRATCH, DEFAULT = "scratch", "default"


@dataclass(frozen=True)
class Result:
    """A scored run: losses in nats per character, ``alone`` that of the network under cold-256."""

    seconds: float
    steps: int
    passes: float
    alone: float
    cold: float
    carried: float


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("base", metavar="BASE", help="a base's name, a model file, or a text")
    made.add_argument("new", type=Path, nargs="+", metavar="NEW", help="new texts in UTF-8")
    made.add_argument("--pretrain", type=float, default=2.0, help="minutes on BASE [default: 2]")
    made.add_argument(
        "--minutes", default="0.5,2", help="budgets on NEW, with commas [default: 0.5,2]"
    )
    made.add_argument("--characters", type=int, help="read only so many of each NEW")
    made.add_argument("--seeds", type=int, default=3, help="runs of each arm [default: 3]")
    made.add_argument(
        "--options", default="", help="further options of charnn train for all arms, quoted"
    )
    made.add_argument(
        "--default", action="store_true", help="also train without --from, as charnn chooses"
    )
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
    loaded, alone = scorer.load_charnn(model), scorer.load_charnn(model, ngrams=False)
    ids, info = loaded.encode(valid), loaded.info
    return Result(
        seconds,
        info["step"],
        info["epoch"],
        scorer.cold(alone.network, ids, COLD),
        scorer.cold(loaded.network, ids, COLD),
        scorer.carried(loaded.network, ids),
    )


def row(name: str, results: list[Result]) -> list[str]:
    """Returns the row of an arm: medians, and the range of the losses."""
    losses = [[getattr(r, name) for r in results] for name in ("alone", "cold", "carried")]
    return [
        name,
        f"{statistics.median(r.seconds for r in results):.1f}",
        f"{statistics.median(r.steps for r in results):,.0f}",
        f"{statistics.median(r.passes for r in results):.1f}",
        *(spread(loss, 3) for loss in losses),
        f"{statistics.median(losses[1]) / math.log(2):.3f}",
    ]


def main() -> None:
    """Pretrains where asked, runs the arms, and prints the table."""
    made = parser()
    options = made.parse_args()
    base, budgets = options.base, [float(word) for word in options.minutes.split(",")]
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        root = Path(temporary)
        if Path(base).is_file() and Path(base).suffix != ".safetensors":
            model, seconds = train(Path(base), options.pretrain, 0, root, "--from", SCRATCH)
            say(f"pretrained on {base} in {seconds:.1f} s")
            base = str(model)
        starts = {Path(base).stem: ("--from", base), SCRATCH: ("--from", SCRATCH)}
        if options.default:
            starts[DEFAULT] = ()
        more = shlex.split(options.options)
        rows = []
        for path in options.new:
            text = path.read_bytes().decode("utf-8-sig")[: options.characters]
            valid = text[len(text) * 90 // 100 :]
            if len(valid) <= COLD:
                made.error(f"the last tenth of {path} must have more than {COLD} characters")
            new = root / path.name
            new.write_text(text, "utf-8", newline="")
            arms = [(start, minutes) for minutes in budgets for start in starts]
            results: dict[tuple[str, float], list[Result]] = {arm: [] for arm in arms}
            for seed in range(options.seeds):
                for start, minutes in arms:
                    result = score(*train(new, minutes, seed, root, *starts[start], *more), valid)
                    results[start, minutes].append(result)
                    say(f"{path.name}, {start}, {minutes:g} min, seed {seed}: {result.cold:.4f}")
            rows += [
                row(f"{path.stem}, {minutes:g} min, from {start}", found)
                for (start, minutes), found in results.items()
            ]
    heads = ["run", "wall s", "steps", "passes", "network alone", "cold-256", "carried", "bits"]
    print(harness.table(heads, rows))
    print(
        f"\nLast tenth of each text: nats a character, median (lowest..highest) of {options.seeds}:"
        " of the network alone under cold-256, and with n-grams under cold-256 (then in bits) and"
        " carried. Steps and passes are those of the best model; step 0 is the base itself."
        " cold-256: windows of 256, each from the initial state; carried: one pass that carries"
        " the state."
    )
    print(f"\n{harness.machine()}.")


if __name__ == "__main__":
    main()
