"""What to expect of a training before it begins: how low its loss will get, and plain advice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from charnn.text.ngram import NGram, choose_order
from charnn.text.token_file import TokenFile
from charnn.training.recipe import Plan

# Fitted by benchmarks/outlook.py to measured trainings: the logarithm of the loss over that of
# counting is A + B ln(millions of tokens read) + C ln(millions of tokens in the text).
A, B, C = 0.0, 0.0, 0.0
MAX_TRAIN, MAX_VALID = 2_000_000, 100_000  # tokens that are counted
LITTLE_BYTES, LITTLE_READ, MUCH_READ = 200_000, 0.5, 30  # bytes of text; passes


@dataclass(frozen=True)
class Outlook:
    """The loss to expect, and that of counting n-grams of this order, in nats a token.

    Both are None where there is nothing to validate on.
    """

    cold_256: float | None
    counting: float | None
    order: int
    advice: list[str]


def look_ahead(tokens: TokenFile, plan: Plan) -> Outlook:
    """Counts n-grams in the text, which tells how hard it is, and reads the rest off a rule."""
    train = np.asarray(tokens.split("train")[:MAX_TRAIN])
    valid = np.asarray(tokens.split("valid")[:MAX_VALID] if "valid" in tokens.splits else train[:0])
    advice = _advise(tokens, plan)
    if len(valid) < 2:
        return Outlook(None, None, 0, advice)
    vocab_size = tokens.tokenizer.vocab_size
    order, _ = choose_order(train, vocab_size)
    counting = float(NGram(train, vocab_size, order).carried(valid)[-1])
    read = plan.epochs * len(tokens.split("train")) / 1e6
    text = len(tokens.split("train")) / 1e6
    ratio = math.exp(A + B * math.log(read) + C * math.log(text))
    return Outlook(counting * ratio, counting, order, advice)


def _advise(tokens: TokenFile, plan: Plan) -> list[str]:
    advice = []
    size = int(tokens.source["bytes"])
    if size < LITTLE_BYTES:
        advice.append(f"{size / 1000:.0f} kB is little: more text helps more than more minutes")
    if plan.epochs > MUCH_READ:
        advice.append(
            f"{plan.epochs:.0f} passes are many for this text: a third of the time will do nearly "
            "as well"
        )
    if plan.epochs < LITTLE_READ:
        advice.append(
            f"the time is enough for {100 * plan.epochs:.0f} % of the text: more minutes help, "
            "another part of the text would not"
        )
    return advice
