"""Computes the polynomials for Muon's orthogonalisation in charnn/training/optimizer.py.

    python benchmarks/polynomials.py
    python benchmarks/polynomials.py --smallest 0.001 --count 5

Each is the odd polynomial a x + b x^3 + c x^5 that is nearest to 1 over the range of singular
values after the previous one. Remez's exchange finds it: its error is equal, with alternating
signs, at four points. (N. Amsel and others, The Polar Express, 2025, take the best polynomial at
each step.)
"""

from __future__ import annotations

import argparse

import harness
import numpy as np

POINTS = 200_001
EXCHANGES = 100


def nearest_to_one(low: float, high: float) -> tuple[list[float], float]:
    """Returns a, b and c of the best polynomial on [low, high], and its largest error."""
    x = np.linspace(low, high, POINTS)
    points = np.linspace(low, high, 4)
    for _ in range(EXCHANGES):
        signs = (-1.0) ** np.arange(4)
        a, b, c, error = np.linalg.solve(
            np.stack([points, points**3, points**5, signs], 1), np.ones(4)
        )
        slope = np.sign(a + 3 * b * x**2 + 5 * c * x**4)
        turns = x[np.flatnonzero(slope[1:] != slope[:-1])]
        if len(turns) < 2:
            break
        moved = np.array([low, *turns[:2], high])
        if np.allclose(moved, points, atol=1e-9):
            break
        points = moved
    return [float(a), float(b), float(c)], abs(float(error))


def main() -> None:
    """Prints the polynomials and the range after each."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--smallest", type=float, default=0.02, help="lowest singular value [default: 0.02]"
    )
    made.add_argument("--count", type=int, default=3, help="number of polynomials [default: 3]")
    options = made.parse_args()
    low, high, rows = options.smallest, 1.0, []
    for _ in range(options.count):
        coefficients, error = nearest_to_one(low, high)
        low, high = 1 - error, 1 + error
        rows.append([*(f"{value:.4f}" for value in coefficients), f"{low:.3f}..{high:.3f}"])
    print(harness.table(["a", "b", "c", "singular values after it"], rows))


if __name__ == "__main__":
    main()
