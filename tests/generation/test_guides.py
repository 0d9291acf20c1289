import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import CharnnError, ConfigError
from charnn.generation.copies import CopyFinder, CopyGuard
from charnn.generation.guides import Guide, Phrases, TokenBias
from charnn.generation.sampler import Sampler
from charnn.predictor import Predictor
from charnn.text.text_index import TextIndex
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

TEXT = "the cat sat on the mat, the café is there: thé\n" * 3
TOKENIZERS = {
    "char": CharTokenizer.learn(TEXT),
    "byte": ByteTokenizer(),
    "sentencepiece": SentencePieceTokenizer.learn([TEXT * 20], 300),
}


class Indifferent(Predictor):
    """Gives all tokens the same logit."""

    start = np.zeros(0, np.float32)

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def step(self, token, state):
        return np.zeros(self.vocab_size, np.float32), state


def text_of(tokenizer, guides, count=400, seed=1, prompt="", filters=None):
    sampler = Sampler(Indifferent(tokenizer.vocab_size), seed, 0, filters, guides)
    for guide in guides:
        guide.feed(prompt)
    sampler.feed([0])
    return prompt + tokenizer.decode(list(sampler.stream(count)))


def allowed(guide, size):
    return np.isfinite(guide.mask(np.zeros(size)))


def test_the_bias_of_a_token_is_added_to_its_logit_alone():
    guide, logits = TokenBias({1: 2.5, 3: -100.0}, 4), np.arange(4.0)
    assert [0.0, 3.5, 2.0, -97.0] == guide.mask(logits).tolist()
    assert [0.0, 1.0, 2.0, 3.0] == logits.tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_banned_string_is_never_completed(kind, seed):
    tokenizer = TOKENIZERS[kind]
    banned = ["a", "th", "é", " o", "e: t"]
    guide = Phrases(tokenizer, dict.fromkeys(banned, -math.inf))
    text = text_of(tokenizer, [guide], seed=seed, prompt="cat: t")[len("ca") :]
    assert [] == [phrase for phrase in banned if phrase in text]


def test_a_ban_rules_out_exactly_the_tokens_that_would_complete_it():
    tokenizer = CharTokenizer.learn("abc\n")
    guide = Phrases(tokenizer, {"aab": -math.inf, "c": -math.inf})
    seen = []
    for prompt in ("", "a", "aa", "a", "b"):
        guide.feed(prompt)
        seen.append(tokenizer.decode(np.flatnonzero(allowed(guide, 4))))
    assert ["\nab", "\nab", "\na", "\na", "\nab"] == seen


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=5), st.text("ab", max_size=9))
def test_bans_agree_with_checking_every_continuation(banned, text):
    tokenizer = CharTokenizer.learn("abc")
    guide = Phrases(tokenizer, dict.fromkeys(banned, -math.inf))
    for character in text:
        guide.feed(character)
    expected = [not any((text + c).endswith(phrase) for phrase in banned) for c in "abc"]
    assert expected == allowed(guide, 3).tolist()


def test_a_text_with_only_banned_continuations_is_banned_too():
    tokenizer = CharTokenizer.learn("ab")
    guide = Phrases(tokenizer, {"aa": -math.inf, "ab": -math.inf})
    assert "b" * 20 == text_of(tokenizer, [guide], 20)


def test_bans_that_leave_nothing_are_refused():
    tokenizer = CharTokenizer.learn("ab")
    with pytest.raises(ConfigError):
        Phrases(tokenizer, {"a": -math.inf, "b": -math.inf})
    guide = Phrases(tokenizer, {"aa": -math.inf, "ab": -math.inf})
    with pytest.raises(ConfigError, match="ba"):
        guide.feed("ba")


def test_a_bias_is_added_once_to_each_token_that_would_complete_its_text():
    tokenizer = CharTokenizer.learn("abc")
    guide = Phrases(tokenizer, {"a": 1.5, "aa": 2.0, "ba": -4.0})
    assert [1.5, 0, 0] == guide.mask(np.zeros(3)).tolist()
    guide.feed("a")
    assert [3.5, 0, 0] == guide.mask(np.zeros(3)).tolist()
    guide.feed("b")
    assert [-2.5, 0, 0] == guide.mask(np.zeros(3)).tolist()


def test_a_bias_applies_to_tokens_that_contain_its_text():
    tokenizer = TOKENIZERS["sentencepiece"]
    changed = Phrases(tokenizer, {"h": 2.0}).mask(np.zeros(tokenizer.vocab_size))
    assert [2.0 * (b"h" in data) for data in tokenizer.token_bytes] == changed.tolist()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("longest", [1, 2, 5, 9])
def test_no_span_longer_than_allowed_is_copied(kind, longest):
    tokenizer, data = TOKENIZERS[kind], TEXT.encode()
    guide = CopyGuard(TextIndex.of(data), tokenizer, longest)
    # A copier: what the training text would go on with is the likeliest by far.
    text = TEXT[:longest]
    guide.feed(text)
    for _ in range(60):
        logits = np.full(tokenizer.vocab_size, -1.0)
        for token, piece in enumerate(tokenizer.token_bytes):
            if piece:
                copied = text.encode("utf-8", "replace")[-3:] + piece in data
                logits[token] = len(piece) * copied
        token = int(guide.mask(logits).argmax())
        guide.push(token)
        text += tokenizer.decode([token]) if kind != "byte" else chr(token)
    if kind == "byte":
        text = (text[:longest].encode() + text[longest:].encode("latin-1")).decode(
            "utf-8", "surrogateescape"
        )
    windows = {text[start : start + longest + 1] for start in range(len(text) - longest)}
    assert set() == {window for window in windows if window in TEXT}
    assert any(window[:-1] in TEXT for window in windows)


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
@pytest.mark.parametrize("longest", [2, 4, 12])
@pytest.mark.parametrize("place", [3, 17, 40])
def test_the_guard_rules_out_nothing_but_copies(kind, longest, place):
    tokenizer = TOKENIZERS[kind]
    guide = CopyGuard(TextIndex.of(TEXT.encode()), tokenizer, longest)
    before = "x" + TEXT[:place]
    guide.feed(before)
    for token, good in enumerate(allowed(guide, tokenizer.vocab_size)):
        after = before[-longest:] + tokenizer.decode([token])
        size = longest + 1
        copies = [after[i : i + size] in TEXT for i in range(len(after) - longest)]
        assert good == (not any(copies)), after


def test_copied_spans_are_found_exactly_and_as_early_as_possible():
    finder = CopyFinder(TextIndex.of(b"abcdefgh"), 3)
    seen = [finder.push(character) for character in "xabcdyefhgh"]
    nothing = []
    assert [
        [("x", False)],
        nothing,
        nothing,
        [("abc", True)],
        [("d", True)],
        [("y", False)],
        nothing,
        nothing,
        [("ef", False)],
        [("h", False)],
        nothing,
    ] == seen
    assert [("gh", False)] == finder.flush()
    assert (4, 11) == (finder.copied, finder.all)


@given(st.text("abé", max_size=30), st.text("abé", max_size=30), st.integers(1, 6))
def test_the_share_of_copies_agrees_with_a_naive_count(training, text, span):
    finder = CopyFinder(TextIndex.of(training.encode()), span)
    pieces = finder.push(text) + finder.flush()
    copied = [False] * len(text)
    for start in range(len(text) - span + 1):
        if text[start : start + span] in training:
            copied[start : start + span] = [True] * span
    assert copied == [mark for piece, mark in pieces for _ in piece]
    assert sum(copied) == finder.copied


def test_a_span_that_begins_in_the_prompt_counts_from_there():
    finder = CopyFinder(TextIndex.of(b"abcdef"), 4)
    finder.feed("xabc")
    assert [("d", True)] == finder.push("d")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_sampler_with_guides_can_be_saved_and_forked(kind):
    tokenizer = TOKENIZERS[kind]

    def sampler(seed):
        ban = Phrases(tokenizer, {"th": -math.inf, "é": 1.0})
        copy = CopyGuard(TextIndex.of(TEXT.encode()), tokenizer, 2)
        return Sampler(Indifferent(tokenizer.vocab_size), seed, guides=[ban, copy])

    first = sampler(1)
    first.feed([0])
    list(first.stream(50))
    saved = first.state_dict()
    expected = list(first.stream(50))
    fork = sampler(2)
    fork.load_state_dict(saved)
    assert expected == list(fork.stream(50))
    with pytest.raises(CharnnError, match="2 guides"):
        Sampler(Indifferent(tokenizer.vocab_size), 1).load_state_dict(saved)


def test_guides_that_leave_no_token_are_an_error():
    class Nothing(Guide):
        def mask(self, logits):
            return np.full_like(logits, -np.inf)

    with pytest.raises(CharnnError):
        text_of(TOKENIZERS["char"], [Nothing()])


def test_guides_see_logits_after_the_penalties_and_before_temperature():
    seen = []

    class Spy(Guide):
        def mask(self, logits):
            seen.append(logits.tolist())
            return logits

    filters = {"presence_penalty": 2.0, "temperature": 0.5}
    text_of(CharTokenizer.learn("ab"), [Spy()], 1, filters=filters)
    assert [[-2.0, 0.0]] == seen
