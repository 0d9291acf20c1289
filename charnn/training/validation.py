"""Validation of a run: cold-256, at its end also carried; "lines" for a model of lines."""

from __future__ import annotations

import numpy as np

from charnn.config import TrainConfig
from charnn.evaluation import (
    Batches,
    Ids,
    Predictor,
    Score,
    TextSizes,
    carried_batches,
    cold_batches,
    line_batches,
)
from charnn.text.token_file import TokenFile


class Validator:
    """Scores predictors on the validation split of a run.

    Attributes:
        tokens: the validation split (N,), empty if it has fewer than two tokens.
        protocol: key of the protocol that `best` is chosen by: "cold_256" or "lines".
    """

    def __init__(self, tokens: TokenFile, config: TrainConfig) -> None:
        tokenizer = tokens.tokenizer
        is_text = tokens.source["chars"] is not None
        self.sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, is_text)
        self.tokens: Ids = tokens.valid if len(tokens.valid) > 1 else tokens.valid[:0]
        self.newline, self.config = tokens.start_token, config
        self.protocol = "lines" if config.lines else "cold_256"

    def score(self, model: Predictor) -> Score:
        """Returns the score that `best` is chosen by, on a sample spread over the split."""
        return self.sizes.score(self.batches(model))

    def batches(self, model: Predictor) -> Batches:
        """Yields the logits of a predictor on that sample."""
        if self.config.lines:
            return line_batches(model, self.tokens, self.newline, self.config.valid_tokens)
        return cold_batches(model, self.tokens, self.config.valid_tokens)

    def final(self, model: Predictor) -> dict[str, Batches]:
        """Returns the logits of a finished model on the start of the split, by protocol."""
        limit = self.config.final_tokens
        if self.config.lines:
            part = first_lines(self.tokens, self.newline, limit)
            return {"lines": line_batches(model, part, self.newline)}
        part = self.tokens[:limit]
        return {"cold_256": cold_batches(model, part), "carried": carried_batches(model, part)}


def first_lines(tokens: Ids, newline: int, limit: int) -> Ids:
    """Returns the first whole lines of tokens (N,) that fit into `limit` tokens, at least one."""
    ends = np.flatnonzero(tokens == newline) + 1
    fitting = int(ends.searchsorted(limit, side="right"))
    return tokens[: ends[max(1, fitting) - 1]] if len(ends) else tokens
