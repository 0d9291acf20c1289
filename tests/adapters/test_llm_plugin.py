"""The plugin of llm, in llm itself; skipped where llm is not installed (`pip install llm`)."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from random_model import random_model

import charnn
from charnn.bases import BASES
from charnn.checkpoint import save
from charnn.errors import CharnnError
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer

if find_spec("llm") is None:
    pytest.skip("the package llm is not installed", allow_module_level=True)


def make(path: Path, tokenizer: Tokenizer) -> None:
    path.parent.mkdir(parents=True)
    save(path, random_model(tokenizer, seed=1))


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with this plugin alone, in a folder with two runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setenv("LLM_LOAD_PLUGINS", "")
    make(Path("checkpoints/book/best.safetensors"), CharTokenizer.learn("\nabcdef "))
    make(Path("checkpoints/raw/best.safetensors"), ByteTokenizer())
    import llm
    from llm.plugins import pm

    from charnn.adapters import llm_plugin

    if not pm.is_registered(llm_plugin):
        pm.register(llm_plugin)
    return llm


SETTINGS = {"max_tokens": 30, "temperature": 0.7, "top_p": 0.9, "seed": 3}


def test_every_run_and_base_is_a_model(llm: Any) -> None:
    found = {model.model_id for model in llm.get_models()}
    assert {"charnn/book", "charnn/raw", *(f"charnn/{name}" for name in BASES)} <= found
    assert {"charnn/book"} <= {model.model_id for model in llm.get_async_models()}


def test_a_prompt_is_continued_as_sample_continues_it(llm: Any) -> None:
    expected = charnn.load("book").generate("abc", **SETTINGS)
    response = llm.get_model("charnn/book").prompt("abc", **SETTINGS)
    pieces = list(response)
    assert expected == "".join(pieces)
    assert len(pieces) > 1, "it streams"
    assert (3, 30) == (response.response_json["seed"], response.output_tokens)

    async def read() -> str:
        parts = llm.get_async_model("charnn/book").prompt("abc", **SETTINGS)
        return "".join([piece async for piece in parts])

    assert expected == asyncio.run(read())


def test_a_drawn_seed_is_in_the_log(llm: Any) -> None:
    model = llm.get_model("charnn/book")
    first = model.prompt("abc", max_tokens=20)
    text = first.text()
    assert text == model.prompt("abc", max_tokens=20, seed=first.response_json["seed"]).text()


def test_a_conversation_continues_its_text(llm: Any) -> None:
    conversation = llm.get_model("charnn/book").conversation()
    first = conversation.prompt("abc", **SETTINGS).text()
    second = conversation.prompt("def", **SETTINGS).text()
    assert second == charnn.load("book").generate(f"abc{first}def", **SETTINGS)


def test_bytes_that_are_not_utf_8_can_be_printed(llm: Any) -> None:
    text = llm.get_model("charnn/raw").prompt("a", max_tokens=50, seed=1).text()
    assert "\ufffd" in text.encode().decode()


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Z", {}),
        ("abc", {"system": "be terse"}),
        ("abc", {"unknown": "maybe"}),
    ],
)
def test_what_the_model_cannot_do_is_an_error(llm: Any, prompt: str, options: Any) -> None:
    with pytest.raises(CharnnError):
        llm.get_model("charnn/book").prompt(prompt, **options).text()


def test_unknown_characters_may_be_skipped_and_options_have_ranges(llm: Any) -> None:
    model = llm.get_model("charnn/book")
    assert model.prompt("aZb", unknown="skip", **SETTINGS).text()
    for name, value in (("temperature", -1), ("top_p", 2), ("seed", -1), ("nonsense", 1)):
        with pytest.raises(ValueError, match=name):
            model.prompt("a", **{name: value})


def test_the_command_line_of_llm_writes_and_refuses(llm: Any) -> None:
    from click.testing import CliRunner
    from llm.cli import cli

    words = ["-m", "charnn/book", "abc", "--no-log"]
    for name, value in SETTINGS.items():
        words += ["-o", name, str(value)]
    result = CliRunner().invoke(cli, words)
    assert 0 == result.exit_code, result.output
    assert charnn.load("book").generate("abc", **SETTINGS) == result.output.removesuffix("\n")
    refused = CliRunner().invoke(cli, ["-m", "charnn/book", "Z", "--no-log"])
    assert refused.exit_code
    assert "Traceback" not in refused.output
