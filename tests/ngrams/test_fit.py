"""Runs that mix n-grams in at the end, and every reader of their models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charnn
from charnn import checkpoint, evaluation
from charnn.config import SamplingConfig, TrainOptions
from charnn.errors import DamagedFile, TextError
from charnn.generation.batch import write_together
from charnn.ngrams import add, fit
from charnn.ngrams.add import NGramStep
from charnn.ngrams.mixture import predictor
from charnn.ngrams.section import MAX_WEIGHT, MIN_WEIGHT, MixtureWeights, NGramSection
from charnn.ngrams.tree import NGramTree
from charnn.scoring.surprisal import TokenScorer
from charnn.text.token_file import TokenFile
from charnn.training import launch
from charnn.training.events import Ended, Event, Saved, Validated, Warned

TEXT = "".join(
    f"{n} times {n % 7} is {n * (n % 7)}, said the {('cat', 'dog')[n % 3 == 0]}.\n"
    for n in range(400)
)
SMALL = TrainOptions(
    cell="gru",
    num_layers=1,
    hidden_size=8,
    max_steps=4,
    batch_size=4,
    bptt=16,
    seed=3,
    threads=1,
)
ODD = MixtureWeights(0.125, 0.25)


class Odd:
    """Invalid mixture weights that a checkpoint saves as they are."""

    def __init__(self, values: object) -> None:
        self.values = values

    def _asdict(self) -> object:
        return self.values


def train(folder: Path, name: str, ngram: int | None, options: TrainOptions = SMALL) -> Path:
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    options, step = replace(options, name=name), NGramStep(ngram)
    with launch.start([str(text)], options, folder, final_step=step) as (trainer, _):
        for _ in trainer.run():
            pass
    return folder / name


def mixed_in(event: Event) -> dict[str, Any] | None:
    """Returns the facts of n-grams in the last event, without the gain, which no file holds."""
    assert isinstance(event, Ended)
    found = dict(event.completed.facts.get("ngrams", {}))
    assert not found or found.pop("gain") >= fit.WORTH
    return found or None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("counts"), "mixed", 4)


def section_of(path: Path) -> NGramSection:
    found = checkpoint.load(path).ngrams
    assert found is not None
    return found


def split(run: Path, name: str) -> np.ndarray:
    return np.asarray(TokenFile.open(run / "tokens").split(name)).astype(np.int64)


def test_n_grams_leave_training_as_it_is(run: Path) -> None:
    plain = checkpoint.load(train(run.parent, "plain", 0) / "last.safetensors")
    mixed = checkpoint.load(run / "last.safetensors")
    for name, array in plain.weights.items():
        assert (array == mixed.weights[name]).all()
    assert mixed.ngrams is None, "a run continues from the network alone"


def test_the_final_score_is_that_of_the_mixture(run: Path) -> None:
    saved, ngrams = (read(run / "best.safetensors") for read in (checkpoint.load, section_of))
    (own, theirs), valid = ngrams.weights, split(run, "valid")
    network = evaluation.network_of(saved).eval()
    with torch.inference_mode():
        logits, _ = network(torch.from_numpy(valid[:-1, None]), network.initial_state(1))
    model = logits[:, 0].double().log_softmax(-1).numpy()
    tree = NGramTree(saved.config.vocab_size, 4, ngrams.arrays)
    nodes, counted = tree.start(), []
    for token in valid[:-1]:
        nodes = tree.after(nodes, token)
        counted.append(tree.probabilities(nodes))
    mixed = np.exp(own * model) * np.array(counted) ** theirs
    mixed /= mixed.sum(1, keepdims=True)
    targets = np.arange(len(valid) - 1), valid[1:]
    found = saved.info["results"]["carried"]["nats_per_token"]
    assert -np.log(mixed[targets]).mean() == pytest.approx(found, rel=1e-5)
    assert found < -model[targets].mean() * 0.8


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("engine", ["auto", "numpy"])
def test_the_engines_agree_with_the_scorer(run: Path, engine: str, int8: bool) -> None:
    saved = checkpoint.load(run / "best.safetensors")
    network = predictor(saved, engine, int8)
    ids = split(run, "valid")[:300]
    bits = TokenScorer(network, int(ids[0])).read(ids[1:]).bits
    tokens = evaluation.TextSizes(np.ones(99, int), np.ones(99, int))
    score = tokens.score(evaluation.carried_batches(evaluation.predictor_of(saved), ids))
    found = float(bits.sum() * np.log(2))
    assert score.nats == pytest.approx(found, rel=0.01 if int8 else 1e-5)


def test_feeding_a_text_at_once_equals_feeding_tokens(run: Path) -> None:
    network = predictor(checkpoint.load(run / "best.safetensors"))
    ids = split(run, "valid")[:40].tolist()
    whole, state = network.feed(ids, network.initial_state())
    pieces = network.initial_state()
    for token in ids:
        logits, pieces = network.step(token, pieces)
    assert logits == pytest.approx(whole, abs=1e-5)
    assert state == pytest.approx(pieces, abs=1e-5)


@pytest.mark.parametrize(("engine", "int8"), [("auto", False), ("numpy", True)])
def test_samples_of_a_batch_equal_single_samples(run: Path, engine: str, int8: bool) -> None:
    model = charnn.load(run / "best.safetensors", engine=engine, int8=int8)
    if not model.predictor.exact:
        pytest.skip("no compiled engine here")
    texts = [model.write("7 times", SamplingConfig(max_tokens=40), 5, n) for n in range(9)]
    together = write_together(texts, model.predictor)
    found = {each.index: each.text for each in together}
    for n in range(9):
        alone = model.write("7 times", SamplingConfig(max_tokens=40), 5, n)
        for _ in alone:
            pass
        assert alone.text == found[n]


def test_the_default_order_is_10_and_order_0_counts_nothing(run: Path) -> None:
    for ngram, expected in ((None, 10), (0, None)):
        saved = checkpoint.load(train(run.parent, f"asked-{ngram}", ngram) / "best.safetensors")
        facts = saved.mixture_facts()["ngrams"]
        assert expected == (facts and facts["order"])


def test_n_grams_that_hardly_lower_the_loss_are_left_out(run: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit, "WORTH", 10.0)
    saved = checkpoint.load(train(run.parent, "no-help", 4) / "best.safetensors")
    assert saved.ngrams is None
    plain = checkpoint.load(train(run.parent, "without", 0) / "best.safetensors")
    assert plain.info["results"] == saved.info["results"]


def test_long_n_grams_that_occur_once_are_not_in_the_file(run: Path) -> None:
    tokens = TokenFile.open(run / "tokens")
    ids = np.asarray(tokens.split("train"))
    found = section_of(train(run.parent, "long", 9) / "best.safetensors")
    text = bytes(ids.tolist())
    grams = Counter(text[i : i + n] for n in range(1, 10) for i in range(len(text) - n + 1))
    expected = sum(count > 1 or len(gram) <= add.ONCE for gram, count in grams.items())
    assert expected == len(found.arrays["symbols"])
    assert found.arrays["dropped"].sum() > 100


def test_a_run_of_lines_fits_the_weights_on_lines(tmp_path: Path) -> None:
    run = train(tmp_path, "lines", 5, replace(SMALL, bptt=None, batch_size=None, lines=True))
    saved = checkpoint.load(run / "best.safetensors")
    valid, newline = split(run, "valid"), saved.start_token
    sizes = evaluation.TextSizes(np.ones(99, int), np.ones(99, int))
    mixed = sizes.score(evaluation.line_batches(evaluation.predictor_of(saved), valid, newline))
    alone = sizes.score(evaluation.line_batches(evaluation.network_of(saved), valid, newline))
    assert saved.info["results"]["lines"]["nats_per_token"] == pytest.approx(mixed.nats_per_token)
    assert mixed.nats < 0.8 * alone.nats


def test_a_new_budget_keeps_the_n_grams_and_refits_their_weights(run: Path) -> None:
    path = train(run.parent, "further", 4) / "best.safetensors"
    before, ngrams = checkpoint.load(path), section_of(path)
    checkpoint.save(path, replace(before, ngrams=replace(ngrams, weights=ODD)))
    with launch.resume(
        "further", TrainOptions(max_steps=40), run.parent, final_step=NGramStep()
    ) as trainer:
        for event in trainer.run():
            if isinstance(event, Saved) and event.path == path:
                between = checkpoint.load(path)
                assert between.digest != before.digest
                assert ODD == section_of(path).weights
                assert {} == between.info["results"], "they belonged to another network"
                trainer.stop()
    assert isinstance(event, Ended)
    interrupted = section_of(path)
    assert "interrupted" == event.reason
    assert interrupted.facts() == mixed_in(event)
    assert ODD != interrupted.weights
    with launch.resume("further", TrainOptions(), run.parent, final_step=NGramStep()) as trainer:
        events = list(trainer.run())
    best = section_of(path)
    assert best.facts() == mixed_in(events[-1])
    assert best.weights not in {ODD, interrupted.weights}


def test_an_interrupted_run_has_n_grams_and_ends_like_an_uninterrupted_one(run: Path) -> None:
    longer = replace(SMALL, eval_every=2)
    whole = train(run.parent, "whole", 4, longer)
    text = str(run.parent / "text.txt")
    with launch.start([text], replace(longer, name="cut"), run.parent, final_step=NGramStep(4)) as (
        trainer,
        _,
    ):
        for event in trainer.run():
            if isinstance(event, Validated):
                trainer.stop()
    assert isinstance(event, Ended)
    cut = checkpoint.load(run.parent / "cut" / "best.safetensors")
    assert "interrupted" == event.reason
    assert cut.mixture_facts()["ngrams"] == mixed_in(event) is not None
    assert {} == cut.info["results"]
    with launch.resume("cut", TrainOptions(), run.parent, final_step=NGramStep()) as trainer:
        list(trainer.run())
    paths = [folder / "best.safetensors" for folder in (run.parent / "cut", whole)]
    ended, expected = map(checkpoint.load, paths)
    assert len({section_of(path).weights for path in paths}) == 1
    assert expected.info["results"] == ended.info["results"]
    for name, weight in expected.weights.items():
        np.testing.assert_array_equal(weight, ended.weights[name])


def test_an_interrupted_run_without_its_best_file_is_saved(run: Path) -> None:
    text = str(run.parent / "text.txt")
    options = replace(SMALL, eval_every=2, name="gone")
    with launch.start([text], options, run.parent, final_step=NGramStep(4)) as (trainer, _):
        for event in trainer.run():
            if isinstance(event, Saved) and event.path.name == "best.safetensors":
                event.path.unlink()
                trainer.stop()
            if isinstance(event, Warned):
                assert "best.safetensors" in event.message
    assert isinstance(event, Ended)
    assert ("interrupted", None) == (event.reason, mixed_in(event))
    assert checkpoint.load(run.parent / "gone" / "last.safetensors").training is not None


def test_an_interrupt_without_n_grams_leaves_the_best_file_as_it_is(run: Path) -> None:
    text = str(run.parent / "text.txt")
    options = replace(SMALL, eval_every=2, name="alone")
    with launch.start([text], options, run.parent, final_step=NGramStep(0)) as (trainer, _):
        for event in trainer.run():
            if isinstance(event, Validated):
                trainer.stop()
            if isinstance(event, Saved) and event.path.name == "best.safetensors":
                before = event.path.stat().st_mtime_ns
            assert not isinstance(event, Warned)
    assert before == trainer.home.best.stat().st_mtime_ns


def test_n_grams_need_a_validation_split(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="--ngram"):
        train(tmp_path, "unsplit", 4, replace(SMALL, split=(100,)))
    path = train(tmp_path, "silent", None, replace(SMALL, split=(100,)))
    assert checkpoint.load(path / "best.safetensors").ngrams is None


def test_a_file_with_damaged_n_grams_is_refused(run: Path, tmp_path: Path) -> None:
    saved, ngrams = (read(run / "best.safetensors") for read in (checkpoint.load, section_of))
    arrays = {**ngrams.arrays, "children": ngrams.arrays["children"][::-1].copy()}
    damaged = replace(saved, ngrams=replace(ngrams, arrays=arrays))
    checkpoint.save(tmp_path / "model.safetensors", damaged)
    with pytest.raises(DamagedFile):
        charnn.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"weights": MixtureWeights(0.5, -0.1)},
        {"weights": MixtureWeights(17.0, 0.5)},
        {"weights": MixtureWeights(0.0, 0.5)},
        {"weights": MixtureWeights(1, 0.5)},
        {"weights": Odd({"network": 0.5})},
        {"weights": Odd({"network": "0.5", "ngrams": 0.5})},
        {"weights": Odd({"network": True, "ngrams": 0.5})},
        {"weights": Odd([0.5, 0.5])},
        {"order": 0},
        {"order": 7.0},
        {"order": [1]},
        {"symbols": None},
        {"counts": np.ones((2, 2), np.uint8)},
        {"more": np.ones(2, np.float32)},
        {"more": np.ones(2, np.uint8)},
    ],
)
def test_an_invalid_n_gram_section_is_refused(run: Path, tmp_path: Path, change) -> None:
    saved, ngrams = (read(run / "best.safetensors") for read in (checkpoint.load, section_of))
    facts = {key: change[key] for key in ("order", "weights") if key in change}
    arrays = {k: v for k, v in {**ngrams.arrays, **change}.items() if k not in facts}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    section = replace(ngrams, **facts, arrays=arrays)
    with pytest.raises(DamagedFile):
        checkpoint.save(tmp_path / "model.safetensors", replace(saved, ngrams=section))


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_fitted_weights_have_the_lowest_loss(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    model, counted = (
        (torch.randn(5000, 7, generator=generator) * scale).log_softmax(-1) for _ in range(2)
    )
    truth = (0.8 * model + 0.4 * counted).softmax(-1)
    targets = torch.multinomial(truth, 1, generator=generator)[:, 0]
    found = fit.fit_weights(model, counted, targets)
    assert found == pytest.approx((0.8, 0.4), abs=0.06)

    def loss(own: float, theirs: float) -> float:
        return float(torch.nn.functional.cross_entropy(own * model + theirs * counted, targets))

    least = loss(*found)
    for own in (-0.02, 0, 0.02):
        for theirs in (-0.02, 0, 0.02):
            assert loss(found.network + own, found.ngrams + theirs) >= least - 1e-6


def test_the_weights_stay_within_their_limits() -> None:
    generator = torch.Generator().manual_seed(1)
    model = torch.randn(2000, 7, generator=generator).log_softmax(-1)
    targets = torch.multinomial((-model).softmax(-1), 1, generator=generator)[:, 0]
    opposite = fit.fit_weights(model, torch.zeros(2000, 7), targets)
    assert MIN_WEIGHT == pytest.approx(opposite.network)
    sure = fit.fit_weights(model / 1000, model, model.argmax(-1))
    assert MAX_WEIGHT == pytest.approx(sure.ngrams)


@pytest.mark.parametrize("seed", range(12))
def test_no_weights_on_a_grid_have_a_lower_loss(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.rand(2, generator=generator).mul(3).sub(1)
    model, counted = (
        (torch.randn(200, 5, generator=generator) * each).log_softmax(-1) for each in scale
    )
    slant = torch.randn(2, generator=generator)
    targets = (slant[0] * model + slant[1] * counted).argmax(-1)
    targets[::9] = 0
    found = fit.mean_loss(model, counted, targets, fit.fit_weights(model, counted, targets))[0]
    grid = [MIN_WEIGHT, 0.1, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0, 8.0, MAX_WEIGHT]
    losses = [
        fit.mean_loss(model, counted, targets, MixtureWeights(a, b))[0] for a in grid for b in grid
    ]
    assert found <= min(losses) + 1e-5


def test_a_batch_may_be_smaller_than_the_distance_of_chosen_targets() -> None:
    batches = [
        evaluation.Batch(torch.zeros(1, size, 1 << 20), *np.zeros((2, 1, size), int), 15)
        for size in (3, 1, 1, 2, 1, 7)
    ]
    rows, targets = fit._log_probabilities(iter(batches))
    assert (8, 1 << 20) == rows.shape
    assert 8 == len(targets)


def test_a_large_vocabulary_is_fitted_on_every_kth_target(run: Path, monkeypatch) -> None:
    saved = checkpoint.load(run / "best.safetensors")
    valid = split(run, "valid")

    def batches() -> evaluation.Batches:
        return evaluation.cold_batches(evaluation.network_of(saved), valid)

    whole, targets = fit._log_probabilities(batches())
    monkeypatch.setattr(fit, "MAX_NUMBERS", whole.numel() // 3)
    some, wanted = fit._log_probabilities(batches())
    every = -(-len(targets) // len(wanted))
    assert every in {3, 4}
    torch.testing.assert_close(some, whole[::every])
    assert targets[::every].tolist() == wanted.tolist()
