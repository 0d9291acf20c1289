"""The Reber grammar (Reber 1967), and strings of it inside a pair of letters that must agree.

At each fork of the inner grammar both letters have one half. The embedded grammar is B, T or P, a
string of the inner one, the same T or P again, and E. The lab may put several inner strings in a
row, so that the outer letter must be remembered for longer.
"""

from __future__ import annotations

import numpy as np

LETTERS = "BTSXPVE"
# Node -> the letters that may follow, and the node to which each leads; the last has none.
GRAMMAR: dict[int, dict[str, int]] = {
    0: {"B": 1},
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
    6: {"E": 7},
    7: {},
}
END = 7


def inner_string(random: np.random.Generator) -> str:
    """A string of the Reber grammar, such as BTXSE."""
    node, letters = 0, []
    while node != END:
        choices = list(GRAMMAR[node])
        letter = choices[random.integers(len(choices))] if len(choices) > 1 else choices[0]
        letters.append(letter)
        node = GRAMMAR[node][letter]
    return "".join(letters)


def embedded_string(random: np.random.Generator, strings: int = 1) -> str:
    """A string of the embedded grammar with this many inner ones, such as BTBTXSETE."""
    outer = "TP"[random.integers(2)]
    inner = "".join(inner_string(random) for _ in range(strings))
    return f"B{outer}{inner}{outer}E"


def walk(text: str, strings: int = 1) -> list[str]:
    """The letters that may follow after each letter of an embedded string; after the last, none.

    Raises:
        ValueError: the text is no such string.
    """
    follow = ["TP", "B"]
    outer, node, done = text[1:2], 0, 0
    if text[:1] != "B" or outer not in ("T", "P"):
        raise ValueError(f"{text} does not begin as an embedded string does")
    for letter in text[2:-2]:
        if letter not in GRAMMAR[node]:
            raise ValueError(f"{text} has a letter that may not follow")
        node = GRAMMAR[node][letter]
        if node == END:
            done += 1
            node = 0
            follow.append("B" if done < strings else outer)
        else:
            follow.append("".join(GRAMMAR[node]))
    if done != strings or node != 0 or text[-2:] != outer + "E":
        raise ValueError(f"{text} does not end as an embedded string does")
    return [*follow, "E", ""]
