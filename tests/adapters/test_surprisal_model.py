"""The model class of the package surprisal, in that package; skipped where it is not installed."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from random_model import random_model

import charnn
from charnn.checkpoint import save
from charnn.errors import CharnnError
from charnn.text.tokenizers import CharTokenizer

# The package imports transformers, which it does not require.
MISSING = [name for name in ("surprisal", "transformers") if find_spec(name) is None]
if MISSING:
    pytest.skip(f"{' and '.join(MISSING)} not installed", allow_module_level=True)

TEXT = "the goat reads the log.\n"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "book.safetensors"
    save(path, random_model(CharTokenizer.learn(TEXT), seed=1))
    return path


@pytest.fixture
def model(saved: Path) -> Any:
    from surprisal.interface import Model

    from charnn.adapters.surprisal_model import CharnnModel

    model = CharnnModel(str(saved))
    assert isinstance(model, Model)
    return model


def test_the_surprisal_of_each_character_is_that_of_score_in_nats(model: Any, saved: Path) -> None:
    for texts in (TEXT, [TEXT, "the log"]):
        found = model.surprise(texts)
        listed = [texts] if isinstance(texts, str) else texts
        assert len(listed) == len(found)
        for text, result in zip(listed, found, strict=True):
            bits = charnn.score(text, charnn.load(saved)).char_bits
            assert list(text) == result.tokens
            assert result.surprisals == pytest.approx(bits * math.log(2))
            assert len(text) == len(list(result)) == len(result)
            assert text[:3].strip() in "".join(repr(result).split())


def test_slices_add_up_characters_and_words(model: Any) -> None:
    (result,) = model.surprise(TEXT)
    nats = result.surprisals
    for where, text in (
        (slice(4, 8), "goat"),
        ((slice(4, 8), "char"), "goat"),
        (4, "g"),
        (-1, "\n"),
        ((slice(1, 3), "word"), " goat reads"),
        ((0, "word"), "the"),
        ((-1, "word"), " log."),
        ((slice(7, 9), "word"), ""),
    ):
        found = result[where]
        at = TEXT.index(text) if text != "the" else 0
        assert text == found.text
        assert pytest.approx(nats[at : at + len(text)].sum()) == found
    with pytest.raises(ValueError, match="sentence"):
        _ = result[0:1, "sentence"]


def test_unknown_characters_are_an_error_or_skipped(model: Any, saved: Path) -> None:
    with pytest.raises(CharnnError):
        model.surprise("Z")
    (result,) = type(model)(str(saved), unknown="skip").surprise("tZhe")
    assert ["t", "h", "e"] == result.tokens
