"""`/v1/completions` writes what `charnn sample` writes, in the form of OpenAI's API."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import ALPHABET, model_of

from charnn.engines import compiled
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

TEXT = "a bad egg is “ bad ” for a cab. é\n" * 40
TOKENIZERS = {
    "char": lambda: CharTokenizer.learn(TEXT),
    "byte": ByteTokenizer,
    "sentencepiece": lambda: SentencePieceTokenizer.learn(TEXT, 300),
}
SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 1.3, "top_p": 0.7},
    {"frequency_penalty": 0.5, "presence_penalty": -1.0},
    {"stop": ["a", "c "]},
    {"stop": " "},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("prompt", ["", "bad", "é" * 300])
def test_a_text_is_that_of_sample(served, settings, prompt):
    ours = {"temperature": 1.0, **settings}
    expected = served.model.generate(prompt, max_tokens=40, seed=7, **ours)
    assert expected == served.text(prompt=prompt, max_tokens=40, seed=7, **settings)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    "engine",
    [
        "numpy",
        pytest.param("native", marks=pytest.mark.skipif(not compiled.kernels(), reason="no C")),
    ],
)
def test_a_text_does_not_depend_on_the_other_requests(serve, engine, int8):
    model = model_of(engine=engine, int8=int8)
    served = serve(model, max_requests=100)
    jobs = [
        {"prompt": ALPHABET[1 : 2 + number % 8] * (1 + number), "max_tokens": 5 + 7 * number}
        for number in range(20)
    ]
    settings = {"temperature": 0.9, "seed": 3}
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda job: served.text(**job, **settings), jobs))
    assert [model.generate(**job, **settings) for job in jobs] == found

    def choices(job):
        return served.complete(**job, **settings, echo=True, logprobs=2)["choices"]

    alone = [choices(job) for job in jobs]
    with ThreadPoolExecutor(20) as pool:
        assert alone == list(pool.map(choices, jobs))  # log-probabilities too, to the last bit


def test_more_texts_than_fit_into_a_batch_are_all_written(serve, monkeypatch):
    monkeypatch.setattr("charnn.generation.batch.BATCH_SIZE", 3)
    served = serve()
    answer = served.complete(prompt=["a", "b", "bad"], n=5, max_tokens=9, seed=1)
    expected = [
        served.model.generate(prompt, max_tokens=9, seed=1, index=index, temperature=1.0)
        for prompt in ("a", "b", "bad")
        for index in range(5)
    ]
    assert expected == [choice["text"] for choice in answer["choices"]]
    assert list(range(15)) == [choice["index"] for choice in answer["choices"]]


def log_probabilities(model, ids):
    """Those of the tokens after each of the ids: (T, V)."""
    state, rows = model.predictor.initial_state(), []
    for token in ids:
        logits, state = model.predictor.step(int(token), state)
        shifted = logits.astype(np.float64) - logits.max()
        rows.append(shifted - math.log(np.exp(shifted).sum()))
    return np.array(rows)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_echo_gives_a_log_probability_for_each_token_of_a_prompt_but_the_first(serve, kind):
    tokenizer = TOKENIZERS[kind]()
    served, prompt = serve(model_of(tokenizer)), "a bad “egg” é."
    answer = served.complete(prompt=prompt, echo=True, logprobs=3, max_tokens=6, seed=2)
    (choice,) = answer["choices"]
    found, ids = choice["logprobs"], tokenizer.encode(prompt)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert len(ids) + 6 == len(found["tokens"]) == len(found["text_offset"])
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    expected = log_probabilities(served.model, ids)
    for place in range(1, len(ids)):
        row, own = expected[place - 1], found["token_logprobs"][place]
        assert own == pytest.approx(row[ids[place]], abs=1e-5)
        top = found["top_logprobs"][place]
        assert 3 <= len(top) <= 4
        assert own in top.values()
        assert max(top.values()) == pytest.approx(row.max(), abs=1e-5)
    assert choice["text"].startswith(prompt)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_offsets_are_the_characters_in_which_tokens_begin(serve, kind, echo):
    tokenizer = TOKENIZERS[kind]()
    served, prompt = serve(model_of(tokenizer)), "a “é"
    (choice,) = served.complete(
        prompt=prompt, echo=echo, logprobs=0, max_tokens=60, seed=2, temperature=2
    )["choices"]
    found = choice["logprobs"]
    whole = choice["text"] if echo else prompt + choice["text"]
    offsets = found["text_offset"]
    assert offsets == sorted(offsets)
    assert offsets[0] == (0 if echo else len(prompt))
    complete = [i for i, name in enumerate(found["tokens"]) if not name.startswith("bytes:")]
    assert complete
    for place in complete:
        name = found["tokens"][place]
        assert whole[offsets[place] :].startswith(name)
    if kind == "byte" and echo:
        first = [f"bytes:\\x{byte:02x}" for byte in "“".encode()]
        assert ["a", " ", *first] == found["tokens"][:5]
        assert [0, 1, 2, 2, 2, 3, 3] == offsets[:7]


def test_the_top_of_a_chosen_token_names_the_token_itself(served):
    (choice,) = served.complete(prompt="ab", logprobs=1, max_tokens=50, seed=4)["choices"]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    for name, own, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert top[name] == own
        assert len(top) == 1 + (own < max(top.values()))
    assert {1, 2} == {len(top) for top in found["top_logprobs"]}


def test_echo_without_new_tokens_returns_the_prompt(served):
    answer = served.complete(prompt="bad", echo=True, max_tokens=0)
    assert ["bad"] == [choice["text"] for choice in answer["choices"]]
    assert answer["choices"][0]["logprobs"] is None
    assert {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3} == answer["usage"]
    (choice,) = served.complete(prompt="bad", echo=True, max_tokens=0, logprobs=2)["choices"]
    assert list("bad") == choice["logprobs"]["tokens"]
    assert [0, 1, 2] == choice["logprobs"]["text_offset"]


def test_tokens_of_a_stop_string_are_left_out_of_text_and_log_probabilities(served):
    body = {"prompt": "bad", "max_tokens": 200, "seed": 5, "logprobs": 0}
    (whole,) = served.complete(**body)["choices"]
    stop = whole["text"][10:13]
    (choice,) = served.complete(**body, stop=[stop])["choices"]
    cut = whole["text"].index(stop)
    assert (whole["text"][:cut], "stop") == (choice["text"], choice["finish_reason"])
    assert list(choice["text"]) == choice["logprobs"]["tokens"]
    assert "length" == whole["finish_reason"]


def test_the_best_texts_have_the_highest_log_probability_per_token(served):
    body = {"prompt": "bad", "max_tokens": 12, "seed": 5, "logprobs": 0}
    every = served.complete(**body, n=6)["choices"]
    ranked = sorted(every, key=lambda each: -sum(each["logprobs"]["token_logprobs"]))
    answer = served.complete(**body, n=2, best_of=6)
    assert [each["text"] for each in ranked[:2]] == [each["text"] for each in answer["choices"]]
    assert [0, 1] == [each["index"] for each in answer["choices"]]
    assert 72 == answer["usage"]["completion_tokens"]


def test_prompts_may_be_strings_ids_or_lists_of_either(served):
    ids = served.model.tokenizer.encode("bad").tolist()
    expected = served.text(prompt="bad", seed=1)
    assert expected == served.text(prompt=ids, seed=1)
    for several in (["bad", "bad"], [ids, ids]):
        choices = served.complete(prompt=several, seed=1)["choices"]
        assert [expected, expected] == [choice["text"] for choice in choices]
    without_seed = served.complete(prompt=["bad", "bad"], max_tokens=50)["choices"]
    assert without_seed[0]["text"] != without_seed[1]["text"]


def test_a_bias_excludes_or_selects_a_token(served):
    token = int(served.model.tokenizer.encode("c")[0])
    body = {"prompt": "bad", "max_tokens": 30, "seed": 1, "temperature": 2}
    assert "c" in served.text(**body)
    assert "c" * 30 == served.text(**body, logit_bias={str(token): 100})
    assert "c" not in served.text(**body, logit_bias={str(token): -100})
    greedy = served.text(prompt="bad", max_tokens=30, temperature=0, logit_bias={str(token): 0.0})
    assert greedy == served.text(prompt="bad", max_tokens=30, temperature=0)


def test_a_stream_has_the_text_of_a_whole_answer(served):
    body = {"prompt": "bad", "max_tokens": 30, "seed": 1, "n": 2, "logprobs": 1, "echo": True}
    whole = served.complete(**body)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        events = served.events(**body, **options)
        if options:
            last = events.pop()
            assert ([], whole["usage"]) == (last["choices"], last["usage"])
            assert all(event["usage"] is None for event in events)
        assert 1 == len({event["id"] for event in events})
        for choice in whole["choices"]:
            parts = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
            assert choice["text"] == "".join(part["text"] for part in parts)
            assert choice["finish_reason"] == parts[-1]["finish_reason"]
            assert {None} == {part["finish_reason"] for part in parts[:-1]}
            for key, values in choice["logprobs"].items():
                assert values == [each for part in parts for each in part["logprobs"][key]]


def test_bytes_that_are_not_utf8_become_replacement_characters(serve):
    served = serve(model_of(ByteTokenizer()))
    text = served.text(prompt=[97, 226, 128], echo=True, max_tokens=200, seed=1, temperature=2)
    assert text.startswith("a\ufffd\ufffd")
    text.encode()  # no lone surrogate is left


def test_unknown_characters_are_refused_or_skipped(served, serve):
    assert (400, "prompt") == served.refusal(prompt="baß")
    skipping = serve(unknown="skip")
    assert skipping.text(prompt="baß", seed=1) == served.text(prompt="ba", seed=1)
    assert "ba" == skipping.text(prompt="baß", echo=True, max_tokens=0)
