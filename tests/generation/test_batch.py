"""The batch size never changes a text."""

from __future__ import annotations

import numpy as np
import pytest
from random_model import random_model

from charnn import engines
from charnn.config import GATES, SamplingConfig
from charnn.engines import compiled
from charnn.engines.clamps import Clamp, Unit
from charnn.generation import Model, Sampler, batch
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

ENGINES = [(name, int8) for name in engines.ENGINES for int8 in (False, True)]


def model_of(cell="lstm", engine="auto", tokenizer=None, int8=False, clamps=()):
    tokenizer = tokenizer or CharTokenizer.learn("\nabcdefgh .")
    saved = random_model(tokenizer, cell, 12, 2)
    return Model.from_checkpoint(saved, engine=engine, int8=int8, clamps=clamps)


@pytest.mark.parametrize(
    ("engine", "int8"), [each for each in ENGINES if each[0] == "numpy" or compiled.kernels()]
)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.8, "repetition_penalty": 1.3}, {"stop": ("a", "c ")}, {"ban": ("ab",)}],
    ids=str,
)
def test_the_batch_size_changes_no_text(cell, settings, engine, int8, monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 5)
    model, config = model_of(cell, engine, int8=int8), SamplingConfig(max_tokens=40, **settings)
    expected = {}
    for index in range(13):
        alone = model.write("bad", config, 7, index)
        expected[index] = ("".join(alone), alone.bits_per_char, alone.finish_reason, alone.tokens)
    for threads in (1, 3):
        texts = (model.write("bad", config, 7, index) for index in range(13))
        found = {
            each.index: (each.shown, each.bits_per_char, each.finish_reason, each.tokens)
            for each in batch.write_together(texts, model.predictor, threads)
        }
        assert expected == found


@pytest.mark.parametrize("int8", [False, True])
def test_a_clamped_model_writes_the_same_texts_in_a_batch(int8):
    model = model_of(int8=int8, clamps=[Clamp(Unit(1, 3, "c"), 2.0)])
    config = SamplingConfig(max_tokens=30)
    alone = ["".join(model.write("bad", config, 7, index)) for index in range(5)]
    texts = (model.write("bad", config, 7, index) for index in range(5))
    together = batch.write_together(texts, model.predictor)
    assert dict(enumerate(alone)) == {each.index: each.shown for each in together}
    assert alone[0] != "".join(model_of(int8=int8).write("bad", config, 7))


def test_incomplete_utf8_sequences_do_not_change_a_batched_text():
    model, config = model_of(tokenizer=ByteTokenizer()), SamplingConfig(max_tokens=30)
    expected = [model.write("", config, 3, index) for index in range(9)]
    texts = (model.write("", config, 3, index) for index in range(9))
    found = sorted(batch.write_together(texts, model.predictor), key=lambda each: each.index)
    assert ["".join(each) for each in expected] == [each.shown for each in found]


def test_texts_come_as_they_end_and_at_most_one_batch_is_started(monkeypatch):
    monkeypatch.setattr(batch, "BATCH_SIZE", 4)
    model, begun = model_of(engine="numpy", int8=True), []

    def texts():
        for index in range(12):
            begun.append(index)
            length = 5 if index % 2 else 50
            yield model.write("", SamplingConfig(max_tokens=length), 1, index)

    together = batch.write_together(texts(), model.predictor)
    assert 1 == next(together).index
    assert len(begun) <= 5
    assert [3, 5] == [next(together).index for _ in range(2)]
    assert sorted({*range(12)} - {1, 3, 5}) == sorted(each.index for each in together)


def test_a_large_vocabulary_is_written_in_smaller_batches(monkeypatch):
    model, config, seen = model_of(), SamplingConfig(max_tokens=5), []
    twin = type(model.predictor).twin
    monkeypatch.setattr(
        type(model.predictor), "twin", lambda self, size: seen.append(size) or twin(self, size)
    )
    for most, expected in ((10**9, 64), (3 * model.tokenizer.vocab_size, 3), (1, 1)):
        monkeypatch.setattr(batch, "BATCH_LOGITS", most)
        texts = [model.write("bad", config, 7, index) for index in range(9)]
        seen.clear()
        assert 9 == len(list(batch.write_together(iter(texts), model.predictor, 1)))
        assert [expected] == seen


@pytest.mark.parametrize("int8", [False, True])
def test_a_token_in_a_batch_has_the_log_probabilities_that_it_has_alone(int8):
    model = model_of(engine="numpy", int8=int8)  # in float32 its batches round differently
    samplers = [Sampler(model.predictor.twin(1), 0) for _ in range(5)]
    for place, sampler in enumerate(samplers):
        sampler.feed([place])
        sampler.unread = 3
    with batch.BatchReader(model.predictor, 2) as reader:
        reader.read(samplers)
    for place, sampler in enumerate(samplers):
        assert sampler.unread is None
        alone = Sampler(model.predictor, 0)
        alone.feed([place, 3])
        found = sampler.log_probabilities()
        assert np.array_equal(alone.log_probabilities(), found)
        assert 1 == pytest.approx(np.exp(found).sum())
        assert -found[4] == pytest.approx(sampler.surprisal(4))
