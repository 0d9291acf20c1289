"""Memory horizon, against naive loops and dense Jacobians by torch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from charnn.config import GATES, ModelConfig
from charnn.errors import TextError
from charnn.inspection import horizon
from charnn.inspection.horizon import Samples
from charnn.inspection.jacobians import flat_state
from charnn.model import LanguageModel, map_state

LAGS = np.array([1, 2, 4, 8])
CELLS = list(GATES)
LINES = np.array([1, 2, 3, 4, 0, 0, 2, 2, 0, 3, 1, 4, 2, 1, 0, 4, 3, 0, 1, 3, 1, 2])  # 0 ends one


@pytest.fixture(autouse=True)
def one_thread():
    """Runs on one thread: these networks are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_what, _done, _total):
    pass


def network(cell, scale=1.5, layers=2):
    model = LanguageModel(ModelConfig(5, cell, 4, 4, layers))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale * 0.4, generator=generator)
    return model.eval()


def text(size=60):
    return np.random.default_rng(2).integers(0, 5, size)


def samples_at(places, longest=8):
    """Returns samples of running text, with warm-up of the longest lag where the text has it."""
    places = np.array(places)
    warm = np.maximum(places - 2 * longest, 0)
    return Samples(text(), places, places - longest, warm, np.zeros(0, np.int64))


def samples_in_lines(lags=(1, 2, 4, 8)):
    return horizon.draw_samples(LINES, lags, 100, np.random.default_rng(0), newline=0)


def deep_in_lines(least):
    """Returns (position, line start) of each token at this depth or deeper in its line."""
    begin, found = 0, []
    for place, token in enumerate(LINES.tolist()):
        if place - begin >= least:
            found.append((place, begin))
        begin = place + 1 if token == 0 else begin
    return found


@pytest.fixture
def three_are_enough(monkeypatch):
    monkeypatch.setattr(horizon, "FEWEST_DEEP_TOKENS", 3)


# --- samples


def test_a_target_near_the_start_has_less_warm_up():
    drawn, kept = horizon.draw_samples(
        np.arange(40), (1, 2, 4, 8, 99), 100, np.random.default_rng(0)
    )
    assert [1, 2, 4, 8] == kept.tolist()
    assert list(range(8, 40)) == drawn.positions.tolist()
    rows = [row.tolist() for row in drawn.before(8)]
    assert [[], [0], [0, 1]] == rows[:3]
    assert list(range(23, 31)) == rows[-1]
    assert [8] * 24 == [len(row) for row in rows[8:]]


def test_lags_in_lines_end_where_too_few_lines_are_long_enough(three_are_enough):
    drawn, kept = samples_in_lines()
    assert [3, 1] == [len(deep_in_lines(4)), len(deep_in_lines(5))]
    assert [1, 2, 4] == kept.tolist()
    assert deep_in_lines(4) == list(zip(drawn.positions, drawn.begins, strict=True))
    assert [[0, 1, 2, 3, 4], [0, 3, 1, 4, 2], [0, 3, 1, 4, 2, 1]] == [
        row.tolist() for row in drawn.full()
    ]


def test_a_target_far_into_a_line_is_not_drawn(three_are_enough, monkeypatch):
    monkeypatch.setattr(horizon, "MOST_OF_A_LINE", 3)
    drawn, kept = samples_in_lines()
    assert max(drawn.positions - drawn.begins) <= 3
    assert [1, 2] == kept.tolist()


def test_texts_and_lines_that_are_too_short_are_refused():
    with pytest.raises(TextError, match="TEXT"):
        samples_in_lines()
    with pytest.raises(TextError, match="7 tokens"):
        horizon.measure_horizon(network("rnn"), text(7))


# --- the four measurements


def read_one_by_one(model, tokens, state=None):
    """Returns the logits after the last token, and the state."""
    state, logits = state or model.initial_state(1), None
    for token in tokens:
        logits, state = model(torch.tensor([[int(token)]]), state)
    return logits, state


def naive_loss(model, read, target):
    with torch.no_grad():
        logits, _ = read_one_by_one(model, read)
    return float(cross_entropy(logits[0], torch.tensor([int(target)])))


def check_singular_values(model, found, samples, lags):
    """Compares with the dense Jacobian of the model, taken row by row."""
    for row, place, before in zip(found, samples.positions, samples.before(0), strict=True):
        for value, lag in zip(row, lags, strict=True):
            with torch.no_grad():
                _, state = read_one_by_one(model, before[: len(before) - lag])

            def onward(*parts, lag=lag, place=place):
                rest = iter(parts)
                state = map_state(lambda _: next(rest), model.initial_state(1))
                return flat_state(
                    read_one_by_one(model, samples.ids[place - lag : place], state)[1]
                )

            parts = tuple(part for layer in state for part in layer)
            jacobian = torch.autograd.functional.jacobian(onward, parts)
            dense = torch.cat([block[0, :, 0] for block in jacobian], dim=1)
            assert float(torch.linalg.matrix_norm(dense, ord=2)) == pytest.approx(value, rel=0.01)


def check_gradients(model, found, samples, lags):
    """Compares with the gradient of one loss at a time."""
    for row, place, before in zip(found, samples.positions, samples.before(0), strict=True):
        for number, lag in enumerate(lags):
            with torch.no_grad():
                _, state = read_one_by_one(model, before[: len(before) - lag])
            parts = [part.requires_grad_() for layer in state for part in layer]
            logits, _ = read_one_by_one(model, samples.ids[place - lag : place], state)
            loss = cross_entropy(logits[-1], torch.tensor([samples.ids[place]]))
            gradients = torch.autograd.grad(loss, parts)
            for layer in range(2):
                own = torch.cat(gradients[layer * len(state[0]) :][: len(state[0])], dim=1)
                assert float(own.norm()) == pytest.approx(row[layer, number], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_and_singular_values_equal_dense_ones(cell):
    model, samples = network(cell), samples_at([20, 33, 59])
    check_gradients(model, horizon.gradient_norms(model, samples, LAGS, quiet), samples, LAGS)
    found = horizon.singular_values(model, samples, LAGS, 0, quiet)
    check_singular_values(model, found, samples, LAGS)


def losses_by_lag(model, samples, lags, whole):
    """Returns the losses after truncated contexts, and after those shuffled from seed 4."""
    shuffle = partial(samples.shuffled, generator=np.random.default_rng(4))
    return (
        horizon.losses_by_lag(model, samples, lags, whole, contexts, lambda _done, _total: None)
        for contexts in (samples.last, shuffle)
    )


def test_truncated_and_shuffled_losses_equal_those_of_a_naive_loop(monkeypatch):
    model, samples = network("lstm"), samples_at([9, 20, 59])
    monkeypatch.setattr(horizon, "MAX_TOKENS_AT_ONCE", 9)  # several batches a lag
    whole, _ = horizon.full_context_losses(model, samples, 8, quiet)
    truncated, shuffled = losses_by_lag(model, samples, LAGS, whole)
    generator, ids = np.random.default_rng(4), samples.ids
    for number, lag in enumerate(LAGS):
        for row, place in enumerate(samples.positions):
            near = ids[place - lag : place]
            expected = naive_loss(model, near, ids[place])
            assert expected == pytest.approx(truncated[row, number], abs=1e-5)
            read = [*generator.permutation(ids[place - 8 : place - lag]), *near]
            expected = naive_loss(model, read, ids[place])
            assert expected == pytest.approx(shuffled[row, number], abs=1e-5)


def test_losses_by_position_are_those_after_a_cold_start():
    model, places = network("rnn"), [9, 20, 59]
    samples = samples_at(places)
    _, found = horizon.full_context_losses(model, samples, 8, quiet)
    for n in range(8):
        losses = [
            naive_loss(model, samples.ids[p - 8 : p - 7 + n], samples.ids[p - 7 + n])
            for p in places
        ]
        assert np.mean(losses) == pytest.approx(found[n], abs=1e-5)


def test_the_cost_of_shuffling_some_samples_is_added_to_the_loss_of_all(monkeypatch):
    monkeypatch.setattr(horizon, "SHUFFLED_SAMPLES", 3)
    model, ids = network("lstm"), text(40)
    found = horizon.measure_horizon(model, ids, samples=12)
    generator = np.random.default_rng(0)
    places = 16 + np.sort(generator.choice(24, 12, replace=False))
    whole = [naive_loss(model, ids[p - 16 : p], ids[p]) for p in places]
    costs = []
    for number in (0, 5, 11):
        p = places[number]
        read = [*generator.permutation(ids[p - 16 : p - 1]), ids[p - 1]]
        costs.append(naive_loss(model, read, ids[p]) - whole[number])
    assert np.mean(whole) == pytest.approx(found.whole, abs=1e-5)
    assert np.mean(whole) + np.mean(costs) == pytest.approx(found.shuffled[0], abs=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_in_lines_every_context_starts_with_a_newline(three_are_enough, cell):
    model, (samples, lags) = network(cell), samples_in_lines()
    check_gradients(model, horizon.gradient_norms(model, samples, lags, quiet), samples, lags)
    found = horizon.singular_values(model, samples, lags, 0, quiet)
    check_singular_values(model, found, samples, lags)
    whole, positions = horizon.full_context_losses(model, samples, 4, quiet)
    truncated, shuffled = losses_by_lag(model, samples, lags, whole)
    generator, expected = np.random.default_rng(4), deep_in_lines(4)
    for k, lag in enumerate(lags):
        for row, (at, begin) in enumerate(expected):
            near = LINES[at - lag : at]
            loss = naive_loss(model, [0, *near], LINES[at])
            assert loss == pytest.approx(truncated[row, k], abs=1e-5)
            far = generator.permutation(LINES[begin : at - lag])
            loss = naive_loss(model, [0, *far, *near], LINES[at])
            assert loss == pytest.approx(shuffled[row, k], abs=1e-5)
    for row, (at, begin) in enumerate(expected):
        assert naive_loss(model, [0, *LINES[begin:at]], LINES[at]) == pytest.approx(whole[row])
    begins = sorted({begin for _, begin in expected})
    for n in range(4):
        losses = [naive_loss(model, [0, *LINES[b : b + n]], LINES[b + n]) for b in begins]
        assert np.mean(losses) == pytest.approx(positions[n], abs=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_values_that_overflow_float32_are_infinite(cell):
    model = network(cell)
    with torch.no_grad():
        for block in model.blocks():  # the state stays near 0, where it grows fastest
            for name, parameter in block.named_parameters():
                parameter.zero_()
                if "weight_hh" in name:
                    parameter.fill_(1e30)
                if cell == "lstm" and name == "cell.bias":
                    parameter[12:] = 9
    found = horizon.measure_horizon(model, np.zeros(60, np.int64), samples=8)
    if cell == "rnn":
        assert np.isinf(found.singular[-1])
    assert not np.isnan(found.singular).any()
    assert not np.isnan(found.gradient).any()


# --- the whole


def test_a_measurement_repeats_and_leaves_the_model_as_it_was():
    model, told = network("lstm"), set()
    model.train()
    one = horizon.measure_horizon(
        model, text(40), samples=12, progress=lambda what, *_: told.add(what)
    )
    two = horizon.measure_horizon(model, text(40), samples=12)
    assert model.training
    assert all(each.requires_grad for each in model.parameters())
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert [1, 2, 4, 8, 16] == one.lags.tolist()
    assert (12, (32, 64, 128, 256)) == (one.places, one.too_far)
    assert ((2, 5), (5,), (5,)) == (one.gradient.shape, one.truncated.shape, one.shuffled.shape)
    assert 5 == len(told)
    assert one.truncated[-1] == one.whole == pytest.approx(one.shuffled[-1], abs=1e-9)
    assert one.by_position[2:4].mean() == pytest.approx(one.position_at_lags[2])


def test_a_measurement_in_lines_leaves_out_long_lags(three_are_enough):
    found = horizon.measure_horizon(network("gru"), LINES, samples=3, lags=(1, 2, 4, 8), newline=0)
    assert (3, (8,), [1, 2, 4]) == (found.places, found.too_far, found.lags.tolist())
    assert (4,) == found.by_position.shape


def test_the_context_length_is_the_first_lag_after_which_the_loss_stays_low():
    zeros = np.zeros(4)
    found = horizon.Horizon(LAGS, (), 1, zeros[None], zeros, 1.0, zeros, zeros, np.zeros(8))
    assert 4 == found.context_length(np.array([2.0, 1.5, 1.005, 1.0]))
    assert 1 == found.context_length(np.ones(4))
    assert 8 == found.context_length(np.array([1.0, 1.0, 1.2, 1.0]))
    assert found.context_length(np.array([1.0, 1.0, 1.0, 1.2])) is None
    assert found.context_length(np.full(4, np.nan)) is None
