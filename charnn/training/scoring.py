"""What a training is validated by: cold-256 on the way and carried too at its end, or lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from charnn.config import TrainConfig
from charnn.errors import TextError
from charnn.evaluation import (
    Batches,
    Ids,
    Predictor,
    Score,
    TextSizes,
    carried,
    cold,
    cold_batches,
    line_batches,
    lines,
)
from charnn.model import LanguageModel
from charnn.text.token_file import TokenFile


class Scorer:
    """Scores a network on a validation split, as the training's kind of text wants it.

    Attributes:
        protocol: the key of the protocol that `best` is chosen by: "cold_256" or "lines".
    """

    def __init__(self, tokens: TokenFile, config: TrainConfig) -> None:
        """Raises TextError where n-grams are asked for, and nothing is there to weigh them by."""
        if config.ngram and ("valid" not in tokens.splits or len(tokens.split("valid")) < 2):
            raise TextError(
                "--ngram weighs the n-grams by a validation split, which has not two tokens here: "
                "give it more with --split or --valid, or leave --ngram out"
            )
        tokenizer = tokens.tokenizer
        is_text = tokens.source["chars"] is not None
        self.sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, is_text)
        self.newline, self.config = tokens.start_token, config
        self.protocol = "lines" if config.lines else "cold_256"

    def watch(self, network: LanguageModel, valid: Ids) -> Score:
        """The score that `best` is chosen by, on a part spread over the split."""
        return self.sizes.score(self.batches(network, valid))

    def batches(self, model: Predictor, valid: Ids) -> Batches:
        """What a model says on that part."""
        if self.config.lines:
            return line_batches(model, valid, self.newline, self.config.valid_tokens)
        return cold_batches(model, valid, self.config.valid_tokens)

    def final(self, valid: Ids) -> dict[str, Callable[[Predictor], Score]]:
        """The scores at the end by their keys, each a function of the network."""
        config, sizes = self.config, self.sizes
        if config.lines:
            part = whole_lines(valid, self.newline, config.final_tokens)
            return {"lines": lambda network: lines(network, part, self.newline, sizes)}
        part = valid[: config.final_tokens]
        return {
            "cold_256": lambda network: cold(network, part, sizes),
            "carried": lambda network: carried(network, part, sizes),
        }


def whole_lines(tokens: Ids, newline: int, limit: int) -> Any:
    """The lines at the start of tokens (N,) that fit into `limit` of them, at least one."""
    ends = np.flatnonzero(tokens == newline) + 1
    fitting = int(ends.searchsorted(limit, side="right"))
    return tokens[: ends[max(1, fitting) - 1]] if len(ends) else tokens
