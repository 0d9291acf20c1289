"""Tasks of the lab: sequences with a known answer, made from a random generator.

Shapes: T steps, B sequences, D input features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

RECALL_SYMBOLS = 8  # symbols to remember; there are 8 distractors too
BRACKET_KINDS = 4
STEPS_PER_DEPTH = 8  # of a sequence of brackets
SOLVED_SHARE, SOLVED_ERROR = 0.99, 0.1  # of right answers; of the baseline's squared error

# The grammar of Reber 1967: node -> the letters that may follow, and the node each leads to. Where
# two letters may follow, each has probability 1/2.
LETTERS = "BTSXPVE"
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


@dataclass(frozen=True)
class LabBatch:
    """Sequences ``inputs`` (T, B, D) and the ``targets`` (T, B) after each step.

    A target is a number, a class, or -1 at steps without a question. If several classes are right,
    ``allowed`` (T, B, K) marks them, and the target is the one that was drawn.
    """

    inputs: Floats
    targets: Floats | Ints
    allowed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class LabTask:
    """A task and the rule by which it counts as solved.

    ``make`` takes a generator, the number of sequences and the size; ``steps`` maps a size to the
    length of its sequences. ``measure`` names the score: a share of right answers, or a squared
    error. ``baseline`` is the score of a strategy that needs hardly any memory, described by
    ``baseline_is``.
    """

    about: str
    source: str
    inputs: int
    outputs: int
    measure: str
    baseline: float
    baseline_is: str
    make: Callable[[np.random.Generator, int, int], LabBatch]
    steps: Callable[[int], int]

    @property
    def is_error(self) -> bool:
        """True if lower scores are better."""
        return self.measure == "squared error"

    @property
    def digits(self) -> int:
        """Decimal places of a score; squared errors are small."""
        return 4 if self.is_error else 3

    def solved(self, score: float, strictness: float = 1.0) -> bool:
        """Tells whether a score solves the task; `strictness` 2 halves the allowed error."""
        if self.is_error:
            return score < self.baseline * SOLVED_ERROR / strictness
        return score >= 1 - (1 - SOLVED_SHARE) / strictness

    @property
    def rule(self) -> str:
        """The rule of `solved` in words."""
        if self.is_error:
            limit = self.baseline * SOLVED_ERROR
            return f"{self.measure} below {limit:.4f}, a tenth of the baseline"
        return f"{self.measure} of {SOLVED_SHARE} or more"


def one_hot(ids: Ints, size: int) -> Floats:
    """Returns ids (T, B) as one-hot rows (T, B, `size`); -1 becomes zeros."""
    rows: Floats = (ids[..., None] == np.arange(size)).astype(np.float32)
    return rows


def recall(random: np.random.Generator, count: int, delay: int) -> LabBatch:
    """Makes a symbol, `delay` random others, and a question mark whose target is the symbol."""
    ids = np.empty((delay + 2, count), np.int64)
    ids[0] = random.integers(RECALL_SYMBOLS, size=count)
    ids[1:-1] = RECALL_SYMBOLS + random.integers(RECALL_SYMBOLS, size=(delay, count))
    ids[-1] = 2 * RECALL_SYMBOLS
    targets = np.full_like(ids, -1)
    targets[-1] = ids[0]
    return LabBatch(one_hot(ids, 2 * RECALL_SYMBOLS + 1), targets)


def adding(random: np.random.Generator, count: int, length: int) -> LabBatch:
    """Makes numbers from 0 to 1 with one marked in each half; the last target is their sum."""
    numbers = random.random((length, count), np.float32)
    marks = np.zeros_like(numbers)
    columns = np.arange(count)
    marks[random.integers(length // 2, size=count), columns] = 1
    marks[random.integers(length // 2, length, size=count), columns] = 1
    targets = np.full((length, count), -1, np.float32)
    targets[-1] = (numbers * marks).sum(axis=0)
    return LabBatch(np.stack([numbers, marks], axis=-1), targets)


def brackets(random: np.random.Generator, count: int, depth: int) -> LabBatch:
    """Makes brackets of four kinds nested up to `depth`; the target is the kind to close next.

    Where a bracket may open or close, each has probability 1/2. All closing brackets look alike, so
    every open bracket must be remembered.
    """
    length = STEPS_PER_DEPTH * depth
    ids = np.empty((length, count), np.int64)
    targets = np.empty((length, count), np.int64)
    stack = np.full((depth + 1, count), -1)
    height = np.zeros(count, np.int64)
    columns = np.arange(count)
    for step in range(length):
        opens = (random.random(count) < 0.5) | (height == 0)
        opens &= height < depth
        kinds = random.integers(BRACKET_KINDS, size=count)
        height += np.where(opens, 1, -1)
        stack[height[opens], columns[opens]] = kinds[opens]
        ids[step] = np.where(opens, kinds, BRACKET_KINDS)
        targets[step] = stack[height, columns]
    return LabBatch(one_hot(ids, BRACKET_KINDS + 1), targets)


def embedded_string(random: np.random.Generator, strings: int) -> tuple[str, list[str]]:
    """Returns a string of the embedded Reber grammar, and the letters that may follow each letter.

    It is B, T or P, `strings` strings of the inner grammar, the same T or P, and E; the classic
    task has one inner string.
    """
    outer = "TP"[random.integers(2)]
    text, follow = "B" + outer, ["TP", "B"]
    for number in range(strings):
        node = 0
        while node != END:
            choices = list(GRAMMAR[node])
            letter = choices[random.integers(len(choices))] if len(choices) > 1 else choices[0]
            node = GRAMMAR[node][letter]
            text += letter
            follow.append("".join(GRAMMAR[node]))
        follow[-1] = "B" if number + 1 < strings else outer
    return text + outer + "E", [*follow, "E", ""]


def reber(random: np.random.Generator, count: int, strings: int) -> LabBatch:
    """Makes embedded strings with `strings` inner ones; the target is the next letter."""
    made = [embedded_string(random, strings) for _ in range(count)]
    longest = max(len(text) for text, _ in made) - 1
    ids = np.full((longest, count), -1, np.int64)
    targets = np.full((longest, count), -1, np.int64)
    allowed = np.zeros((longest, count, len(LETTERS)), np.bool_)
    for column, (text, follow) in enumerate(made):
        letters = [LETTERS.index(letter) for letter in text]
        ids[: len(text) - 1, column] = letters[:-1]
        targets[: len(text) - 1, column] = letters[1:]
        for step, may_follow in enumerate(follow[:-1]):
            allowed[step, column] = [letter in may_follow for letter in LETTERS]
    return LabBatch(one_hot(ids, len(LETTERS)), targets, allowed)


TASKS = {
    "recall": LabTask(
        "name the first symbol of a sequence, one of 8, after a delay of random others",
        "after Hochreiter and Schmidhuber 1997, experiment 2",
        2 * RECALL_SYMBOLS + 1,
        RECALL_SYMBOLS,
        "share right",
        1 / RECALL_SYMBOLS,
        "guessing",
        recall,
        lambda delay: delay + 2,
    ),
    "adding": LabTask(
        "add the two marked numbers of a random sequence",
        "Hochreiter and Schmidhuber 1997, experiment 4; in the form of Le et al. 2015",
        2,
        1,
        "squared error",
        1 / 6,  # the variance of the sum of two numbers from 0 to 1
        "always answering 1",
        adding,
        lambda length: length,
    ),
    "brackets": LabTask(
        "name the kind of bracket, one of 4, that must close next",
        "Dyck languages, as in Hewitt et al. 2020",
        BRACKET_KINDS + 1,
        BRACKET_KINDS,
        "share right",
        0.70,
        "naming the bracket opened last, at depth 6 (0.78 at depth 2)",
        brackets,
        lambda depth: STEPS_PER_DEPTH * depth,
    ),
    "reber": LabTask(
        "name the letters that may follow each letter of an embedded Reber string",
        "Reber 1967; embedded: Cleeremans et al. 1989, Hochreiter and Schmidhuber 1997, exp. 1",
        len(LETTERS),
        len(LETTERS),
        "share of strings right",
        0.5,
        "knowing all but the outer letter",
        reber,
        lambda strings: 4 + 8 * strings,
    ),
}
