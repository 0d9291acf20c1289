"""What is told of a held-out text beside its score: baselines, and where the bits go, as rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from charnn.evaluation import NOTHING, TextSizes
from charnn.scoring import baselines, classes
from charnn.scoring.blocks import CharacterBits
from charnn.scoring.surprisal import Array
from charnn.text.tokenizers import Tokenizer


def baseline_rows(
    tokenizer: Tokenizer, tokens: Array, sizes: TextSizes, train: Array | None
) -> list[dict[str, Any]]:
    """Baselines on a text: those that count predict all but its first token, like a model.

    Compressors take the whole text.
    """
    score = sizes.add(NOTHING, 0.0, tokens[1:])
    counted = baselines.counted(tokens, tokenizer.vocab_size, train)
    rows = [_row(each, score.chars, score.bytes) for each in counted]
    data = b"".join([tokenizer.token_bytes[token] for token in tokens.tolist()])
    whole = sizes.add(score, 0.0, tokens[:1])
    return rows + [_row(each, whole.chars, whole.bytes) for each in baselines.compressed(data)]


def class_rows(
    tokenizer: Tokenizer, targets: Array, nats: Array, before: str
) -> list[dict[str, Any]]:
    """Each kind of character with its share of the text and of the loss; `before` came before."""
    text, bits = bits_of_characters(tokenizer, targets, nats)
    found = classes.by_class(text, bits, before)
    chars, total = max(1, int(found.chars.sum())), float(found.bits.sum()) or 1.0
    return [
        {
            "class": name,
            "chars": count,
            "share_of_chars": count / chars,
            "bits": spent,
            "share_of_bits": spent / total,
            "bits_per_char": spent / count if count else None,
        }
        for name, count, spent in zip(
            classes.CLASSES, found.chars.tolist(), found.bits.tolist(), strict=True
        )
    ]


def bits_of_characters(tokenizer: Tokenizer, targets: Array, nats: Array) -> tuple[str, Array]:
    """The text of tokens and the bits of each of its characters, from the nats of the tokens."""
    characters = CharacterBits(tokenizer)
    text, bits = characters.push(targets, nats / math.log(2))
    rest, last = characters.push(targets[:0], bits[:0], final=True)
    return text + rest, np.concatenate([bits, last])


def _row(each: baselines.Baseline, chars: int | None, size: int) -> dict[str, Any]:
    return {
        "name": each.name,
        "bits_per_char": each.bits / chars if chars else None,
        "bits_per_byte": each.bits / size if size else None,
    }
