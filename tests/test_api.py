"""The Python API: what `import charnn` offers, and what its calls take and refuse."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import subprocess
import sys
from html.parser import HTMLParser
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from random_model import random_model

import charnn
from charnn import checkpoint
from charnn.errors import ConfigError, FileError, MissingPackage, TextError, UnknownCharacter
from charnn.generation import Model
from charnn.pages import read, visible
from charnn.scoring.surprisal import ScoredText
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer

TEXT = "The goat reads the log.\n" * 60
SMALL: dict[str, Any] = {
    "max_steps": 6,
    "hidden_size": 8,
    "num_layers": 1,
    "batch_size": 4,
    "bptt": 16,
    "eval_every": 2,
    "threads": 1,
    "seed": 1,
    "precision": "float32",
}

CLI = "from charnn.cli import main; main()"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT.upper())


def made(folder: Path, tokenizer: Tokenizer | None = None, lines: bool = False) -> Path:
    tokenizer = tokenizer or CharTokenizer.learn("\nabcdef")
    path = folder / "model.safetensors"
    checkpoint.save(path, random_model(tokenizer, layers=2, lines=lines))
    return path


# --- what there is


def test_dir_shows_the_public_names_and_each_is_there() -> None:
    assert sorted(charnn.__all__) == dir(charnn)
    assert {"load", "train", "score"} <= set(dir(charnn))
    for name in dir(charnn):
        assert getattr(charnn, name) is not None
    with pytest.raises(AttributeError):
        _ = charnn.nothing


# --- train


def test_train_takes_paths_strings_bytes_and_lists_of_them() -> None:
    forms: list[tuple[Any, ...]] = [
        ("a.txt", "b.txt"),
        (Path("a.txt"), b"b.txt"),
        (["a.txt", Path("b.txt")],),
        (Path().glob("[ab].txt"),),
    ]
    digests = set()
    for number, texts in enumerate(forms):
        run = charnn.train(*texts, name=f"n{number}", **SMALL)
        digests.add(run.load().info["corpus"]["sha256"])
        assert run.load().info["corpus"]["bytes"] >= 2 * len(TEXT)
    assert len(digests) <= 2, "the order of glob is the system's"


def test_settings_may_be_numbers_of_numpy() -> None:
    values = {"max_steps": np.int64(4), "dropout": np.float32(0.25), "seed": np.uint32(7)}
    run = charnn.train("a.txt", **{**SMALL, **values}, split=[np.int16(80), 20])
    recipe = run.load().info["recipe"]
    assert (4, 7) == (recipe["max_steps"], recipe["seed"])
    assert 4 == json.loads(run.metrics.read_text().splitlines()[-1])["step"]
    model = run.load()
    expected = model.generate(seed=3, index=2, max_tokens=9, temperature=0.5)
    numbers = {"seed": np.int64(3), "index": np.uint8(2), "max_tokens": np.int32(9)}
    assert expected == model.generate(**numbers, temperature=np.float64(0.5))
    for wrong in (np.float64(3.5), np.int64(-1), np.bool_(True)):
        with pytest.raises(ConfigError):
            model.generate(seed=wrong)


def test_train_prints_nothing_unless_progress_is_asked_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    charnn.train("a.txt", **SMALL)
    assert ("", "") == tuple(capfd.readouterr())
    charnn.train("a.txt", progress=False, **SMALL)
    assert ("", "") == tuple(capfd.readouterr())
    charnn.train("a.txt", progress=True, sample_every=3, **SMALL)
    out, err = capfd.readouterr()
    assert "" == out
    assert "\x1b" not in err, "plain lines"
    for step in (2, 4, 6):
        assert f"step {step}: validation loss" in err
    assert "sample after step 3" in err


def test_progress_is_shown_in_a_notebook(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    charnn.train("a.txt", **SMALL)
    assert "validation loss" in capfd.readouterr().err


# --- a run


def test_a_run_has_a_name_a_step_a_loss_a_history_and_a_model() -> None:
    run = charnn.train("a.txt", name="mine", ngram=0, **SMALL)
    rows = run.history
    assert [2, 4, 6] == [row["step"] for row in rows if row["step"]]
    assert 1 == len({tuple(row) for row in rows}), "a table: the same keys in each row"
    final = run.load().info["results"]["cold_256"]["nats_per_token"]
    for part in ("mine", "6", f"{final:.4f}"):
        assert part in repr(run)
    assert run.load().digest == charnn.load(run).digest == charnn.load("mine").digest
    tuned = charnn.train("b.txt", from_model=run, max_steps=1, threads=1)
    assert run.load().digest == tuned.load().info["from"]["digest"]


def test_the_repr_of_a_run_whose_file_is_gone_names_it() -> None:
    run = charnn.train("a.txt", name="mine", **SMALL)
    run.last.unlink()
    assert "mine" in repr(run)
    with pytest.raises(FileError):
        _ = run.history


def test_plot_needs_matplotlib_and_draws_both_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    run = charnn.train("a.txt", **SMALL)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingPackage, match="pip install matplotlib"):
        run.plot()
    drawn = {}
    axes = SimpleNamespace(
        plot=lambda steps, losses, label: drawn.update({label: (steps, losses)}),
        legend=lambda: None,
    )
    figure = SimpleNamespace(add_subplot=lambda **_: axes)
    module = SimpleNamespace(figure=lambda: figure)
    monkeypatch.setitem(sys.modules, "matplotlib", SimpleNamespace(pyplot=module))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", module)
    assert axes is run.plot()
    assert tuple(row["cold_256"] for row in run.history) == drawn["validation"][1]
    assert set(drawn["training"][0]) <= set(drawn["validation"][0])


# --- a model


def test_a_model_is_copied_and_pickled(tmp_path: Path) -> None:
    path = made(tmp_path)
    model = charnn.load(path, engine="numpy", int8=True, clamps=["0:1=0.5"])
    expected = model.generate("abc", max_tokens=40, seed=1)
    for same in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  # its own
        assert same is not model
        assert expected == same.generate("abc", max_tokens=40, seed=1)
        assert (model.digest, model.info) == (same.digest, same.info)
    copied = copy.deepcopy(model)
    copied.info["note"] = "mine"
    assert "note" not in model.info


def test_pickled_models_write_in_other_processes(tmp_path: Path) -> None:
    model = charnn.load(os.path.relpath(made(tmp_path)))
    expected = model.generate("abc", max_tokens=30, seed=1)
    with get_context("spawn").Pool(1) as pool:
        texts = pool.starmap(_write, [(model, "abc")] * 2)
    assert [expected] * 2 == texts


def _write(model: Model, prompt: str) -> str:
    os.chdir("/")
    return model.generate(prompt, max_tokens=30, seed=1)


def test_a_pickle_of_a_model_that_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    pickled = pickle.dumps(charnn.load(path))
    assert len(pickled) < 1000, "a path, no weights"
    saved = checkpoint.load(path)
    saved.info["note"] = "another"
    checkpoint.save(path, saved)
    with pytest.raises(FileError):
        pickle.loads(pickled)  # noqa: S301  # its own
    path.unlink()
    with pytest.raises(FileError):
        pickle.loads(pickled)  # noqa: S301  # its own
    with pytest.raises(FileError):
        pickle.dumps(Model.from_checkpoint(saved))
    for copied in (copy.copy, copy.deepcopy):
        assert copied(Model.from_checkpoint(saved)).generate("a", max_tokens=3)


def test_a_prompt_may_be_bytes(tmp_path: Path) -> None:
    model = charnn.load(made(tmp_path))
    assert model.generate("abc", max_tokens=9, seed=1) == model.generate(
        b"abc", max_tokens=9, seed=1
    )
    with pytest.raises(UnknownCharacter):
        model.generate(b"\xff")
    of_bytes = charnn.load(made(tmp_path, ByteTokenizer()))
    assert of_bytes.generate(b"\xff", max_tokens=1, seed=1, echo=True).startswith("\udcff")


def test_the_repr_of_a_model_is_short_and_names_shape_and_file(tmp_path: Path) -> None:
    path = made(tmp_path)
    shown = repr(charnn.load(path))
    assert len(shown) < 100 + len(str(path))
    for part in ("gru", "2x8", "char", str(path)):
        assert part in shown
    assert "gru" in repr(Model.from_checkpoint(checkpoint.load(path)))


# --- score


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("text", ["abc\nfed\n\ncab", "a", "\n\nab\n"])
def test_score_gives_the_numbers_of_the_command(tmp_path: Path, lines: bool, text: str) -> None:
    path = made(tmp_path, lines=lines)
    found = charnn.score(text, charnn.load(path))
    ran = subprocess.run(
        [sys.executable, "-c", CLI, "score", "-", "-m", path, "--json"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["token"] for row in rows] == found.tokens
    assert found.bits == pytest.approx([row["bits"] for row in rows], rel=1e-5)
    assert text == found.text == "".join(found.tokens)
    assert found.bits_per_char == pytest.approx(found.char_bits.mean())


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], bytearray(b"a"), Path("a")])
def test_a_prompt_of_another_type_is_refused(tmp_path: Path, prompt: Any) -> None:
    with pytest.raises(ConfigError, match=type(prompt).__name__):
        charnn.load(made(tmp_path)).generate(prompt)


def test_a_bias_may_be_written_as_on_the_command_line(tmp_path: Path) -> None:
    model, how = charnn.load(made(tmp_path)), {"seed": 1, "max_tokens": 9}
    assert model.generate(bias={"a": 5}, **how) == model.generate(bias="a=5", **how)
    for word in ("a", "a=", "=", "a=many", "a=nan"):
        with pytest.raises(ConfigError, match="bias"):
            model.generate(bias=word, **how)


def test_score_of_bytes_and_unknown_characters(tmp_path: Path) -> None:
    model = charnn.load(made(tmp_path))
    with pytest.raises(UnknownCharacter):
        charnn.score("abZ", model)
    assert "ab" == charnn.score("abZ", model, unknown="skip").text
    for text in ("", "Z"):
        with pytest.raises(TextError):
            charnn.score(text, model, unknown="skip")
    of_bytes = charnn.score("é", charnn.load(made(tmp_path, ByteTokenizer())))
    assert (2, 1) == (len(of_bytes.bits), len(of_bytes.char_bits))


# --- in a notebook


class Shown(HTMLParser):
    """The text of an HTML fragment, and the attributes of each element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.elements = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_a_scored_text_has_the_colours_of_pages(tmp_path: Path) -> None:
    model = charnn.load(made(tmp_path, ByteTokenizer()))
    text = "<b>\x1b & é\n"
    shown = Shown(charnn.score(text, model)._repr_html_())
    assert visible(text) == shown.text
    bits = np.array([0.5, 1.0, 3.0, 4.0, 8.0, np.inf])
    scored = ScoredText("abcdef", bits, list("abcdef"), bits)
    spans = [found for tag, found in Shown(scored._repr_html_()).elements if tag == "span"]
    style = read("charnn.pages", "base.css")
    for found, step in zip(spans, (0, 1, 2, 3, 4, 4), strict=True):
        colours = {each for each in range(1, 5) if colour_of(style, each) in (found["style"] or "")}
        assert ({step} if step else set()) == colours
    long = ScoredText("a" * 30_000, np.ones(30_000), [], np.ones(0))
    assert "10,000" in Shown(long._repr_html_()).text


def colour_of(style: str, step: int) -> str:
    return style.partition(f"--s{step}: ")[2].partition(";")[0]


def test_a_model_has_a_card_with_its_curve() -> None:
    run = charnn.train("a.txt", name="mine", **SMALL)
    shown = Shown(run.load()._repr_html_())
    for part in ("mine", "LSTM", "1,440 characters", "n-grams"):
        assert part in shown.text
    (picture,) = [found["src"] or "" for tag, found in shown.elements if tag == "img"]
    kind, _, data = picture.partition(",")
    assert "data:image/svg+xml;base64" == kind
    root = ElementTree.fromstring(base64.b64decode(data))  # noqa: S314  # its own
    assert 2 == len([each for each in root.iter() if each.tag.endswith("polyline")])
    assert str(Path.cwd()) not in shown.text
    assert "n-grams" not in Shown(run.load(network_only=True)._repr_html_()).text


def test_the_card_of_a_model_of_unknown_origin_is_text(tmp_path: Path) -> None:
    saved = checkpoint.load(made(tmp_path))
    saved.info = {"history": [{"step": "<b>"}, 3], "seconds": "<script>", "results": []}
    checkpoint.save(tmp_path / "<i>.safetensors", saved)
    for model in (charnn.load(tmp_path / "<i>.safetensors"), Model.from_checkpoint(saved)):
        tags = {tag for tag, _ in Shown(model._repr_html_()).elements}
        assert not tags & {"i", "script", "img"}
