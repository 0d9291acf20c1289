import re
import sys

import numpy as np
import pytest

from charnn.errors import CharnnError, ConfigError
from charnn.generation.pattern import Pattern, PatternGuide
from charnn.generation.sampler import Sampler
from charnn.predictor import Predictor
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

TEXT = "Day 12. The goat is on the stairs, the café is shut: 345 67890\n"
TOKENIZERS = {
    "char": CharTokenizer.learn(TEXT),
    "byte": ByteTokenizer(),
    "sentencepiece": SentencePieceTokenizer.learn([TEXT * 30], 320),
}


class Noise(Predictor):
    """Draws logits from the number of tokens read."""

    start = np.zeros(1, np.float32)

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def step(self, token, state):
        generator = np.random.default_rng(int(state[0]))
        return generator.normal(0, 3, self.vocab_size).astype(np.float32), state + 1


def written(tokenizer, pattern, max_tokens, seed):
    guide = PatternGuide(Pattern(pattern, tokenizer), max_tokens)
    sampler = Sampler(Noise(tokenizer.vocab_size), seed, guides=[guide])
    sampler.feed([0])
    ids = list(sampler.stream(max_tokens))
    return tokenizer.decode(ids[:-1] if sampler.cut else ids), sampler


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("pattern", "max_tokens"),
    [
        ("Day [0-9]{1,3}", 12),
        ("(a|the|Z)+t?", 3),
        ("[a-z]{4,}é", 12),
        (".*", 9),
        ("(the goat|on|is a café)", 10),
        ("[0-9]+(, [0-9]+)*", 5),
    ],
)
def test_every_text_matches_the_whole_pattern_within_its_tokens(kind, pattern, max_tokens):
    for seed in range(8):
        text, sampler = written(TOKENIZERS[kind], pattern, max_tokens, seed)
        assert re.fullmatch(pattern, text), text
        assert sampler.tokens <= max_tokens


def test_a_branch_that_the_vocabulary_cannot_finish_is_never_entered():
    tokenizer = CharTokenizer.learn("abc")
    assert {"ab"} == {written(tokenizer, "ab|acZ|cZ", 9, seed)[0] for seed in range(9)}


def test_a_loop_ends_within_max_tokens():
    tokenizer = CharTokenizer.learn("abc")
    for seed in range(9):
        assert re.fullmatch("a(ba)*c{3}", written(tokenizer, "a(ba)*c{3}", 9, seed)[0])


def test_a_text_ends_where_no_token_can_follow():
    text, sampler = written(CharTokenizer.learn("ab"), "ab", 50, 1)
    assert ("ab", 2, True, False) == (text, sampler.tokens, sampler.over, sampler.cut)


def test_a_token_outside_the_pattern_ends_the_text_and_is_dropped():
    ends = [written(CharTokenizer.learn("ab"), "a+", 50, seed) for seed in range(9)]
    assert all(re.fullmatch("a+", text) for text, _ in ends)
    assert all(len(text) + 1 == sampler.tokens for text, sampler in ends if sampler.cut)
    assert any(sampler.cut for _, sampler in ends)


def test_anchors_at_both_ends_are_ignored():
    tokenizer = CharTokenizer.learn("ab$^")
    assert "ab" == written(tokenizer, "^ab$", 9, 1)[0]
    assert "ab$" == written(tokenizer, r"ab\$", 9, 1)[0]


@pytest.mark.parametrize("pattern", ["(a", "a(?=b)b", r"(a)\1", "[a", "*", "a" * 2000, "a$b"])
def test_an_invalid_pattern_is_refused(pattern):
    with pytest.raises(ConfigError) as caught:
        Pattern(pattern, CharTokenizer.learn("ab"))
    assert 1 == len(str(caught.value).splitlines())


def test_an_unwritable_pattern_is_refused():
    tokenizer = CharTokenizer.learn("ab")
    with pytest.raises(ConfigError, match="aZ"):
        Pattern("aZ", tokenizer)
    with pytest.raises(ConfigError, match=r"4.*--max-tokens.*3"):
        PatternGuide(Pattern("a{4,9}", tokenizer), 3)


@pytest.mark.parametrize("pattern", ["[a-z]{300000}", "((ab){99}){99}", ".{4000}", "(a{,9}){9999}"])
def test_too_many_counted_repetitions_are_refused_before_the_automaton_is_built(pattern):
    with pytest.raises(ConfigError, match="2,000"):
        Pattern(pattern, ByteTokenizer())


def test_a_missing_package_names_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(CharnnError, match=r"charnn\[regex\]"):
        Pattern("a", CharTokenizer.learn("ab"))


def test_a_sampler_can_be_forked_within_a_pattern():
    tokenizer = CharTokenizer.learn(TEXT)
    pattern = Pattern("[a-z]{30}", tokenizer)

    def sampler(seed):
        return Sampler(Noise(tokenizer.vocab_size), seed, guides=[PatternGuide(pattern, 30)])

    first, fork = sampler(1), sampler(2)
    first.feed([0])
    list(first.stream(11))
    fork.load_state_dict(first.state_dict())
    assert list(first.stream(30)) == list(fork.stream(30))
    assert 30 == fork.tokens
