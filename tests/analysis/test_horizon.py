"""How far a network remembers, against naive loops and torch's whole Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from charnn.analysis import horizon as core
from charnn.analysis.steps import flat_state, lagged_jacobian, step
from charnn.config import GATES, ModelConfig
from charnn.errors import TextError
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
        rows = step(model, ids[at : at + 2], rows)
        assert torch.allclose(flat_state(state), rows, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_singular_values_are_those_of_the_whole_jacobian(cell):
    model, ids, places = network(cell), text(), np.array([20, 33])
    found = core.largest_singular_values(model, ids, places, LAGS, 0, quiet)
    for row, place in zip(found, places, strict=True):
        for value, lag in zip(row, LAGS, strict=True):
            rows = flat_state(model.initial_state(1))
            with torch.no_grad():
                for token in ids[place - 8 - 8 : place - lag]:
                    rows = step(model, torch.tensor([token]), rows)

            def onward(start, lag=lag, place=place):
                for token in ids[place - lag : place]:
                    start = step(model, torch.tensor([token]), start)
                return start

            jacobian = torch.autograd.functional.jacobian(onward, rows)[0, :, 0]
            expected = float(torch.linalg.matrix_norm(jacobian, ord=2))
            assert expected == pytest.approx(value, rel=0.03)


def test_a_jacobian_of_lags_in_any_order_is_the_same():
    model, read = network("gru"), torch.from_numpy(text(16).reshape(8, 2))
    rows = flat_state(model.initial_state(2))
    up = lagged_jacobian(model, read, rows, [1, 2, 8], 0, quiet)
    down = lagged_jacobian(model, read, rows, [8, 1, 2], 0, quiet)
    assert up == pytest.approx(down[:, [1, 2, 0]], rel=0.03)


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_norms_are_those_of_one_place_at_a_time(cell):
    model, ids, places = network(cell), text(), np.array([20, 33, 59])
    found = core.gradient_norms(model, ids, places, LAGS, quiet)
    for row, place in zip(found, places, strict=True):
        for number, lag in enumerate(LAGS):
            state = model.initial_state(1)
            for token in ids[place - 16 : place - lag]:
                _, state = model(torch.tensor([[token]]), state)
            state = tuple(
                type(layer)(*(part.detach().requires_grad_() for part in layer)) for layer in state
            )
            logits, _ = model(torch.from_numpy(ids[place - lag : place, None]), state)
            loss = cross_entropy(logits[-1], torch.tensor([ids[place]]))
            gradients = torch.autograd.grad(loss, [part for layer in state for part in layer])
            parts = len(state[0])
            for layer in range(2):
                own = torch.cat(gradients[layer * parts : (layer + 1) * parts], dim=1)
                assert float(own.norm()) == pytest.approx(row[layer, number], rel=1e-3, abs=1e-9)


def naive_loss(model, read, target):
    state, logits = model.initial_state(1), None
    with torch.no_grad():
        for token in read:
            logits, state = model(torch.tensor([[int(token)]]), state)
    return float(cross_entropy(logits[0], torch.tensor([int(target)])))


def test_truncated_losses_are_those_of_a_naive_loop(monkeypatch):
    model, ids, places = network("lstm"), text(), np.array([9, 20, 59])
    monkeypatch.setattr(core, "MAX_TOKENS_AT_ONCE", 9)  # one or more portions a lag
    found = core.truncated_losses(model, ids, places, LAGS, quiet)
    for row, place in zip(found, places, strict=True):
        for value, lag in zip(row, LAGS, strict=True):
            expected = naive_loss(model, ids[place - lag : place], ids[place])
            assert expected == pytest.approx(value, abs=1e-5)


def test_shuffled_losses_are_those_of_shuffled_contexts():
    model, ids, places = network("gru"), text(), np.array([9, 20, 59])
    found = core.shuffled_losses(model, ids, places, LAGS, np.random.default_rng(4), quiet)
    generator = np.random.default_rng(4)
    for number, lag in enumerate(LAGS):
        whole = np.stack([ids[place - 8 : place] for place in places], axis=1)
        far = generator.permuted(whole[: 8 - lag], axis=0)
        for column, place in enumerate(places):
            assert sorted(far[:, column]) == sorted(ids[place - 8 : place - lag])
            read = [*far[:, column], *ids[place - lag : place]]
            expected = naive_loss(model, read, ids[place])
            assert expected == pytest.approx(found[column, number], abs=1e-5)


def test_losses_by_position_are_those_of_cold_windows():
    model, ids, places = network("rnn"), text(), np.array([9, 20, 59])
    found = core.losses_by_position(model, ids, places, 8, quiet)
    for number in range(8):
        losses = [
            naive_loss(model, ids[p - 8 : p - 8 + number + 1], ids[p - 8 + number + 1])
            for p in places
        ]
        assert float(np.mean(losses)) == pytest.approx(found[number], abs=1e-5)


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
    assert (12, 5) == one.truncated.shape == one.shuffled.shape
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert 5 == len(said)
    assert one.truncated[:, -1] == pytest.approx(one.shuffled[:, -1], abs=1e-5)
    assert one.by_position[2:4].mean() == pytest.approx(one.position_at_lags[2])


def test_the_lag_that_is_used_is_the_first_after_which_the_loss_stays():
    zeros = np.zeros(4)
    found = core.Horizon(LAGS, zeros[None], zeros, zeros[None], zeros[None], np.zeros(8))
    assert 4 == found.used(np.array([2.0, 1.5, 1.005, 1.0]))
    assert 1 == found.used(np.ones(4))
    assert 8 == found.used(np.array([1.0, 1.0, 1.2, 1.0]))


def test_a_text_too_short_to_look_back_is_refused():
    with pytest.raises(TextError, match="at least 8"):
        core.measure_horizon(network("rnn"), text(7))
