"""The n-gram section of a file: what it says of itself, and which numbers it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from charnn.ngrams.section import FEW_TOKENS, HeldOutLosses, MixtureWeights, NGramSection

ARRAYS = {"symbols": np.arange(5)}
MANY = FEW_TOKENS
GOOD = {"network": 1.2, "ngrams": 1.6, "mixed": 1.1, "fitted_on": MANY}


def section(network: float, ngrams: float, losses: HeldOutLosses | None) -> NGramSection:
    return NGramSection(5, MixtureWeights(network, ngrams), ARRAYS, losses)


def test_metadata_restores_a_section_with_and_without_losses() -> None:
    for losses in (None, HeldOutLosses(**GOOD)):
        made = section(0.8, 0.3, losses)
        assert made == NGramSection.from_metadata(made.to_metadata(), ARRAYS)


@pytest.mark.parametrize(
    "change",
    [
        *({"mixed": each} for each in (-0.1, float("nan"), float("inf"), "1", None)),
        *({"fitted_on": each} for each in (-1, 2.0, True, 2**80, "9")),
        {"more": 1.0},
    ],
)
def test_losses_that_are_no_losses_are_refused(change: dict[str, Any]) -> None:
    values = {**section(0.8, 0.3, None).to_metadata(), "losses": {**GOOD, **change}}
    with pytest.raises(ValueError, match="losses"):
        NGramSection.from_metadata(values, ARRAYS)
    for wrong in (None, [], 3, {}):
        with pytest.raises(ValueError, match="losses"):
            NGramSection.from_metadata({**values, "losses": wrong}, ARRAYS)


@pytest.mark.parametrize(
    ("network", "ngrams", "losses", "cautions"),
    [
        (0.8, 0.3, (1.2, 1.6, 1.1, MANY), 0),
        (0.3, 0.8, (1.2, 1.6, 1.1, MANY), 1),
        (0.8, 0.3, (1.6, 1.2, 1.1, MANY), 1),
        (0.8, 0.3, (1.2, 1.6, 1.1, MANY - 1), 1),
        (0.3, 0.8, (1.6, 1.2, 1.1, 119), 2),
        (0.3, 0.8, None, 1),
        (0.8, 0.3, None, 0),
    ],
)
def test_a_section_warns_of_n_grams_that_dominate_and_of_little_held_out_text(
    network: float, ngrams: float, losses: tuple[Any, ...] | None, cautions: int
) -> None:
    made = section(network, ngrams, losses and HeldOutLosses(*losses))
    assert cautions == len(made.cautions())
    assert f"network {network:.2f}" in made.describe()
    for each in made.losses[:3] if made.losses else ():
        assert f"{each:.3f}" in made.describe()
