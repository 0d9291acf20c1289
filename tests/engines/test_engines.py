"""All engines give the same logits for a network; with int8 weights, the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charnn.config import GATES, ModelConfig
from charnn.engines import compiled, make_predictor, native
from charnn.engines.float32 import Float32Predictor
from charnn.engines.int8 import Int8Predictor, logistic, tanh, total
from charnn.engines.native import NativePredictor
from charnn.engines.weights import arrange, quantise
from charnn.errors import CharnnError, ConfigError
from charnn.generation.sampler import Sampler

ENGINE = Path(native.__file__).parent / "engine"
built = pytest.mark.skipif(
    not compiled.kernels(), reason="charnn was installed without a C compiler"
)
SHAPES = [
    ModelConfig(vocab_size=v, cell=cell, embedding_size=e, hidden_size=h, num_layers=layers)
    for cell in GATES
    for v, e, h, layers in ((11, 24, 24, 3), (7, 10, 25, 2), (3, 1, 1, 2), (50, 100, 33, 1))
]


def random_weights(config, spread=0.3, seed=0):
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0.02, spread, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }


def read(model, tokens):
    """Returns the logits after each token and the state after the last."""
    state, rows = model.initial_state(), []
    for token in tokens:
        logits, state = model.step(int(token), state)
        rows.append(logits)
    return np.stack(rows), state


def tokens_for(config, count=30):
    return np.random.default_rng(1).integers(0, config.vocab_size, count)


@pytest.fixture(params=compiled.kernels() or ("plain",))
def kernel(request):
    """Each kernel of this processor in turn."""
    if compiled.kernels():
        compiled.use(request.param)
        yield request.param
        compiled.use()
    else:
        pytest.skip("charnn was installed without a C compiler")


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_the_native_engine_gives_the_logits_of_numpy(config, kernel):
    weights, tokens = random_weights(config), tokens_for(config)
    expected, expected_state = read(make_predictor(config, weights, "numpy"), tokens)
    model = NativePredictor(arrange(config, weights))
    compiled.use(kernel)
    logits, state = read(model, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(state, expected_state, atol=1e-4)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_with_int8_weights_every_kernel_gives_the_bits_of_numpy(config, kernel):
    quantised = quantise(arrange(config, random_weights(config)))
    expected, expected_state = read(Int8Predictor(quantised), tokens_for(config))
    model = NativePredictor(quantised)
    compiled.use(kernel)
    logits, state = read(model, tokens_for(config))
    np.testing.assert_array_equal(expected, logits)
    np.testing.assert_array_equal(expected_state, state)


@built
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_stream_in_a_batch_gets_the_bits_that_it_gets_alone(config, int8, kernel):
    model = make_predictor(config, random_weights(config), "native", int8)
    compiled.use(kernel)
    compare_a_batch_with_each_alone(config, model, np.testing.assert_array_equal)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_stream_in_an_int8_numpy_batch_gets_the_bits_that_it_gets_alone(config):
    model = make_predictor(config, random_weights(config), "numpy", int8=True)
    compare_a_batch_with_each_alone(config, model, np.testing.assert_array_equal)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_stream_in_a_float32_numpy_batch_agrees_up_to_rounding(config):
    model = make_predictor(config, random_weights(config), "numpy")
    compare_a_batch_with_each_alone(config, model, partial(np.testing.assert_allclose, atol=1e-5))


@pytest.mark.parametrize("int8", [False, True])
def test_a_batch_may_shrink_and_mix_with_single_steps(int8):
    config = ModelConfig(11, "lstm", 10, 24, 2)
    model = make_predictor(config, random_weights(config), "numpy", int8)
    expected, _ = read(model, [3, 1, 4])
    twin = model.twin(3)
    states = np.stack([model.initial_state()] * 3)
    for count, token, row in zip((3, 2, 1), (3, 1, 4), expected, strict=True):
        for logits in twin.step_batch([token] * count, states[:count]):
            np.testing.assert_allclose(logits, row, atol=1e-5)
        np.testing.assert_array_equal(expected, read(twin, [3, 1, 4])[0])


def compare_a_batch_with_each_alone(config, model, compare):
    tokens = np.random.default_rng(3).integers(0, config.vocab_size, (6, 5))
    alone = [read(model, tokens[:, stream]) for stream in range(5)]
    model = model.twin(5)
    states = np.stack([model.initial_state()] * 5)
    for step, row in enumerate(tokens):
        logits = model.step_batch(row, states)
        for stream in range(5):
            compare(alone[stream][0][step], logits[stream])
    for stream in range(5):
        compare(alone[stream][1], states[stream])


@built
def test_omitting_a_large_token_table_changes_no_int8_bit(monkeypatch):
    for int8 in (False, True):
        config = SHAPES[-1]
        weights, tokens = random_weights(config), tokens_for(config)
        expected, _ = read(make_predictor(config, weights, "native", int8), tokens)
        with monkeypatch.context() as patch:
            patch.setattr(native, "MAX_TABLE_BYTES", 0)
            model = make_predictor(config, weights, "native", int8)
        compiled.use("plain")  # which makes the table
        logits, _ = read(model, tokens)
        compiled.use()
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        if int8:
            np.testing.assert_array_equal(expected, logits)


@built
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("cell", GATES)
def test_with_int8_weights_both_engines_write_the_same_text(cell, temperature):
    config = ModelConfig(30, cell, 24, 24, 2)
    weights = random_weights(config)
    texts = []
    for engine in ("native", "numpy"):
        network = make_predictor(config, weights, engine, int8=True)
        sampler = Sampler(network, seed=7, filters={"temperature": temperature})
        sampler.feed([1, 2])
        first = list(sampler.stream(100))
        sampler.feed([5])
        texts.append((first, list(sampler.stream(100)), sampler.tokens))
        nats = sampler.nats
    assert texts[0] == texts[1]
    assert nats == pytest.approx(sampler.nats, rel=1e-9)


@built
def test_a_native_stream_can_be_left_saved_and_forked():
    config = ModelConfig(30, "lstm", 24, 24, 2)
    network = make_predictor(config, random_weights(config), "native")
    straight, broken = Sampler(network, 1), Sampler(network, 1)
    for sampler in (straight, broken):
        sampler.feed([0])
    expected = list(straight.stream(60))
    stream = broken.stream(60)
    found = [next(stream) for _ in range(20)]
    saved = broken.state_dict()
    rest = list(broken.stream(40))
    fork = Sampler(network, 99)
    fork.load_state_dict(saved)
    assert expected == found + rest == found + list(fork.stream(40))


@built
def test_feeding_and_forbidding_within_a_stream_has_the_same_effect_in_both_engines():
    config = ModelConfig(30, "gru", 24, 24, 2)
    texts = []
    for engine in ("native", "numpy"):
        sampler = Sampler(make_predictor(config, random_weights(config), engine, int8=True), 3)
        sampler.feed([0])
        found = []
        for place, token in enumerate(sampler.stream(60)):
            found.append(token)
            sampler.forbidden = (1, 2, 3) if place % 7 == 3 else ()
            if place % 10 == 5:
                sampler.feed([4, 5])
        texts.append(found)
    assert texts[0] == texts[1]


@built
def test_logits_that_overflow_are_an_error_in_both_engines():
    config = ModelConfig(5, "lstm", 8, 8, 1)
    weights = random_weights(config)
    weights["head.weight"] = np.full_like(weights["head.weight"], 3e38)
    for engine in ("native", "numpy"):
        for int8 in (False, True):
            sampler = Sampler(make_predictor(config, weights, engine, int8), 1)
            sampler.feed([0])
            with pytest.raises(CharnnError, match="not finite"):
                list(sampler.stream(3))


def test_an_unknown_or_missing_engine_is_refused(monkeypatch):
    config = ModelConfig(5, "rnn", 8, 8, 1)
    with pytest.raises(ConfigError, match="unknown engine 'abacus'; choose from auto, native"):
        make_predictor(config, random_weights(config), "abacus")
    monkeypatch.setattr(compiled, "kernels", lambda: ())
    assert isinstance(make_predictor(config, random_weights(config)), Float32Predictor)
    with pytest.raises(ConfigError, match="was not built"):
        make_predictor(config, random_weights(config), "native")


@built
def test_an_unknown_kernel_is_refused():
    with pytest.raises(ConfigError, match="abacus"):
        compiled.use("abacus")


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40))
@settings(max_examples=50)
def test_logistic_tanh_and_total_agree_with_float64(values):
    a = np.array(values, np.float32)
    wide = np.clip(a.astype(np.float64), -30, 30)
    np.testing.assert_allclose(logistic(a), 1 / (1 + np.exp(-wide)), atol=2e-7)
    np.testing.assert_allclose(tanh(a), np.tanh(a.astype(np.float64)), atol=3e-7)
    np.testing.assert_allclose(total(a), a.astype(np.float64).sum(), atol=1e-3)


def test_total_sums_in_the_documented_order():
    x = np.random.default_rng(0).normal(0, 1e3, 37).astype(np.float32)
    lanes = [np.float32(0)] * 8
    for i, value in enumerate(x):
        lanes[i % 8] += value
    s0, s1, s2, s3, s4, s5, s6, s7 = lanes
    assert ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)) == total(x)


def test_quantising_moves_no_weight_by_more_than_half_a_step():
    config = ModelConfig(11, "gru", 10, 12, 2)
    exact = arrange(config, random_weights(config))
    for before, after in zip(exact.layers, quantise(exact).layers, strict=True):
        matrix, rounded = before.inputs, after.inputs
        assert np.int8 == rounded.weights.dtype
        error = np.abs(rounded.weights * rounded.scale[:, None] - matrix.weights)
        assert (error <= rounded.scale[:, None] * 0.5001).all()
        assert (np.abs(rounded.weights).max(axis=1) == 127).all()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
@pytest.mark.skipif(sys.platform != "linux", reason="the command is that of Linux")
def test_the_vnni_kernel_gives_the_same_bits_with_its_instruction_emulated(tmp_path, monkeypatch):
    if "avx2" not in compiled.kernels():
        pytest.skip("it is written for x86 with AVX2")
    path = tmp_path / "engine.so"
    flags = ["-std=c99", "-O2", "-fPIC", "-shared", "-DCHARNN_KERNELS", "-DCHARNN_EMULATE_VNNI"]
    subprocess.run(["cc", *flags, ENGINE / "engine.c", "-o", path, "-lm"], check=True)
    found = compiled.open_engine(path)
    monkeypatch.setattr(compiled, "load", lambda: found)
    monkeypatch.setattr(compiled, "kernels", lambda: tuple(compiled.KERNELS))
    for config in SHAPES:
        quantised = quantise(arrange(config, random_weights(config)))
        model = NativePredictor(quantised)
        compiled.use("avx512-vnni")
        expected, _ = read(Int8Predictor(quantised), tokens_for(config))
        np.testing.assert_array_equal(expected, read(model, tokens_for(config))[0])
