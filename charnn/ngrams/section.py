"""The n-gram section of a checkpoint: n-grams of the training text and their mixture weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from charnn.tensor_file import number

MAX_NGRAM = 16
MIN_WEIGHT, MAX_WEIGHT = 0.01, 16.0
NGRAM_ARRAYS = ("symbols", "counts", "children", "dropped")
NGRAM_DTYPES = ("U8", "U16", "U32")
FEW_TOKENS = 1000  # with fewer, the two weights and the losses are uncertain


class MixtureWeights(NamedTuple):
    """Weights of the log-linear interpolation p ~ p_network ** network * p_ngrams ** ngrams."""

    network: float
    ngrams: float


class HeldOutLosses(NamedTuple):
    """Mean losses in nats per token on held-out text that the weights were not fitted on.

    ``network`` and ``ngrams`` are those of each alone, ``mixed`` that of the mixture; the weights
    were fitted on ``fitted_on`` other tokens.
    """

    network: float
    ngrams: float
    mixed: float
    fitted_on: int


@dataclass(frozen=True)
class NGramSection:
    """N-grams of up to `order` symbols, their mixture weights, and losses if they were measured.

    ``arrays`` holds `NGRAM_ARRAYS`, one dimension each: the tree in `charnn.ngrams.tree`.
    """

    order: int
    weights: MixtureWeights
    arrays: Mapping[str, np.ndarray]
    losses: HeldOutLosses | None = None

    @classmethod
    def from_metadata(
        cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> NGramSection:
        """Builds a section from its part of the header and its arrays.

        Raises:
            ValueError: order or weights are missing, or a number is out of range.
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
        return cls(order, mixed, arrays, _losses(values["losses"]) if "losses" in values else None)

    def to_metadata(self) -> dict[str, Any]:
        """Returns the part of the header that `from_metadata` reads."""
        losses = {"losses": self.losses._asdict()} if self.losses else {}
        return {"order": self.order, "weights": self.weights._asdict(), **losses}

    def facts(self) -> dict[str, Any]:
        """Returns the number of n-grams and `to_metadata`, as JSON values."""
        return {"count": len(self.arrays["symbols"]), **self.to_metadata()}

    @property
    def dominate(self) -> bool:
        """True if the model follows its n-grams more than its network."""
        by_loss = self.losses is not None and self.losses.ngrams <= self.losses.network
        return by_loss or self.weights.ngrams > self.weights.network

    def describe(self) -> str:
        """Returns `facts` in words, and which part contributes more."""
        losses = ""
        if self.losses:
            losses = (
                f"; held-out loss: network alone {self.losses.network:.3f}, n-grams alone "
                f"{self.losses.ngrams:.3f}, mixed {self.losses.mixed:.3f} nats/token"
            )
        return (
            f"{len(self.arrays['symbols']):,} n-grams, up to {self.order} long; mixture weights: "
            f"network {self.weights.network:.2f}, n-grams {self.weights.ngrams:.2f}{losses}; "
            f"samples are mostly the work of the {'n-grams' if self.dominate else 'network'}"
        )

    def contents(self) -> str:
        """Tells people what the n-grams contain of the training text."""
        return (
            f"n-grams, which contain the training text in pieces of up to {self.order} symbols. "
            "Share the model only where you would share the text; a model trained with --ngram 0 "
            "has none"
        )

    def cautions(self) -> list[str]:
        """Returns warnings for people: the n-grams dominate, or little text decided the weights."""
        found = []
        if self.dominate:
            found.append(
                "the n-grams dominate, so samples repeat pieces of the training text: try the "
                "network alone with --network-only, or train longer"
            )
        if self.losses and self.losses.fitted_on < FEW_TOKENS:
            found.append(
                f"only {self.losses.fitted_on:,} held-out tokens decided the mixture weights: "
                "compare with --network-only, or give --valid a longer text"
            )
        return found


def _losses(values: Any) -> HeldOutLosses:
    try:
        *nats, fitted_on = losses = HeldOutLosses(**values)
        number(fitted_on, int)
        for each in nats:
            number(each)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the losses of its n-grams are damaged: {error}") from None
    return losses
