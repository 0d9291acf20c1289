"""The mixture in the native engine and in numpy equals its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charnn.config import GATES, ModelConfig
from charnn.engines import compiled, make_predictor
from charnn.engines.native import NativePredictor
from charnn.ngrams.mixture import Mixture, mix
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NOWHERE, NGramTree

pytestmark = pytest.mark.skipif(
    not compiled.kernels(), reason="charnn was installed without a C compiler"
)
SHAPES = [
    ModelConfig(vocab_size=v, cell=cell, embedding_size=e, hidden_size=h, num_layers=layers)
    for cell in GATES
    for v, e, h, layers in ((11, 24, 24, 2), (7, 10, 25, 1), (300, 8, 9, 1))
]
LAST_BIT = 2.0**-23
HOSTILE = 2**32 - 1
MIXED = MixtureWeights(0.5, 0.6)


def weights_of(config):
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(0.02, 0.3, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }


def text_of(vocab_size, count=400, seed=1):
    """Returns a repetitive text without the last symbol."""
    generator = np.random.default_rng(seed)
    parts = [generator.integers(0, vocab_size - 1, size) for size in (2, 5, 9, 13)]
    return np.concatenate([parts[each] for each in generator.integers(0, 4, count)])[:count]


def changed(tree, width=None, **arrays):
    """Returns the tree with arrays of another type, or with other `arrays`."""
    found = {**tree.arrays, **arrays}
    found = {name: array.astype(width or array.dtype) for name, array in found.items()}
    return NGramTree(tree.vocab_size, tree.order, found)


def both(config, tree, weights, int8):
    """Returns the mixture in the native engine and in numpy."""
    arrays = weights_of(config)
    native, plain = (make_predictor(config, arrays, name, int8) for name in ("native", "numpy"))
    engine, reference = mix(native, (tree, weights)), mix(plain, (tree, weights))
    assert isinstance(engine, NativePredictor)
    assert isinstance(reference, Mixture)
    return engine, reference


def read(model, tokens):
    """Returns logits and states after each token."""
    state, rows, states = model.initial_state(), [], []
    for token in tokens:
        logits, state = model.step(int(token), state)
        rows.append(logits)
        states.append(state)
    return np.stack(rows), np.stack(states)


def compare(config, tree, weights, int8, tokens):
    engine, reference = both(config, tree, weights, int8)
    np.testing.assert_array_equal(reference.initial_state(), engine.initial_state())
    (logits, states), (expected, expected_states) = read(engine, tokens), read(reference, tokens)
    nodes = slice(-tree.order, None)
    np.testing.assert_array_equal(expected_states[:, nodes], states[:, nodes])
    if int8:
        np.testing.assert_array_equal(expected_states, states)
        np.testing.assert_allclose(logits, expected, rtol=LAST_BIT, atol=1e-12)
    else:
        np.testing.assert_allclose(states, expected_states, atol=1e-4)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    return logits, states[:, nodes]


@pytest.fixture(params=compiled.kernels() or ("plain",))
def kernel(request):
    """Selects each kernel of this processor in turn."""
    yield request.param
    compiled.use()


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_the_native_engine_gives_the_logits_of_numpy(config, order, int8):
    ids = text_of(config.vocab_size)
    tree = NGramTree.of(ids[:300], config.vocab_size, order)
    assert order == tree.order
    compare(config, tree, MIXED, int8, ids[280:340])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("config", SHAPES[:1], ids=str)
def test_all_kernels_give_the_same_mixture(config, int8, kernel):
    ids = text_of(config.vocab_size)
    tree = NGramTree.of(ids, config.vocab_size, 4)
    engine, _ = both(config, tree, MixtureWeights(0.7, 0.3), int8)
    expected, expected_states = read(engine, ids[:40])
    compiled.use(kernel)
    logits, states = read(engine, ids[:40])
    (np.testing.assert_array_equal if int8 else close)(expected, logits)
    (np.testing.assert_array_equal if int8 else close)(expected_states, states)


def close(expected, found):
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (0.75, 0.5), (0.1, 3)])
@pytest.mark.parametrize("once", [None, 2])
def test_a_mixture_is_the_weighted_product_of_its_parts(weights, once):
    config = SHAPES[0]
    ids = text_of(config.vocab_size)
    tree = NGramTree.of(ids[:300], config.vocab_size, 5, once)
    assert (once is not None) == bool(tree.dropped.any())
    logits, nodes = compare(config, tree, MixtureWeights(*weights), True, ids[280:340])
    network, state = make_predictor(config, weights_of(config), "numpy", int8=True), None
    for token, found, places in zip(ids[280:340], logits, nodes, strict=True):
        state = network.initial_state() if state is None else state
        alone, state = network.step(int(token), state)
        p = np.exp(alone.astype(float))
        expected = p ** weights[0] * tree.probabilities(places.astype(int)) ** weights[1]
        q = np.exp(found.astype(float))
        np.testing.assert_allclose(q / q.sum(), expected / expected.sum(), rtol=3e-6)


@pytest.mark.parametrize("int8", [False, True])
def test_an_unseen_symbol_ends_all_contexts_until_they_regrow(int8):
    config = SHAPES[0]
    ids, unseen = text_of(config.vocab_size), config.vocab_size - 1
    tree = NGramTree.of(ids, config.vocab_size, 5)
    tokens = np.concatenate([ids[:9], [unseen], ids[:9], [unseen, unseen], ids[20:29]])
    _, nodes = compare(config, tree, MIXED, int8, tokens)
    for place in (8, 18, 29):
        assert (nodes[place] != NOWHERE).all()
    for place in (9, 19, 20):
        assert [0, *[NOWHERE] * 4] == nodes[place].tolist()
    assert nodes[12, 3] != NOWHERE == nodes[12, 4]


@pytest.mark.parametrize("wild", [1e9, 3e38, -5.0, 0.5, math.nan, "deepest", "last context"])
def test_impossible_nodes_of_a_foreign_state_are_ignored(wild):
    config = SHAPES[0]
    ids = text_of(config.vocab_size)
    tree = NGramTree.of(ids, config.vocab_size, 4)
    known = {"deepest": float(len(tree.symbols)), "last context": float(len(tree.children) - 1)}
    for model in both(config, tree, MIXED, True):
        state = model.initial_state()
        state[-tree.order :] = known.get(wild, wild)
        with np.errstate(invalid="ignore"):  # numpy warns of nan
            logits, state = model.feed(ids[:2].tolist(), state)
        assert np.isfinite(logits).all()
        logits, state = model.feed(ids[2:9].tolist(), state)
        expected = read(model, ids[:9])
        np.testing.assert_array_equal(expected[1][-1, -tree.order :], state[-tree.order :])


@pytest.mark.parametrize("width", ["u1", "u2", "u4"])
@pytest.mark.parametrize("order", [2, 4])
def test_arrays_of_any_integer_type_give_the_same_logits(order, width):
    config = SHAPES[0]
    ids = text_of(config.vocab_size, 120)
    tree = NGramTree.of(ids, config.vocab_size, order)
    wide = changed(tree, width)
    assert np.dtype(width) == wide.counts.dtype
    expected, _ = compare(config, tree, MIXED, True, ids[:40])
    logits, _ = compare(config, wide, MIXED, True, ids[:40])
    np.testing.assert_array_equal(expected, logits)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_stream_of_a_batch_gets_the_bits_of_a_single_stream(config, int8):
    ids = text_of(config.vocab_size)
    engine, _ = both(config, NGramTree.of(ids, config.vocab_size, 4), MIXED, int8)
    tokens = np.stack([ids[:12], ids[30:42], text_of(config.vocab_size, 12, 9)])
    alone = [read(engine, row) for row in tokens]
    twin = engine.twin(3)
    states = np.stack([twin.initial_state()] * 3)
    for step, column in enumerate(tokens.T):
        logits = twin.step_batch(column.tolist(), states)
        for stream, (expected, expected_states) in enumerate(alone):
            np.testing.assert_array_equal(expected[step], logits[stream])
            np.testing.assert_array_equal(expected_states[step], states[stream])


def test_mixing_leaves_the_network_as_it_was():
    config = SHAPES[0]
    ids = text_of(config.vocab_size)
    network = make_predictor(config, weights_of(config), "native", int8=True)
    expected, expected_states = read(network, ids[:20])
    for order in (3, 5):
        mix(network, (NGramTree.of(ids, config.vocab_size, order), MixtureWeights(0.5, 0.5)))
    logits, states = read(network, ids[:20])
    np.testing.assert_array_equal(expected, logits)
    np.testing.assert_array_equal(expected_states, states)


@pytest.mark.parametrize("counts", [0, 1, HOSTILE - 1, HOSTILE])
@pytest.mark.parametrize("dropped", [0, HOSTILE])
def test_impossible_counts_give_finite_logits(counts, dropped):
    config = SHAPES[0]
    ids = text_of(config.vocab_size)
    tree = NGramTree.of(ids, config.vocab_size, 5)
    tree = changed(
        tree,
        counts=np.full(len(tree.counts), counts, np.uint32),
        dropped=np.full(len(tree.dropped), dropped, np.uint32),
    )
    logits, _ = compare(config, tree, MixtureWeights(0.1, 0.9), True, ids[:60])
    assert np.isfinite(logits).all()


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([None, 1, 2]),
    st.tuples(st.floats(0, 2), st.floats(0, 2)),
)
@settings(max_examples=50, deadline=None)
def test_the_engines_agree_on_the_n_grams_of_any_text(ids, tokens, order, once, weights):
    config = ModelConfig(5, "gru", 4, 4, 1)
    compare(
        config, NGramTree.of(np.array(ids), 5, order, once), MixtureWeights(*weights), True, tokens
    )
