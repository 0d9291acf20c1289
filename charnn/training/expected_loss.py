"""What to expect of a training before it begins: how low its loss will get, and plain advice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from charnn.config import DEFAULT_NGRAM
from charnn.ngrams.kneser_ney import NGram, choose_order
from charnn.ngrams.tree import MAX_TOKENS
from charnn.text.token_file import TokenFile
from charnn.training.plan import Plan

# Fitted by benchmarks/fit_expected_loss.py to measured runs: ln(loss / loss of n-grams) is
# A + B ln(millions of tokens read) + C ln(millions of tokens in the text), with errors below 0.1
# nats on the three texts that the rule was fitted to.
A, B, C = -0.099, -0.062, -0.061
# The share of the lower of the two losses that mixing takes away, less where they lie apart: right
# to within .05 nats for eight trainings of five texts (NOTES.md).
MIXED, APART = 0.045, 0.15
NGRAM_BYTES = 4  # a token that is counted: 3 to 5 for six texts
MIN_TRAIN, MAX_TRAIN, MAX_VALID = 100, 500_000, 50_000  # tokens that are counted
LITTLE_BYTES, LITTLE_READ, MUCH_READ = 200_000, 0.5, 30  # bytes of text; passes


@dataclass(frozen=True)
class Outlook:
    """The loss to expect at the end, and that of counting n-grams of this order, in nats a token.

    Both are None where there is too little to count, or nothing to validate on. ``file_bytes`` is
    what the model will take, with its n-grams.
    """

    cold_256: float | None
    counting: float | None
    order: int
    advice: list[str]
    file_bytes: int


def look_ahead(tokens: TokenFile, plan: Plan) -> Outlook:
    """Counts n-grams in the text, which tells how hard it is, and reads the rest off a rule."""
    train = np.asarray(tokens.split("train")[:MAX_TRAIN])
    valid = np.asarray(tokens.split("valid")[:MAX_VALID] if "valid" in tokens.splits else train[:0])
    advice, size = _advise(tokens, plan), 4 * plan.model.parameters
    if plan.config.ngram:
        size += NGRAM_BYTES * min(len(tokens.split("train")), MAX_TOKENS)
    if len(train) < MIN_TRAIN or len(valid) < 2:
        return Outlook(None, None, 0, advice, size)
    vocab_size = tokens.tokenizer.vocab_size
    order, _ = choose_order(train, vocab_size)
    counting = float(NGram(train, vocab_size, order).carried(valid)[-1])
    text = len(tokens.split("train")) / 1e6
    read = plan.epochs * text
    ratio = math.exp(A + B * math.log(read) + C * math.log(text))
    if plan.model.cell != "lstm":  # for the others there is no rule
        return Outlook(None, counting, order, advice, size)
    expected = counting * ratio
    if plan.config.ngram:
        gain = MIXED * math.exp(-abs(math.log(ratio)) / APART)
        expected = min(expected, counting) * (1 - gain)
    elif ratio > 1:
        advice.append(f"counting alone does better than that: --ngram {DEFAULT_NGRAM} mixes it in")
    return Outlook(expected, counting, order, advice, size)


def _advise(tokens: TokenFile, plan: Plan) -> list[str]:
    advice = []
    size = int(tokens.source["bytes"])
    if size < LITTLE_BYTES:
        shown = f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} bytes"
        advice.append(f"{shown} is little: more text helps more than more minutes")
    if plan.epochs > MUCH_READ:
        advice.append(
            f"{plan.epochs:.0f} passes are many for one text: if the validation loss rises before "
            "the end, fewer minutes do as well ('best' is kept in any case)"
        )
    if plan.epochs < LITTLE_READ:
        advice.append(
            f"{100 * plan.epochs:.0f} % of the text will be read: more minutes help, more text "
            "would not"
        )
    return advice
