"""The lab's tasks: sequences with a known answer, made from a seed.

Shapes: T steps, B sequences, D features in, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charnn.inspection.lab.reber import LETTERS, embedded_string, walk

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

RECALL_SYMBOLS = 8  # to be remembered, and as many that disturb
BRACKET_KINDS = 4
BRACKETS_A_DEPTH = 8  # a sequence has this many steps for each level of depth
VARIANCE_OF_A_SUM = 1 / 6  # of two numbers from 0 to 1


@dataclass(frozen=True)
class Batch:
    """Sequences ``inputs`` (T, B, D) and what is right after each step.

    ``targets`` are (T, B): a number, a class, or -1 where nothing is asked; for a set of classes
    that are all right, ``allowed`` (T, B, K) has them, and the target is the one that came.
    """

    inputs: Floats
    targets: Floats | Ints
    allowed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Task:
    """A task: how to make it, and how to tell that it is solved.

    ``make`` takes a generator, the number of sequences and the size. A score is a share of right
    answers, solved from 0.99 up, or a squared error, solved below a tenth of ``baseline``, which
    is the score of an answer that remembers nothing, or next to nothing.
    """

    about: str
    source: str
    inputs: int
    outputs: int
    measure: str
    baseline: float
    baseline_is: str
    make: Callable[[np.random.Generator, int, int], Batch]
    steps: Callable[[int], float]

    @property
    def is_error(self) -> bool:
        """Whether lower is better."""
        return self.measure == "squared error"

    def solved(self, score: float, strictness: float = 1.0) -> bool:
        """Whether a score solves the task; `strictness` 2 halves the error that is allowed."""
        if self.is_error:
            return score < self.baseline / 10 / strictness
        return score >= 1 - 0.01 / strictness

    @property
    def rule(self) -> str:
        """The rule of `solved` in words."""
        if self.is_error:
            return f"{self.measure} below {self.baseline / 10:.4f}, a tenth of the baseline"
        return f"{self.measure} of 0.99 or more"


def one_hot(ids: Ints, size: int) -> Floats:
    """Ids (T, B) as rows (T, B, `size`) with a single one; -1 gives a row of zeros."""
    rows = np.zeros((*ids.shape, size), np.float32)
    np.put_along_axis(rows, np.maximum(ids, 0)[..., None], 1.0, axis=-1)
    rows[ids < 0] = 0
    return rows


def recall(random: np.random.Generator, count: int, delay: int) -> Batch:
    """A symbol, `delay` others that mean nothing, a question mark; then the symbol is asked for."""
    ids = np.empty((delay + 2, count), np.int64)
    ids[0] = random.integers(RECALL_SYMBOLS, size=count)
    ids[1:-1] = RECALL_SYMBOLS + random.integers(RECALL_SYMBOLS, size=(delay, count))
    ids[-1] = 2 * RECALL_SYMBOLS
    targets = np.full_like(ids, -1)
    targets[-1] = ids[0]
    return Batch(one_hot(ids, 2 * RECALL_SYMBOLS + 1), targets)


def adding(random: np.random.Generator, count: int, length: int) -> Batch:
    """Numbers from 0 to 1, two of them marked, one in each half; the answer is their sum."""
    numbers = random.random((length, count), np.float32)
    marks = np.zeros_like(numbers)
    columns = np.arange(count)
    marks[random.integers(length // 2, size=count), columns] = 1
    marks[random.integers(length // 2, length, size=count), columns] = 1
    targets = np.full((length, count), -1, np.float32)
    targets[-1] = (numbers * marks).sum(axis=0)
    return Batch(np.stack([numbers, marks], axis=-1), targets)


def brackets(random: np.random.Generator, count: int, depth: int) -> Batch:
    """Brackets of four kinds, nested up to `depth`; which kind would have to be closed next?

    Whether one is opened or closed is tossed for where both are possible. A closing bracket does
    not say of which kind it is, so that what was opened must be remembered, all of it.
    """
    length = BRACKETS_A_DEPTH * depth
    ids = np.empty((length, count), np.int64)
    targets = np.full((length, count), -1, np.int64)
    stack = np.zeros((depth + 1, count), np.int64)
    stack[0] = -1
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
    return Batch(one_hot(ids, BRACKET_KINDS + 1), targets)


def reber(random: np.random.Generator, count: int, strings: int) -> Batch:
    """Strings of the embedded Reber grammar with `strings` inner ones; which letters may follow?"""
    texts = [embedded_string(random, strings) for _ in range(count)]
    longest = max(map(len, texts)) - 1
    ids = np.full((longest, count), -1, np.int64)
    targets = np.full((longest, count), -1, np.int64)
    allowed = np.zeros((longest, count, len(LETTERS)), np.bool_)
    for column, text in enumerate(texts):
        letters = [LETTERS.index(letter) for letter in text]
        ids[: len(text) - 1, column] = letters[:-1]
        targets[: len(text) - 1, column] = letters[1:]
        for step, may_follow in enumerate(walk(text, strings)[:-1]):
            allowed[step, column, [LETTERS.index(letter) for letter in may_follow]] = True
    return Batch(one_hot(ids, len(LETTERS)), targets, allowed)


TASKS = {
    "recall": Task(
        "say at the end which of 8 symbols came first, before a delay of random others",
        "after Hochreiter and Schmidhuber 1997, experiment 2",
        2 * RECALL_SYMBOLS + 1,
        RECALL_SYMBOLS,
        "share right",
        1 / RECALL_SYMBOLS,
        "guessing",
        recall,
        lambda delay: delay + 2,
    ),
    "adding": Task(
        "add the two numbers that are marked in a sequence of random ones",
        "Hochreiter and Schmidhuber 1997, experiment 4; in the form of Le et al. 2015",
        2,
        1,
        "squared error",
        VARIANCE_OF_A_SUM,
        "always saying 1",
        adding,
        lambda length: length,
    ),
    "brackets": Task(
        "say of nested brackets of 4 kinds which would have to be closed next",
        "Dyck languages, as in Hewitt et al. 2020",
        BRACKET_KINDS + 1,
        BRACKET_KINDS,
        "share right",
        0.70,
        "naming the bracket opened last, at depth 6 (0.78 at depth 2)",
        brackets,
        lambda depth: BRACKETS_A_DEPTH * depth,
    ),
    "reber": Task(
        "say which letters may follow, at each place of a string of the embedded Reber grammar",
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
