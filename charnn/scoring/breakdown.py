"""Loss broken down by position in a window or line, and by class of character.

Shapes: N tokens, C characters, P positions.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any, NamedTuple

import numpy as np

from charnn.evaluation import COLD_WINDOW, TokenLosses
from charnn.scoring.surprisal import Array, CharacterBits
from charnn.text.tokenizers import Tokenizer, code_points

NEWLINE, SPACE, DIGIT, UPPER, FIRST, INSIDE, PUNCTUATION, OTHER = range(8)
CHARACTER_CLASSES = (
    "newline",
    "space",
    "digit",
    "upper case",
    "letter after space",
    "letter inside a word",
    "punctuation",
    "other",
)


class PositionLosses(NamedTuple):
    """Mean bits of the tokens at positions (P,) of windows or lines, counted from 1.

    Of all ``windows`` (or lines), ``counts`` (P,) are long enough to have each position.
    """

    positions: Array
    bits: Array
    windows: int
    counts: Array


def by_position(losses: TokenLosses, newline: int | None = None) -> PositionLosses:
    """Returns the mean loss at positions 1, 2, 4 and so on, up to `COLD_WINDOW`.

    `losses` come from cold-256, or with `newline` from "lines". Only long lines have high
    positions, so the means at two positions may be over different lines.
    """
    if newline is None:
        window = min(COLD_WINDOW, len(losses.nats))
        lengths = np.full(len(losses.nats) // window, window)
    else:
        lengths = np.diff(np.flatnonzero(losses.targets == newline), prepend=-1)
    starts = np.cumsum(lengths) - lengths
    furthest = min(COLD_WINDOW, int(lengths.max()))
    positions = 2 ** np.arange(int(math.log2(furthest)) + 1)
    found = [losses.nats[starts[lengths >= place] + place - 1] for place in positions]
    bits = np.array([nats.mean() / math.log(2) for nats in found])
    return PositionLosses(positions, bits, len(lengths), np.array([len(nats) for nats in found]))


def classify(text: str, before: str = "\n") -> Array:
    """Returns the class (C,) of each character, an index of `CHARACTER_CLASSES`.

    `before` is the text before. A letter that is not upper case is "after space" or "inside a
    word"; after a hyphen it is inside.
    """
    known, places = np.unique(code_points(text), return_inverse=True)
    characters = [chr(code) for code in known.tolist()]
    found = np.array([_class_of(character) for character in characters], np.int64)[places]
    blank = np.array([character.isspace() for character in characters], bool)[places]
    after_blank = np.concatenate([[not before or before[-1].isspace()], blank[:-1]])[: len(found)]
    found[(found == INSIDE) & after_blank] = FIRST
    return found


def _class_of(character: str) -> int:
    if character == "\n":
        return NEWLINE
    if character.isspace():
        return SPACE
    category = unicodedata.category(character)
    if category[0] == "N":
        return DIGIT
    if character.isupper() or category == "Lt":
        return UPPER
    if category[0] == "L":
        return INSIDE
    return PUNCTUATION if category[0] in "PS" else OTHER


def class_rows(text: str, bits: Array, before: str) -> list[dict[str, Any]]:
    """Returns the share of each class of characters in the text, and in its bits (C,)."""
    classes, count = classify(text, before), len(CHARACTER_CLASSES)
    numbers = np.bincount(classes, minlength=count).tolist()
    spent = np.bincount(classes, bits, minlength=count)
    chars, total = max(1, len(text)), float(spent.sum()) or 1.0
    return [
        {
            "class": name,
            "chars": number,
            "share_of_chars": number / chars,
            "bits": of_class,
            "share_of_bits": of_class / total,
            "bits_per_char": of_class / number if number else None,
        }
        for name, number, of_class in zip(CHARACTER_CLASSES, numbers, spent.tolist(), strict=True)
    ]


def bits_of_characters(tokenizer: Tokenizer, losses: TokenLosses) -> tuple[str, Array]:
    """Returns the text of the targets, and the bits (C,) of each of its characters."""
    characters = CharacterBits(tokenizer)
    text, bits = characters.push(losses.targets, losses.nats / math.log(2))
    rest, last = characters.push(losses.targets[:0], bits[:0], final=True)
    return text + rest, np.concatenate([bits, last])
