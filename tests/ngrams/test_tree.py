"""The tree of n-grams has the probabilities of the n-gram model."""

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
def test_the_tree_has_the_probabilities_of_the_n_gram_model(text: list[int], order: int) -> None:
    tree, model = NGramTree.of(IDS, V, order), NGram(IDS, V, order)
    ids = np.array(text)
    expected = np.exp(-model.nats(ids, np.full(len(ids), order))[-1])
    for place in range(order, len(ids)):
        p = tree.probabilities(walked(tree, text[:place]))
        assert expected[place] == pytest.approx(p[ids[place]], rel=1e-12)


@given(st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(0, V - 1), max_size=9))
def test_probabilities_sum_to_one_and_none_is_zero(learnt: list[int], read: list[int]) -> None:
    tree = NGramTree.of(np.array([0, *learnt]), V, 4)
    p = tree.probabilities(walked(tree, read))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_a_batch_of_contexts_equals_single_contexts() -> None:
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
def test_walking_many_symbols_equals_single_steps(order: int) -> None:
    tree = NGramTree.of(IDS, V, order, 2)
    texts = np.random.default_rng(2).integers(0, V, (9, 7))
    nodes = tree.after(np.stack([tree.start()] * 7), np.arange(7) % V)
    found = tree.walk(nodes, texts)
    for row, symbols in zip(found, texts, strict=True):
        nodes = tree.after(nodes, symbols)
        assert (nodes == row).all()


def test_an_unseen_context_has_no_node() -> None:
    tree = NGramTree.of(np.array([0, 1, 2, 0, 1, 3]), V, 3)
    assert [0, NOWHERE, NOWHERE] == tree.start().tolist()
    unseen = walked(tree, [0, 1, 5])
    assert [0, NOWHERE, NOWHERE] == unseen.tolist()
    again = tree.after(tree.after(unseen, 0), 1)
    assert NOWHERE not in again
    assert tree.probabilities(again)[[2, 3]].sum() > 0.5


def test_a_tree_is_rebuilt_from_its_small_arrays() -> None:
    tree = NGramTree.of(IDS, V, 4)
    arrays = tree.arrays
    assert all(a.ndim == 1 and a.dtype.itemsize < 4 for a in arrays.values())
    again = NGramTree(V, 4, arrays)
    nodes = walked(tree, [0, 1, 0])
    assert (tree.probabilities(nodes) == again.probabilities(nodes)).all()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(1, 5))
def test_long_n_grams_that_occur_once_are_smoothed_but_not_kept(
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


def test_dropped_n_grams_leave_their_probability_to_shorter_contexts() -> None:
    tree = NGramTree.of(np.array([0, 1, 0, 1, 0, 2, 3]), V, 2, 1)
    d = 0.5, 1.0, 1.5  # defaults for few n-grams
    # After 0: 1 twice, 2 once, which is dropped. Before: 0 comes after 1, 1 after 0, 2 and 3 too.
    shorter = [(1 - d[0] + 4 * d[0] / V) / 4] * 4 + [4 * d[0] / V / 4] * 2
    after_0 = [(d[1] + 1) / 3 * each for each in shorter]
    after_0[1] += (2 - d[1]) / 3
    assert after_0 == pytest.approx(tree.probabilities(walked(tree, [0])), abs=1e-12)
    assert [0, 1, 2, 3, 1, 0] == tree.symbols.tolist()


def test_a_tree_that_would_be_too_large_has_a_lower_order(monkeypatch) -> None:
    whole = NGramTree.of(IDS, V, 4)
    monkeypatch.setattr("charnn.ngrams.tree.MAX_NODES", len(whole.symbols))
    smaller = NGramTree.of(IDS, V, 4)
    assert 3 == smaller.order
    nodes = walked(smaller, [1, 0])
    assert (NGramTree.of(IDS, V, 3).probabilities(nodes) == smaller.probabilities(nodes)).all()
    assert MAX_NODES <= 2**24, "float32 holds the number of a node"


def spoilt(**changes: Any) -> dict[str, Any]:
    arrays = {name: a.copy() for name, a in NGramTree.of(IDS, V, 3).arrays.items()}
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
def test_arrays_that_are_no_tree_are_refused(arrays: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n-grams"):
        NGramTree(V, 3, arrays)


def test_a_tree_of_another_depth_is_refused() -> None:
    for order in (2, 4):
        with pytest.raises(ValueError, match="n-grams"):
            NGramTree(V, order, spoilt())
