import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.config import SamplingConfig
from charnn.errors import ConfigError, UnknownCharacter
from charnn.generation.sampler import Sampler
from charnn.generation.stopping import StopMatcher
from charnn.generation.writer import Writing
from charnn.predictor import Predictor
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer


class Script(Predictor):
    """Predicts a given list of ids; records the tokens read."""

    start = np.zeros(0, np.float32)

    def __init__(self, vocab_size, script, prompt_length=1):
        self.vocab_size, self.script, self.prompt_length = vocab_size, script, prompt_length
        self.read = []

    def step(self, token, state):
        self.read.append(token)
        logits = np.full(self.vocab_size, -1000.0, np.float32)
        position = len(self.read) - self.prompt_length
        logits[self.script[position % len(self.script)]] = 0
        return logits, state

    def feed(self, tokens, state):
        for token in tokens:
            logits, state = self.step(token, state)
        return logits, state


def write(text, tokenizer=None, prompt="", max_tokens=None, stop=(), **options):
    tokenizer = tokenizer or CharTokenizer.learn("\nab" + text + prompt)
    script = tokenizer.encode(text).tolist()
    length = len(tokenizer.encode(prompt)) or 1
    sampler = Sampler(Script(tokenizer.vocab_size, script, length), 1)
    config = SamplingConfig(max_tokens=len(script) if max_tokens is None else max_tokens, stop=stop)
    return Writing(sampler, tokenizer, prompt, [0], config, **options)


def pieces_and_reason(*args, **options):
    writing = write(*args, **options)
    return list(writing), writing.finish_reason


def test_the_prompt_comes_first_then_each_character_as_a_piece():
    writing = write("bab", prompt="ab")
    assert ["ab", "b", "a", "b"] == list(writing)
    assert ("bab", "length", 3) == (writing.text, writing.finish_reason, writing.tokens)


def test_without_echo_only_new_text_is_written():
    assert ["b", "a"] == list(write("ba", prompt="ab", echo=False))


def test_a_prompt_is_read_once_from_the_initial_state():
    tokenizer = CharTokenizer.learn("\nab")
    network = Script(3, [1, 2], prompt_length=2)
    list(Writing(Sampler(network, 1), tokenizer, "ab", [0], SamplingConfig(max_tokens=3)))
    assert [1, 2, 1, 2] == network.read


def test_without_a_prompt_the_start_token_is_read_and_not_shown():
    tokenizer = CharTokenizer.learn("\nab")
    network = Script(3, [1, 2], prompt_length=2)
    writing = Writing(Sampler(network, 1), tokenizer, "", [0, 0], SamplingConfig(max_tokens=2))
    assert ["a", "b"] == list(writing)
    assert [0, 0, 1] == network.read


def test_max_tokens_0_writes_only_the_prompt():
    writing = write("b", prompt="a", max_tokens=0)
    assert ["a"] == list(writing)
    assert ("length", 0, None) == (writing.finish_reason, writing.tokens, writing.bits_per_char)


def test_a_text_without_keep_takes_no_memory():
    tokenizer = CharTokenizer.learn("\nab")
    config = SamplingConfig(max_tokens=6000)
    sizes = {}
    for keep in (True, False):
        sampler = Sampler(Script(3, [1, 2] * 3000), 1)
        pieces = iter(Writing(sampler, tokenizer, "", [0], config, keep=keep))
        for _ in range(1000):
            next(pieces)
        tracemalloc.start()
        assert 5000 == sum(1 for _ in pieces)
        sizes[keep] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sizes[False] < sizes[True] - 8 * 4000


def test_an_unknown_character_is_refused_before_writing():
    tokenizer = CharTokenizer.learn("\nab")
    arguments = Sampler(Script(3, [1]), 1), tokenizer, "aZ", [0], SamplingConfig(max_tokens=1)
    with pytest.raises(UnknownCharacter, match="Z"):
        Writing(*arguments)
    assert ["aZ", "a"] == list(Writing(*arguments, unknown="skip"))


def test_a_prompt_of_unknown_characters_starts_from_the_start_token():
    tokenizer = CharTokenizer.learn("\nab")
    network = Script(3, [1])
    config = SamplingConfig(max_tokens=1)
    assert ["Z", "a"] == list(Writing(Sampler(network, 1), tokenizer, "Z", [0], config, "skip"))
    assert [0] == network.read


def test_a_stop_string_across_tokens_is_not_shown():
    assert (["x", "y"], "stop") == pieces_and_reason("xyabz", stop=("ab",))


def test_a_stop_string_that_overlaps_its_own_prefix_is_found():
    assert (["a"], "stop") == pieces_and_reason("aab", stop=("ab",))
    assert (["a", "b", "x"], "stop") == pieces_and_reason("abxababb", stop=("ababb",))


def test_a_false_start_of_a_stop_string_is_shown_as_early_as_possible():
    assert (["x", "a", "c", "y"], "length") == pieces_and_reason("xacy", stop=("ab",))


def test_held_back_text_is_written_at_the_end():
    assert (["x", "a"], "length") == pieces_and_reason("xa", stop=("ab",))


def test_the_stop_string_completed_first_ends_the_text():
    assert (["x"], "stop") == pieces_and_reason("xabc", stop=("bc", "ab"))
    assert (["x"], "stop") == pieces_and_reason("xabc", stop=("abc", "bc"))


def test_a_stop_string_in_the_prompt_stops_nothing():
    assert (["ab", "b", "x"], "length") == pieces_and_reason("bx", prompt="ab", stop=("ab",))


def test_a_stop_string_that_ends_with_the_last_token_stops():
    assert (["x"], "stop") == pieces_and_reason("xab", stop=("ab",))


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match="stop"):
        SamplingConfig(stop=("",))


def first_stop(text, stops):
    """Cuts a whole text before the stop string that is complete first."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_stopping_does_not_depend_on_how_the_text_is_cut_into_pieces(pieces, stops):
    matcher, shown = StopMatcher(stops), ""
    for piece in pieces:
        shown += matcher.push(piece)
        if matcher.found:
            break
        # No more is held back than could still become a stop string.
        assert matcher.held == "" or any(s.startswith(matcher.held) for s in stops)
    assert first_stop("".join(pieces), stops) == (shown + matcher.flush(), matcher.found)


def test_a_multibyte_character_is_one_piece():
    writing = write("aé€", ByteTokenizer())
    assert ["a", "é", "€"] == list(writing)
    assert 6 == writing.tokens


def test_a_character_cut_off_by_max_tokens_comes_as_bytes():
    writing = write("é", ByteTokenizer(), max_tokens=1)
    assert ["\udcc3"] == list(writing)


def test_a_stop_string_is_compared_in_characters_not_bytes():
    assert (["x"], "stop") == pieces_and_reason("xé€y", ByteTokenizer(), stop=("é€",))


def test_bits_per_char_counts_the_characters_of_chosen_tokens():
    writing = write("é€", ByteTokenizer())
    sampler = writing.sampler
    list(writing)
    sampler.nats = 10 * math.log(2)
    assert writing.bits_per_char == pytest.approx(5)


def test_an_unfinished_text_was_interrupted():
    writing = write("abab")
    pieces = iter(writing)
    assert ["a", "b"] == [next(pieces), next(pieces)]
    assert ("ab", "interrupt", 2) == (writing.text, writing.finish_reason, writing.tokens)
