"""The model class of lm_eval, in lm_eval itself; skipped where it is not installed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_model import random_model

import charnn
from charnn.checkpoint import save
from charnn.errors import CharnnError
from charnn.text.tokenizers import CharTokenizer

if find_spec("lm_eval") is None:
    pytest.skip("the package lm_eval is not installed", allow_module_level=True)

# A task of lm_eval: which of two endings is likelier, over documents in a file.
TASK = """
task: goats
dataset_path: json
dataset_kwargs: {data_files: {test: documents.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.safetensors"
    save(path, random_model(CharTokenizer.learn("\nabcdef "), scale=0.9, seed=1))
    return path


@pytest.fixture
def model(saved: Path) -> Any:
    from lm_eval.api.registry import get_model

    from charnn.adapters.lm_eval_model import CharnnLM

    assert CharnnLM is get_model("charnn")
    return CharnnLM.create_from_arg_string(f"model={saved}", {"batch_size": 1, "device": None})


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def nats(text: str, saved: Path) -> np.ndarray:
    return charnn.score(text, charnn.load(saved)).bits * math.log(2)


def test_the_likelihood_of_a_continuation_is_that_of_score(model: Any, saved: Path) -> None:
    pairs = [("abc ", "def"), ("", "fed\n"), ("a", "b" * 70), ("abc", "")]
    found = model.loglikelihood(requests(*pairs))
    for (context, continued), (likelihood, greedy) in zip(pairs, found, strict=True):
        expected = -nats(context + continued, saved)[len(context) :].sum() if continued else 0.0
        assert expected == pytest.approx(likelihood, rel=1e-5, abs=1e-9)
        assert greedy == (continued == likeliest(context, len(continued), saved))


def likeliest(context: str, size: int, saved: Path) -> str:
    """What the model writes at temperature 0 after the start token, a newline, and a context."""
    return charnn.load(saved).generate(f"\n{context}", max_tokens=size, temperature=0)


def test_the_likeliest_continuation_is_greedy(model: Any, saved: Path) -> None:
    pairs = [(context, likeliest(context, 5, saved)) for context in ("abc", "")]
    assert [True, True] == [greedy for _, greedy in model.loglikelihood(requests(*pairs))]


def test_the_rolling_likelihood_is_that_of_the_whole_text(model: Any, saved: Path) -> None:
    texts = ["abc def\n", "f", "abcdef " * 60]
    found = model.loglikelihood_rolling(requests(*((text,) for text in texts)))
    assert found == pytest.approx([-nats(text, saved).sum() for text in texts], rel=1e-5)


def test_a_text_is_generated_until_a_string(model: Any, saved: Path) -> None:
    own = charnn.load(saved)
    found = model.generate_until(
        requests(
            ("abc", {"until": ["\n", ""], "max_gen_toks": 40, "do_sample": False}),
            ("abc", {"until": "a", "temperature": 0.8}),
        )
    )
    expected = [
        own.generate("abc", max_tokens=40, temperature=0, stop="\n"),
        own.generate("abc", max_tokens=256, temperature=0.8, stop="a", seed=0),
    ]
    assert expected == found
    with pytest.raises(CharnnError, match="num_beams"):
        model.generate_until(requests(("abc", {"num_beams": 4})))


def test_unknown_characters_are_an_error_or_skipped(model: Any, saved: Path) -> None:
    with pytest.raises(CharnnError):
        model.loglikelihood(requests(("Z", "a")))
    skipping = type(model)(str(saved), unknown="skip")
    pairs = requests(("aZ", "bZc"), ("a", "bc"))
    first, second = skipping.loglikelihood(pairs)
    assert first == second


@pytest.mark.slow
@pytest.mark.timeout(400)  # lm_eval imports for most of it
def test_the_command_line_of_lm_eval_evaluates_a_task(saved: Path, tmp_path: Path) -> None:
    documents = [{"start": "abc ", "good": "d", "bad": "ddddddd"}] * 4
    (tmp_path / "documents.json").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/goats.yaml").write_text(TASK)
    words = ["run", "--model", "charnn", "--model_args", f"model={saved}", "--tasks", "goats"]
    words += ["--include_path", "tasks", "--output_path", str(tmp_path / "out.json")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "charnn.adapters.lm_eval_model", *words],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
    (results,) = tmp_path.glob("out*.json")
    assert 1.0 == json.loads(results.read_text())["results"]["goats"]["acc,none"]
