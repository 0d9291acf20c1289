"""Dynamic evaluation, baselines, positions and kinds of characters, each against a plain loop."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from babbler import make_run, run_command
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from charnn.checkpoint import Checkpoint, save
from charnn.config import DynamicConfig, ModelConfig
from charnn.errors import CharnnError, ConfigError, TextError
from charnn.evaluation import network_of
from charnn.scoring import baselines, classes, losses
from charnn.scoring.dynamic import dynamic_losses

V = 7


def network(cell="lstm"):
    config = ModelConfig(V, cell, 8, 8, 2)
    generator = np.random.default_rng(0)
    weights = {
        n: generator.normal(0, 0.5, s).astype(np.float32) for n, s in config.tensor_shapes().items()
    }
    return network_of(Checkpoint(config, {}, weights, 0))


def ids(count, seed=1):
    return np.random.default_rng(seed).integers(0, V, count)


@pytest.mark.parametrize("rule", ["sgd", "rms"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_dynamic_evaluation_is_a_step_of_autograd_after_each_segment(rule, cell):
    tokens, train = ids(24), ids(31, seed=2)
    rate, segment, decay = 0.01, 5, 0.05

    def backward(model, part, state):
        model.zero_grad()
        logits, state = model(torch.from_numpy(part[:-1, None]), state)
        nats = cross_entropy(logits[:, 0], torch.from_numpy(part[1:]), reduction="none")
        nats.mean().backward()
        return nats.detach().tolist(), tuple(type(s)(*(p.detach() for p in s)) for s in state)

    model = network(cell)
    roots = {n: torch.zeros_like(w) for n, w in model.named_parameters()}
    for start in np.linspace(0, 25, 6).astype(int):
        backward(model, train[start : start + 6], model.initial_state(1))
        for name, weight in model.named_parameters():
            roots[name] += weight.grad**2 / 6
    roots = {n: root.sqrt() for n, root in roots.items()}
    mean = torch.cat([root.flatten() for root in roots.values()]).mean()
    first = {n: w.detach().clone() for n, w in model.named_parameters()}
    state, expected = model.initial_state(1), []
    for start in range(0, 23, segment):
        nats, state = backward(model, tokens[start : start + segment + 1], state)
        expected += nats
        with torch.no_grad():
            for name, weight in model.named_parameters():
                step, pull = rate * weight.grad, decay
                if rule == "rms":
                    step = step / (roots[name] + 1e-8)
                    pull = torch.clamp(decay * roots[name] / mean, max=1)
                weight += pull * (first[name] - weight) - step
    model = network(cell)
    found = dynamic_losses(model, tokens, DynamicConfig(rule, rate, segment, decay), train)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert all(torch.equal(first[n], w) for n, w in model.named_parameters())


def test_dynamic_evaluation_at_rate_0_is_carried():
    tokens = ids(60)
    found = dynamic_losses(network(), tokens, DynamicConfig("sgd", 0.0))
    np.testing.assert_allclose(found, losses.carried_losses(network(), tokens), rtol=1e-4)


LINES = np.array([2, 3, 1, 4, 0, 0, 5, 2, 6, 1, 3, 2, 4, 0, 1, 1])  # 0 ends a line


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_weights_go_on_from_line_to_line_and_the_state_does_not(rule):
    rate, size, decay = 0.02, 3, 0.05
    model = network("gru")
    texts = [[0, 2, 3, 1, 4, 0], [0, 5, 2, 6, 1, 3, 2, 4, 0], [0, 1, 1, 0]]

    def backward(part, state):
        model.zero_grad()
        logits, state = model(torch.tensor(part[:-1])[:, None], state)
        nats = cross_entropy(logits[:, 0], torch.tensor(part[1:]), reduction="none")
        (nats.sum() / size).backward()
        return nats.detach().tolist(), tuple(type(s)(*(p.detach() for p in s)) for s in state)

    roots = {n: torch.zeros_like(w) for n, w in model.named_parameters()}
    for part in ([0, 5, 2, 6], [0, 1, 1]):  # the lines that follow a newline, as far as is read
        backward(part, model.initial_state(1))
        for n, w in model.named_parameters():
            roots[n] += w.grad**2 / 2
    roots = {n: root.sqrt() for n, root in roots.items()}
    mean = sum(float(r.sum()) for r in roots.values()) / sum(r.numel() for r in roots.values())
    first = {n: w.detach().clone() for n, w in model.named_parameters()}
    expected = []
    for text in texts:
        state = model.initial_state(1)
        for start in range(0, len(text) - 1, size):
            nats, state = backward(text[start : start + size + 1], state)
            expected += nats
            with torch.no_grad():
                for n, w in model.named_parameters():
                    scale = 1 / (roots[n] + 1e-8) if rule == "rms" else 1.0
                    pull = (decay * roots[n] / mean).clamp(max=1) if rule == "rms" else decay
                    w += pull * (first[n] - w) - rate * w.grad * scale
    config = DynamicConfig(rule, rate, size, decay)
    found = dynamic_losses(network("gru"), LINES, config, LINES, newline=0)
    assert expected == pytest.approx(found.tolist(), rel=1e-4, abs=1e-5)


def test_dynamic_evaluation_of_lines_at_rate_0_is_that_of_lines():
    found = dynamic_losses(network(), LINES, DynamicConfig("sgd", 0.0), newline=0)
    _, expected = losses.line_losses(network(), LINES, 0)
    assert expected == pytest.approx(found, abs=1e-5)


def test_places_in_lines_are_means_over_the_lines_that_reach_them():
    targets, nats = losses.line_losses(network(), LINES, 0)
    found = losses.by_place_in_line(targets, nats, 0)
    assert [2, 3, 1, 4, 0, 5, 2, 6, 1, 3, 2, 4, 0, 1, 1, 0] == targets.tolist()
    assert ([1, 2, 4, 8], [3, 3, 2, 1], 3) == (
        found.positions.tolist(),
        found.counts.tolist(),
        found.windows,
    )
    at = [(0, 5, 13), (1, 6, 14), (3, 8), (12,)]
    expected = [np.mean([nats[n] for n in each]) / math.log(2) for each in at]
    assert expected == pytest.approx(found.bits.tolist())


def test_dynamic_evaluation_says_what_it_lacks():
    with pytest.raises(ConfigError, match="needs the training text"):
        dynamic_losses(network(), ids(9), DynamicConfig())
    broken = network()
    with torch.no_grad():
        broken.head.weight.fill_(float("inf"))
    with pytest.raises(CharnnError, match="ran away"):
        dynamic_losses(broken, ids(9), DynamicConfig("sgd"))
    with pytest.raises(TextError, match="nothing to score"):
        dynamic_losses(network(), ids(1), DynamicConfig("sgd"))


def test_losses_by_position_are_means_over_windows():
    tokens = ids(256 * 3 + 20)
    cold = losses.cold_losses(network(), tokens)
    for window in range(3):
        part = tokens[256 * window : 256 * window + 257]
        np.testing.assert_allclose(losses.carried_losses(network(), part), cold[window], rtol=1e-4)
    found = losses.by_position(cold)
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256] == found.positions.tolist()
    assert cold[:, 3].mean() / math.log(2) == pytest.approx(found.bits[2])
    assert [1, 2, 4] == losses.by_position(losses.cold_losses(network(), ids(6))).positions.tolist()


def test_lines_side_by_side_have_the_losses_of_each_alone_in_their_order(monkeypatch):
    monkeypatch.setattr("charnn.evaluation.LINE_WINDOW", 4)
    monkeypatch.setattr("charnn.evaluation.MAX_LINES", 3)
    model = network()
    tokens = np.concatenate([ids(60), [0, 0, 3]])
    targets, nats = losses.line_losses(model, tokens, 0)
    alone = [np.append(0, line) for line in losses.whole_lines(tokens, 0)]
    assert 6 < len(alone)
    assert np.concatenate([line[1:] for line in alone]).tolist() == targets.tolist()
    expected = [losses.carried_losses(model, line) for line in alone]
    np.testing.assert_allclose(nats, np.concatenate(expected), atol=1e-5)


def test_line_losses_are_those_of_the_protocol():
    from charnn.evaluation import TextSizes, lines

    tokens = np.concatenate([ids(50), [0, 0, 3]])
    ones = TextSizes(np.ones(V, int), np.ones(V, int))
    score = lines(network(), tokens, 0, ones)
    targets, nats = losses.line_losses(network(), tokens, 0)
    assert score.targets == len(targets)
    assert score.nats == pytest.approx(nats.sum(), rel=1e-5)
    with pytest.raises(TextError, match="no line that is not empty"):
        losses.line_losses(network(), np.zeros(3, int), 0)


def test_a_bigram_equals_one_of_ten_lines():
    train, tokens = ids(300, 3), ids(50, 4)

    def discounts(counts):
        n = [sum(c == k for c in counts) for k in (1, 2, 3, 4)]
        if not all(n):
            return [0, 0.5, 1, 1.5]
        y = n[0] / (n[0] + 2 * n[1])
        return [0, *(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))]

    pairs = np.zeros((V, V), int)
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    taken = discounts(pairs[pairs > 0].tolist())
    kept = (pairs > 0).sum(0)  # how many different symbols each follows
    low = discounts(kept.tolist())
    unigram = np.array([(k - low[min(k, 3)]) / kept.sum() for k in kept])
    unigram += sum(low[min(k, 3)] for k in kept) / kept.sum() / V
    bits = 0.0
    for context, symbol in pairwise(tokens.tolist()):
        row = pairs[context]
        rest = sum(taken[min(c, 3)] for c in row)
        own = row[symbol] - taken[min(row[symbol], 3)]
        bits -= math.log2((own + rest * unigram[symbol]) / row.sum())
    found = {each.name: each.bits for each in baselines.counted(tokens, V, train)}
    assert bits == pytest.approx(found["2-gram"], rel=1e-6)
    assert 49 * math.log2(V) == pytest.approx(found["uniform"])
    assert ["uniform"] == [each.name for each in baselines.counted(tokens, V, None)]


def test_compressors_are_those_of_the_library(monkeypatch):
    data = b"the cat sat on the mat " * 40
    found = {each.name: each.bits for each in baselines.compressed(data)}
    assert 8 * len(gzip.compress(data, 9)) == found["gzip -9"]
    assert 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) == found["xz -9e"]
    monkeypatch.setattr(baselines, "zstd", lambda: lambda data, level: b"x" * level)
    assert 8 * 19 == {each.name: each.bits for each in baselines.compressed(data)}["zstd -19"]


def test_each_kind_of_character_is_known():
    text = "He's 25.\n\tyes\u2028é-x中\u0301"
    names = [classes.CLASSES[kind] for kind in classes.classify(text)]
    upper, inside, first = "upper case", "letter inside a word", "letter after space"
    assert [upper, inside, "punctuation", inside, "space", "digit", "digit"] == names[:7]
    assert ["punctuation", "newline", "space", first, inside, inside] == names[7:13]
    assert ["space", first, "punctuation", inside, inside, "other"] == names[13:]


@given(st.text(max_size=30), st.text(max_size=1))
def test_the_kinds_have_all_characters_and_all_bits(text, before):
    bits = np.arange(1.0, len(text) + 1)
    found = classes.by_class(text, bits, before)
    assert len(text) == found.chars.sum()
    assert bits.sum() == pytest.approx(found.bits.sum())


TEXT = "the cat sat. The mat ate 12!\n\nA rat sat on the hat.\n" * 30


@pytest.fixture(scope="module")
def charnn_eval(tmp_path_factory):
    """Runs `charnn eval` beside a run, a model alone and a model of lines."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "book.txt").write_text(TEXT)
    model = make_run(folder, "r")
    save(folder / "alone.safetensors", model)
    save(folder / "lines.safetensors", replace(model, lines=True))

    def charnn_eval(*words):
        return run_command(folder, "eval", *words, "--threads", "1")

    charnn_eval.model = folder / "checkpoints/r/best.safetensors"
    return charnn_eval


ALL = ("--dynamic", "--baselines", "--positions", "--classes")


def test_the_command_reports_all_of_it(charnn_eval):
    before = charnn_eval.model.read_bytes()
    code, out, _ = charnn_eval(*ALL, "--json", "-q")
    value = json.loads(out)
    assert 0 == code
    assert before == charnn_eval.model.read_bytes()
    assert "rms" == value["dynamic"]["rule"]
    assert value["dynamic"]["nats_per_token"] < value["carried"]["nats_per_token"]
    names = [row["name"] for row in value["baselines"]["rows"]]
    assert ["uniform", "unigram", "2-gram"] == names[:3]
    assert {"gzip -9", "xz -9e"} <= set(names)
    assert 128 == value["positions"]["positions"][-1]
    total = value["carried"]["bits_per_char"] * value["carried"]["targets"]
    assert total == pytest.approx(sum(row["bits"] for row in value["classes"]), rel=1e-4)
    _, shown, _ = charnn_eval(*ALL, "-q")
    for word in ("dynamic", "gzip -9", "position", "letter after space"):
        assert word in shown


def test_plain_eval_reports_what_it_always_did(charnn_eval):
    value = json.loads(charnn_eval("--json", "-q")[1])
    assert not {"dynamic", "baselines", "positions", "classes"} & set(value)
    assert 4 == len(charnn_eval("-q")[1].splitlines())


def test_a_model_without_its_run_says_what_it_goes_without(charnn_eval):
    words = ("book.txt", "-m", "alone.safetensors", "--dynamic", "--baselines", "--json")
    code, out, err = charnn_eval(*words)
    value = json.loads(out)
    assert (0, "sgd", None) == (code, value["dynamic"]["rule"], value["baselines"]["trained_on"])
    assert "nothing is learnt from the run's training text" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--dynamic-rate", "1"), 2, "say how --dynamic works"),
        (("--dynamic", "--dynamic-rate", "-1"), 2, "the rate must be"),
        (("book.txt", "-m", "alone.safetensors", "--dynamic", "--dynamic-rule", "rms"), 2, "rms"),
    ],
)
def test_what_does_not_go_together_is_refused(charnn_eval, words, code, said):
    found, _, err = charnn_eval(*words, "-q")
    assert code == found
    assert said in err


@pytest.mark.slow
def test_a_model_of_lines_is_read_dynamically_and_by_place(charnn_eval):
    words = ("book.txt", "-m", "lines.safetensors", "--dynamic", "--positions")
    code, out, err = charnn_eval(*words, "--json", "-q")
    assert (0, "") == (code, err)
    value = json.loads(out)
    assert ("lines", "sgd") == (value["dynamic"]["protocol"], value["dynamic"]["rule"])
    assert value["lines"]["targets"] == value["dynamic"]["targets"]
    assert value["positions"]["windows"] == value["positions"]["counts"][0]
    assert "dynamic: lines, the weights adapting" in charnn_eval(*words, "-q")[1]


def test_a_model_of_lines_has_kinds_of_characters_too(charnn_eval):
    words = ("book.txt", "-m", "lines.safetensors", "--classes", "--json", "-q")
    value = json.loads(charnn_eval(*words)[1])
    total = value["lines"]["bits_per_char"] * value["lines"]["targets"]
    assert total == pytest.approx(sum(row["bits"] for row in value["classes"]), rel=1e-4)
