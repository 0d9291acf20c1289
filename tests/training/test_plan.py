"""From a budget to steps, sizes and intervals."""

from __future__ import annotations

import pytest

from charnn.config import TrainConfig, TrainOptions
from charnn.errors import ConfigError
from charnn.training import plan as plan_module
from charnn.training.machine import Speed

SPEED = Speed(step=0.1, cold_token=1e-5, carried_token=5e-5)


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch):
    monkeypatch.setattr(plan_module, "measure", lambda *_: SPEED)


def plan(train=1_000_000, valid=100_000, elapsed=0.0, **options) -> plan_module.Plan:
    wanted = TrainOptions(**{"seed": 1, "threads": 1, "device": "cpu", **options})
    return plan_module.make_plan(wanted, plan_module.Text(train, valid, 65), elapsed)


def test_minutes_are_everything_from_the_start_to_the_last_save():
    found = plan(minutes=2.0, elapsed=5.0)
    assert 100 < found.seconds < 116
    later = plan(minutes=2.0, elapsed=25.0)
    assert 180 <= found.config.max_steps - later.config.max_steps <= 200


def test_a_budget_in_steps_or_passes_is_kept_exactly():
    assert 77 == plan(max_steps=77).config.max_steps
    found = plan(epochs=2.0, batch_size=10, bptt=10, train=10_001)
    assert 200 == found.config.max_steps
    assert 2.0 == pytest.approx(found.epochs)


def test_without_a_budget_it_is_three_minutes(monkeypatch):
    monkeypatch.setattr(plan_module.time, "monotonic", lambda: 0.0)  # planning takes time, too
    assert plan(minutes=3.0).config == plan().config


def test_the_scores_at_the_end_take_a_small_part_of_the_budget():
    found = plan(minutes=0.2, valid=200_000)
    scoring = found.config.final_tokens * (SPEED.cold_token + SPEED.carried_token)
    assert scoring <= plan_module.FINAL_SHARE * 12 + 1e-6
    assert 200_000 == plan(minutes=60.0, valid=10_000_000).config.final_tokens


def test_more_time_makes_a_larger_network():
    sizes = [plan(minutes=m).model.parameters for m in (0.3, 2.0, 10.0)]
    assert sizes == sorted(set(sizes))


def test_time_that_a_small_text_cannot_use_makes_no_larger_network():
    sizes = [plan(minutes=m, train=100_000).model.parameters for m in (3.0, 10.0, 60.0)]
    assert 1 == len(set(sizes))
    assert sizes[0] < plan(minutes=60.0).model.parameters


def test_what_is_asked_for_is_what_is_planned():
    asked = {
        "cell": "gru",
        "num_layers": 4,
        "hidden_size": 48,
        "embedding_size": 20,
        "dropout": 0.25,
        "batch_size": 7,
        "bptt": 33,
        "learning_rate": 1e-3,
        "weight_decay": 0.2,
        "eval_every": 0,
        "sample_every": 11,
        "save_every": 13,
        "seed": 9,
    }
    found = plan(**asked)
    settled = {**found.model.to_dict(), **found.config.to_dict()}
    assert asked == {name: settled[name] for name in asked}


def test_the_precision_is_the_one_that_the_hardware_has(monkeypatch):
    for there, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(plan_module, "has_bfloat16", lambda _, there=there: there)
        assert expected == plan().config.precision
        assert "float32" == plan(precision="float32").config.precision


def test_a_small_text_is_told_how_it_was_made_to_fit():
    found = plan(train=1000, valid=100)
    assert found.config.batch_size < 32
    assert "64" in found.notes[0]


def test_few_passes_are_for_muon_and_many_for_adamw():
    few, many = plan(minutes=2.0), plan(minutes=2.0, train=50_000)
    assert ("muon", 64) == (few.config.optimizer, few.config.batch_size)
    assert ("adamw", 32) == (many.config.optimizer, many.config.batch_size)
    assert few.epochs < plan_module.FROM_SCRATCH.few_passes < many.epochs
    assert "muon" == plan(minutes=2.0, train=50_000, optimizer="muon").config.optimizer
    assert "adamw" == plan(minutes=2.0, optimizer="adamw").config.optimizer


def test_the_size_of_the_network_follows_what_the_machine_can_do(monkeypatch):
    sizes = []
    for step in (2.0, 0.1, 0.01):
        slower = Speed(step, SPEED.cold_token, SPEED.carried_token)
        monkeypatch.setattr(plan_module, "measure", lambda *_, slower=slower: slower)
        sizes.append(plan(minutes=3.0).model.parameters)
    assert sizes == sorted(set(sizes))


def test_more_passes_mean_more_dropout():
    dropouts = [plan_module.FROM_SCRATCH.dropout(passes) for passes in (0.5, 3, 6, 12, 24, 50, 200)]
    assert 0.0 == dropouts[0]
    assert dropouts == sorted(dropouts)
    assert dropouts[-1] < 0.6


def test_a_short_budget_takes_small_windows_unless_told_otherwise():
    def windows(**options):
        config = plan(train=10_000_000, **options).config
        return config.batch_size, config.bptt, config.muon_rate

    usual = TrainConfig.muon_rate
    assert (32, 32, plan_module.FROM_SCRATCH.short_muon_rate) == windows(minutes=0.4)
    assert (32, 64, plan_module.FROM_SCRATCH.short_muon_rate) == windows(minutes=0.8)
    assert (64, 64, usual) == windows(minutes=2.0)
    assert (32, 32, 0.01) == windows(minutes=0.4, muon_rate=0.01)
    assert (64, 128, usual) == windows(minutes=0.4, bptt=128)
    assert (16, 64, usual) == windows(minutes=0.4, batch_size=16)
    assert (64, 64, usual) == windows(max_steps=50)


def test_a_rate_of_muon_is_a_wish_for_muon():
    assert "muon" == plan(minutes=2.0, train=50_000, muon_rate=0.03).config.optimizer


def test_a_rate_of_muon_contradicts_adamw():
    with pytest.raises(ConfigError, match="--muon-rate"):
        TrainOptions(optimizer="adamw", muon_rate=0.03)


def test_a_run_stops_before_it_overfits_the_text():
    found = plan(minutes=60.0, train=200_000)
    assert plan_module.FROM_SCRATCH.passes(1) == pytest.approx(found.epochs, rel=0.01)
    assert "--epochs" in found.notes[-1]
    assert plan_module.FROM_SCRATCH.enough_steps == plan(minutes=60.0, train=5_000).config.max_steps
    assert [] == plan(minutes=0.05, elapsed=5.0).notes, "too little time is not too little text"
    assert 40 == pytest.approx(plan(epochs=40.0, train=200_000).epochs, rel=0.01)
