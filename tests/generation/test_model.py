from concurrent.futures import ThreadPoolExecutor

import pytest
from random_model import random_model

from charnn.checkpoint import Checkpoint
from charnn.engines import ENGINES
from charnn.engines.compiled import kernels
from charnn.errors import ConfigError, DamagedFile, UnknownCharacter
from charnn.generation import Model
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer


@pytest.fixture(scope="module")
def checkpoint():
    tokenizer = CharTokenizer.learn("\nabcdef")
    return random_model(tokenizer, layers=2, info={"note": "hello"})


@pytest.fixture(scope="module")
def model(checkpoint):
    return Model.from_checkpoint(checkpoint)


def test_a_model_has_the_shape_tokenizer_and_info_of_its_checkpoint(model, checkpoint):
    assert checkpoint.config == model.predictor.config
    assert 7 == model.tokenizer.vocab_size
    assert {"note": "hello"} == model.info


def test_generate_is_the_joined_stream(model):
    options = {"max_tokens": 30, "temperature": 0.7, "top_k": 5, "seed": 4}
    assert "".join(model.stream("ab", **options)) == model.generate("ab", **options)
    assert 30 == len(model.generate("ab", **options))


def test_echo_includes_the_prompt(model):
    plain = model.generate("abc", max_tokens=5, seed=1)
    assert "abc" + plain == model.generate("abc", max_tokens=5, seed=1, echo=True)


def test_without_a_seed_each_text_differs(model):
    assert model.generate(max_tokens=60) != model.generate(max_tokens=60)


def test_sample_i_of_a_seed_does_not_depend_on_the_others(model):
    third = model.generate(max_tokens=40, seed=1, index=2)
    assert third == "".join(model.write(seed=1, index=2))[:40]
    assert third != model.generate(max_tokens=40, seed=1, index=1)


def test_stop_may_be_one_string(model):
    text = model.generate(max_tokens=200, temperature=1.0, seed=1, stop="a")
    assert "a" not in text
    assert text == model.generate(max_tokens=200, temperature=1.0, seed=1, stop=["a"])


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"seed": -1}, {"max_tokens": -1}, {"stop": ""}]
)
def test_a_wrong_setting_is_refused_at_the_call(model, options):
    with pytest.raises(ConfigError):
        model.stream(**options)


def test_an_unknown_character_is_refused_at_the_call(model):
    with pytest.raises(UnknownCharacter):
        model.stream("Z")


def test_a_tokenizer_of_another_size_than_the_network_is_refused(checkpoint):
    other = Checkpoint(checkpoint.config, ByteTokenizer().to_dict(), checkpoint.weights, 0)
    with pytest.raises(DamagedFile, match=r"256.*7"):
        Model.from_checkpoint(other)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "native" or kernels()])
def test_threads_that_share_a_model_write_the_same_text_for_the_same_seed(checkpoint, engine):
    shared = Model.from_checkpoint(checkpoint, engine=engine)
    expected = shared.generate("abc", max_tokens=300, seed=1)
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda _: shared.generate("abc", max_tokens=300, seed=1), range(24))
        assert {expected} == set(texts)
