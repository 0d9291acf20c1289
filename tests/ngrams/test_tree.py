"""The tree of n-grams: the same numbers as the n-gram model, from what lies in a file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.ngrams.kneser_ney import NGram
from charnn.ngrams.tree import MAX_NODES, NOWHERE, NGramTree

V = 6
IDS = np.random.default_rng(5).choice(5, 600, p=[0.5, 0.3, 0.1, 0.05, 0.05])


def walked(tree: NGramTree, ids: list[int]) -> np.ndarray:
    nodes = tree.start()
    for symbol in ids:
        nodes = tree.after(nodes, symbol)
    return nodes


@given(st.lists(st.integers(0, V - 1), min_size=4, max_size=12), st.integers(1, 5))
def test_the_tree_says_what_the_n_gram_model_says(text: list[int], order: int) -> None:
    tree, model = NGramTree.of(IDS, V, order), NGram(IDS, V, order)
    ids = np.array(text)
    expected = np.exp(-model.nats(ids, np.full(len(ids), order))[-1])
    for place in range(order, len(ids)):
        p = tree.probabilities(walked(tree, text[:place]))
        assert expected[place] == pytest.approx(p[ids[place]], rel=1e-12)


@given(st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(0, V - 1), max_size=9))
def test_probabilities_sum_to_one_and_none_is_nought(learnt: list[int], read: list[int]) -> None:
    tree = NGramTree.of(np.array([0, *learnt]), V, 4)
    p = tree.probabilities(walked(tree, read))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_many_places_are_looked_up_at_once_as_one_by_one() -> None:
    tree = NGramTree.of(IDS, V, 4)
    texts = np.random.default_rng(1).integers(0, V, (7, 9))
    nodes = np.stack([tree.start()] * 7)
    for column in texts.T:
        nodes = tree.after(nodes, column)
    single = [walked(tree, text.tolist()) for text in texts]
    assert (np.stack(single) == nodes).all()
    expected = np.stack([tree.probabilities(each) for each in single])
    assert (expected == tree.probabilities_at(nodes)).all()


@pytest.mark.parametrize("order", [1, 2, 5])
def test_many_symbols_are_walked_at_once_as_one_by_one(order: int) -> None:
    tree = NGramTree.of(IDS, V, order, 2)
    texts = np.random.default_rng(2).integers(0, V, (9, 7))
    nodes = tree.after(np.stack([tree.start()] * 7), np.arange(7) % V)
    found = tree.walk(nodes, texts)
    for row, symbols in zip(found, texts, strict=True):
        nodes = tree.after(nodes, symbols)
        assert (nodes == row).all()


def test_a_context_that_was_never_seen_is_nowhere_until_it_is_left_behind() -> None:
    tree = NGramTree.of(np.array([0, 1, 2, 0, 1, 3]), V, 3)
    assert [0, NOWHERE, NOWHERE] == tree.start().tolist()
    unseen = walked(tree, [0, 1, 5])
    assert [0, NOWHERE, NOWHERE] == unseen.tolist()
    again = tree.after(tree.after(unseen, 0), 1)
    assert NOWHERE not in again
    assert tree.probabilities(again)[[2, 3]].sum() > 0.5


def test_a_tree_comes_back_from_its_arrays_which_are_small() -> None:
    tree = NGramTree.of(IDS, V, 4)
    arrays = tree.to_arrays()
    assert all(a.ndim == 1 and a.dtype.itemsize < 4 for a in arrays.values())
    again = NGramTree.from_arrays(V, 4, arrays)
    nodes = walked(tree, [0, 1, 0])
    assert (tree.probabilities(nodes) == again.probabilities(nodes)).all()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(1, 5))
def test_long_n_grams_are_kept_if_they_occur_twice_and_the_smoothing_knows_of_all(
    learnt: list[int], once: int
) -> None:
    ids, order = np.array(learnt), 5
    tree = NGramTree.of(ids, V, order, once)
    text = bytes(learnt)
    grams = Counter(text[i : i + n] for n in range(1, 6) for i in range(len(text) - n + 1))
    long = [gram for gram in grams if len(gram) > once and grams[gram] == 1]
    assert len(grams) - len(long) == len(tree.symbols)
    for context in ([], learnt[-1:], learnt[:2], learnt[:4]):
        p = tree.probabilities(walked(tree, context))
        assert p.min() > 0
        assert p.sum() == pytest.approx(1, abs=1e-12)
    whole = NGramTree.of(ids, V, order)
    if once >= order:
        assert (whole.symbols.tolist(), [0] * len(tree.dropped)) == (
            tree.symbols.tolist(),
            tree.dropped.tolist(),
        )


def test_what_is_not_kept_leaves_its_probability_to_the_shorter_contexts() -> None:
    tree = NGramTree.of(np.array([0, 1, 0, 1, 0, 2, 3]), V, 2, 1)
    d = 0.5, 1.0, 1.5  # too few n-grams to tell more
    # After 0: 1 twice, 2 once, which is dropped. Before: 0 comes after 1, 1 after 0, 2 and 3 too.
    shorter = [(1 - d[0] + 4 * d[0] / V) / 4] * 4 + [4 * d[0] / V / 4] * 2
    after_0 = [(d[1] + 1) / 3 * each for each in shorter]
    after_0[1] += (2 - d[1]) / 3
    assert after_0 == pytest.approx(tree.probabilities(walked(tree, [0])), abs=1e-12)
    assert [0, 1, 2, 3, 1, 0] == tree.symbols.tolist()


def test_what_would_grow_too_large_has_shorter_n_grams(monkeypatch) -> None:
    whole = NGramTree.of(IDS, V, 4)
    monkeypatch.setattr("charnn.ngrams.tree.MAX_NODES", len(whole.symbols))
    smaller = NGramTree.of(IDS, V, 4)
    assert 3 == smaller.order
    nodes = walked(smaller, [1, 0])
    assert (NGramTree.of(IDS, V, 3).probabilities(nodes) == smaller.probabilities(nodes)).all()
    assert MAX_NODES <= 2**24, "float32 holds the number of a node"


def spoilt(**changes: Any) -> dict[str, Any]:
    arrays = {name: a.copy() for name, a in NGramTree.of(IDS, V, 3).to_arrays().items()}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    return arrays


def with_first(value: int) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[0] = value
        return array

    return change


@pytest.mark.parametrize(
    "arrays",
    [
        spoilt(symbols=lambda a: a[:-1]),
        spoilt(counts=lambda a: a[:-1]),
        spoilt(symbols=lambda a: a[:0], counts=lambda a: a[:0]),
        spoilt(symbols=with_first(V)),
        spoilt(symbols=with_first(3)),
        spoilt(children=with_first(4)),
        spoilt(children=with_first(0)),
        spoilt(children=lambda a: a[:0]),
        spoilt(children=lambda a: np.full(len(a), 2**32 - 1, np.uint32)),
        spoilt(children=lambda a: np.append(a, a[:1])),
        spoilt(children=lambda a: a[::-1].copy()),
        spoilt(dropped=lambda a: a[:-1]),
        spoilt(dropped=lambda a: np.append(a, a)),
    ],
)
def test_what_is_no_tree_is_refused(arrays: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n-grams"):
        NGramTree.from_arrays(V, 3, arrays)


def test_a_tree_of_another_depth_is_refused() -> None:
    for order in (2, 4):
        with pytest.raises(ValueError, match="n-grams"):
            NGramTree.from_arrays(V, order, spoilt())
