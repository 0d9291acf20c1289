"""The n-gram of characters: what counting alone gives, the baseline of every network.

    python benchmarks/ngram.py tinyshakespeare.txt

Interpolated modified Kneser-Ney smoothing (charnn/ngrams/kneser_ney.py). The order is chosen on
the last tenth of the training text, never on the text that is scored. A table in markdown goes to
stdout.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import harness
import numpy as np

from charnn.ngrams.kneser_ney import NGram, choose_order

MAX_ORDER = 10  # time does not press here


def main() -> None:
    """Prints the losses on the last tenth of a text by order."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("text", type=Path, metavar="TEXT", help="a text file in UTF-8")
    made.add_argument(
        "--order", type=int, default=MAX_ORDER, help=f"the highest [default: {MAX_ORDER}]"
    )
    options = made.parse_args()
    train, valid, vocab_size = harness.split_ids(harness.read_split(options.text))
    begin = time.perf_counter()
    chosen, choice = choose_order(train, vocab_size, options.order)
    model = NGram(train, vocab_size, options.order)
    seconds = time.perf_counter() - begin
    sizes = np.cumsum([len(level.keys) for level in model.levels])
    rows = [
        [
            f"{order} (chosen)" if order == chosen else f"{order}",
            f"{size:,}",
            *map("{:.4f}".format, losses),
        ]
        for order, (size, *losses) in enumerate(
            zip(sizes, choice, model.cold(valid), model.carried(valid), strict=True), 1
        )
    ]
    print(harness.table(["order", "n-grams", "choice", "cold-256", "carried"], rows))
    print(
        f"\nNats a character on the last tenth of {options.text.name}. choice: those on the last "
        f"tenth of the training text after learning the rest. {seconds:.1f} s."
    )


if __name__ == "__main__":
    main()
