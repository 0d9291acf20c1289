from __future__ import annotations

from pathlib import Path

import pytest

from charnn.errors import ConfigError, DamagedFile, TextError, UnknownCharacter
from charnn.text.sources import open_source
from charnn.text.text_reader import EncodedText, read_text
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

TEXT = "a goat\nthé sea\n" * 20
TOKENS = Path("tokens")


@pytest.fixture(autouse=True)
def _in_a_folder_with_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT)
    with open_source(["book.txt"]) as source:
        write_token_file(TOKENS, source)


def tokenizer() -> CharTokenizer:
    return CharTokenizer.learn(TEXT)


def shown(found: EncodedText) -> tuple[str, str | None, int | None, int]:
    return tokenizer().decode(found.ids), found.split, found.chars, found.bytes


def test_without_a_text_the_validation_split_of_the_run_is_read() -> None:
    expected = TEXT[270:]
    sizes = (len(expected), len(expected.encode()))
    assert (expected, "valid", *sizes) == shown(read_text([], tokenizer(), TOKENS))
    train = read_text([], tokenizer(), TOKENS, split="train", most=6)
    assert ("a goat", "train") == shown(train)[:2]


def test_a_text_is_read_with_the_tokenizer_of_the_model() -> None:
    assert (TEXT, None, 300, 320) == shown(read_text(["book.txt"], tokenizer(), TOKENS))
    assert "a goat" == shown(read_text(["book.txt"], tokenizer(), TOKENS, most=6))[0]
    Path("lines.txt").write_bytes(b"goat\r\n\r\nsea")
    lines = read_text(["lines.txt"], tokenizer(), TOKENS, of_lines=True)
    assert "goat\nsea\n" == shown(lines)[0]


def test_bytes_that_are_not_utf8_have_no_characters() -> None:
    Path("data").write_bytes(b"\xff\xfea")
    found = read_text(["data"], ByteTokenizer(), TOKENS)
    assert ([255, 254, 97], None, 3) == (found.ids.tolist(), found.chars, found.bytes)


def test_unknown_characters_are_counted_or_named_with_their_file() -> None:
    Path("other.txt").write_text("aQaQ")
    found = read_text(["other.txt"], tokenizer(), TOKENS, unknown="skip")
    assert ("aa", {"Q": 2}) == (shown(found)[0], dict(found.unknown))
    with pytest.raises(UnknownCharacter, match=r"other\.txt.* 2,"):
        read_text(["book.txt", "other.txt"], tokenizer(), TOKENS)


def test_tokens_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(DamagedFile, match="tokens"):
        read_text([], CharTokenizer.learn("abc"), TOKENS)


def test_damaged_tokens_are_refused() -> None:
    data = bytearray(TOKENS.read_bytes())
    data[-1] ^= 1
    TOKENS.write_bytes(data)
    with pytest.raises(DamagedFile, match="tokens"):
        read_text([], tokenizer(), TOKENS)


@pytest.mark.parametrize(
    ("texts", "options", "named"),
    [
        (["book.txt"], {"split": "train"}, "--split train"),
        (["a.tokens", "book.txt"], {}, ".tokens"),
        ([], {"unknown": "skip"}, "--unknown"),
        ([], {"encoding": "latin-1"}, "--encoding"),
        ([], {"split": "test"}, "'test'"),
    ],
)
def test_options_that_contradict_the_text_are_refused(
    texts: list[str], options: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_text(texts, tokenizer(), TOKENS, **options)  # type: ignore[arg-type]  # options of several types
    assert named in str(error.value)


def test_a_text_of_one_token_and_missing_tokens_are_refused() -> None:
    Path("short.txt").write_text("a")
    with pytest.raises(TextError):
        read_text(["short.txt"], tokenizer(), TOKENS)
    with pytest.raises(TextError, match="TEXT"):
        read_text([], tokenizer(), Path("nowhere"))
