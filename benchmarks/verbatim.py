"""Measures how much of a model's samples stands verbatim in a text, and the longest such span.

    python benchmarks/verbatim.py english english-train.txt

MODEL samples many texts from its start token; every span of LENGTH characters of them is looked up
in TEXT by a 64-bit hash. A table in markdown goes to stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harness
import numpy as np
import numpy.typing as npt
from harness import say

import charnn

LENGTHS = (20, 30, 40, 50, 60, 80, 100)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


def hashes(codes: Hashes, length: int) -> Hashes:
    """Returns a polynomial hash of every span of `length` characters, modulo 2**64."""
    result, done, power = np.zeros(len(codes), np.uint64), 0, codes.copy()
    size = 1  # `power` holds the hashes of spans of this length
    while length:
        if length & 1:
            result = _join(result, done, power)
            done += size
        length >>= 1
        if length:
            power = _join(power, size, power)
            size *= 2
    return result


def _join(first: Hashes, length: int, second: Hashes) -> Hashes:
    """Returns the hashes of spans that continue spans of `length` by those of `second`."""
    if not length:
        return second
    shifted = second[length:]
    factor = np.uint64(pow(int(MULTIPLIER), length, 1 << 64))
    return first[: len(shifted)] + factor * shifted


def codes_of(text: str) -> Hashes:
    """Returns the code points, spread over 64 bits."""
    return (np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64) + 1) * MULTIPLIER


def main() -> None:
    """Samples, looks the spans up, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a run, a base, or a model file")
    parser.add_argument("text", type=Path, metavar="TEXT", help="a text in UTF-8")
    parser.add_argument("--samples", type=int, default=100, help="texts [default: 100]")
    parser.add_argument("--length", type=int, default=1000, help="characters each [default: 1000]")
    parser.add_argument("--temperature", type=float, default=0.7, help="[default: 0.7]")
    options = parser.parse_args()
    model, text = charnn.load(options.model), options.text.read_text("utf-8")
    settings = {"max_tokens": options.length, "temperature": options.temperature}
    samples = [model.generate(seed=seed, **settings) for seed in range(options.samples)]
    say(f"sampled {options.samples} texts of {options.length} characters")
    codes, rows = codes_of(text), []
    for length in LENGTHS:
        spans = [hashes(codes_of(sample), length) for sample in samples if len(sample) >= length]
        known = np.isin(np.concatenate(spans), hashes(codes, length))
        rows.append([str(length), f"{100 * known.mean():.2f} %"])
        say(f"{length}: {rows[-1][1]}")
        if not known.any():
            break
    print(harness.table(["span, characters", "share of spans found in the text"], rows))


if __name__ == "__main__":
    main()
