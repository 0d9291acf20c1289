"""Dynamic evaluation against a plain loop of autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_network import ids, network
from torch.nn.functional import cross_entropy

from charnn.config import DynamicConfig
from charnn.errors import CharnnError, ConfigError, TextError
from charnn.evaluation import carried_batches, line_batches, token_losses
from charnn.scoring.dynamic_evaluation import dynamic_losses


def backward(model, segment, state, divisor):
    """Leaves the gradients of a segment; returns the nats of its targets and the state after it."""
    model.zero_grad()
    logits, state = model(torch.tensor(segment[:-1])[:, None], state)
    nats = cross_entropy(logits[:, 0], torch.tensor(segment[1:]), reduction="none")
    (nats.sum() / divisor).backward()
    return nats.detach().tolist(), tuple(type(s)(*(p.detach() for p in s)) for s in state)


def root_mean_squares(model, segments, divisor):
    roots = {n: torch.zeros_like(w) for n, w in model.named_parameters()}
    for segment in segments:
        backward(model, segment, model.initial_state(1), divisor)
        for name, weight in model.named_parameters():
            roots[name] += weight.grad**2 / len(segments)
    return {name: root.sqrt() for name, root in roots.items()}


def expected_losses(model, texts, size, rule, rate, decay, roots):
    """Scores each text from the initial state, segment by segment, with weights that adapt."""
    mean = torch.cat([root.flatten() for root in roots.values()]).mean()
    first = {n: w.detach().clone() for n, w in model.named_parameters()}
    expected = []
    for text in texts:
        state = model.initial_state(1)
        for start in range(0, len(text) - 1, size):
            nats, state = backward(model, text[start : start + size + 1], state, size)
            expected += nats
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    step, pull = rate * weight.grad, decay
                    if rule == "rms":
                        step = step / (roots[name] + 1e-8)
                        pull = torch.clamp(decay * roots[name] / mean, max=1)
                    weight += pull * (first[name] - weight) - step
    return expected


@pytest.mark.parametrize("rule", ["sgd", "rms"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_weights_take_a_step_after_each_segment_and_are_restored_at_the_end(rule, cell):
    tokens, train = ids(24), ids(31, seed=2)
    rate, size, decay = 0.01, 5, 0.05
    model = network(cell)
    starts = np.linspace(0, 25, 6).astype(int)
    roots = root_mean_squares(model, [train[start : start + 6] for start in starts], size)
    expected = expected_losses(model, [tokens], size, rule, rate, decay, roots)
    model = network(cell)
    first = [weight.detach().clone() for weight in model.parameters()]
    found = dynamic_losses(model, tokens, DynamicConfig(rule, rate, size, decay), train)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-4)
    assert tokens[1:].tolist() == found.targets.tolist()
    assert all(map(torch.equal, first, model.parameters()))


LINES = np.array([2, 3, 1, 4, 0, 0, 5, 2, 6, 1, 3, 2, 4, 0, 1, 1])  # 0 ends a line


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_weights_carry_over_from_line_to_line_and_the_state_does_not(rule):
    rate, size, decay = 0.02, 3, 0.05
    model = network("gru")
    texts = [[0, 2, 3, 1, 4, 0], [0, 5, 2, 6, 1, 3, 2, 4, 0], [0, 1, 1, 0]]
    # Beginnings of the lines that follow a newline, up to the size of a segment.
    roots = root_mean_squares(model, [[0, 5, 2, 6], [0, 1, 1]], size)
    expected = expected_losses(model, texts, size, rule, rate, decay, roots)
    config = DynamicConfig(rule, rate, size, decay)
    found = dynamic_losses(network("gru"), LINES, config, LINES, newline=0)
    assert expected == pytest.approx(found.nats.tolist(), rel=1e-4, abs=1e-5)
    assert [token for text in texts for token in text[1:]] == found.targets.tolist()


def test_rate_0_gives_the_losses_of_fixed_weights():
    fixed = DynamicConfig("sgd", 0.0)
    tokens = ids(60)
    carried = token_losses(carried_batches(network(), tokens))
    found = dynamic_losses(network(), tokens, fixed)
    np.testing.assert_allclose(found.nats, carried.nats, rtol=1e-4)
    lines = token_losses(line_batches(network(), LINES, 0))
    found = dynamic_losses(network(), LINES, fixed, newline=0)
    np.testing.assert_allclose(found.nats, lines.nats, atol=1e-5)


def test_missing_text_and_divergence_are_refused():
    with pytest.raises(ConfigError, match="--dynamic-rule"):
        dynamic_losses(network(), ids(9), DynamicConfig())
    broken = network()
    with torch.no_grad():
        broken.head.weight.fill_(float("inf"))
    with pytest.raises(CharnnError, match="--dynamic-rate"):
        dynamic_losses(broken, ids(9), DynamicConfig("sgd"))
    with pytest.raises(TextError):
        dynamic_losses(network(), ids(1), DynamicConfig("sgd"))
    with pytest.raises(TextError):
        dynamic_losses(network(), np.zeros(3, int), DynamicConfig("sgd"), newline=0)
