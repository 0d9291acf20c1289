import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.config import SamplingConfig
from charnn.errors import ConfigError
from charnn.generation.filters import (
    FILTERS,
    PENALTIES,
    active_filters,
    frequency_penalty,
    min_p,
    presence_penalty,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
    typical_p,
)

# Probabilities .1 .4 .2 .3
LOGITS = np.log([0.1, 0.4, 0.2, 0.3])
GONE = -math.inf


def probabilities(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def kept(logits):
    return np.flatnonzero(np.isfinite(logits)).tolist()


def test_temperature_2_takes_the_root_of_each_probability():
    expected = np.sqrt([0.1, 0.4, 0.2, 0.3])
    actual = probabilities(temperature(LOGITS, 2.0))
    np.testing.assert_allclose(actual, expected / expected.sum(), rtol=1e-12)


def test_temperature_0_leaves_the_likeliest_and_the_lowest_id_wins_a_tie():
    assert [1] == kept(temperature(LOGITS, 0))
    assert [1] == kept(temperature(np.array([0.0, 5.0, 5.0, 1.0]), 0))


def test_a_tiny_temperature_is_greedy_without_a_warning():
    assert [0, 1, 0, 0] == probabilities(temperature(LOGITS * 1e30, 5e-324)).tolist()


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_k_likeliest(k, expected):
    assert expected == kept(top_k(LOGITS, k))


def test_top_k_breaks_ties_by_the_lowest_id():
    assert [0, 1, 3] == kept(top_k(np.array([1.0, 1.0, 0.0, 2.0, 1.0]), 3))


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [1]), (0.39, [1]), (0.5, [1, 3]), (0.75, [1, 2, 3]), (0.95, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_p_together(p, expected):
    assert expected == kept(top_p(LOGITS, p))


def test_top_p_takes_lower_ids_first_among_equals():
    assert [0, 1] == kept(top_p(np.zeros(4), 0.4))


@pytest.mark.parametrize(
    ("p", "expected"), [(0.2, [0, 1, 2, 3]), (0.3, [1, 2, 3]), (0.6, [1, 3]), (1.0, [1])]
)
def test_min_p_keeps_what_is_at_least_p_times_as_likely_as_the_likeliest(p, expected):
    assert expected == kept(min_p(LOGITS, p))


def test_repetition_penalty_multiplies_the_log_probability_of_each_recent_id_once():
    expected = [2 * LOGITS[0], 2 * LOGITS[1], LOGITS[2], LOGITS[3]]
    for constant in (0.0, 7.0, -7.0):
        found = repetition_penalty(LOGITS + constant, 2.0, [0, 1, 0, 0])
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_frequency_penalty_is_subtracted_for_each_occurrence():
    logits = np.array([2.0, -2.0, 3.0, -3.0])
    assert [0.5, -2.5, 3.0, -3.0] == frequency_penalty(logits, 0.5, [0, 1, 0, 0]).tolist()
    assert logits.tolist() == frequency_penalty(logits, 0.5, []).tolist()


def test_presence_penalty_is_subtracted_once():
    logits = np.array([2.0, -2.0, 3.0, -3.0])
    assert [1.5, -2.5, 3.0, -3.0] == presence_penalty(logits, 0.5, [0, 1, 0, 0]).tolist()
    assert [2.5, -2.0, 3.0, -3.0] == presence_penalty(logits, -0.5, [0]).tolist()


# Entropy 1.280 nats; the surprisals 2.303, 0.916, 1.609, 1.204 are 1.023, 0.364, 0.330, 0.076 off,
# so that they are taken in the order .3 .2 .4 .1.
@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [3]), (0.29, [3]), (0.31, [2, 3]), (0.51, [1, 2, 3]), (0.91, [0, 1, 2, 3])],
)
def test_typical_p_keeps_the_tokens_nearest_to_the_expected_surprisal(p, expected):
    assert expected == kept(typical_p(LOGITS, p))
    assert expected == kept(typical_p(LOGITS + 7, p))


def test_typical_p_can_rule_out_the_likeliest_token_and_ignores_those_already_ruled_out():
    logits = np.log([0.4, 0.15, 0.15, 0.15, 0.15])
    assert [1, 2] == kept(typical_p(logits, 0.29))
    # Of .4 .2 .3 without .1, renormalised: surprisals .811 1.504 1.099, entropy 1.061.
    assert [3] == kept(typical_p(np.where([True, False, False, False], GONE, LOGITS), 0.3))


def test_penalties_come_before_all_other_filters():
    order = [apply in PENALTIES for apply, _ in FILTERS.values()]
    assert sorted(order, reverse=True) == order
    assert len(PENALTIES) == sum(order)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_does_not_change_its_argument(name):
    given_logits = LOGITS.copy()
    FILTERS[name][0](given_logits, 0.5, [1, 2])
    np.testing.assert_array_equal(LOGITS, given_logits)


@given(
    st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=9),
    st.floats(0, 1000),
    st.integers(1, 9),
    st.floats(0, 1),
    st.floats(0.001, 1),
    st.floats(0.1, 10),
    st.floats(0, 1),
    st.booleans(),
)
def test_no_combination_rules_out_every_token(values, heat, k, p, share, penalty, typical, masked):
    logits = np.array(values)
    settings = {"temperature": heat, "top_k": k, "top_p": p, "min_p": share, "typical_p": typical}
    penalties = {"frequency_penalty": penalty, "presence_penalty": -penalty}
    for apply, setting in active_filters({**settings, **penalties, "repetition_penalty": penalty}):
        if apply is temperature and masked:  # as guides leave them
            logits[1:] = -np.inf
        logits = apply(logits, setting, [0])
    assert not np.isnan(logits).any()
    assert kept(logits)


def test_filters_that_are_off_are_not_called():
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert [] == active_filters(off)
    assert [] == active_filters({})


def test_filters_apply_in_the_order_of_the_table():
    expected = [(FILTERS["temperature"][0], 0.5), (FILTERS["top_k"][0], 3)]
    assert expected == active_filters({"top_k": 3, "temperature": 0.5})


def test_an_unknown_filter_is_refused():
    with pytest.raises(ConfigError, match=r"heat.*presence_penalty"):
        active_filters({"heat": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("frequency_penalty", 11),
        ("presence_penalty", math.nan),
        ("typical_p", 1.01),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        active_filters({name: value})
    with pytest.raises(ConfigError, match=name):
        SamplingConfig(**{name: value})


def test_every_filter_has_its_default_and_range_in_the_configuration():
    assert set(FILTERS) <= set(SamplingConfig.__dataclass_fields__)
