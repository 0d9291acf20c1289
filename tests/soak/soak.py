"""Runs all probes in turn for some minutes, and prints how many cases of what kind held.

python tests/soak/soak.py --minutes 30 [--seed N] [--only PROBE]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "faults")]

from probes import CHEAP, PROBES  # noqa: E402  # after the path is set
from stock import ROOT, Skipped, make_stock  # noqa: E402  # after the path is set

PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8").partition("\n## ")[0]
PROMISES = {int(row[0]): row[1] for row in re.findall(r"^\| (\d+) \| (.+?) \|", PAGE, re.MULTILINE)}
TURN_SECONDS, LONG_TURN_SECONDS = 4.0, 20.0  # of a probe in this process, and with others


def turns(
    seed: int, seconds: float, folder: Path, names: list[str], held: Counter[tuple[int, str]]
) -> Iterator[str]:
    """Gives each probe a turn after another; yields a line for each that failed or was skipped.

    Turns are so short that each probe has some of them in `seconds`.
    """
    stock = make_stock(folder)
    active = {}
    for name in names:
        place = folder / name
        place.mkdir()
        active[name] = PROBES[name](stock, place, random.Random(f"{seed} {name}"))
    while active:
        for name, probe in list(active.items()):
            turn = TURN_SECONDS if PROBES[name] in CHEAP else LONG_TURN_SECONDS
            until = time.monotonic() + min(turn, seconds / len(names) / 3)
            try:
                while time.monotonic() < until:
                    held[next(probe)] += 1
                yield ""
            except Skipped as reason:
                del active[name]
                yield f"skipped {name}: {reason}"
            except Exception:
                del active[name]
                yield f"FAILED {name}, seed {seed}:\n{traceback.format_exc()}"


def tell(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Prints a table, and exits with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=PROBES, action="append")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if asked.seed is None else asked.seed
    began, held, failed = time.monotonic(), Counter[tuple[int, str]](), False
    for name in list(os.environ):
        if name.startswith("CHARNN_"):
            del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="charnn-soak-") as folder:
        names = asked.only or list(PROBES)
        all_turns = turns(seed, 60 * asked.minutes, Path(folder), names, held)
        for turn, line in enumerate(all_turns, 1):
            failed |= line.startswith("FAILED")
            if line:
                tell(line)
            # Each probe has a turn, however slow the machine is.
            if turn >= len(names) and time.monotonic() - began > 60 * asked.minutes:
                break
    tell(f"\nseed {seed}, {(time.monotonic() - began) / 60:.1f} minutes")
    for number, promise in PROMISES.items():
        kinds = sorted((kind, count) for (of, kind), count in held.items() if of == number)
        tell(f"\n{number}. {promise}: {sum(count for _, count in kinds):,} cases held")
        for kind, count in kinds:
            tell(f"   {count:7,}  {kind}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
