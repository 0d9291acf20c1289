"""One loaded model gives the same text for a seed in any thread."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from random_model import random_model

import charnn
from charnn.config import LineConfig, SamplingConfig
from charnn.engines import ENGINES
from charnn.engines.compiled import kernels
from charnn.export.c_program import write_program
from charnn.generation import Model, pattern
from charnn.generation.batch import write_together
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import CharTokenizer

LETTERS = "\nabcdefgh ."


def saved_model(ngrams):
    tokenizer = CharTokenizer.learn(LETTERS)
    found = random_model(tokenizer, "lstm", 24, 2)
    if ngrams:
        text = tokenizer.encode("a bad cab.\nfed a beech. " * 40)
        tree = NGramTree.of(text, tokenizer.vocab_size, 4)
        found.ngrams = tree.section(MixtureWeights(0.6, 0.5))
    return found


def line_texts(model, seed):
    config = SamplingConfig(temperature=0.9)
    return [line.text for line in model.lines(LineConfig(4, max_length=20), config, seed=seed)]


def batch_texts(model, seed):
    config = SamplingConfig(max_tokens=40)
    texts = (model.write("bad", config, seed, index) for index in range(5))
    return {each.index: each.shown for each in write_together(texts, model.predictor, 2)}


def scored(model, seed):
    text = model.generate("cab", max_tokens=60, seed=seed, echo=True)
    return charnn.score(text, model).bits.tolist()


WAYS = {
    "generate": lambda model, seed: model.generate("bad", max_tokens=70, seed=seed),
    "filters": lambda model, seed: model.generate(
        max_tokens=80, seed=seed, top_p=0.9, min_p=0.01, repetition_penalty=1.2, ban=["ab"]
    ),
    "stream": lambda model, seed: list(model.stream("fed", max_tokens=80, seed=seed, stop="a b")),
    "lines": line_texts,
    "batch": batch_texts,
    "score": scored,
}


@pytest.mark.parametrize("ngrams", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "native" or kernels()])
def test_threads_that_share_a_model_do_all_kinds_of_work_as_one_thread(engine, int8, ngrams):
    model = Model.from_checkpoint(saved_model(ngrams), engine=engine, int8=int8)
    work = [(name, seed) for seed in range(2) for name in WAYS]
    expected = [WAYS[name](model, seed) for name, seed in work]
    for threads in (2, 5):
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda each: WAYS[each[0]](model, each[1]), work))
        assert expected == found


def test_threads_that_interleave_texts_of_one_model_write_each_as_alone():
    model = Model.from_checkpoint(saved_model(True))
    expected = [model.generate("bad", max_tokens=50, seed=seed) for seed in range(9)]
    streams = [model.stream("bad", max_tokens=50, seed=seed) for seed in range(9)]
    found = [""] * 9
    with ThreadPoolExecutor(4) as pool:
        for _ in range(60):  # each text goes on in another thread after each piece
            pieces = pool.map(lambda stream: next(stream, ""), streams)
            found = [text + piece for text, piece in zip(found, pieces, strict=True)]
    assert expected == found


def test_threads_with_different_patterns_keep_their_own(monkeypatch):
    model, meet = Model.from_checkpoint(saved_model(False)), Barrier(2, timeout=20)

    class Slow:
        def __init__(self, text, _):
            self.text, self.start, self.distance = text, 0, [0]
            meet.wait()

    monkeypatch.setattr(pattern, "Pattern", Slow)

    def guide(text):
        (made,) = model.guides(SamplingConfig(regex=text))
        meet.wait()
        return made._pattern.text

    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            assert ["a+", "b+"] == list(pool.map(guide, ["a+", "b+"]))
            model._pattern = None


THREADS = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine.h"
#include "model.h"
#define COUNT 4
static float logits[COUNT][VOCAB_SIZE];
static void *work(void *at) {
    float state[STATE_NUMBERS];
    double weights[VOCAB_SIZE];
    void *scratch = malloc(charnn_scratch_bytes(&model, 1));
    int32_t tokens[] = START_TOKENS, token = tokens[0];
    int i, number = *(int *)at;
    charnn_begin(&model, state);
    for (i = 0; i < 400; i++) {
        charnn_step(&model, 1, &token, state, state, logits[number], scratch);
        token = charnn_choose(logits[number], VOCAB_SIZE, 0.8, (i * 37 % 100) / 100.0, weights);
    }
    free(scratch);
    return 0;
}
int main(void) {
    pthread_t threads[COUNT];
    int i, numbers[COUNT];
    for (i = 0; i < COUNT; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], 0, work, &numbers[i]);
    }
    for (i = 0; i < COUNT; i++) pthread_join(threads[i], 0);
    for (i = 1; i < COUNT; i++)
        if (memcmp(logits[0], logits[i], sizeof logits[0])) return 1;
    puts("same");
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("ngrams", [False, True])
def test_the_engine_has_no_data_race_under_a_thread_sanitizer(tmp_path, ngrams):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler")
    flags = ["-std=gnu99", "-g", "-O1", "-fsanitize=thread", "-pthread"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
    probe = [compiler, *flags, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")]
    if subprocess.run(probe, capture_output=True).returncode or (
        subprocess.run([str(tmp_path / "empty")], capture_output=True).returncode
    ):
        pytest.skip("this system has no thread sanitizer")
    program = tmp_path / "program"
    write_program(saved_model(ngrams), "", program)
    (program / "main.c").write_text(THREADS)
    sources = [str(program / f"{name}.c") for name in ("engine", "model", "main")]
    built = [compiler, *flags, *sources, "-lm", "-o", str(program / "threads")]
    subprocess.run(built, check=True, capture_output=True)
    found = subprocess.run([str(program / "threads")], capture_output=True, text=True)
    assert (0, "same\n", "") == (found.returncode, found.stdout, found.stderr)
