"""How far a network remembers, against naive loops and torch's whole Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from charnn.config import GATES, ModelConfig
from charnn.errors import TextError
from charnn.inspection import horizon as core
from charnn.inspection import horizon_places as rooms
from charnn.inspection.horizon_places import Places
from charnn.inspection.jacobians import flat_state, lagged_jacobian, step
from charnn.model import LanguageModel

LAGS = np.array([1, 2, 4, 8])
CELLS = list(GATES)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads wait for each other longer than these networks take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_what, _done, _all):
    pass


def running(ids, at, longest=8):
    """Places in running text: each with the longest lag before it, and as much again if there."""
    places = np.array(at)
    warm = np.array([max(0, place - 2 * longest) for place in at])
    return Places(ids, places, places - longest, warm, np.zeros(0, np.int64))


def test_a_place_near_the_beginning_leaves_the_others_their_memory():
    ids = np.arange(40)
    chosen = rooms.choose_places(ids, (1, 2, 4, 8, 99), 100, np.random.default_rng(0))
    assert list(range(8, 40)) == chosen.places.places.tolist()
    rows = [row.tolist() for row in chosen.places.before(8)]
    assert [[], [0], [0, 1]] == rows[:3]
    assert list(range(8)) == rows[8]
    assert list(range(23, 31)) == rows[-1]
    assert [8] * 24 == [len(row) for row in rows[8:]]


def network(cell, scale=1.5, layers=2):
    model = LanguageModel(ModelConfig(5, cell, 4, 4, layers))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale * 0.4, generator=generator)
    return model.eval()


def text(size=60):
    return np.random.default_rng(2).integers(0, 5, size)


def unflatten(model, rows):
    parts = iter(rows.split(4, dim=1))
    like = model.initial_state(len(rows))
    return tuple(type(layer)(*(next(parts) for _ in layer)) for layer in like)


@pytest.mark.parametrize("cell", CELLS)
def test_the_plain_step_is_the_model_s(cell):
    model, ids = network(cell), torch.from_numpy(text(12))
    rows = flat_state(model.initial_state(2))
    for at in range(0, 12, 2):
        _, state = model(ids[None, at : at + 2], unflatten(model, rows))
        rows, _ = step(model, ids[at : at + 2], rows)
        assert torch.allclose(flat_state(state), rows, atol=1e-6)


def read_one_by_one(model, tokens, state=None):
    """The logits after the last token, and the state, of the model itself."""
    state, logits = state or model.initial_state(1), None
    for token in tokens:
        logits, state = model(torch.tensor([[int(token)]]), state)
    return logits, state


def check_singular_values(model, found, places, lags):
    """Against the whole Jacobians of the model itself, row by row."""
    for row, place, before in zip(found, places.places, places.before(0), strict=True):
        for value, lag in zip(row, lags, strict=True):
            with torch.no_grad():
                _, state = read_one_by_one(model, before[: len(before) - lag])

            def onward(start, lag=lag, place=place):
                _, after = read_one_by_one(
                    model, places.ids[place - lag : place], unflatten(model, start)
                )
                return flat_state(after)

            jacobian = torch.autograd.functional.jacobian(onward, flat_state(state))[0, :, 0]
            expected = float(torch.linalg.matrix_norm(jacobian, ord=2))
            assert expected == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("cell", CELLS)
def test_singular_values_are_those_of_the_whole_jacobian(cell):
    model, places = network(cell), running(text(), [20, 33])
    found = core.largest_singular_values(model, places, LAGS, 0, quiet)
    check_singular_values(model, found, places, LAGS)


def test_a_jacobian_of_lags_in_any_order_is_the_same():
    model, read = network("gru"), torch.from_numpy(text(16).reshape(8, 2))
    rows = flat_state(model.initial_state(2))
    up = lagged_jacobian(model, read, rows, [1, 2, 8], 0, quiet)
    down = lagged_jacobian(model, read, rows, [8, 1, 2], 0, quiet)
    assert up == pytest.approx(down[:, [1, 2, 0]], rel=0.01)


def check_gradients(model, found, places, lags):
    """Against the model itself, one token at a time."""
    for row, place, before in zip(found, places.places, places.before(0), strict=True):
        for number, lag in enumerate(lags):
            with torch.no_grad():
                _, state = read_one_by_one(model, before[: len(before) - lag])
            state = tuple(
                type(layer)(*(part.detach().requires_grad_() for part in layer)) for layer in state
            )
            logits, _ = read_one_by_one(model, places.ids[place - lag : place], state)
            loss = cross_entropy(logits[-1], torch.tensor([places.ids[place]]))
            gradients = torch.autograd.grad(loss, [part for layer in state for part in layer])
            parts = len(state[0])
            for layer in range(2):
                own = torch.cat(gradients[layer * parts : (layer + 1) * parts], dim=1)
                assert float(own.norm()) == pytest.approx(row[layer, number], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_norms_are_those_of_one_place_at_a_time(cell):
    model, places = network(cell), running(text(), [20, 33, 59])
    check_gradients(model, core.gradient_norms(model, places, LAGS, quiet), places, LAGS)


def naive_loss(model, read, target):
    with torch.no_grad():
        logits, _ = read_one_by_one(model, read)
    return float(cross_entropy(logits[0], torch.tensor([int(target)])))


def test_truncated_losses_are_those_of_a_naive_loop(monkeypatch):
    model, ids, at = network("lstm"), text(), [9, 20, 59]
    monkeypatch.setattr(core, "MAX_TOKENS_AT_ONCE", 9)  # one or more portions a lag
    places = running(ids, at)
    whole, _ = core.whole_losses(model, places, 8, quiet)
    found = core.truncated_losses(model, places, LAGS, whole, quiet)
    for row, place in zip(found, at, strict=True):
        for value, lag in zip(row, LAGS, strict=True):
            expected = naive_loss(model, ids[place - lag : place], ids[place])
            assert expected == pytest.approx(value, abs=1e-5)


def test_shuffled_losses_are_those_of_shuffled_contexts():
    model, ids, at = network("gru"), text(), [9, 20, 59]
    places = running(ids, at)
    whole, _ = core.whole_losses(model, places, 8, quiet)
    found = core.shuffled_losses(model, places, LAGS, whole, np.random.default_rng(4), quiet)
    generator = np.random.default_rng(4)
    for number, lag in enumerate(LAGS[:-1]):
        for row, place in enumerate(at):
            far = generator.permutation(ids[place - 8 : place - lag])
            read = [*far, *ids[place - lag : place]]
            expected = naive_loss(model, read, ids[place])
            assert expected == pytest.approx(found[row, number], abs=1e-5)
    assert whole.tolist() == found[:, -1].tolist()


def test_losses_by_position_are_those_of_cold_windows():
    model, ids, at = network("rnn"), text(), [9, 20, 59]
    _, found = core.whole_losses(model, running(ids, at), 8, quiet)
    for number in range(8):
        losses = [
            naive_loss(model, ids[p - 8 : p - 8 + number + 1], ids[p - 8 + number + 1]) for p in at
        ]
        assert float(np.mean(losses)) == pytest.approx(found[number], abs=1e-5)


def test_the_cost_of_shuffling_at_some_places_is_added_to_the_loss_of_the_whole(monkeypatch):
    monkeypatch.setattr(core, "SHUFFLED_PLACES", 3)
    model, ids = network("lstm"), text(40)
    found = core.measure_horizon(model, ids, samples=12)
    generator = np.random.default_rng(0)
    at = 16 + np.sort(generator.choice(24, 12, replace=False))
    whole = [naive_loss(model, ids[p - 16 : p], ids[p]) for p in at]
    costs = []
    for number in (0, 5, 11):
        read = [*generator.permutation(ids[at[number] - 16 : at[number] - 1]), ids[at[number] - 1]]
        costs.append(naive_loss(model, read, ids[at[number]]) - whole[number])
    assert np.mean(whole) == pytest.approx(found.whole, abs=1e-5)
    assert np.mean(whole) + np.mean(costs) == pytest.approx(found.shuffled[0], abs=1e-5)


# --- lines: 0 ends one

LINES = np.array([1, 2, 3, 4, 0, 0, 2, 2, 0, 3, 1, 4, 2, 1, 0, 4, 3, 0, 1, 3, 1, 2])


def places_in_lines(least):
    """Of each token with so many of its line before it: where it is, and where its line begins."""
    begin, found = 0, []
    for at, token in enumerate(LINES.tolist()):
        if at - begin >= least:
            found.append((at, begin))
        begin = at + 1 if token == 0 else begin
    return found


@pytest.fixture
def few_are_enough(monkeypatch):
    monkeypatch.setattr(rooms, "FEWEST_PLACES", 3)


def choose(lags=(1, 2, 4, 8), count=100):
    return rooms.choose_places(LINES, lags, count, np.random.default_rng(0), newline=0)


def test_lags_in_lines_go_as_far_as_enough_lines_are_long(few_are_enough):
    chosen = choose()
    assert [3, 1] == [len(places_in_lines(4)), len(places_in_lines(5))]
    assert [1, 2, 4] == chosen.lags.tolist()
    assert (8,) == chosen.too_far
    assert places_in_lines(4) == list(
        zip(chosen.places.places.tolist(), chosen.places.begins.tolist(), strict=True)
    )
    assert [[0, 1, 2, 3, 4], [0, 3, 1, 4, 2], [0, 3, 1, 4, 2, 1]] == [
        row.tolist() for row in chosen.places.all()[:3]
    ]


def test_a_place_too_far_into_a_line_is_not_drawn(few_are_enough, monkeypatch):
    monkeypatch.setattr(rooms, "MOST_OF_A_LINE", 3)
    chosen = choose()
    assert [1, 2, 3] == sorted({*(chosen.places.places - chosen.places.begins).tolist(), 1, 2})
    assert (4, 8) == chosen.too_far


def test_lines_too_short_to_look_back_are_refused():
    with pytest.raises(TextError, match="fewer than 50"):
        choose()


@pytest.mark.parametrize("cell", CELLS)
def test_all_four_in_lines_are_those_of_naive_loops_from_a_newline(few_are_enough, cell):
    model, chosen = network(cell), choose()
    places, lags = chosen.places, chosen.lags
    check_gradients(model, core.gradient_norms(model, places, lags, quiet), places, lags)
    found = core.largest_singular_values(model, places, lags, 0, quiet)
    check_singular_values(model, found, places, lags)
    whole, positions = core.whole_losses(model, places, 4, quiet)
    truncated = core.truncated_losses(model, places, lags, whole, quiet)
    shuffled = core.shuffled_losses(model, places, lags, whole, np.random.default_rng(4), quiet)
    generator = np.random.default_rng(4)
    for k, lag in enumerate(lags):
        for row, (at, begin) in enumerate(places_in_lines(4)):
            expected = naive_loss(model, [0, *LINES[at - lag : at]], LINES[at])
            assert expected == pytest.approx(truncated[row, k], abs=1e-5)
            far = generator.permutation(LINES[begin : at - lag])
            expected = naive_loss(model, [0, *far, *LINES[at - lag : at]], LINES[at])
            assert expected == pytest.approx(shuffled[row, k], abs=1e-5)
    for row, (at, begin) in enumerate(places_in_lines(4)):
        assert naive_loss(model, [0, *LINES[begin:at]], LINES[at]) == pytest.approx(whole[row])
    begins = sorted({begin for _, begin in places_in_lines(4)})
    for n in range(4):
        losses = [naive_loss(model, [0, *LINES[b : b + n]], LINES[b + n]) for b in begins]
        assert np.mean(losses) == pytest.approx(positions[n], abs=1e-5)


def test_the_whole_is_measured_in_lines(few_are_enough):
    model = network("gru")
    found = core.measure_horizon(model, LINES, samples=3, lags=(1, 2, 4, 8), newline=0)
    assert [1, 2, 4] == found.lags.tolist()
    assert (3, (8,)) == (found.places, found.too_far)
    assert (4,) == found.by_position.shape


# --- what is not finite


@pytest.mark.parametrize("cell", CELLS)
def test_what_float32_cannot_hold_is_infinite(cell):
    model = network(cell)
    with torch.no_grad():
        for block in model.blocks():  # the state stays near 0, where it grows most
            for name, parameter in block.named_parameters():
                parameter.zero_()
                if "weight_hh" in name:
                    parameter.fill_(1e30)
                if cell == "lstm" and name == "cell.bias":
                    parameter[12:] = 9
    found = core.measure_horizon(model, np.zeros(60, np.int64), samples=8)
    if cell == "rnn":
        assert np.isinf(found.singular[-1])
    assert not np.isnan(found.singular).any()
    assert not np.isnan(found.gradient).any()


def test_the_whole_is_reproducible_and_leaves_out_lags_that_the_text_is_too_short_for():
    model, said = network("lstm"), set()
    model.train()
    one = core.measure_horizon(
        model, text(40), samples=12, progress=lambda what, *_: said.add(what)
    )
    two = core.measure_horizon(model, text(40), samples=12)
    assert model.training
    assert [1, 2, 4, 8, 16] == one.lags.tolist()
    assert (2, 5) == one.gradient.shape
    assert (5,) == one.truncated.shape == one.shuffled.shape
    assert (12, (32, 64, 128, 256)) == (one.places, one.too_far)
    assert all(each.requires_grad for each in model.parameters())
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert 5 == len(said)
    assert one.truncated[-1] == one.whole == pytest.approx(one.shuffled[-1], abs=1e-9)
    assert one.by_position[2:4].mean() == pytest.approx(one.position_at_lags[2])


def test_the_lag_that_is_used_is_the_first_after_which_the_loss_stays():
    zeros = np.zeros(4)
    found = core.Horizon(LAGS, (), 1, zeros[None], zeros, 1.0, zeros, zeros, np.zeros(8))
    assert 4 == found.used(np.array([2.0, 1.5, 1.005, 1.0]))
    assert 1 == found.used(np.ones(4))
    assert 8 == found.used(np.array([1.0, 1.0, 1.2, 1.0]))
    assert found.used(np.array([1.0, 1.0, 1.0, 1.2])) is None
    assert found.used(np.full(4, np.nan)) is None


def test_a_text_too_short_to_look_back_is_refused():
    with pytest.raises(TextError, match="at least 8"):
        core.measure_horizon(network("rnn"), text(7))
