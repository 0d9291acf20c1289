"""Hidden units, against small computations written out, and units made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from planted import WATCHER, random_weights, watching

from charnn.checkpoint import Checkpoint
from charnn.config import GATES, STATES, LineConfig, ModelConfig, SamplingConfig
from charnn.engines import make_predictor
from charnn.engines.clamps import Clamp, Unit
from charnn.errors import ConfigError, TextError
from charnn.generation import Model
from charnn.inspection.effect import measure_effect
from charnn.inspection.labels import make_labeller
from charnn.inspection.units import (
    Activity,
    Detector,
    areas,
    detector,
    distinct,
    gate_shares,
    is_usable,
    most_tokens,
    per_token,
    rank,
    record,
    values_of,
)
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

QUOTED = "he said “so be it” and then “no more” of that.\n" * 40
NUMBERED = "ab1234cd56efgh789abc12ab" * 60


def test_the_area_is_the_share_of_ordered_pairs():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 6, 40).astype(np.float32)  # with many equals
    table = generator.random((3, 40)) < 0.4
    for flags, area in zip(table, areas(values, table), strict=True):
        pairs = [(a > b) + (a == b) / 2 for a in values[flags] for b in values[~flags]]
        assert float(np.mean(pairs)) == pytest.approx(area, abs=1e-12)


def test_a_unit_that_tracks_a_label_is_ranked_first():
    saved, tokenizer = watching(QUOTED, "“", "”")
    ids = tokenizer.encode(QUOTED)
    activity = record(make_predictor(saved.config, saved.weights, "numpy"), ids)
    flags = per_token(tokenizer, ids, make_labeller("quotes").read)
    ranking = rank(activity, saved.config, {"quotes": flags})["quotes"]
    assert {Unit(0, WATCHER, "h"), Unit(0, WATCHER, "c")} == set(ranking.units[:2])
    assert [1.0, 1.0] == ranking.auc[:2].tolist()
    assert 1 > ranking.auc[2]
    assert 1 == ranking.directions[0]
    found = detector(activity, saved.config, Unit(0, WATCHER, "c"), flags)
    assert (1.0, 0.5) == pytest.approx((found.accuracy, found.threshold), abs=1e-3)
    assert (1.0, 0.0) == pytest.approx((found.inside, found.outside), abs=1e-3)


def test_a_unit_that_is_low_with_a_label_is_found():
    saved, tokenizer = watching(QUOTED, "“", "”")
    ids = tokenizer.encode(QUOTED)
    activity = record(make_predictor(saved.config, saved.weights, "numpy"), ids)
    flags = ~per_token(tokenizer, ids, make_labeller("quotes").read)
    ranking = rank(activity, saved.config, {"outside": flags})["outside"]
    assert (-1, 1.0) == (ranking.directions[0], ranking.auc[0])
    assert WATCHER == ranking.units[0].number


def test_the_direction_is_chosen_on_one_half_and_measured_on_the_other():
    config = ModelConfig(3, "rnn", 1, 1, 1)
    flags = np.tile([True, False], 40)
    values = np.where(flags, 1.0, 0.0)
    values[40:] = 1 - values[40:]  # what held in the first half does not in the second
    activity = Activity(np.zeros(80, np.int64), values.astype(np.float32).reshape(80, 1, 1, 1))
    ranking = rank(activity, config, {"label": flags})["label"]
    assert (1.0, 0.0) == (ranking.chosen_auc[0], ranking.auc[0])
    found = detector(activity, config, ranking.units[0], flags)
    assert (0.5, 0.0) == (found.threshold, found.accuracy)


def test_a_label_that_is_rare_is_not_ranked():
    config = ModelConfig(3, "rnn", 1, 1, 1)
    activity = Activity(np.zeros(100, np.int64), np.zeros((100, 1, 1, 1), np.float32))
    flags = np.zeros(100, bool)
    flags[:30] = True
    assert not is_usable(flags)
    assert {} == rank(activity, config, {"label": flags})
    with pytest.raises(TextError, match="30 of 100"):
        detector(activity, config, Unit(0, 0, "h"), flags)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_activity_equals_the_states_of_single_steps(cell):
    config = ModelConfig(5, cell, 3, 4, 2)
    network = make_predictor(config, random_weights(config), "numpy")
    ids = np.array([1, 4, 0, 2, 2])
    activity = record(network, ids, newline=0)
    state = network.initial_state()
    for at, token in enumerate(ids.tolist()):
        state = network.step(token, network.initial_state() if token == 0 else state)[1]
        assert np.array_equal(state, activity.states[at])
    unit = Unit(1, 3, STATES[cell][-1])
    assert np.array_equal(activity.states[:, 1, -1, 3], values_of(activity, config, unit))


def test_h_and_c_of_one_unit_are_not_clamped_together():
    units = [Unit(0, 1, "c"), Unit(0, 1, "h"), Unit(1, 1, "h"), Unit(1, 1, "c"), Unit(0, 2, "c")]
    assert [units[0], units[2], units[4]] == distinct(units, 9)
    assert units[:1] == distinct(units, 1)


def test_a_label_of_characters_becomes_one_of_tokens():
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("a“é”b")
    flags = per_token(tokenizer, ids, make_labeller("quotes").read)
    # a, the three bytes of “ of which the last completes it, the two of é, the three of ”, b.
    assert [0, 0, 0, 1, 1, 1, 1, 1, 0, 0] == flags.astype(int).tolist()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("newline", [None, 1])
def test_gate_shares_equal_those_of_a_step_written_out(cell, newline):
    config = ModelConfig(5, cell, 4, 4, 2)
    weights = random_weights(config, scale=1.5)
    ids = np.random.default_rng(1).integers(0, 5, 60)
    activity = record(make_predictor(config, weights, "numpy"), ids, newline)
    found = gate_shares(activity, config, weights, newline)
    counts = np.zeros((2, 2, len(found.gates), 4))
    h = np.zeros((2, 4))
    for at, token in enumerate(ids):
        if token == newline:
            h[:] = 0
        x = weights["embedding.weight"][token].astype(float)
        for layer in range(2):
            prefix = f"layers.{layer}"
            n = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            n = n * weights[f"{prefix}.norm.weight"] + weights[f"{prefix}.norm.bias"]
            a = weights[f"{prefix}.cell.weight_ih"] @ n + weights[f"{prefix}.cell.bias"]
            a += weights[f"{prefix}.cell.weight_hh"] @ h[layer]
            rows = dict(zip(GATES[cell], np.split(sigmoid(a), len(GATES[cell])), strict=True))
            for number, gate in enumerate(found.gates):
                counts[0, layer, number] += rows[gate] < 0.1
                counts[1, layer, number] += rows[gate] > 0.9
            h[layer] = activity.states[at, layer, 0]
            x = x + h[layer]
    assert (("r", "z") if cell == "gru" else ("i", "f", "o")) == found.gates
    assert counts[0] / 60 == pytest.approx(found.low)
    assert counts[1] / 60 == pytest.approx(found.high)
    assert found.low.max() > 0


def test_an_rnn_has_no_gates():
    config = ModelConfig(5, "rnn", 3, 4, 1)
    activity = record(make_predictor(config, random_weights(config), "numpy"), np.arange(4))
    with pytest.raises(ConfigError, match="gru or lstm"):
        gate_shares(activity, config, random_weights(config))


def test_the_memory_of_activities_is_bounded():
    assert most_tokens(ModelConfig(9, "lstm", 8, 256, 3)) > 50_000
    assert 4 * 2 * 4096 * 8 * most_tokens(ModelConfig(9, "lstm", 8, 4096, 8)) <= 512 << 20


def effect_of(saved, tokenizer, text, label):
    labeller = make_labeller(label, text)
    ids = tokenizer.encode(text)
    activity = record(make_predictor(saved.config, saved.weights, "numpy"), ids)
    flags = per_token(tokenizer, ids, labeller.read)
    unit = rank(activity, saved.config, {label: flags})[label].units[0]
    unit = Unit(unit.layer, unit.number, "c")
    found = [(unit, detector(activity, saved.config, unit, flags))]
    return measure_effect(saved, labeller, found, 1, 800, "numpy")


def test_a_unit_that_samples_digits_is_a_cause_of_digits():
    saved, tokenizer = watching(NUMBERED, "123456789", "abcdefgh", written_when_on="12345")
    effect = effect_of(saved, tokenizer, NUMBERED, "number")
    assert "cause" == effect.verdict
    assert effect.inside.shares.mean() > 0.95
    assert effect.outside.shares.mean() < 0.8 < effect.alone.shares.mean()
    assert effect.inside.marks.mean() == pytest.approx(1000 * effect.inside.shares.mean())
    again = effect_of(saved, tokenizer, NUMBERED, "number")
    assert effect.inside.text == again.inside.text


def test_the_effect_on_a_model_of_lines_is_measured_on_its_lines():
    config = ModelConfig(256, "gru", 4, 4, 1)
    saved = Checkpoint(config, {"kind": "byte"}, random_weights(config), 10, lines=True)
    labeller = make_labeller("number", NUMBERED)
    found = [(Unit(0, 0, "h"), Detector(0.0, 1.0, 0.7, -0.7))]
    effect = measure_effect(saved, labeller, found, 1, 800, "numpy")
    config = SamplingConfig(temperature=1.0)
    for written, held in ((effect.alone, ()), (effect.inside, (Clamp(Unit(0, 0, "h"), 0.7),))):
        model = Model.from_checkpoint(saved, engine="numpy", clamps=held)
        texts, text, count = [], "", 0
        for line in model.lines(LineConfig(500), config, 1):
            text, count = text + line.text + "\n", count + line.tokens
            if count >= 100:  # of 800 tokens, an eighth
                texts, text, count = [*texts, text], "", 0
            if len(texts) == 8:
                break
        shares = [labeller.read(each).sum() / len(each) for each in texts]
        assert shares == pytest.approx(written.shares.tolist())
        assert texts[0] == written.text


@pytest.mark.slow
def test_clamps_that_keep_lines_from_ending_are_refused():
    tokenizer = CharTokenizer.learn("ab\n")
    config = ModelConfig(tokenizer.vocab_size, "rnn", 4, 4, 1)
    weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
    newline = int(tokenizer.encode("\n")[0])
    weights["norm.weight"][:] = 1
    weights["head.weight"][newline, :2] = -40  # which the two units hold back where they are on
    saved = Checkpoint(config, tokenizer.to_dict(), weights, newline, lines=True)
    labeller = make_labeller("number")
    found = [(Unit(0, number, "h"), Detector(0.0, 1.0, 0.9, 0.0)) for number in (0, 1)]
    with pytest.raises(TextError, match=r"0:0:h=0.900 .*--find"):
        measure_effect(saved, labeller, found[:1], 1, 80, "numpy")
    with pytest.raises(TextError, match=r"0:1:h=0.900 .*--together"):
        measure_effect(saved, labeller, found, 1, 80, "numpy")


def test_a_unit_that_only_tracks_a_label_is_no_cause():
    saved, tokenizer = watching(NUMBERED, "123456789", "abcdefgh")
    effect = effect_of(saved, tokenizer, NUMBERED, "number")
    assert ("none", 0.0) == (effect.verdict, effect.difference)
