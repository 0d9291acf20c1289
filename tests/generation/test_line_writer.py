"""Lines from a model: lengths, repeats, refusals, and a bound on the tries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from random_model import random_model

from charnn.config import LineConfig
from charnn.errors import ConfigError, TextError, UnknownCharacter
from charnn.generation import Model, Sampler
from charnn.generation.line_writer import LINE_TRIES, LineWriter
from charnn.predictor import Predictor
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

GREEDY = {"temperature": 0.0}
LETTERS = CharTokenizer.learn("\nabcdefgh")


@pytest.fixture
def model():
    """A small model of letters that writes nearly at random."""
    return Model.from_checkpoint(random_model(LETTERS, scale=0.3, lines=True))


class Always(Predictor):
    """Gives the same logits at every step; records the tokens read."""

    start = np.zeros((1, 1, 1), np.float32)

    def __init__(self, logits):
        self.logits, self.read = np.array(logits, np.float32), []

    def step(self, token, state):
        self.read.append(token)
        return self.logits, state


def texts(model, *args, **options):
    return [line.text for line in model.lines(LineConfig(*args), **options)]


def test_a_line_is_the_text_before_the_first_newline_from_the_initial_state(model):
    found = list(model.lines(LineConfig(20), seed=5))
    for line in found:
        sampler = Sampler(model.predictor, 5, line.index, {"temperature": 0.8})
        sampler.feed([0])
        written = []
        sampler.forbidden = [0]
        for token in sampler.stream(1000):
            if token == 0:
                break
            sampler.forbidden = ()
            written.append(token)
        assert 1 == line.tries
        assert LETTERS.decode(written) == line.text != ""
        assert len(line.text) + 1 == line.tokens
        assert sampler.nats / math.log(2) / line.tokens == pytest.approx(line.bits_per_char)


def test_a_line_depends_on_seed_and_index_only(model):
    ten = texts(model, 10, seed=3)
    assert ten == texts(model, 10, seed=3)
    assert ten[:4] == texts(model, 4, seed=3)
    assert ten != texts(model, 10, seed=4)


def test_line_lengths_include_the_prefix(model):
    for text in texts(model, 40, "abc", 5, 7, seed=1):
        assert text.startswith("abc")
        assert 5 <= len(text) <= 7


def test_a_line_that_is_too_long_is_drawn_again(model):
    free = list(model.lines(LineConfig(60), seed=2))
    short = list(model.lines(LineConfig(60, max_length=6), seed=2))
    assert any(len(line.text) > 6 for line in free)
    for a, b in zip(free, short, strict=True):
        assert (a.text == b.text) == (len(a.text) <= 6)
        assert (1 == b.tries) == (len(a.text) <= 6)


def test_a_line_never_ends_before_min_length():
    eager = Always([50.0, *[0.0] * 8])
    assert [4] * 5 == [
        len(line.text) for line in LineWriter(eager, LETTERS, LineConfig(5, min_length=4), 1)
    ]


def test_unique_lines_differ(model):
    found = texts(model, 60, "", 1, 2, True, seed=1)
    assert 60 == len(set(found))
    assert len(set(texts(model, 60, "", 1, 2, seed=1))) < 60


def test_known_lines_are_not_written(model):
    known = set(texts(model, 30, seed=1))
    found = texts(model, 30, seed=1, known=known)
    assert not known & set(found)


def test_giving_up_reports_the_lines_written_and_the_reasons(model):
    letters = list("abcdefgh")
    writer = iter(model.lines(LineConfig(20, "", 1, 1, True), seed=1, known={"c"}))
    found = [next(writer).text for _ in range(7)]
    assert sorted(set(letters) - {"c"}) == sorted(found)
    with pytest.raises(TextError, match=f"7 of 20.*{LINE_TRIES:,}"):
        next(writer)


def test_the_likeliest_line_is_tried_once():
    network = Always([9.0, 1.0, *[0.0] * 7])

    def writer(unique):
        return LineWriter(network, LETTERS, LineConfig(2, "", 2, unique=unique), 1, GREEDY)

    assert ["aa", "aa"] == [line.text for line in writer(unique=False)]
    lines = iter(writer(unique=True))
    assert "aa" == next(lines).text
    with pytest.raises(TextError, match="1 of 2"):
        next(lines)


def test_a_model_that_never_ends_a_line_is_an_error():
    endless = Always([-50.0, *[0.0] * 8])
    with pytest.raises(TextError, match="0 of 1"):
        list(LineWriter(endless, LETTERS, LineConfig(max_length=500), 1))


def test_bytes_that_begin_no_character_count_towards_max_length():
    logits = np.full(256, -50.0)
    logits[0x80] = 50.0
    with pytest.raises(TextError, match="0 of 1"):
        list(LineWriter(Always(logits), ByteTokenizer(), LineConfig(max_length=3), 1))


def test_lengths_of_byte_models_count_characters():
    logits = np.full(256, -50.0)
    logits[[0xC3, 0xA9, 0x0A]] = 0.0

    class Spelling(Always):
        def step(self, token, state):
            logits[[0xC3, 0x0A]], logits[0xA9] = (-50.0, 9.0) if token == 0xC3 else (0.0, -50.0)
            self.logits = logits.astype(np.float32)
            return super().step(token, state)

    found = list(LineWriter(Spelling(logits), ByteTokenizer(), LineConfig(20, "", 2, 4), 1))
    assert {"éé", "ééé", "éééé"} == {line.text for line in found}


def test_a_sentencepiece_newline_byte_ends_a_line():
    tokenizer = SentencePieceTokenizer.learn(["anna\nbert\n" * 20], 270)
    ends = [i for i, spelt in enumerate(tokenizer.token_bytes) if spelt == b"\n"]
    assert 2 == len(ends)
    letter = int(tokenizer.encode("a")[-1])
    for end in ends:
        logits = np.full(tokenizer.vocab_size, -50.0)
        logits[[end, letter]] = 0.0
        found = list(LineWriter(Always(logits), tokenizer, LineConfig(10, "a"), 1))
        assert {"a"} == {character for line in found for character in line.text}


def test_a_carriage_return_before_the_newline_is_dropped():
    tokenizer = CharTokenizer.learn("\n\ra")
    writer = LineWriter(Always([0.0, 0.0, 0.0]), tokenizer, LineConfig(60, "", 1, 2), 1)
    assert {"a", "aa", "\ra", "\r"} == {line.text for line in writer}  # the last of two of them


def test_a_newline_is_fed_first_and_then_the_prefix():
    network = Always([9.0, *[0.0] * 8])
    list(LineWriter(network, LETTERS, LineConfig(1, "ba"), 1))
    assert [0, 2, 1] == network.read


def test_a_model_without_newlines_and_an_unknown_prefix_are_refused(model):
    with pytest.raises(UnknownCharacter):
        model.lines(LineConfig(1, "xa"))
    assert "a" == model.lines(LineConfig(1, "xa"), unknown="skip").prefix
    for known in ("ab", "\n"):
        tokenizer = CharTokenizer.learn(known)
        with pytest.raises(TextError, match="--lines"):
            LineWriter(Always([0.0]), tokenizer, LineConfig(), 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 0},
        {"min_length": 0},
        {"max_length": 0},
        {"min_length": 5, "max_length": 4},
        {"prefix": "a\nb"},
        {"prefix": "abc", "max_length": 2},
    ],
)
def test_contradictory_line_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        LineConfig(**settings)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}, {"repetition_penalty": 5.0}, GREEDY],
)
def test_no_filter_brings_back_a_forbidden_newline(options):
    eager = Always([50.0, 1.0, *[0.0] * 7])
    line = next(iter(LineWriter(eager, LETTERS, LineConfig(1, "", 6), 1, options)))
    assert 6 <= len(line.text)
