r"""Fits the rule by which `charnn plan` predicts the loss of a run, to measured runs.

    python benchmarks/quality.py TEXT... --minutes 0.3,1,3,10 --seeds 1 --alone \
        --results campaign.jsonl
    python benchmarks/fit_expected_loss.py campaign.jsonl TEXT...

The rule is ln(loss / loss of n-grams) = a + b ln(tokens read) + c ln(tokens in the text), both in
millions, for the LSTM without n-grams under cold-256. The script prints a, b and c for `RULES` of
charnn/ngrams/expected_loss.py, and the error of each run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harness
import numpy as np
from quality import Results

from charnn.ngrams.expected_loss import MAX_TRAIN, MAX_VALID
from charnn.ngrams.kneser_ney import NGram, choose_order


def main() -> None:
    """Prints the rule and the table of its errors."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("results", type=Path, metavar="FILE", help="the --results of quality.py")
    made.add_argument("texts", type=Path, nargs="+", metavar="TEXT", help="its texts")
    options = made.parse_args()
    found = Results(options.results).found
    names, losses, counted, rows = [], [], [], []
    for path in options.texts:
        train, valid, vocab_size = harness.split_ids(harness.read_split(path))
        order, _ = choose_order(train[:MAX_TRAIN], vocab_size)
        counting = NGram(train[:MAX_TRAIN], vocab_size, order).carried(valid[:MAX_VALID])[-1]
        for (text, arm, _), result in found.items():
            plain = arm.startswith("charnn lstm") and arm.endswith(" min, --ngram 0")
            if text == path.name and plain and result.cold:
                names.append(f"{text}, {arm}")
                losses.append(result.cold)
                counted.append(counting)
                size = len(train) / 1e6
                rows.append([1.0, np.log(result.passes * size), np.log(size)])
    if len(rows) < 3:
        made.error(f"{options.results} has {len(rows)} fitting runs on these texts: give 3 or more")
    ratios = np.log(np.array(losses) / counted)
    rule, *_ = np.linalg.lstsq(np.array(rows), ratios, rcond=None)
    expected = counted * np.exp(np.array(rows) @ rule)
    lines = [
        [name, f"{count:.3f}", f"{loss:.3f}", f"{guess:.3f}", f"{guess - loss:+.3f}"]
        for name, count, loss, guess in zip(names, counted, losses, expected, strict=True)
    ]
    print(harness.table(["run", "n-grams", "cold-256", "expected", "error"], lines))
    print("\n(a, b, c) = " + ", ".join(f"{value:.3f}" for value in rule))


if __name__ == "__main__":
    main()
