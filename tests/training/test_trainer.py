"""The trainer: events, rates, losses that are not finite, small texts."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from charnn import checkpoint
from charnn.config import ModelConfig, TrainConfig, TrainOptions
from charnn.errors import ConfigError, TextError, TrainingError
from charnn.model import CELLS
from charnn.runs import Run
from charnn.training import events, machine
from charnn.training import launch as launching
from charnn.training.optimizer import schedule
from charnn.training.plan import fit_windows


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns_a_simple_text(launch, cell):
    with launch(cell=cell, max_steps=150, hidden_size=24, dropout=0.0, batch_size=8) as trainer:
        losses = [e.loss for e in trainer.run() if isinstance(e, events.StepDone)]
    assert losses[0] == pytest.approx(math.log(trainer.network.config.vocab_size), rel=0.1)
    assert np.mean(losses[-10:]) < 0.5 * losses[0]


def test_the_rate_rises_then_falls_to_zero_over_the_budget():
    config = TrainConfig(max_steps=100, warmup_steps=10)
    rates = [schedule(config, step) for step in range(100)]
    assert 10 == int(np.argmax(rates))
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert 0.01 == pytest.approx(rates[-1])


def test_weight_decay_spares_biases_and_norms(launch):
    with launch() as trainer:
        (decayed, decay), (spared, none) = trainer.optimizer.groups
        weights = dict(trainer.network.named_parameters())
        assert all(weights[name].ndim > 1 for name in decayed)
        assert all(weights[name].ndim == 1 for name in spared)
        assert (trainer.config.weight_decay, 0.0) == (decay, none)


def test_the_step_equals_a_bare_loop_over_torchs_adamw(launch):
    settings = {"dropout": 0.0, "eval_every": 0, "sample_every": 0, "optimizer": "adamw"}
    with launch(**settings, max_steps=12) as trainer:
        from charnn.model import LanguageModel, detach

        twin = LanguageModel(trainer.network.config)
        twin.load_state_dict(trainer.network.state_dict())
        list(trainer.run())
        decay = [p for p in twin.parameters() if p.ndim > 1]
        plain = [p for p in twin.parameters() if p.ndim == 1]
        groups = [
            {"params": decay, "weight_decay": trainer.config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
        state = twin.initial_state(4)
        for step in range(12):
            window = trainer.batches.window(step)
            ((_, inputs, targets, *_),) = window.parts
            if window.fresh.all():
                state = twin.initial_state(4)
            logits, state = twin(inputs, detach(state))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = trainer.config.learning_rate * schedule(trainer.config, step)
            optimizer.step()
        for name, weight in twin.state_dict().items():
            torch.testing.assert_close(trainer.network.state_dict()[name], weight)


def test_metrics_hold_an_object_a_line_with_the_promised_keys(launch):
    with launch() as trainer:
        list(trainer.run())
    lines = [json.loads(line) for line in trainer.home.metrics.read_text().splitlines()]
    by_event = {line["event"]: line for line in lines}
    assert {"step", "eval", "sample", "save", "end"} == set(by_event)
    step = {
        "step",
        "tokens",
        "epoch",
        "seconds",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
    }
    assert step <= set(by_event["step"])
    assert {"nats_per_token", "bits_per_char", "bits_per_byte", "targets"} == set(
        by_event["eval"]["cold_256"]
    )
    assert {"cold_256", "carried"} <= set(by_event["end"])


def test_no_file_has_two_save_events_at_one_step(launch):
    with launch(max_steps=12, save_every=4, eval_every=4) as trainer:
        saves = [(e.step, e.path.name) for e in trainer.run() if isinstance(e, events.Saved)]
    assert len(set(saves)) == len(saves)
    assert (12, "last.safetensors") in saves
    assert checkpoint.load(trainer.home.last).training.progress["finished"]


def test_best_is_the_lowest_validation_loss_and_holds_no_training_state(launch):
    with launch(max_steps=60) as trainer:
        found = [e for e in trainer.run() if isinstance(e, events.Validated)]
    best = checkpoint.load(trainer.home.best)
    assert best.training is None
    lowest = min(found, key=lambda e: e.score.nats_per_token)
    assert lowest.step == best.info["step"]
    assert found[0].best
    assert {"cold_256", "carried"} == set(best.info["results"])


def test_a_shared_model_names_no_path_and_no_host(launch, text):
    import socket

    with launch() as trainer:
        list(trainer.run())
    blob = trainer.home.best.read_bytes()
    for secret in (str(text), text.stem, str(text.parent), socket.gethostname()):
        if len(secret) > 3:
            assert secret.encode() not in blob


def test_without_a_validation_split_best_is_last(launch):
    with launch(split=(100,)) as trainer:
        list(trainer.run())
    best, last = (checkpoint.load(p) for p in (trainer.home.best, trainer.home.last))
    assert all(np.array_equal(best.weights[name], last.weights[name]) for name in best.weights)


def test_the_sample_has_the_same_seed_and_prompt_each_time(launch):
    with launch(max_steps=4, sample_every=1, learning_rate=1e-9, muon_rate=1e-9) as trainer:
        texts = [e.text for e in trainer.run() if isinstance(e, events.Sampled)]
    assert 4 == len(texts)
    assert 1 == len(set(texts))


def test_a_window_without_a_finite_loss_is_skipped(launch, monkeypatch):
    with launch(max_steps=12) as trainer:
        forward = trainer.network.forward

        def poisoned(tokens, state, generator=None):
            logits, after = forward(tokens, state, generator)
            if trainer.network.training and trainer.step in (4, 5):
                logits = logits * float("nan")
                after = tuple(type(s)(*(part * float("nan") for part in s)) for s in after)
            return logits, after

        monkeypatch.setattr(trainer.network, "forward", poisoned)
        seen = list(trainer.run())
    warned = [e for e in seen if isinstance(e, events.Warned)]
    assert [5, 6] == [e.step for e in warned]
    assert 0.25 == trainer.rate_scale
    assert 10 == trainer.updates
    assert np.isfinite(
        [e.loss for e in seen if isinstance(e, events.StepDone) and e.step > 6]
    ).all()


def test_three_skipped_windows_in_a_row_end_the_run_with_finite_weights(launch, monkeypatch):
    with launch(max_steps=12, save_every=0) as trainer:
        forward = trainer.network.forward

        def poisoned(tokens, state, generator=None):
            logits, after = forward(tokens, state, generator)
            return (logits * float("nan") if trainer.step >= 4 else logits), after

        monkeypatch.setattr(trainer.network, "forward", poisoned)
        with pytest.raises(TrainingError, match="--learning-rate"):
            list(trainer.run())
        saved = checkpoint.load(trainer.home.last)
    assert saved.training is not None
    assert 4 == saved.training.progress["updates"]
    assert all(np.isfinite(w).all() for w in saved.weights.values())


def test_a_hopeless_learning_rate_is_an_error_and_saves_finite_files(launch):
    with launch(learning_rate=1e9, max_steps=40) as trainer:
        with suppress(TrainingError):
            list(trainer.run())
        saved = checkpoint.load(trainer.home.last)
    assert all(np.isfinite(w).all() for w in saved.weights.values())


@pytest.mark.parametrize("text_of", ["ab", "a" * 50, "x\n" * 5, "é" * 7])
def test_a_tiny_text_trains_with_a_smaller_batch_and_window(launch, tmp_path, text_of):
    tiny = tmp_path / "tiny.txt"
    tiny.write_text(text_of)
    with launch(source=tiny, split=(100,), batch_size=None, bptt=None, max_steps=3) as trainer:
        losses = [e.loss for e in trainer.run() if isinstance(e, events.StepDone)]
    assert np.isfinite(losses).all()
    if len(set(text_of)) == 1:
        assert max(losses) < 1e-6


@pytest.mark.parametrize("text_of", ["", "a"])
def test_a_text_of_one_token_is_refused_and_leaves_no_run(launch, tmp_path, text_of):
    tiny = tmp_path / "tiny.txt"
    tiny.write_text(text_of)
    with pytest.raises(TextError):
        with launch(source=tiny, split=(100,)):
            pass
    assert not (tmp_path / "runs/tiny").exists()


def test_windows_shrink_only_as_far_as_the_text_needs():
    assert (32, 64) == fit_windows(1_000_000, 32, 64)
    batch, bptt = fit_windows(3000, 32, 64)
    assert (3000 - 1) // batch >= 4 * bptt
    assert (1, 1) == fit_windows(2, 32, 64)


def test_a_run_that_exceeds_the_memory_is_refused(monkeypatch):
    model = ModelConfig(vocab_size=100, hidden_size=4096, embedding_size=4096, num_layers=8)
    monkeypatch.setattr(machine, "available_memory", lambda: 1 << 30)
    with pytest.raises(TrainingError, match="GiB"):
        machine.require_memory(model, TrainConfig(max_steps=1))


def test_a_missing_device_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            machine.choose_device("cuda")


def test_minutes_become_steps_and_include_the_measurement(launch):
    options = {
        "max_steps": None,
        "minutes": 0.1,
        "eval_every": None,
        "sample_every": None,
        "save_every": None,
    }
    with launch(**options) as trainer:
        assert trainer.config.max_steps > 1
        assert trainer.deadline is not None


def test_a_slow_machine_gives_a_warning(launch):
    with launch(max_steps=60) as trainer:
        trainer.deadline = time.monotonic() - 100
        warned = [e.message for e in trainer.run() if isinstance(e, events.Warned)]
    assert 1 == len(warned)
    assert "over the budget" in warned[0]


def test_two_budgets_are_refused():
    with pytest.raises(ConfigError, match="--max-steps"):
        TrainOptions(minutes=1, max_steps=5)


def test_two_runs_that_start_at_once_get_two_names(tmp_path, monkeypatch):
    names = iter(["book", "book-2"])
    monkeypatch.setattr(launching, "free_name", lambda *_: next(names))
    new = launching._new_run
    with Run(tmp_path, "book").lock(), new(["book.txt"], TrainOptions(), tmp_path) as (run, _):
        assert run.name == "book-2"
        assert run.holder
