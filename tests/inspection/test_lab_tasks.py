"""Tasks of the lab, against definitions written a second way."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest

from charnn.config import LAB_SIZES
from charnn.inspection.lab.tasks import (
    BRACKET_KINDS,
    LETTERS,
    RECALL_SYMBOLS,
    TASKS,
    embedded_string,
)

# Edges of the grammar as the graph is drawn in the literature: from, letter, to.
EDGES = [
    *((0, "B", 1), (1, "T", 2), (1, "P", 3), (2, "S", 2), (2, "X", 4), (3, "T", 3), (3, "V", 5)),
    *((4, "X", 3), (4, "S", 6), (5, "P", 4), (5, "V", 6), (6, "E", 7)),
]
# The same language as a regular expression, put together by hand from the graph.
RIGHT = "T*V(?:PX T*V)*(?:V|PS)".replace(" ", "")  # from node 3 to the end but for E
INNER = re.compile(f"B(?:TS*X(?:S|X{RIGHT})|P{RIGHT})E")


def batch(task: str, size: int, count: int = 200, seed: int = 0):
    return TASKS[task].make(np.random.default_rng(seed), count, size)


def symbols(inputs: np.ndarray) -> np.ndarray:
    """Ids (T, B) of one-hot rows; -1 for rows of zeros."""
    assert set(np.unique(inputs)) <= {0.0, 1.0}
    return np.where(inputs.any(-1), inputs.argmax(-1), -1)


@pytest.mark.parametrize("strings", [1, 3])
def test_embedded_strings_follow_the_graph(strings):
    random = np.random.default_rng(3)
    outer = collections.Counter()
    for _ in range(300):
        text, follow = embedded_string(random, strings)
        outer[text[1]] += 1
        assert (text[0], text[1], text[-1]) == ("B", text[-2], "E")
        assert re.fullmatch(f"(?:{INNER.pattern}){{{strings}}}", text[2:-2])
        assert len(text) == len(follow)
        assert (["TP", "B"], ["E", ""]) == (follow[:2], follow[-2:])
        node, done = 0, 0
        for letter, may in zip(text[2:-2], follow[2:-2], strict=True):
            (node,) = (to for at, name, to in EDGES if (at, name) == (node, letter))
            if node == 7:
                node, done = 0, done + 1
                assert may == ("B" if done < strings else text[1])
            else:
                assert set(may) == {name for at, name, _ in EDGES if at == node}
    assert 100 < outer["T"] < 200


def test_each_branch_is_taken_half_of_the_time():
    random = np.random.default_rng(2)
    taken: collections.Counter[tuple[int, str]] = collections.Counter()
    for _ in range(4000):
        node = 0
        for letter in embedded_string(random, 1)[0][2:-2]:
            taken[node, letter] += 1
            (node,) = (to for at, name, to in EDGES if (at, name) == (node, letter))
    for node in (1, 2, 3, 4, 5):
        counts = [taken[node, name] for at, name, _ in EDGES if at == node]
        assert abs(counts[0] / sum(counts) - 0.5) < 2 / sum(counts) ** 0.5


def test_a_batch_of_reber_asks_for_the_next_letter_of_whole_strings():
    made, random = batch("reber", 2, 50), np.random.default_rng(0)
    ids = symbols(made.inputs)
    for column in range(50):
        text, follow = embedded_string(random, 2)
        letters = [LETTERS.index(letter) for letter in text]
        length = len(letters) - 1
        assert letters[:-1] == list(ids[:length, column])
        assert letters[1:] == list(made.targets[:length, column])
        assert (made.targets[length:, column] == -1).all()
        for step in range(length):
            allowed = {LETTERS[i] for i in np.flatnonzero(made.allowed[step, column])}
            assert set(follow[step]) == allowed


@pytest.mark.parametrize("delay", [1, 7])
def test_recall_asks_for_the_first_symbol_at_the_end(delay: int):
    made = batch("recall", delay, 4000)
    ids = symbols(made.inputs)
    assert (delay + 2, 4000) == ids.shape
    assert (made.targets[:-1] == -1).all()
    np.testing.assert_array_equal(ids[0], made.targets[-1])
    assert (ids[-1] == 2 * RECALL_SYMBOLS).all()
    assert set(range(RECALL_SYMBOLS)) == set(ids[0])
    assert set(range(RECALL_SYMBOLS, 2 * RECALL_SYMBOLS)) == set(np.unique(ids[1:-1]))
    assert abs((ids[0] == 3).mean() - 1 / 8) < 0.03


@pytest.mark.parametrize("length", [2, 3, 10])
def test_the_answer_of_adding_is_the_sum_of_the_two_marked_numbers(length: int):
    made = batch("adding", length, 3000)
    numbers, marks = made.inputs[..., 0], made.inputs[..., 1]
    assert (marks.sum(0) == 2).all()
    assert (marks[: length // 2].sum(0) == 1).all()
    for column in range(100):
        a, b = np.flatnonzero(marks[:, column])
        assert pytest.approx(numbers[a, column] + numbers[b, column]) == made.targets[-1, column]
    assert pytest.approx(1, abs=0.03) == made.targets[-1].mean()
    assert (
        pytest.approx(TASKS["adding"].baseline, abs=0.015) == np.square(made.targets[-1] - 1).mean()
    )


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_answer_of_brackets_is_the_innermost_open_one(depth: int):
    made = batch("brackets", depth, 100)
    ids = symbols(made.inputs)
    deepest = 0
    for column in range(100):
        stack: list[int] = []
        for step, id_ in enumerate(ids[:, column]):
            if id_ == BRACKET_KINDS:
                stack.pop()  # raises if there is nothing to close
            else:
                stack.append(id_)
            deepest = max(deepest, len(stack))
            assert (stack[-1] if stack else -1) == made.targets[step, column]
    assert depth == deepest


def test_the_baseline_of_brackets_names_the_one_opened_last():
    made = batch("brackets", 6, 1000)
    right = []
    for column, answers in zip(symbols(made.inputs).T, made.targets.T, strict=True):
        last = -1
        for id_, answer in zip(column, answers, strict=True):
            last = last if id_ == BRACKET_KINDS else id_
            right += [last == answer] * int(answer >= 0)
    assert pytest.approx(TASKS["brackets"].baseline, abs=0.01) == np.mean(right)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_repeats_from_its_seed_and_fits_its_description(name: str):
    task = TASKS[name]
    size = LAB_SIZES[name][1][0]
    one, again, other = (batch(name, size, 20, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.inputs, again.inputs)
    np.testing.assert_array_equal(one.targets, again.targets)
    assert one.inputs.shape != other.inputs.shape or (one.inputs != other.inputs).any()
    assert task.inputs == one.inputs.shape[-1]
    assert one.inputs.shape[:2] == one.targets.shape
    assert task.outputs > one.targets.max() or task.is_error
    assert list(TASKS) == list(LAB_SIZES)


def test_a_task_is_solved_by_its_rule():
    adding, recall = TASKS["adding"], TASKS["recall"]
    assert (True, False) == (adding.solved(0.0166), adding.solved(0.0167))
    assert (True, False) == (adding.solved(0.0083, 2), adding.solved(0.0084, 2))
    assert (True, False) == (recall.solved(0.99), recall.solved(0.989))
    assert (True, False) == (recall.solved(0.995, 2), recall.solved(0.994, 2))
    assert "0.0167" in adding.rule
    assert "0.99" in recall.rule
