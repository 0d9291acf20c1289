"""Programs that people already use talk to the server: the openai package, llm, lm_eval, curl.

The first three are large, so the development environment lacks them, and their tests skip there:
`pip install openai llm lm_eval[api]` in an environment of its own runs them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import numpy as np
import pytest
from serving import Serving

from charnn.bases import BASES
from charnn.generation import Model


def needs(package):
    reason = f"the package {package} is not installed"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


@pytest.fixture(scope="module")
def english():
    serving = Serving(Model.load(BASES["english"].path))
    yield serving
    serving.close()
    assert [] == serving.faults


def run(code, english, folder, *words):
    """Runs Python code with the server's address in `url`; returns what it prints."""
    code = f"url = 'http://127.0.0.1:{english.port}/v1'\n{textwrap.dedent(code)}"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, **offline, "LLM_USER_PATH": str(folder), "NO_PROXY": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


SETTINGS = {"prompt": "It was ", "max_tokens": 60, "seed": 5, "temperature": 0.5}


@pytest.fixture
def expected(english):
    return english.model.generate(**SETTINGS)


@needs("openai")
def test_the_openai_package_completes(english, expected, tmp_path):
    code = f"""
        import asyncio, json
        from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

        settings = {SETTINGS} | {{"model": "small"}}
        client = OpenAI(base_url=url, api_key="none")
        answer = client.completions.create(**settings, logprobs=2)
        stream = client.completions.create(
            **settings, stream=True, stream_options={{"include_usage": True}}
        )
        events = list(stream)

        async def ask():
            async with AsyncOpenAI(base_url=url, api_key="none") as client:
                many = [client.completions.create(**settings) for _ in range(8)]
                texts = {{each.choices[0].text for each in await asyncio.gather(*many)}}
                streamed = await client.completions.create(**settings, stream=True)
                pieces = [event.choices[0].text async for event in streamed]
                return sorted(texts), "".join(pieces)

        refused = []
        for wrong in ({{"model": "other"}}, {{"temperature": 3}}):
            try:
                client.completions.create(**(settings | wrong))
            except (BadRequestError, NotFoundError) as error:
                refused.append([error.status_code, error.param, error.code])
        print(json.dumps([
            answer.choices[0].text, answer.usage.total_tokens,
            answer.choices[0].logprobs.text_offset,
            "".join(event.choices[0].text for event in events[:-1]), events[-1].usage.total_tokens,
            *asyncio.run(ask()), refused, [each.id for each in client.models.list()],
            client.models.retrieve("small").owned_by,
        ]))
    """
    found = json.loads(run(code, english, tmp_path))
    refused = [[404, "model", "model_not_found"], [400, "temperature", None]]
    assert [
        *(expected, 67, list(range(7, 67)), expected, 67, [expected], expected),
        *(refused, ["small"], "charnn"),
    ] == found


@needs("openai")
def test_the_openai_package_raises_an_error_within_a_stream(tmp_path):
    serving = Serving(Model.load(BASES["english"].path), timeout=0.2)
    code = """
        from openai import APIError, OpenAI

        client = OpenAI(base_url=url, api_key="none")
        try:
            for event in client.completions.create(
                model="small", prompt="It", max_tokens=30_000, stream=True
            ):
                pass
        except APIError as error:
            print(error.code)
    """
    found = run(code, serving, tmp_path)
    serving.close()
    assert "timeout\n" == found


@needs("llm")
def test_llm_completes(english, expected, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: ours\n  model_name: small\n  api_base: http://127.0.0.1:{english.port}/v1\n"
        "  completion: true\n"
    )
    words = ["-m", "ours", SETTINGS["prompt"]]
    for name in ("max_tokens", "seed", "temperature"):
        words += ["-o", name, str(SETTINGS[name])]
    code = "import sys; from llm.cli import cli; sys.argv[0] = 'llm'; cli()"
    for more in ([], ["--no-stream"]):
        assert expected == run(code, english, tmp_path, *words, *more).removesuffix("\n")


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl on the path")
def test_curl_completes_and_streams(english, expected):
    url = f"http://127.0.0.1:{english.port}/v1/completions"
    command = ["curl", "-sN", url, "-H", "Content-Type: application/json", "-d"]
    done = subprocess.run([*command, json.dumps(SETTINGS)], capture_output=True)
    assert expected == json.loads(done.stdout)["choices"][0]["text"]
    done = subprocess.run([*command, json.dumps({**SETTINGS, "stream": True})], capture_output=True)
    *events, last, end = done.stdout.decode().split("\n\n")
    assert ("data: [DONE]", "") == (last, end)
    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events]
    assert expected == "".join(texts)


# Beginnings, each with its end and with a worse one of the same letters.
QUESTIONS = [
    ("She looked out of the", " window", " wodniw"),
    ("He opened the door and went", " out of the room", " tuo fo eht moor"),
    ("It was a dark and stormy", " night", " thgin"),
    ("The old man sat down in his", " chair", " riahc"),
    ("“I do not know what you", " mean,” said he", " naem,” dias eh"),
    ("They had been married for", " many years", " ynam sraey"),
]
TASKS = {
    "choice": """
        task: choice
        output_type: multiple_choice
        doc_to_text: "{{begin}}"
        doc_to_choice: "{{[good, bad]}}"
        doc_to_target: 0
        target_delimiter: ""
        metric_list: [{metric: acc}]
    """,
    "rolling": """
        task: rolling
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{begin}}{{good}}"
        metric_list: [{metric: bits_per_byte}]
    """,
    "writing": """
        task: writing
        output_type: generate_until
        doc_to_text: "{{begin}}"
        doc_to_target: "{{good}}"
        generation_kwargs: {until: ["."], max_gen_toks: 20}
        metric_list: [{metric: exact_match}]
    """,
}


def log_likelihood(model, before, text):
    """log p(text | before) in nats, read as the server reads it, and whether it is greedy."""
    logits, state = model.predictor.feed(before, model.predictor.initial_state())
    total, greedy = 0.0, True
    for token in model.tokenizer.encode(text).tolist():
        shifted = logits.astype(np.float64) - logits.max()
        total += shifted[token] - math.log(np.exp(shifted).sum())
        greedy = greedy and token == int(shifted.argmax())
        logits, state = model.predictor.step(token, state)
    return total, greedy


@needs("lm_eval")
@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize(
    "batch", ["batch_size=1,num_concurrent=4", "batch_size=3,num_concurrent=1"]
)
def test_lm_evaluation_harness_scores_what_the_model_computes(english, batch, tmp_path):
    data = tmp_path / "questions.jsonl"
    rows = [dict(zip(("begin", "good", "bad"), row, strict=True)) for row in QUESTIONS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(
            f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
            f"test_split: test\n{textwrap.dedent(task)}"
        )
    code = f"""
        import json
        import lm_eval
        from lm_eval.tasks import TaskManager

        found = lm_eval.simple_evaluate(
            model="local-completions",
            model_args="model=small,tokenizer_backend=remote,{batch},base_url="
            + url + "/completions",
            tasks={list(TASKS)},
            task_manager=TaskManager(include_path="."),
        )
        kept = {{name: [[each["resps"], each["doc_id"]] for each in samples]
                 for name, samples in found["samples"].items()}}
        print(json.dumps([found["results"]["choice"]["acc,none"], kept]))
    """
    accuracy, samples = json.loads(run(code, english, tmp_path).splitlines()[-1])
    model = english.model
    assert accuracy == 1.0
    for responses, number in samples["choice"]:
        begin, *ends = QUESTIONS[number]
        for (response,), end in zip(responses, ends, strict=True):
            total, greedy = log_likelihood(model, model.tokenizer.encode(begin).tolist(), end)
            assert total == pytest.approx(float(response[0]), abs=1e-4)
            assert str(greedy) == str(response[1])
    for (response,), number in samples["rolling"]:
        begin, end, _ = QUESTIONS[number]
        total, _ = log_likelihood(model, [model.start_token], begin + end)
        assert total == pytest.approx(float(np.ravel(response)[0]), abs=1e-4)
    for (response,), number in samples["writing"]:
        begin = QUESTIONS[number][0]
        stops = (".", "\n")
        assert model.generate(begin, max_tokens=20, temperature=0, stop=stops) == response[0]
