"""The server refuses what it should, keeps its limits, and survives its clients."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import checkpoint_of, model_of

from charnn.generation import Model, Sampler
from charnn.server.app import MAX_BODY
from charnn.server.prefixes import Prefixes

LONG = {"prompt": "bad", "max_tokens": 30_000, "seed": 1}
REFUSED = [
    ({"model": "other"}, 404, "model"),
    ({"surprise": 1}, 400, "surprise"),
    ({"top_k": 3}, 400, "top_k"),
    ({"\ud800": 3}, 400, "\ufffd"),
    ({"prompt": 3}, 400, "prompt"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [[]]}, 400, "prompt"),
    ({"prompt": [1, "a"]}, 400, "prompt"),
    ({"prompt": [True]}, 400, "prompt"),
    ({"prompt": [99]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [10**80]}, 400, "prompt"),
    ({"prompt": {"a": 1}}, 400, "prompt"),
    ({"prompt": "z"}, 400, "prompt"),
    ({"prompt": "\ud800"}, 400, "prompt"),
    ({"prompt": "\udc80"}, 400, "prompt"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": -1}, 400, "max_tokens"),
    ({"max_tokens": 1.5}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"max_tokens": 40_000}, 400, "max_tokens"),
    ({"max_tokens": 300, "n": 128}, 400, "max_tokens"),
    ({"prompt": [""] * 40_000, "max_tokens": 0, "echo": True}, 400, "max_tokens"),
    ({"n": 128, "echo": True, "prompt": [""] * 300, "max_tokens": 0}, 400, "max_tokens"),
    ({"n": 128, "echo": True, "prompt": "a" * 300, "max_tokens": 0}, 400, "max_tokens"),
    ({"temperature": 2.1}, 400, "temperature"),
    ({"temperature": "1"}, 400, "temperature"),
    ({"top_p": -0.1}, 400, "top_p"),
    ({"n": 0}, 400, "n"),
    ({"n": 129}, 400, "n"),
    ({"n": 3, "best_of": 2}, 400, "best_of"),
    ({"best_of": 21}, 400, "best_of"),
    ({"best_of": 2, "stream": True}, 400, "best_of"),
    ({"logprobs": 6}, 400, "logprobs"),
    ({"logprobs": True}, 400, "logprobs"),
    ({"echo": 1}, 400, "echo"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": ["a"] * 5}, 400, "stop"),
    ({"stop": [1]}, 400, "stop"),
    ({"stop": "a" * 201}, 400, "stop"),
    ({"stop": "\ud800"}, 400, "stop"),
    ({"seed": -1}, 400, "seed"),
    ({"seed": 2**32}, 400, "seed"),
    ({"suffix": "end"}, 400, "suffix"),
    ({"stream": 1}, 400, "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"stream": True, "stream_options": {"other": True}}, 400, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, 400, "stream_options"),
    ({"presence_penalty": 2.5}, 400, "presence_penalty"),
    ({"frequency_penalty": -2.5}, 400, "frequency_penalty"),
    ({"logit_bias": [1]}, 400, "logit_bias"),
    ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"99": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"²": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"1": 101}}, 400, "logit_bias"),
    ({"user": 1}, 400, "user"),
]


@pytest.mark.parametrize(("body", "status", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_field_that_the_api_refuses_is_named(served, body, status, param):
    assert (status, param) == served.refusal(**body)


def test_every_field_may_be_null_and_user_and_an_empty_suffix_are_accepted(served):
    names = {body: None for refused, _, _ in REFUSED for body in refused}
    names = {name: None for name in names if name not in {"surprise", "top_k", "\ud800"}}
    assert 16 == served.complete(**names)["usage"]["completion_tokens"]
    assert 1 == len(served.complete(suffix="", user="me", model="small")["choices"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"temperature": NaN}',
        b'{"max_tokens": ' + b"9" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"prompt": ' * 100_000,
    ],
    ids=lambda body: str(body[:20]),
)
def test_what_is_no_json_object_is_refused(served, body):
    status, answer = served.request("/v1/completions", body)
    assert (400, "invalid_request_error") == (status, answer["error"]["type"])


def test_a_body_that_is_too_large_or_not_declared_as_json_is_refused(served):
    assert 413 == served.request("/v1/completions", b" " * (MAX_BODY + 1))[0]
    body = json.dumps({"prompt": "a"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"content-type": kind}
        assert 415 == served.request("/v1/completions", body, headers=headers)[0]
    headers = {"content-type": "application/json; charset=utf-8"}
    assert 200 == served.request("/v1/completions", body, headers=headers)[0]


def test_unknown_paths_and_methods_are_refused(served):
    status, answer = served.request("/v1/chat/completions", {})
    assert (404, "unknown_url") == (status, answer["error"]["code"])
    assert 405 == served.request("/v1/completions")[0]
    assert 404 == served.request("/v1/models/other")[0]


def test_the_model_is_listed(served):
    status, answer = served.request("/v1/models")
    assert (200, "list") == (status, answer["object"])
    assert ["small"] == [each["id"] for each in answer["data"]]
    assert (200, answer["data"][0]) == served.request("/v1/models/small")
    assert (200, {"status": "ok"}) == served.request("/health")


def test_the_tokenizer_is_offered(served):
    status, answer = served.request("/tokenize", {"prompt": "bad", "add_special_tokens": False})
    assert (200, 3) == (status, answer["count"])
    ids = served.model.tokenizer.encode("bad").tolist()
    assert ids == answer["tokens"]
    assert (200, {"prompt": "bad"}) == served.request("/detokenize", {"tokens": ids})
    for bad in ({}, {"tokens": "a"}, {"tokens": [99]}, []):
        assert 400 == served.request("/detokenize", bad)[0]
        assert 400 == served.request("/tokenize", bad)[0]
    assert "\n" == served.request("/tokenizer_info")[1]["bos_token"]


def test_a_foreign_host_name_is_refused(served):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", ""):
        assert 403 == served.request("/v1/models", headers={"host": host})[0]
        assert 403 == served.request("/", headers={"host": host})[0]
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert 200 == served.request("/v1/models", headers={"host": host})[0]


def test_no_other_site_may_read_an_answer(served):
    connection, answer = served.open("/v1/models", headers={"origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    connection.close()
    status, _ = served.request("/v1/completions", method="OPTIONS")
    assert 405 == status


def test_a_key_is_needed_everywhere_but_for_the_page_and_the_health(serve):
    served = serve(key="secret")
    for path in ("/v1/models", "/tokenizer_info", "/anything"):
        assert 401 == served.request(path)[0]
    for wrong in ("Bearer", "Bearer secre", "Bearer secrets", "secret", "Basic secret"):
        status, answer = served.request("/v1/models", headers={"authorization": wrong})
        assert (401, "invalid_api_key") == (status, answer["error"]["code"])
    assert 401 == served.refusal(prompt="a")[0]
    assert 200 == served.request("/v1/models", headers={"authorization": "Bearer secret"})[0]
    assert 200 == served.request("/health")[0]
    connection, answer = served.open("/")
    assert 200 == answer.status
    connection.close()


def test_more_requests_than_allowed_are_refused_and_a_place_is_freed(serve):
    served = serve(max_requests=2)
    opened = [served.open("/v1/completions", {**LONG, "stream": True}) for _ in range(2)]
    for _, answer in opened:
        assert answer.readline().startswith(b"data: ")
    status, answer = served.request("/v1/completions", {"prompt": "a"})
    assert (429, "rate_limit_exceeded") == (status, answer["error"]["code"])
    assert 200 == served.request("/health")[0]
    for connection, answer in opened:  # their clients go away
        answer.close()
        connection.close()
    wait_until(lambda: served.request("/v1/completions", {"prompt": "a"})[0] == 200)


def test_a_client_that_goes_away_before_the_answer_frees_its_place(serve):
    served = serve(max_requests=1)
    body = json.dumps(LONG)
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/completions", body, headers)
    wait_until(lambda: served.request("/v1/completions", {"prompt": "a"})[0] == 429)
    connection.close()
    wait_until(lambda: served.request("/v1/completions", {"prompt": "a"})[0] == 200)
    wait_until(lambda: not served.worker.busy)


def wait_until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_stops_reading_frees_its_place(serve, monkeypatch):
    monkeypatch.setattr("charnn.server.app.LAST_EVENTS_SECONDS", 0.1)
    served = serve(max_requests=1, timeout=2.0)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        body = json.dumps({**LONG, "stream": True, "logprobs": 5})
        deaf.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: served.request("/v1/completions", {"prompt": "a"})[0] == 429)
        wait_until(lambda: served.request("/v1/completions", {"prompt": "a"})[0] == 200)


def test_a_request_that_takes_too_long_ends_with_an_error(serve):
    served = serve(timeout=0.1)
    connection, answer = served.open("/v1/completions", LONG)
    assert 503 == answer.status
    assert "timeout" == json.loads(answer.read())["error"]["code"]
    connection.close()
    connection, answer = served.open("/v1/completions", {**LONG, "stream": True})
    events = answer.read().decode().split("\n\n")
    assert "timeout" == json.loads(events[-2].removeprefix("data: "))["error"]["code"]
    connection.close()
    assert 2 == len(served.text(prompt="a", max_tokens=2))


def test_a_short_request_does_not_wait_for_all_texts_of_a_long_one(serve, monkeypatch):
    monkeypatch.setattr("charnn.generation.batch.BATCH_SIZE", 2)
    served = serve()
    body = {"prompt": ["bad"] * 200, "max_tokens": 50, "stream": True}
    connection, answer = served.open("/v1/completions", body)
    answer.readline()
    assert 2 == len(served.text(prompt="a", max_tokens=2))
    assert served.worker.busy
    answer.close()
    connection.close()


def test_a_slow_client_of_a_stream_gets_the_whole_text(serve):
    served = serve()
    connection, answer = served.open(
        "/v1/completions", {**LONG, "max_tokens": 3000, "stream": True}
    )
    time.sleep(0.5)
    lines = answer.read().decode().split("\n\n")
    connection.close()
    parts = [json.loads(line[6:])["choices"][0]["text"] for line in lines[:-2]]
    expected = served.model.generate("bad", max_tokens=3000, seed=1, temperature=1.0)
    assert expected == "".join(parts)


def test_stopping_the_server_ends_requests_with_an_error(serve):
    served = serve()
    connection, answer = served.open("/v1/completions", {**LONG, "stream": True})
    answer.readline()
    found = []

    def ask():
        found.append(served.request("/v1/completions", LONG)[0])

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: served.worker.busy > 1)
    served.server.stop()
    last = answer.read().decode().split("\n\n")[-2]
    assert "server_error" == json.loads(last.removeprefix("data: "))["error"]["type"]
    asking.join(20)
    assert [503] == found
    served.thread.join(20)
    assert not served.worker.alive
    connection.close()


def test_a_model_without_finite_numbers_is_an_error_and_not_the_end(serve):
    served = serve(model_of(scale=1e30))
    for body in ({}, {"logprobs": 1}, {"echo": True, "logprobs": 1, "prompt": "bad"}):
        status, answer = served.request("/v1/completions", body)
        assert (500, "server_error") == (status, answer["error"]["type"])
    assert 200 == served.request("/health")[0]
    assert [] == served.faults


def test_a_fault_ends_the_request_alone_and_is_reported(serve, monkeypatch):
    served = serve()
    stream = Sampler.stream

    def faulty(self, count):
        yield from stream(self, min(count, 5))
        raise KeyError("the text of a person")

    monkeypatch.setattr(Sampler, "stream", faulty)
    status, answer = served.request("/v1/completions", {"prompt": "bad", "max_tokens": 9})
    assert (500, "server_error") == (status, answer["error"]["type"])
    assert "the text of a person" not in json.dumps(answer)
    assert ["KeyError"] == [type(fault).__name__ for fault in served.faults]
    monkeypatch.setattr(Sampler, "stream", stream)
    assert 9 == len(served.text(prompt="bad", max_tokens=9))


def test_a_fault_of_a_batch_ends_its_requests_and_is_reported(serve, monkeypatch):
    served = serve()

    def faulty(samplers):
        raise ZeroDivisionError

    monkeypatch.setattr(served.worker._reader, "read", faulty)
    assert 500 == served.request("/v1/completions", {"prompt": "bad"})[0]
    assert ["ZeroDivisionError"] == [type(fault).__name__ for fault in served.faults]
    monkeypatch.undo()
    assert 16 == len(served.text(prompt="bad"))


def test_no_request_changes_the_model(serve):
    saved = checkpoint_of()
    served = serve(Model.from_checkpoint(saved, engine="numpy"))

    def digest():
        whole = hashlib.sha256()
        for name in sorted(saved.weights):
            whole.update(saved.weights[name].tobytes())
        return whole.hexdigest(), served.text(prompt="bad", max_tokens=50, seed=1)

    before = digest()
    served.complete(prompt=["a", "bad"], n=3, best_of=5, logit_bias={"1": 5}, echo=True, logprobs=5)
    served.refusal(prompt="z")
    assert before == digest()


def test_a_common_beginning_is_read_once_and_changes_no_text(serve, monkeypatch):
    served, shared = serve(), "a bad egg. " * 60  # several times PREFIX_STEP
    body = {"max_tokens": 20, "seed": 3}
    expected = [
        served.model.generate(shared + end, temperature=1.0, **body) for end in ("a", "cab", "")
    ]
    fed = []
    feed = Sampler.feed
    monkeypatch.setattr(Sampler, "feed", lambda self, ids: fed.append(1) or feed(self, ids))
    assert expected == [served.text(prompt=shared + end, **body) for end in ("a", "cab", "")]
    assert [1] == fed  # the others begin after a kept state
    assert served.worker.prefixes.bytes > 0


def test_kept_beginnings_take_bounded_memory():
    kept = Prefixes(max_bytes=1000)
    for number in range(50):
        kept.keep([number, 1], np.zeros(20, np.float32), np.zeros(30, np.float32))
        assert kept.bytes <= 1000
    assert 4 == len(kept)
    assert kept.longest([0, 1, 2]) is None
    found = kept.longest([46, 1, 2])
    assert found is not None
    assert 2 == found[0]
    kept.keep([50, 1], np.zeros(20, np.float32), np.zeros(30, np.float32))
    assert kept.longest([46, 1]) is not None  # it was used, so an older one made room
    assert kept.longest([47, 1]) is None
    kept.keep([1], np.zeros(1000, np.float32), np.zeros(1, np.float32))
    assert (0, 0) == (len(kept), kept.bytes)


def test_nothing_is_left_after_many_requests(serve):
    served = serve(max_requests=200)
    bodies = [
        {"prompt": "bad", "max_tokens": 3, "stop": ["a"]},
        {"prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 2},
        {"prompt": "z"},
        {"prompt": "bad", "echo": True, "max_tokens": 0, "logprobs": 1},
    ]
    with ThreadPoolExecutor(8) as pool:
        statuses = set(
            pool.map(lambda n: served.request("/v1/completions", bodies[n % 4])[0], range(200))
        )
    assert {200, 400} == statuses
    wait_until(lambda: not served.worker.busy)
    assert [] == served.faults
