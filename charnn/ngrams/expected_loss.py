"""An estimate of a run's final loss, from n-gram counts of its text, with advice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from charnn.config import ModelConfig
from charnn.config.training import DEFAULT_NGRAM
from charnn.ngrams.kneser_ney import NGram, choose_order
from charnn.ngrams.tree import MAX_TOKENS
from charnn.text.token_file import TokenFile

# (a, b, c) of a cell: ln(loss / loss of n-grams) is a + b ln(millions of tokens read) +
# c ln(millions of tokens in the text). Fitted to measured runs by benchmarks/fit_expected_loss.py,
# with errors below 0.1 nats on three texts; cells without a rule have no expected loss.
RULES = {"lstm": (-0.099, -0.062, -0.061)}
# Mixing removes this share of the lower of two losses, and less the more they differ: within .05
# nats for eight runs on five texts (NOTES.md).
MIXED, APART = 0.045, 0.15
NGRAM_BYTES = 4  # in the file per token of the text: 3 to 5 for six texts
MIN_TRAIN, MAX_TRAIN, MAX_VALID = 100, 500_000, 50_000  # tokens that are counted
LITTLE_BYTES, LITTLE_READ, MUCH_READ = 200_000, 0.5, 30  # bytes of text; passes


@dataclass(frozen=True)
class ExpectedLoss:
    """The expected loss of a run and the loss of n-grams of ``order``, in nats per token.

    Both are None without a validation split or with too little text; ``cold_256`` is also None for
    a cell that `RULES` lacks. ``file_bytes`` estimates the size of the model file with its n-grams.
    """

    cold_256: float | None
    ngrams: float | None
    order: int
    advice: list[str]
    file_bytes: int

    def describe(self) -> list[str]:
        """Returns lines for people."""
        lines = []
        if self.cold_256 is not None:
            lines.append(
                f"expected: validation loss {self.cold_256:.1f} nats/token, give or take 0.1"
            )
        if self.ngrams is not None:
            lines.append(f"n-grams alone: {self.ngrams:.2f} nats/token (order {self.order})")
        return lines + [f"advice: {line}" for line in self.advice]

    def losses(self, protocol: str) -> dict[str, float | None]:
        """Returns the losses as JSON values; the network's under the key `protocol`."""
        return {protocol: self.cold_256, "ngram": self.ngrams}


def expect(tokens: TokenFile, model: ModelConfig, epochs: float, ngram: int) -> ExpectedLoss:
    """Estimates the loss after `epochs` passes; `ngram` is the order to mix in, 0 for none."""
    train = np.asarray(tokens.split("train")[:MAX_TRAIN])
    valid = np.asarray(tokens.valid[:MAX_VALID])
    advice, size = _advise(tokens, epochs), 4 * model.parameters
    if ngram:
        size += NGRAM_BYTES * min(len(tokens.split("train")), MAX_TOKENS)
    if len(train) < MIN_TRAIN or len(valid) < 2:
        return ExpectedLoss(None, None, 0, advice, size)
    vocab_size = tokens.tokenizer.vocab_size
    order, _ = choose_order(train, vocab_size)
    ngrams = float(NGram(train, vocab_size, order).carried(valid)[-1])
    if model.cell not in RULES:
        return ExpectedLoss(None, ngrams, order, advice, size)
    text = len(tokens.split("train")) / 1e6
    a, b, c = RULES[model.cell]
    ratio = math.exp(a + b * math.log(epochs * text) + c * math.log(text))
    expected = ngrams * ratio
    if ngram:
        expected = mixed_loss(expected, ngrams)
    elif ratio > 1:
        advice.append(f"n-grams alone have a lower loss: mix them in with --ngram {DEFAULT_NGRAM}")
    return ExpectedLoss(expected, ngrams, order, advice, size)


def mixed_loss(network: float, ngrams: float) -> float:
    """Estimates the loss of a mixture from the losses of its parts."""
    if min(network, ngrams) <= 0:  # a text of one symbol
        return 0.0
    gain = MIXED * math.exp(-abs(math.log(network / ngrams)) / APART)
    return min(network, ngrams) * (1 - gain)


def _advise(tokens: TokenFile, epochs: float) -> list[str]:
    advice, size = [], int(tokens.source["bytes"])
    if size < LITTLE_BYTES:
        shown = f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} bytes"
        advice.append(f"{shown} of text is little: more text helps more than more minutes")
    if epochs > MUCH_READ:
        advice.append(
            f"{epochs:.0f} passes may overfit: if the validation loss rises before the end, "
            "use fewer --minutes ('best' keeps the lowest loss)"
        )
    if epochs < LITTLE_READ:
        advice.append(
            f"only {100 * epochs:.0f} % of the text will be read: more minutes help, more "
            "text does not"
        )
    return advice
