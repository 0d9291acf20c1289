"""A run that begins as a trained model: its rows are kept, new symbols are added, both learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from driving import finish, stop_after

from charnn import checkpoint
from charnn.config import TrainOptions
from charnn.errors import ConfigError, FileError, TextError
from charnn.evaluation import network_of
from charnn.model import CELLS
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import tokenizer_from_dict
from charnn.training.launch import resume, start

OLD = "the goat is not a sailor.\n"
NEW = "Très haut: the WIND, the goat & the sea…\n" * 30  # lacks i and l
SYMBOL_ROWS = ("embedding.weight", "head.weight", "head.bias")
KINDS = ("char", "byte", "sentencepiece")


def logits_of(network, ids) -> torch.Tensor:
    tokens = torch.from_numpy(ids.astype(np.int64))[:, None]
    network.eval()
    with torch.inference_mode():
        return network(tokens, network.initial_state(1))[0][:, 0]


@pytest.fixture
def base(launch, tmp_path):
    """Trains the run "base"; gives its best model, as it was saved."""

    def trained(**options):
        settings = {"bptt": 4, "batch_size": 2} if options.get("tokenizer") == KINDS[2] else {}
        with launch(name="base", **settings, **options) as trainer:
            finish(trainer)
        return checkpoint.load(tmp_path / "runs/base/best.safetensors")

    return trained


@pytest.fixture
def new(tmp_path):
    path = tmp_path / "wind.txt"
    path.write_text(NEW, "utf-8")
    return path


def characters_of(tokenizer) -> str:
    return tokenizer.decode(range(tokenizer.vocab_size))


@pytest.mark.parametrize("cell", CELLS)
def test_shared_characters_keep_their_rows_and_their_logits(launch, base, new, cell):
    old = base(cell=cell, embedding_size=10)
    ours = tokenizer_from_dict(old.tokenizer)
    with launch(source=new, from_model="base", num_layers=None, hidden_size=None) as trainer:
        begun = trainer.checkpoint()
        theirs = trainer.token_file.tokenizer
        shared = "".join(sorted(set(characters_of(ours)) & set(characters_of(theirs))))
        logits = logits_of(trainer.network, theirs.encode(shared))
    assert cell == begun.config.cell
    assert len(shared) > 5
    rows, old_rows = theirs.encode(shared), ours.encode(shared)
    for name, weight in old.weights.items():
        if name in SYMBOL_ROWS:
            assert np.array_equal(weight[old_rows], begun.weights[name][rows]), name
        else:
            assert np.array_equal(weight, begun.weights[name]), name
    expected = logits_of(network_of(old), old_rows)[:, old_rows.astype(np.int64)]
    torch.testing.assert_close(logits[:, rows.astype(np.int64)], expected)


def test_a_new_character_starts_as_its_nearest_known_one_but_less_probable(launch, base, new):
    old = base()
    ours = tokenizer_from_dict(old.tokenizer)
    with launch(source=new, from_model="base") as trainer:
        theirs = trainer.token_file.tokenizer
        weights = trainer.checkpoint().weights
    for added, near in (("è", "e"), ("W", "w")):
        assert added not in ours.known
        row, old_row = int(theirs.encode(added)[0]), int(ours.encode(near)[0])
        for name in ("embedding.weight", "head.weight"):
            assert np.array_equal(old.weights[name][old_row], weights[name][row])
        assert weights["head.bias"][row] < old.weights["head.bias"][old_row]


def test_a_new_character_that_is_near_to_none_starts_improbable_and_is_learnt(launch, base, new):
    old = base()
    with launch(source=new, from_model="base") as trainer:
        theirs = trainer.token_file.tokenizer
        row = int(theirs.encode("&")[0])
        before = trainer.checkpoint().weights
        probabilities = logits_of(trainer.network, theirs.encode(NEW)).softmax(dim=1).mean(dim=0)
        finish(trainer)
        after = logits_of(trainer.network, theirs.encode(NEW)).softmax(dim=1).mean(dim=0)
    norms = np.linalg.norm(old.weights["embedding.weight"], axis=1)
    assert np.linalg.norm(before["embedding.weight"][row]) == pytest.approx(np.median(norms), 0.1)
    assert probabilities[row] == probabilities.min()
    assert after[row] > probabilities[row]


def test_the_vocabulary_is_that_of_the_new_text(launch, base, new):
    base()
    with launch(source=new, from_model="base", name="tuned") as trainer:
        finish(trainer)
        tokenizer = trainer.token_file.tokenizer
    assert set(NEW) == set(characters_of(tokenizer))
    codes = checkpoint.load(trainer.home.best).tokenizer["vocabulary"]
    assert codes.tolist() == sorted(codes.tolist())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_other_tokenizers_stay_as_they_are(launch, base, new, kind):
    old = base(tokenizer=kind, vocab_size=300 if kind == "sentencepiece" else None)
    with launch(source=new, from_model="base", name="tuned", bptt=4, batch_size=2) as trainer:
        begun = trainer.checkpoint()
        assert NEW == trainer.token_file.tokenizer.decode(trainer.token_file.tokens)
        finish(trainer)
    assert old.config.vocab_size == begun.config.vocab_size
    for name in old.tokenizer:
        assert np.array_equal(old.tokenizer[name], begun.tokenizer[name])
    for name, weight in old.weights.items():
        assert np.array_equal(weight, begun.weights[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_fine_tuned_run_resumes_bit_for_bit_without_its_base(launch, base, new, tmp_path, kind):
    base(tokenizer=kind, vocab_size=300 if kind == "sentencepiece" else None)
    for name, step in (("straight", None), ("broken", 0), ("later", 8)):
        with launch(source=new, from_model="base", name=name, bptt=4, batch_size=2) as trainer:
            if step is None:
                finish(trainer)
            elif step:
                stop_after(trainer, step)
            else:
                next(trainer.run())  # killed after the first save
    for path in (tmp_path / "runs/base").iterdir():
        path.unlink()
    straight = checkpoint.load(tmp_path / "runs/straight/last.safetensors")
    for name in ("broken", "later"):
        with resume(name, TrainOptions(), tmp_path / "runs") as trainer:
            finish(trainer)
        resumed = checkpoint.load(tmp_path / f"runs/{name}/last.safetensors")
        assert straight.info["from"] == resumed.info["from"]
        for part in (
            (straight.weights, resumed.weights),
            (straight.training.arrays, resumed.training.arrays),
        ):
            assert all(np.array_equal(part[0][name], part[1][name]) for name in part[0])


def test_a_fine_tuned_model_names_its_base_by_digest_alone(launch, base, new, tmp_path):
    old = base()
    with launch(source=new, from_model="base", name="tuned") as trainer:
        finish(trainer)
    for file in (trainer.home.last, trainer.home.best):
        assert {"digest": old.digest} == checkpoint.load(file).info["from"]
        assert str(tmp_path) not in json.dumps(checkpoint.peek(file))
    assert "from" not in old.info


def test_fine_tuning_leaves_no_model_worse_than_the_one_it_began_as(launch, base):
    base(max_steps=150)
    with launch(from_model="base", name="ruined", learning_rate=9.0, max_steps=10) as trainer:
        before = trainer.checkpoint().weights
        finish(trainer)
    first, *later = trainer.history
    assert 0 == first["step"]
    assert all(entry["cold_256"] > first["cold_256"] for entry in later)
    best = checkpoint.load(trainer.home.best)
    assert all(np.array_equal(before[name], best.weights[name]) for name in before)


@pytest.mark.parametrize(("words", "streams"), [(OLD, 128), (NEW, 64)])
def test_a_text_like_what_the_model_has_read_is_read_in_more_streams(
    base, tmp_path, words, streams
):
    base(max_steps=150)
    path = tmp_path / "more.txt"
    path.write_text(words * (120_000 // len(words)), "utf-8")
    options = TrainOptions(from_model="base", max_steps=1, name="more", seed=1, threads=1)
    with start([str(path)], options, tmp_path / "runs") as (_, plan):
        assert ("muon", streams) == (plan.config.optimizer, plan.config.batch_size)


def test_a_model_is_a_name_a_folder_or_a_file(launch, base, new, tmp_path):
    old = base()
    folder = tmp_path / "runs/base"
    for model in ("base", str(folder), str(folder / "best.safetensors")):
        with launch(source=new, from_model=model) as trainer:
            assert {"digest": old.digest} == trainer.origin
    with pytest.raises(FileError, match=r"'bse'.*base"):
        with launch(source=new, from_model="bse"):
            pass
    with pytest.raises(FileError, match="not a charnn file"):
        with launch(source=new, from_model=str(new)):
            pass
    assert ["base"] == [path.name for path in (tmp_path / "runs").iterdir()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cell": "gru"}, "--cell gru contradicts --from: .*best.safetensors has lstm"),
        ({"hidden_size": 13}, "--hidden-size 13 .* has 12"),
        ({"num_layers": 1}, "--num-layers 1 .* has 2"),
        ({"embedding_size": 3}, "--embedding-size 3 .* has 12"),
        ({"tokenizer": "byte"}, "--tokenizer byte .* has char"),
        ({"vocab_size": 400}, "--vocab-size 400 contradicts"),
    ],
    ids=str,
)
def test_another_shape_or_tokenizer_than_the_models_is_refused(
    launch, base, new, options, expected
):
    base()
    with pytest.raises(ConfigError, match=expected):
        with launch(source=new, from_model="base", **options):
            pass


def test_the_shape_that_the_model_has_may_be_said(launch, base, new):
    base(tokenizer="byte")
    said = {"cell": "lstm", "num_layers": 2, "hidden_size": 12, "tokenizer": "byte"}
    with launch(source=new, from_model="base", dropout=0.3, **said) as trainer:
        assert 0.3 == trainer.network.config.dropout


def test_tokens_of_characters_are_taken_and_those_of_another_tokenizer_are_not(
    launch, base, new, tmp_path
):
    old = base()
    given = tmp_path / "given.tokens"

    def tokens(tokenizer: str):
        with open_source([str(new)]) as source:
            write_token_file(given, source, tokenizer=tokenizer)
        return launch(source=given, from_model="base")

    with tokens("char") as trainer:
        row = trainer.token_file.tokenizer.encode("t")
        old_row = tokenizer_from_dict(old.tokenizer).encode("t")
        rows = trainer.checkpoint().weights["embedding.weight"]
        assert np.array_equal(rows[row], old.weights["embedding.weight"][old_row])
    with pytest.raises(TextError):
        with tokens("byte"):
            pass


def test_a_person_hears_which_characters_are_new(launch, base, new, text, tmp_path):
    base()
    told: list[str] = []
    options = TrainOptions(from_model="base", max_steps=2, seed=1, threads=1, precision="float32")
    with start([str(new)], options, tmp_path / "runs", notify=told.append):
        pass
    assert any("&:DINTWè…" in line for line in told), told
    told.clear()
    with start([str(text)], options, tmp_path / "runs", notify=told.append):
        pass
    assert any(line.endswith("best.safetensors") for line in told), told
