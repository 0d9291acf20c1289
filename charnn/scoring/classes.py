"""Where the bits go: kinds of characters, their share of the text and of the loss.

Shapes: C characters, K kinds.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np

from charnn.scoring.surprisal import Array
from charnn.text.tokenizers import code_points

NEWLINE, SPACE, DIGIT, UPPER, FIRST, INSIDE, PUNCTUATION, OTHER = range(8)
CLASSES = (
    "newline",
    "space",
    "digit",
    "upper case",
    "letter after space",
    "letter inside a word",
    "punctuation",
    "other",
)


class Classes(NamedTuple):
    """Of each kind of `CLASSES`: how many characters, and their bits: (K,) each."""

    chars: Array
    bits: Array


def classify(text: str, before: str = "\n") -> Array:
    """The kind (C,) of each character: its place in `CLASSES`. `before` is what came before.

    A letter is any that is not upper case; one after white space begins a word, all others are
    inside one, also after a quotation mark or a hyphen.
    """
    codes = code_points(text)
    known, places = np.unique(codes, return_inverse=True)
    kinds = np.array([_kind(chr(code)) for code in known.tolist()], np.int64)[places]
    blank = np.array([chr(code).isspace() for code in known.tolist()], bool)[places]
    after_blank = np.concatenate([[not before or before[-1].isspace()], blank[:-1]])[: len(kinds)]
    kinds[(kinds == INSIDE) & after_blank] = FIRST
    return kinds


def by_class(text: str, bits: Array, before: str = "\n") -> Classes:
    """How many characters of each kind there are, and how many of the `bits` (C,) they take."""
    kinds = classify(text, before)
    count = len(CLASSES)
    return Classes(np.bincount(kinds, minlength=count), np.bincount(kinds, bits, minlength=count))


def _kind(character: str) -> int:
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
