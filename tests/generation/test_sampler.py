import math

import numpy as np
import pytest
from random_model import random_weights

from charnn.config import GATES, MAX_SEED, RECENT, ModelConfig
from charnn.engines import make_predictor
from charnn.errors import CharnnError, ConfigError
from charnn.generation.sampler import Sampler, Sfc32, draw_seed
from charnn.predictor import Predictor, draw


class Successor(Predictor):
    """Predicts n + 1 (mod V) after n, with `logit` against 0."""

    start = np.zeros(1, np.float32)

    def __init__(self, vocab_size=5, logit=50.0):
        self.vocab_size, self.logit = vocab_size, logit

    def step(self, token, state):
        logits = np.zeros(self.vocab_size, np.float32)
        logits[(token + 1) % self.vocab_size] = self.logit
        return logits, state + 1


class Indifferent(Successor):
    """Gives all tokens the same logit."""

    def step(self, token, state):
        return np.full(200, -1.0, np.float32), state


def network(cell="lstm"):
    config = ModelConfig(7, cell, 12, 12, 2)
    return make_predictor(config, random_weights(config))


def ids(model, count, seed=1, index=0, filters=None, prompt=(0,)):
    sampler = Sampler(model, seed, index, filters)
    sampler.feed(prompt)
    return list(sampler.stream(count))


# From a C program of the same four lines.
VECTORS = {
    (0, 0): [0x38802BE1, 0x948279E6, 0xEC4BF1D9, 0x7CB0A909],
    (1, 0): [0x78C8AACE, 0x63091598, 0xA2AA2971, 0xF7BC3FB2],
    (1, 1): [0xA5E1DA2F, 0x0196C86E, 0x1D9D7891, 0x5F6A2B9D],
    (MAX_SEED, MAX_SEED): [0x010A18EE, 0xF475D2FE, 0x9C9E307C, 0xFBADEF69],
}


@pytest.mark.parametrize("start", VECTORS, ids=str)
def test_the_generator_gives_its_documented_numbers(start):
    generator = Sfc32(*start)
    assert VECTORS[start] == [generator.next() for _ in range(4)]


def test_uniform_numbers_stay_below_1_and_fill_their_range():
    generator = Sfc32(7)
    numbers = [generator.uniform() for _ in range(2000)]
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert abs(np.mean(numbers) - 0.5) < 0.03


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**70, 1.0, True, None])
def test_a_seed_that_is_not_32_bits_is_refused(seed):
    with pytest.raises(ConfigError, match=r"seed.*4294967295"):
        Sfc32(seed)


def test_a_drawn_seed_is_valid():
    assert Sfc32(draw_seed()).uniform() < 1


@pytest.mark.parametrize(
    ("uniform", "expected"), [(0.0, 1), (0.19, 1), (0.21, 3), (0.49, 3), (0.51, 4), (1 - 2**-32, 4)]
)
def test_draw_accumulates_in_id_order_and_skips_probability_0(uniform, expected):
    probabilities = np.array([0, 0.2, 0, 0.3, 0.5, 0])
    with np.errstate(divide="ignore"):
        assert expected == draw(np.log(probabilities), uniform)


@pytest.mark.parametrize("cell", GATES)
def test_the_same_seed_and_index_give_the_same_ids_and_others_do_not(cell):
    model = network(cell)
    assert ids(model, 40) == ids(model, 40)
    assert ids(model, 40) != ids(model, 40, seed=2)
    assert ids(model, 40) != ids(model, 40, index=1)


def test_temperature_0_is_the_same_for_every_seed():
    model, greedy = network(), {"temperature": 0}
    assert ids(model, 40, 1, 0, greedy) == ids(model, 40, 2, 5, greedy)


def test_a_stream_that_is_left_early_can_be_continued():
    model = network()
    sampler = Sampler(model, 1)
    sampler.feed([0])
    begun = [token for _, token in zip(range(4), sampler.stream(30), strict=False)]
    assert ids(model, 30) == begun + list(sampler.stream(26))
    assert 30 == sampler.tokens


def test_each_id_is_read_once():
    model = Successor()
    sampler = Sampler(model, 1)
    sampler.feed([0, 1])
    assert [2, 3, 4, 0, 1] == list(sampler.stream(5))
    assert 7 == sampler.state_dict()["state"][0]


@pytest.mark.parametrize("cell", GATES)
def test_a_saved_state_can_be_forked_bit_for_bit(cell):
    model, filters = network(cell), {"repetition_penalty": 1.5, "top_k": 4}
    sampler = Sampler(model, 1, filters=filters)
    sampler.feed([0, 3])
    list(sampler.stream(20))
    saved = sampler.state_dict()
    expected = list(sampler.stream(20))
    for _ in range(2):
        fork = Sampler(model, 99, filters=filters)
        fork.load_state_dict(saved)
        assert expected == list(fork.stream(20))
        assert sampler.nats == fork.nats
        assert sampler.tokens == fork.tokens


def test_a_state_saved_before_anything_was_fed_can_be_loaded():
    sampler, saved = Sampler(network(), 2), Sampler(network(), 1).state_dict()
    sampler.load_state_dict(saved)
    sampler.feed([0])
    assert ids(network(), 10) == list(sampler.stream(10))


def test_the_state_of_another_model_is_refused():
    sampler = Sampler(network("lstm"), 1)
    for other in (network("gru"), Successor()):
        with pytest.raises(CharnnError, match="shape"):
            sampler.load_state_dict(Sampler(other, 1).state_dict())


def test_nats_are_those_of_the_unfiltered_model_at_temperature_1():
    sampler = Sampler(Successor(5, logit=2.0), 1, filters={"temperature": 0, "top_k": 1})
    sampler.feed([0])
    assert [1, 2, 3] == list(sampler.stream(3))
    assert sampler.nats == pytest.approx(3 * (math.log(math.exp(2) + 4) - 2), rel=1e-9)


def test_the_penalty_covers_the_prompt_and_the_latest_64_ids_only():
    filters = {"temperature": 0, "repetition_penalty": 10.0}
    sampler = Sampler(Indifferent(), 1, filters=filters)
    sampler.feed([0])
    assert [*range(1, RECENT + 1), 0] == list(sampler.stream(RECENT + 1))


class Shifted(Predictor):
    """Logits of four tokens in steps of 1/16, plus a constant."""

    start = np.zeros(0, np.float32)

    def __init__(self, constant):
        self.constant = constant
        rows = np.random.default_rng(0).integers(-40, 40, (4, 4)) / 16
        self.rows = rows.astype(np.float32)

    def step(self, token, state):
        return self.rows[token] + np.float32(self.constant), state


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.7},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7, "temperature": 1.5},
        {"frequency_penalty": 0.2},
        {"presence_penalty": 0.5},
        {"top_k": 2},
        {"typical_p": 0.6},
        {"top_p": 0.6},
        {"min_p": 0.2},
    ],
    ids=str,
)
def test_a_constant_added_to_all_logits_changes_no_text(filters):
    expected = ids(Shifted(0.0), 200, filters=filters)
    for constant in (9.0, -9.0, 64.0):
        assert expected == ids(Shifted(constant), 200, filters=filters)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error(logit):
    sampler = Sampler(Successor(logit=logit), 1)
    sampler.feed([0])
    with pytest.raises(CharnnError, match="finite"):
        next(sampler.stream(1))


@pytest.mark.parametrize("cell", GATES)
def test_weights_that_overflow_are_an_error_without_warnings(cell):
    config = ModelConfig(7, cell, 12, 12, 2)
    weights = {n: np.full(s, 3e38, np.float32) for n, s in config.tensor_shapes().items()}
    sampler = Sampler(make_predictor(config, weights, "numpy"), 1)
    sampler.feed([0, 1])
    with pytest.raises(CharnnError, match="finite"):
        next(sampler.stream(1))


def test_a_sampler_that_was_fed_nothing_is_an_error():
    sampler = Sampler(network(), 1)
    sampler.feed([])
    with pytest.raises(CharnnError):
        next(sampler.stream(1))
