"""The n-gram section of a checkpoint: n-grams of the training text and their mixture weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

MAX_NGRAM = 16
MIN_WEIGHT, MAX_WEIGHT = 0.01, 16.0
NGRAM_ARRAYS = ("symbols", "counts", "children", "dropped")
NGRAM_DTYPES = ("U8", "U16", "U32")


class MixtureWeights(NamedTuple):
    """Weights of the log-linear interpolation p ~ p_network ** network * p_ngrams ** ngrams."""

    network: float
    ngrams: float


@dataclass(frozen=True)
class NGramSection:
    """N-grams of up to `order` symbols and their mixture weights.

    ``arrays`` holds `NGRAM_ARRAYS`, one dimension each: the tree in `charnn.ngrams.tree`.
    """

    order: int
    weights: MixtureWeights
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def from_metadata(
        cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> NGramSection:
        """Builds a section from its part of the header and its arrays.

        Raises:
            ValueError: order or weights are missing or out of range.
        """
        order, weights = values.get("order"), values.get("weights")
        if type(order) is not int or not 1 <= order <= MAX_NGRAM:
            raise ValueError(f"the order of its n-grams must be 1 to {MAX_NGRAM}, not {order!r}")
        found = weights if isinstance(weights, dict) else {}
        mixed = MixtureWeights(found.get("network", 0), found.get("ngrams", 0))
        if not all(type(each) is float and MIN_WEIGHT <= each <= MAX_WEIGHT for each in mixed):
            raise ValueError(
                f"the mixture weights of its n-grams must be {MIN_WEIGHT} to {MAX_WEIGHT}"
            )
        return cls(order, mixed, arrays)

    def to_metadata(self) -> dict[str, Any]:
        """Returns the part of the header that `from_metadata` reads."""
        return {"order": self.order, "weights": self.weights._asdict()}

    def facts(self) -> dict[str, Any]:
        """Returns the number of n-grams, their order and the mixture weights, as JSON values."""
        return {"count": len(self.arrays["symbols"]), **self.to_metadata()}

    def describe(self) -> str:
        """Returns `facts` in words."""
        return (
            f"{len(self.arrays['symbols']):,} n-grams, up to {self.order} long; mixture weights: "
            f"network {self.weights.network:.2f}, n-grams {self.weights.ngrams:.2f}"
        )
