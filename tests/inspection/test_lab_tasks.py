"""The lab's sequences against definitions written out once more."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest

from charnn.config import LAB_SIZES
from charnn.inspection.lab.reber import LETTERS, embedded_string, inner_string, walk
from charnn.inspection.lab.tasks import BRACKET_KINDS, RECALL_SYMBOLS, TASKS

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


def accepted(text: str) -> bool:
    """Whether an automaton that follows all edges at once ends in the last node."""
    nodes = {0}
    for letter in text:
        nodes = {to for at, name, to in EDGES if at in nodes and name == letter}
    return nodes == {7}


def test_every_string_of_the_grammar_is_accepted_by_an_automaton_and_an_expression() -> None:
    random = np.random.default_rng(1)
    strings = [inner_string(random) for _ in range(2000)]
    assert all(accepted(text) and INNER.fullmatch(text) for text in strings)
    assert 5 == min(map(len, strings))


@pytest.mark.parametrize("text", ["BTXXE", "BTSXE", "BPVE", "TXSE", "BTXSEE", ""])
def test_the_automaton_refuses_what_is_no_string(text: str) -> None:
    assert not accepted(text)
    with pytest.raises(ValueError, match=r"may not follow|does not end"):
        walk(f"BT{text}TE")


def test_each_way_at_a_fork_is_taken_half_of_the_time() -> None:
    random = np.random.default_rng(2)
    taken: collections.Counter[tuple[int, str]] = collections.Counter()
    for _ in range(4000):
        node = 0
        for letter in inner_string(random):
            taken[node, letter] += 1
            (node,) = (to for at, name, to in EDGES if (at, name) == (node, letter))
    for node in (1, 2, 3, 4, 5):
        counts = [taken[node, name] for at, name, _ in EDGES if at == node]
        share = counts[0] / sum(counts)
        assert abs(share - 0.5) < 4 * 0.5 / sum(counts) ** 0.5


@pytest.mark.parametrize("strings", [1, 3])
def test_the_letters_that_may_follow_are_those_of_the_graph(strings: int) -> None:
    random = np.random.default_rng(3)
    outer = collections.Counter()
    for _ in range(200):
        text = embedded_string(random, strings)
        outer[text[1]] += 1
        assert (text[0], text[1], text[-1]) == ("B", text[-2], "E")
        follow = walk(text, strings)
        assert len(text) == len(follow)
        assert all(c in may for c, may in zip(text[1:], follow[:-1], strict=True))
        node, done = 0, 0
        for letter, may in zip(text[2:-2], follow[2:-2], strict=True):
            (node,) = (to for at, name, to in EDGES if (at, name) == (node, letter))
            if node == 7:
                node, done = 0, done + 1
                assert may == ("B" if done < strings else text[1])
            else:
                assert set(may) == {name for at, name, _ in EDGES if at == node}
        assert strings == done
    assert 60 < outer["T"] < 140


def test_a_batch_of_reber_asks_for_the_next_letter_of_whole_strings() -> None:
    made = batch("reber", 2, 50)
    ids = symbols(made.inputs)
    for column in range(50):
        length = int((ids[:, column] >= 0).sum())
        text = "".join(
            LETTERS[i] for i in [*ids[:length, column], made.targets[length - 1, column]]
        )
        may = walk(text, 2)  # raises if it is no such string
        assert [LETTERS.index(c) for c in text[1:]] == list(made.targets[:length, column])
        assert (made.targets[length:, column] == -1).all()
        for step in range(length):
            allowed = {LETTERS[i] for i in np.flatnonzero(made.allowed[step, column])}
            assert set(may[step]) == allowed


@pytest.mark.parametrize("delay", [1, 7])
def test_recall_asks_at_the_end_for_what_came_first(delay: int) -> None:
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
def test_the_answer_of_adding_is_the_sum_of_the_two_marked_numbers(length: int) -> None:
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
def test_the_answer_of_brackets_is_the_one_opened_last_and_not_closed(depth: int) -> None:
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


def test_the_baseline_of_brackets_is_that_of_naming_the_one_opened_last() -> None:
    made = batch("brackets", 6, 1000)
    right = []
    for column, answers in zip(symbols(made.inputs).T, made.targets.T, strict=True):
        last = -1
        for id_, answer in zip(column, answers, strict=True):
            last = last if id_ == BRACKET_KINDS else id_
            right += [last == answer] * int(answer >= 0)
    assert pytest.approx(TASKS["brackets"].baseline, abs=0.01) == np.mean(right)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_made_from_its_seed_and_fits_its_table(name: str) -> None:
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


def test_what_solves_a_task_is_what_its_rule_says() -> None:
    adding, recall = TASKS["adding"], TASKS["recall"]
    assert (True, False) == (adding.solved(0.0166), adding.solved(0.0167))
    assert (True, False) == (adding.solved(0.0083, 2), adding.solved(0.0084, 2))
    assert (True, False) == (recall.solved(0.99), recall.solved(0.989))
    assert (True, False) == (recall.solved(0.995, 2), recall.solved(0.994, 2))
    assert "0.0167" in adding.rule
    assert "0.99" in recall.rule
