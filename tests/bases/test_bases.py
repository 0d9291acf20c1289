"""Base models: by name, as the start of a run, and the choice between a base and scratch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import charnn
from charnn import checkpoint
from charnn.bases import BASES, base_of
from charnn.bases.choose import BaseChooser, expected_fine_tuned
from charnn.config import TrainOptions
from charnn.errors import ConfigError, FileError
from charnn.export import exporter
from charnn.ngrams.add import NGramStep
from charnn.report.commands import commands
from charnn.report.facts import find_facts
from charnn.runs import find_model
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file
from charnn.training import fine_tune
from charnn.training.launch import start

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (ROOT / "corpora/lighthouse.txt").read_text("utf-8")[:20_000]
NAMES = (
    "".join(f"{a}{b}\n" for a in ("Xo", "Qui", "Zsa", "Vri", "Ngu") for b in ("zt", "qk", "wx"))
    * 30
)
WORDS = "la casa que ya no tiene puerta mira hacia el mar donde nadie sabe cuándo volverán barcos"
SPANISH = " ".join(np.random.default_rng(1).choice(WORDS.split(), 3000))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)


def tokens_of(text: str, folder: Path, tokenizer: str = "char"):
    (folder / "text.txt").write_text(text, "utf-8")
    with open_source([str(folder / "text.txt")]) as source:
        return write_token_file(folder / "text.tokens", source, tokenizer=tokenizer)


def choose(text: str, folder: Path, tokenizer: str = "char", **options):
    chooser = BaseChooser(NGramStep(4))
    chooser(tokens_of(text, folder, tokenizer), TrainOptions(**{"max_steps": 200, **options}))
    return chooser.choice


# --- by name


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_small_and_holds_no_n_grams_and_no_training_state(name: str) -> None:
    base = BASES[name]
    assert base.path.stat().st_size <= 8_000_000
    saved = checkpoint.load(base.path)
    assert saved.ngrams is None
    assert saved.training is None
    assert base.language
    assert base.licence
    assert (name, base) == base_of(base.path)


def test_english_writes_words_without_any_training() -> None:
    text = charnn.load("english").generate("It was ", max_tokens=400, temperature=0.5, seed=1)
    words = set(text.lower().split())
    assert len(words & {"the", "and", "of", "to", "a", "in", "that", "was", "he", "it"}) >= 5


def test_a_run_hides_the_base_of_its_name(tmp_path: Path) -> None:
    assert BASES["english"].path == find_model("english", tmp_path)
    run = tmp_path / "english"
    run.mkdir()
    saved = checkpoint.load(BASES["english"].path)
    checkpoint.save(run / "best.safetensors", saved)
    assert run / "best.safetensors" == find_model("english", tmp_path)


def test_show_tells_what_a_base_read(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from charnn.cli import main; main()", "show", "english", "--json"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(charnn.__file__).parents[1])},
    )
    facts = json.loads(done.stdout)
    assert "english" == facts["base"]["name"]
    assert "CC0-1.0" == facts["base"]["licence"]


def test_the_commands_of_a_report_name_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charnn.report.facts.SAMPLE_CHARS", 5)
    path = BASES["english"].path
    facts = find_facts(checkpoint.load(path), path, "english")
    assert "english" == facts.name_in_commands
    assert "--from" not in commands(facts)[-1]
    facts.model.info["from"] = {"name": "english"}  # as after fine-tuning
    assert "--from english" in commands(facts)[-1]


def test_a_base_has_no_training_text_to_copy() -> None:
    with pytest.raises(FileError, match="--max-copy"):
        charnn.load("english").generate("It was", max_tokens=5, max_copy=5)


# --- the choice


def test_an_english_text_starts_from_the_base(tmp_path: Path) -> None:
    choice = choose(ENGLISH, tmp_path)
    assert choice.base is not None
    assert "english" == choice.base.name
    assert choice.fine_tuned < choice.scratch
    assert "--from scratch" in choice.note


@pytest.mark.parametrize("text", [NAMES, SPANISH], ids=["names", "Spanish"])
def test_a_small_text_in_known_characters_starts_from_the_base(text: str, tmp_path: Path) -> None:
    choice = choose(text, tmp_path)
    assert choice.base is not None
    assert choice.before > 3


def test_a_large_text_unlike_the_base_starts_from_scratch(tmp_path: Path) -> None:
    choice = choose(SPANISH * 12, tmp_path)
    assert choice.base is None
    assert choice.before > 3
    assert "--from english" in choice.note


def test_a_text_in_unknown_characters_starts_from_scratch(tmp_path: Path) -> None:
    greek = str.maketrans("abcdefghijklmnopqrstuvwxyz", "αβγδεζηθικλμνξοπρστυφχψωάέ")
    assert choose(SPANISH.translate(greek), tmp_path).base is None


@pytest.mark.parametrize(
    "options",
    [{"cell": "gru"}, {"hidden_size": 64}, {"num_layers": 2}, {"lines": True}],
    ids=lambda options: next(iter(options)),
)
def test_asking_for_another_network_means_scratch_and_is_said(options, tmp_path: Path) -> None:
    choice = choose(ENGLISH, tmp_path, **options)
    assert choice.base is None
    assert f"--{next(iter(options)).replace('_', '-')}" in choice.note


def test_a_tokenizer_that_no_base_has_means_scratch(tmp_path: Path) -> None:
    assert choose(ENGLISH, tmp_path, tokenizer="byte").base is None


def test_a_text_of_one_symbol_starts_from_scratch(tmp_path: Path) -> None:
    assert choose("a" * 3000, tmp_path).base is None


def test_a_damaged_base_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "english.safetensors"
    broken.write_bytes(b"cut off")
    monkeypatch.setitem(BASES, "english", BASES["english"]._replace(path=broken))
    choice = choose(ENGLISH, tmp_path)
    assert choice.base is None
    assert str(broken) in choice.note


def test_more_reading_lowers_the_expected_loss() -> None:
    losses = [expected_fine_tuned(1.6, read) for read in (0, 1e5, 1e6, 1e8)]
    assert losses == sorted(losses, reverse=True)
    assert 1.6 == losses[0]


# --- the run


def test_train_starts_from_the_base_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "boat.txt").write_text(ENGLISH, "utf-8")
    root = tmp_path / "runs"
    run = charnn.train(
        tmp_path / "boat.txt", checkpoints=root, max_steps=2, threads=1, precision="float32", seed=1
    )
    saved = checkpoint.load(run.best)
    assert "english" == saved.info["from"]["name"]
    assert checkpoint.load(BASES["english"].path).digest == saved.info["from"]["digest"]
    assert len(set(ENGLISH)) == saved.config.vocab_size
    first, *_ = saved.info["history"]
    assert 0 == first["step"]
    assert first["cold_256"] < 2.5


def test_from_scratch_ignores_the_base(tmp_path: Path) -> None:
    (tmp_path / "boat.txt").write_text(ENGLISH, "utf-8")
    options = TrainOptions(
        from_model="scratch", max_steps=1, threads=1, seed=1, hidden_size=8, num_layers=1
    )
    texts, chooser = [str(tmp_path / "boat.txt")], BaseChooser(NGramStep(0))
    with start(texts, options, tmp_path / "runs", choose_base=chooser) as (trainer, _):
        assert trainer.origin is None
    assert chooser.choice.base is None


@pytest.mark.slow
def test_a_fine_tuned_model_can_be_fine_tuned_again(tmp_path: Path) -> None:
    (tmp_path / "boat.txt").write_text(ENGLISH, "utf-8")
    options = {"max_steps": 1, "threads": 1, "precision": "float32", "seed": 1, "ngram": 0}
    root = tmp_path / "runs"
    first = charnn.train(tmp_path / "boat.txt", checkpoints=root, name="a", **options)
    second = charnn.train(
        tmp_path / "boat.txt", checkpoints=root, name="b", from_model="a", **options
    )
    assert checkpoint.load(first.best).digest == checkpoint.load(second.best).info["from"]["digest"]


def test_a_start_is_a_name_or_a_path(tmp_path: Path) -> None:
    (tmp_path / "boat.txt").write_text(ENGLISH, "utf-8")
    options = {"checkpoints": tmp_path / "runs", "max_steps": 1, "threads": 1, "ngram": 0}
    run = charnn.train(tmp_path / "boat.txt", from_model=BASES["english"].path, **options)
    assert "english" == checkpoint.load(run.best).info["from"]["name"]
    with pytest.raises(FileError, match="nowhere"):
        charnn.train(tmp_path / "boat.txt", from_model=tmp_path / "nowhere", **options)
    with pytest.raises(ConfigError, match="from_model"):
        charnn.train(tmp_path / "boat.txt", from_model=5, **options)


# --- sharing


def test_an_exported_model_file_has_half_the_size_and_can_be_a_base(tmp_path: Path) -> None:
    saved = checkpoint.load(BASES["english"].path)
    whole, shared = tmp_path / "whole.safetensors", tmp_path / "shared.safetensors"
    checkpoint.save(whole, saved)
    exporter("model").write(saved, "english", shared)
    assert shared.stat().st_size < 0.51 * whole.stat().st_size
    again = fine_tune.Base(shared)
    for name, weight in saved.weights.items():  # F16 already, so nothing is lost
        assert np.array_equal(weight, again.weights[name].numpy())
