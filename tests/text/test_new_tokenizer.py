"""A tokenizer that is only added to the table works in every command, or is refused by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import charnn.cli
from charnn.text.tokenizers import TOKENIZERS, Ids, Tokenizer, id_dtype

TEXT = "the goat ate the hat; the goat sat.\n" * 40 + "thé\n"


class WordTokenizer(Tokenizer):
    """The most frequent words, and bytes for all else."""

    kind = "word"
    unit, units = "word or byte", "words and bytes"
    takes_vocab_size = True
    passes = 3
    chars_per_id = 2.0

    def __init__(self, words: list[bytes]) -> None:
        self.words = words
        self.token_bytes = [*(bytes([value]) for value in range(256)), *words]
        self.ids = {word: 256 + place for place, word in enumerate(words)}

    @classmethod
    def from_text(
        cls, texts: Iterable[str], characters: Ids, total: int, vocab_size: int | None
    ) -> WordTokenizer:
        counts = Counter(re.findall(rb"\w\w+", "".join(texts).encode()))
        return cls([word for word, _ in counts.most_common((vocab_size or 260) - 256)])

    def encode(self, text: str, unknown: str = "error", offset: int = 0) -> Ids:
        def ids() -> Iterator[int]:
            for part in re.findall(rb"\w+|\W+", text.encode("utf-8", "surrogateescape")):
                yield from [self.ids[part]] if part in self.ids else part

        return np.fromiter(ids(), id_dtype(self.vocab_size))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "words": np.frombuffer(b" ".join(self.words), np.uint8)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WordTokenizer:
        return cls(values["words"].tobytes().split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a book, its tokens and a run, all made with the new tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("words"))
        patch.setitem(TOKENIZERS, "word", WordTokenizer)
        Path("book.txt").write_text(TEXT)
        words = ["--tokenizer", "word", "--vocab-size", "259"]
        assert 0 == charnn_("tokenize", "book.txt", "-o", "book.tokens", *words).exit_code
        shape = ["--num-layers", "1", "--hidden-size", "8", "--embedding-size", "8"]
        budget = ["--max-steps", "2", "--batch-size", "2", "--bptt", "16", "--seed", "1"]
        for name in ("words", "other"):
            trained = charnn_("train", "book.txt", "--name", name, *words, *shape, *budget)
            assert 0 == trained.exit_code, trained.output
        yield Path.cwd()


def charnn_(*words: str) -> Result:
    return CliRunner().invoke(charnn.cli.app, words)


@pytest.mark.parametrize(
    "words",
    [
        "sample thé -n 9 --seed 1 -m words",
        "eval -m words",
        "eval book.txt -m words",
        "score book.txt -m words",
        "inspect book.txt -m words",
        "horizon -m words --samples 20",
        "show words",
        "plan book.txt --tokenizer word --minutes 0.1",
        "train book.tokens --name again --max-steps 1 --batch-size 2 --bptt 16",
        "train book.txt --name more --from words --max-steps 1 --batch-size 2 --bptt 16",
        "report words -o page.html",
        "export words --to c -o writer",
        "compare book.txt -m words -m other",
    ],
    ids=str,
)
def test_a_command_works_with_a_new_tokenizer(folder: Path, words: str) -> None:
    result = charnn_(*words.split())
    assert 0 == result.exit_code, result.output


def test_the_numbers_of_a_new_tokenizer_are_of_its_tokens(folder: Path) -> None:
    tokenizer = WordTokenizer([b"the", b"goat", b"ate"])
    Path("more.txt").write_text("the goat ate thé\n")
    facts = json.loads(charnn_("eval", "more.txt", "-m", "words", "--json").stdout)
    assert len(tokenizer.encode("the goat ate thé\n")) == facts["tokens"]
    assert ("word", 259, 17, 18) == tuple(
        facts[key] for key in ("tokenizer", "vocab_size", "chars", "bytes")
    )


def test_a_page_refuses_a_tokenizer_without_a_spelling_by_name(folder: Path) -> None:
    result = charnn_("export", "words", "--to", "html", "-o", "model.html")
    assert 1 == result.exit_code
    assert "word tokenizer" in result.stderr
    assert "--to c" in result.stderr
