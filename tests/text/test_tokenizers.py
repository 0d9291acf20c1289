from __future__ import annotations

import io
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from charnn.errors import ConfigError, DamagedFile, UnknownCharacter
from charnn.text.tokenizers import (
    TOKENIZERS,
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    StreamDecoder,
    Tokenizer,
    tokenizer_from_dict,
)
from charnn.text.unknown_characters import what_changed

VERSE = "the wind was high, the glass was low;\nthe keeper said he told you so.\n" * 40

# Texts that tokenizers are known to lose, misread, or cut in two.
NASTY = [
    "",
    "a",
    "\n",
    "\n\n \n",
    " ",
    "   two  spaces   ",
    "\t\ttabs",
    "a\r\nb\rc\r",
    "\0",
    "a\0b",
    "\ufeffmark",
    "\u2581",
    "a\u2581b \u2581\u2581 c\n\u2581",
    "\u2585",
    "x\u2585y",
    "<unk>",
    "<unk><unk> <unk>",
    "<s></s><pad>",
    "<0x41>",
    "<0x41> <0x0A>",
    "\u2047 \ufffd",
    "\u2028\u2029\x85\x0b\x0c",
    "\x1b[31m\x7f\x80\x9f",
    "naïve café e\u0301 ﬁ Ａ",
    "日本語のテキスト",
    "😀👩‍👩‍👧\u200b",
    "\U0010ffff\uffff\ufffe\ufdd0",
    "عربى \u202eabc",
]


@pytest.fixture(scope="module")
def pieces() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.learn([VERSE], 400)


def streamed(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    decoder = tokenizer.stream_decoder()
    return "".join([decoder.push(token) for token in ids.tolist()]) + decoder.flush()


def assert_lossless(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert text == tokenizer.decode(ids)
    assert text == streamed(tokenizer, ids)
    assert len(text) == tokenizer.chars_per_token[ids].sum()
    assert len(text.encode()) == tokenizer.bytes_per_token[ids].sum()
    assert tokenizer.dtype == ids.dtype


texts = st.text(max_size=60) | st.lists(st.sampled_from(NASTY), max_size=8).map("".join)


@given(texts)
def test_the_byte_tokenizer_is_lossless(text: str) -> None:
    assert_lossless(ByteTokenizer(), text)


@given(texts, texts)
def test_the_char_tokenizer_is_lossless_for_known_characters(text: str, rest: str) -> None:
    assert_lossless(CharTokenizer.learn(f"{rest}{text}."), text)


@given(texts)
def test_sentencepiece_is_lossless(pieces: SentencePieceTokenizer, text: str) -> None:
    assert_lossless(pieces, text)


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_sentencepiece_is_lossless_after_training_on_any_text(text: str) -> None:
    tokenizer = SentencePieceTokenizer.learn([text * 50], 300)
    for other in NASTY:
        assert_lossless(tokenizer, other + text)


def test_sentencepiece_learns_from_a_text_without_spaces_or_letters() -> None:
    for text in ("", "\n\n", "\0\0", "\u2585", "ab" * 100):
        assert_lossless(SentencePieceTokenizer.learn([text], 300), " a b\u2581\0 ")


def test_sentencepiece_makes_room_where_a_text_has_too_many_characters() -> None:
    han = "".join(map(chr, range(0x4E00, 0x5E00)))
    tokenizer = SentencePieceTokenizer.learn([han + VERSE], 500)
    assert tokenizer.vocab_size <= 500
    assert_lossless(tokenizer, han[:300])
    assert len(tokenizer.encode("the wind")) < 8


def test_sentencepiece_training_is_deterministic() -> None:
    first, second = (SentencePieceTokenizer.learn([VERSE], 300).model for _ in range(2))
    assert first == second


def test_sentencepiece_learns_from_one_line_of_megabytes() -> None:
    line = VERSE.replace("\n", " ") * 700
    assert len(line) > 1_900_000
    tokenizer = SentencePieceTokenizer.learn([line], 400)
    assert " keeper" in [token.decode() for token in tokenizer.token_bytes[258:]]


def test_sentencepiece_has_one_token_for_a_newline(pieces: SentencePieceTokenizer) -> None:
    ids = pieces.encode("the wind\nthe glass\n")
    assert 2 == list(ids).count(pieces.encode("\n")[0])


@pytest.mark.parametrize("size", [-1, 0, 258, 2**30])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="259"):
        SentencePieceTokenizer.learn([VERSE], size)


@given(st.binary(max_size=60))
def test_any_bytes_come_back_through_text_under_the_byte_tokenizer(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(data.decode("utf-8", "surrogateescape"))
    assert data == bytes(ids)
    for text in (tokenizer.decode(ids), streamed(tokenizer, ids)):
        assert data == text.encode("utf-8", "surrogateescape")


@given(st.lists(st.integers(0, 399), max_size=40))
def test_streamed_tokens_give_the_decoded_text(
    pieces: SentencePieceTokenizer, tokens: list[int]
) -> None:
    ids = np.array(tokens) % pieces.vocab_size
    assert pieces.decode(ids) == streamed(pieces, ids)


def test_a_stream_never_shows_a_part_of_a_character() -> None:
    decoder = ByteTokenizer().stream_decoder()
    shown = [decoder.push(byte) for byte in "é😀".encode()]
    assert ["", "é", "", "", "", "😀"] == shown
    assert "" == decoder.flush()


def test_an_incomplete_character_at_the_end_of_a_stream_is_escaped() -> None:
    decoder = StreamDecoder([b"\xf0\x9f", b"a"])
    assert "" == decoder.push(0)
    assert "\udcf0\udc9f" == decoder.flush()
    assert "a" == decoder.push(1)


def test_characters_have_ids_in_the_order_of_their_code_points() -> None:
    tokenizer = CharTokenizer.learn("banana\nÄ")
    assert [b"\n", b"a", b"b", b"n", "Ä".encode()] == tokenizer.token_bytes
    assert [2, 1, 3] == tokenizer.encode("ban").tolist()


@pytest.mark.parametrize(
    ("count", "dtype"), [(256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")]
)
def test_ids_have_the_smallest_type_that_fits(count: int, dtype: str) -> None:
    tokenizer = CharTokenizer(np.arange(0x10000, 0x10000 + count))
    ids = tokenizer.encode(chr(0x10000 + count - 1))
    assert dtype == ids.dtype.str[1:]
    assert [count - 1] == ids.tolist()


def test_an_unknown_character_is_named_with_its_position_and_near_characters() -> None:
    tokenizer = CharTokenizer.learn("abcdefeE")
    with pytest.raises(UnknownCharacter) as error:
        tokenizer.encode("abcéé")
    message = str(error.value)
    assert "'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)" in message
    assert "character 4," in message
    assert "'e' (U+0065 LATIN SMALL LETTER E), 'E'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (CharTokenizer.learn("abc"), {"é": 2, **dict.fromkeys("\udcff\ud800", 1)}),
        (ByteTokenizer(), {"\ud800": 1}),
    ],
)
def test_unknown_characters_are_counted(tokenizer: Tokenizer, expected: dict[str, int]) -> None:
    assert expected == tokenizer.unknown_in("aéb\udcffcé\ud800a")
    assert {} == tokenizer.unknown_in("abcab")


def test_a_few_changed_characters_are_named_and_the_rest_counted() -> None:
    missing = {"É": 2, "x": 1, **dict.fromkeys("12345", 1)}
    line = what_changed(missing, set("abcde"), "replace")
    assert line.startswith("--unknown replace: 8 ")
    for part in ("'É'", "'e' (2", "'x'", "'1'", "'2'", "'3'", " 2 others"):
        assert part in line
    assert "'4'" not in line


def test_the_position_of_an_unknown_character_includes_the_offset() -> None:
    with pytest.raises(UnknownCharacter, match="1,003"):
        CharTokenizer.learn("ab").encode("abQ", offset=1000)


@pytest.mark.parametrize(
    ("character", "known", "expected"),
    [
        ("A", "xyza", "a"),
        ("a", "xyzA", "A"),
        ("é", "xyze", "e"),
        ("É", "xyze", "e"),
        ("è", "xyzé", "é"),
        ("’", "xyz'", "'"),
        ("“", 'xyz"', '"'),
        ("—", "xyz-", "-"),
        ("\u00a0", "xyz ", " "),
        ("ﬁ", "xyzf", "f"),
        ("😀", "xyz", ""),
        ("Q", "xyz", ""),
        ("\ue000", "xyz", ""),
        ("\udcff", "xyz", ""),
    ],
)
def test_an_unknown_character_is_replaced_by_the_nearest_known_one_or_left_out(
    character: str, known: str, expected: str
) -> None:
    tokenizer = CharTokenizer.learn(known)
    assert f"x{expected}y" == tokenizer.decode(tokenizer.encode(f"x{character}y", "replace"))
    assert "xy" == tokenizer.decode(tokenizer.encode(f"x{character}y", "skip"))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_wrong_choice_of_unknown_is_refused(kind: str, pieces: SentencePieceTokenizer) -> None:
    tokenizer = {"char": CharTokenizer.learn("a"), "byte": ByteTokenizer()}.get(kind, pieces)
    with pytest.raises(ConfigError, match="'ignore'"):
        tokenizer.encode("a", "ignore")


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
def test_a_byte_that_is_not_utf8_is_named(kind: str, pieces: SentencePieceTokenizer) -> None:
    tokenizer = CharTokenizer.learn("abc") if kind == "char" else pieces
    with pytest.raises(UnknownCharacter, match="0xff at position 2"):
        tokenizer.encode("a\udcff")
    assert "ab" == tokenizer.decode(tokenizer.encode("a\udcffb", "skip"))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_half_of_a_surrogate_pair_is_named(kind: str, pieces: SentencePieceTokenizer) -> None:
    tokenizer = {"char": CharTokenizer.learn("ab"), "byte": ByteTokenizer()}.get(kind, pieces)
    with pytest.raises(UnknownCharacter, match=r"U\+D800 at position 2"):
        tokenizer.encode("a\ud800")
    assert "ab" == tokenizer.decode(tokenizer.encode("a\ud800b", "skip"))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_comes_back_from_its_description(
    kind: str, pieces: SentencePieceTokenizer
) -> None:
    tokenizer = {"char": CharTokenizer.learn(VERSE), "byte": ByteTokenizer()}.get(kind, pieces)
    values = tokenizer.to_dict()
    assert kind == values["kind"]
    again = tokenizer_from_dict(values)
    assert tokenizer.token_bytes == again.token_bytes
    assert tokenizer.encode(VERSE).tolist() == again.encode(VERSE).tolist()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": None},
        {"kind": ["char"]},
        {"kind": "words"},
        {"kind": "byte", "vocabulary": np.arange(3)},
        {"kind": "char"},
        {"kind": "char", "vocabulary": np.array([], np.uint32)},
        {"kind": "char", "vocabulary": np.array([2, 1], np.uint32)},
        {"kind": "char", "vocabulary": np.array([1, 1], np.uint32)},
        {"kind": "char", "vocabulary": np.array([1, 0x110000], np.uint32)},
        {"kind": "char", "vocabulary": np.array([1, 0xD800], np.uint32)},
        {"kind": "char", "vocabulary": np.array([-1, 5])},
        {"kind": "char", "vocabulary": np.array([0, 2**64 - 1], np.uint64)},
        {"kind": "char", "vocabulary": np.array([[1, 2]], np.uint32)},
        {"kind": "char", "vocabulary": np.array([1.0, 2.0])},
        {"kind": "char", "vocabulary": "abc"},
        {"kind": "sentencepiece"},
        {"kind": "sentencepiece", "model": b"abc"},
        {"kind": "sentencepiece", "model": np.array([], np.uint8)},
        {"kind": "sentencepiece", "model": np.zeros(100, np.uint8)},
        {"kind": "sentencepiece", "model": np.arange(200, dtype=np.uint8)},
    ],
)
def test_a_wrong_description_of_a_tokenizer_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(DamagedFile, match="tokenizer"):
        tokenizer_from_dict(values)


def test_a_damaged_sentencepiece_model_is_refused_or_still_whole(
    pieces: SentencePieceTokenizer,
) -> None:
    chance = random.Random(1)
    for _ in range(60):
        model = bytearray(pieces.model)
        model[chance.randrange(len(model))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            model = model[: chance.randrange(1, len(model))]
        values = {"kind": "sentencepiece", "model": np.frombuffer(bytes(model), np.uint8)}
        try:
            tokenizer = tokenizer_from_dict(values)
        except DamagedFile:
            continue
        assert 259 <= tokenizer.vocab_size


def test_a_sentencepiece_model_with_other_settings_is_refused() -> None:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(VERSE.split("\n")),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["\n"],
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="lose"):
        SentencePieceTokenizer(model.getvalue())


def test_other_tokenizers_do_not_import_sentencepiece() -> None:
    code = (
        "import sys; from charnn.text.tokenizers import ByteTokenizer, CharTokenizer\n"
        "ByteTokenizer(); CharTokenizer.learn('a')\n"
        "assert 'sentencepiece' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_text_is_spelled_in_the_unicode_form_that_has_known_characters() -> None:
    composed, decomposed = CharTokenizer.learn("café!"), CharTokenizer.learn("cafe\u0301!")
    for text in ("café", "cafe\u0301"):
        assert "café" == composed.spelled(text)
        assert "cafe\u0301" == decomposed.spelled(text)
        assert text == ByteTokenizer().spelled(text)
    assert "Ωé" == composed.spelled("Ωe\u0301")
    assert "a\u0302" == composed.spelled("a\u0302")
