"""The folder for the Hub: its model file, its card, and config.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from random_model import random_model
from typer.testing import CliRunner

import charnn.cli
from charnn.checkpoint import Checkpoint, load, save
from charnn.export import exporter
from charnn.generation import Model
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import CharTokenizer

NASTY = "`</pre><script>\n\n---\nlicense: mit\n# [x](y) {{ title }} |"
TEXT = NASTY + "abcdefghij \n"
INFO: dict[str, Any] = {
    "corpus": {"chars": 61000, "bytes": 62000, "name": "/home/me/secret.txt"},
    "results": {
        "carried": {"nats_per_token": 1.25, "bits_per_char": 1.8034, "bits_per_byte": 1.75},
        "lines": {"nats_per_token": "secret"},
    },
    "recipe": {"batch_size": 32, "host": "/secret"},
    "seconds": 90.0,
}


def make(lines: bool = False, ngrams: bool = False) -> Checkpoint:
    tokenizer = CharTokenizer.learn(TEXT)
    checkpoint = random_model(tokenizer, seed=1, info=INFO, lines=lines)
    if ngrams:
        ids = tokenizer.encode(TEXT * 20).astype(np.int64)
        tree = NGramTree.of(ids, tokenizer.vocab_size, 7, None)
        checkpoint.ngrams = tree.section(MixtureWeights(0.5, 0.5))
    return checkpoint


def write(checkpoint: Checkpoint, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """Front matter and body of the card."""
    exporter("hub").write(checkpoint, "my *book*", folder / "hub", **options)
    assert {"README.md", "config.json", "model.safetensors"} == {
        path.name for path in (folder / "hub").iterdir()
    }
    _, front, body = (folder / "hub/README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_has_what_the_hub_reads_and_what_people_ask(tmp_path: Path) -> None:
    front, body = write(make(), tmp_path)
    assert ("charnn", "text-generation", "other") == tuple(
        front[key] for key in ("library_name", "pipeline_tag", "license")
    )
    assert "gru" in front["tags"]
    assert set(front) == {"library_name", "pipeline_tag", "license", "tags"}
    saved = load(tmp_path / "hub/model.safetensors")
    for part in ("61,000", "1.8034", "batch size", "90 seconds", saved.digest, "hf:OWNER/NAME"):
        assert part in body
    assert "secret" not in body
    assert "cc-by-4.0" == write(make(), tmp_path, license="cc-by-4.0")[0]["license"]


def test_the_samples_are_those_of_the_model_in_the_folder(tmp_path: Path) -> None:
    for lines in (False, True):
        _, body = write(make(lines), tmp_path)
        model = Model.load(tmp_path / "hub/model.safetensors")
        shown = re.findall(r"<pre>\n(.*?)\n</pre>", body, re.DOTALL)
        assert 3 == len(shown)
        text = model.example(400, 10, 1, temperature=0.8)
        plain = shown[1].replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
        assert text == plain.replace("&amp;", "&").replace("&#34;", '"')
        assert body.count("<pre>") == body.count("</pre>") == 3
        assert "<script>" not in body


def test_the_card_warns_of_n_grams(tmp_path: Path) -> None:
    assert "up to 7 symbols" in write(make(ngrams=True), tmp_path)[1]
    assert "n-grams" not in write(make(), tmp_path)[1]


def test_config_json_describes_the_model_file(tmp_path: Path) -> None:
    write(make(ngrams=True), tmp_path)
    saved = load(tmp_path / "hub/model.safetensors")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert ("charnn", saved.digest) == (config["model_type"], config["digest"])
    assert (saved.config.to_dict(), 7) == (config["shape"], config["ngrams"]["order"])


def test_the_command_replaces_an_earlier_folder_and_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("book.safetensors"), make())

    def export(*words: str) -> Any:
        words = ("export", "book.safetensors", *words)
        return CliRunner().invoke(charnn.cli.app, words)

    assert 0 == export("--to", "hub", "-o", "out", "--license", "mit").exit_code
    assert "license: mit" in Path("out/README.md").read_text()
    assert 1 == export("--to", "hub", "-o", "out").exit_code
    assert 0 == export("--to", "hub", "-o", "out", "--force").exit_code
    assert "license: other" in Path("out/README.md").read_text()
    Path("out/.git").mkdir()
    result = export("--to", "hub", "-o", "out", "--force")
    assert (1, True) == (result.exit_code, Path("out/.git").exists()), result.output
    for words in (
        ["hub", "--license", "a: b"],
        ["hub", "--license", ""],
        ["c", "--license", "mit"],
    ):
        result = export("-o", "other", "--to", *words)
        assert (2, True) == (result.exit_code, "--license" in result.output), result.output
    assert not Path("other").exists()
