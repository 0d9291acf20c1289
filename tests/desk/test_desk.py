"""The desk, compared with a naive desk that keeps every state, and with plain samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_model import random_weights

from charnn.checkpoint import Checkpoint, save
from charnn.config import GATES, ModelConfig, SamplingConfig
from charnn.desk import passages
from charnn.desk.desk import Desk
from charnn.desk.desk_file import load_desk, save_desk
from charnn.engines import make_predictor
from charnn.errors import CharnnError, ConfigError, DamagedFile, FileError, UnknownCharacter
from charnn.generation.filters import filter_settings
from charnn.generation.model import Model
from charnn.generation.sampler import Sampler, Sfc32
from charnn.ngrams.mixture import mix
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)

CHARS = CharTokenizer.learn("abcdefgh \n")
PIECES = SentencePieceTokenizer.learn(
    ["the lighthouse keeper and the light of the house\n"] * 9, 290
)


def made(tokenizer: Tokenizer = CHARS, cell: str = "gru", digest: str = "d" * 64) -> Model:
    config = ModelConfig(tokenizer.vocab_size, cell, 8, 8, 2)
    return Model(
        make_predictor(config, random_weights(config), "numpy"), tokenizer, 1, digest=digest
    )


MODEL, BYTES, WORDS = made(), made(ByteTokenizer()), made(PIECES)


def drawn(desk: Desk, tokens: int) -> str:
    return "".join(piece.text for piece in desk.draw(tokens))


def state(desk: Desk) -> dict[str, Any]:
    return desk.tree.sampler(desk.passage).state_dict()


def same_state(expected: dict[str, Any], actual: dict[str, Any]) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert np.array_equal(np.asarray(value), np.asarray(actual[name])), name


# --- what is drawn


@pytest.mark.parametrize("prompt", ["", "a bad cab"])
def test_the_first_continuation_is_the_sample_of_that_seed(prompt: str) -> None:
    desk = Desk(MODEL, 5)
    desk.type(prompt)
    settings = replace(desk.settings, max_tokens=50)
    assert "".join(MODEL.write(prompt, settings, 5, echo=False)) == drawn(desk, 50)
    assert len(prompt) + 50 == len(desk.text)


def test_a_continuation_that_is_stopped_early_keeps_its_beginning() -> None:
    desk, whole = Desk(MODEL, 5), Desk(MODEL, 5)
    stream = desk.draw(100)
    begun = next(stream).text + next(stream).text + next(stream).text
    stream.close()
    assert begun == desk.text
    assert drawn(whole, 100) == begun + drawn(desk, 97)


def test_a_desk_can_be_saved_after_a_signal_between_a_token_and_its_surprisal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ending(list[float]):
        def append(self, nats: float) -> None:
            if len(self) == 7:
                raise SystemExit(143)
            super().append(nats)

    class EndedPassage(passages.Passage):
        def __post_init__(self) -> None:
            super().__post_init__()
            if self.kind == passages.DRAWN:
                self.nats = Ending()

    desk, whole = Desk(MODEL, 5), Desk(MODEL, 5)
    with monkeypatch.context() as patched:
        patched.setattr(passages, "Passage", EndedPassage)
        with pytest.raises(SystemExit):
            drawn(desk, 100)
    save_desk(desk, tmp_path / "a.desk")
    again = load_desk(tmp_path / "a.desk", MODEL)
    assert 7 == len(again.text)
    assert drawn(whole, 100) == again.text + drawn(again, 93)


def test_retry_draws_the_next_sample_of_the_seed() -> None:
    desk = Desk(MODEL, 5)
    desk.type("bad")
    first = drawn(desk, 30)
    for index in (1, 2):
        again = "".join(piece.text for piece in desk.retry())
        expected = MODEL.write("bad", replace(desk.settings, max_tokens=30), 5, index, echo=False)
        assert "".join(expected) == again != first
    desk.redo()
    desk.redo()
    assert "bad" + first == desk.text


def test_retry_needs_a_continuation() -> None:
    desk = Desk(MODEL, 5)
    for typed in ("", "bad"):
        desk.type(typed)
        with pytest.raises(CharnnError):
            list(desk.retry())
    assert "bad" == desk.text


def test_a_setting_affects_later_continuations() -> None:
    desk, greedy = Desk(MODEL, 5), Desk(MODEL, 6, SamplingConfig(temperature=0))
    desk.set("temperature", 0)
    assert drawn(greedy, 40) == drawn(desk, 40)
    for name, value in {"temperature": -1, "top_k": 1.5, "heat": 1}.items():
        with pytest.raises(ConfigError, match=name):
            desk.set(name, value)
    assert 0 == desk.settings.temperature


@pytest.mark.parametrize("model", [MODEL, BYTES, WORDS], ids=["char", "byte", "sentencepiece"])
def test_a_continuation_and_a_sample_end_before_the_same_stop_string(model: Model) -> None:
    whole = "".join(model.stream("a", max_tokens=300, seed=3))
    for stop in (whole[40:42], whole[100:101]):
        desk = Desk(model, 3, SamplingConfig(stop=(stop,)))
        desk.type("a")
        shown = drawn(desk, 300)
        assert whole.split(stop)[0] == shown
        assert "a" + shown == desk.text


@pytest.mark.parametrize(
    "settings",
    [{"bias": (("a", -4.0),), "ban": ("b",)}, {"until": "line"}, {"regex": "[abc]{9}d"}],
    ids=str,
)
def test_guides_and_endings_give_the_text_of_a_sample(settings: dict[str, Any]) -> None:
    config = SamplingConfig(max_tokens=120, **settings)
    desk = Desk(MODEL, 5, config)
    desk.type("a bad")
    for index, pieces in enumerate((desk.draw(), desk.retry(), desk.column(0.8))):
        if index == 2:
            desk.undo()
        expected = "".join(MODEL.write("a bad", config, 5, index, echo=False))
        assert expected == "".join(piece.text for piece in pieces)
    desk.take(1)
    assert "a bad" + expected == desk.text
    if "ban" in settings:
        assert "b" not in drawn(desk, 100)


def test_pieces_have_their_surprisal_and_kind() -> None:
    desk = Desk(MODEL, 5)
    desk.type("bad")
    streamed = list(desk.draw(100))
    kinds, pieces = zip(*desk.tree.pieces(desk.passage), strict=True)
    assert desk.text == "".join(piece.text for piece in pieces)
    assert ("typed",) * 3 + ("drawn",) * 100 == kinds
    assert tuple(streamed) == pieces[3:]
    assert np.isnan(pieces[0].nats)
    assert state(desk)["nats"] == pytest.approx(sum(piece.nats for piece in streamed), rel=1e-12)

    logits, _ = MODEL.predictor.feed(CHARS.encode("b").tolist(), MODEL.predictor.initial_state())
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
    assert pieces[1].nats == pytest.approx(-np.log(probabilities[CHARS.encode("a")[0]]), rel=1e-5)


def test_an_unknown_character_changes_nothing() -> None:
    desk = Desk(MODEL, 5)
    with pytest.raises(UnknownCharacter, match="'z'"):
        desk.type("abz")
    assert ("", False) == (desk.text, desk.changed)
    desk = Desk(MODEL, 5, unknown="skip")
    desk.type("abz")
    assert "ab" == desk.text


# --- going back


def test_undo_restores_the_state_and_redo_the_text() -> None:
    desk = Desk(MODEL, 5)
    desk.type("abc")
    whole = drawn(desk, 150)
    end = state(desk)
    assert whole[-20:] == desk.undo(20)
    assert whole[-120:-20] == desk.undo(100)
    desk.redo()
    desk.redo()
    same_state(end, state(desk))
    desk.undo(20)
    assert whole[-20:] == drawn(desk, 20)
    same_state(end, state(desk))
    with pytest.raises(CharnnError):
        desk.redo()
    assert whole[-20:] == desk.undo()
    assert whole[:-20] == desk.undo()
    assert "abc" == desk.undo()
    assert "" == desk.text
    with pytest.raises(CharnnError):
        desk.undo(1)


def test_undo_cuts_a_token_of_several_characters() -> None:
    desk = Desk(WORDS, 5)
    desk.type("the lighthouse")
    assert len(desk.passage.ids) < 14  # type: ignore[union-attr]  # a text was typed
    assert "use" == desk.undo(3)
    assert "the lightho" == desk.text
    again = Desk(WORDS, 5)
    again.type(desk.text)
    assert desk.text == again.text
    desk.redo()
    assert "the lighthouse" == desk.text


def test_undo_counts_characters_of_several_bytes_once() -> None:
    desk = Desk(BYTES, 5)
    desk.type("né€")
    assert "€" == desk.undo(1)
    assert "né" == desk.text


def test_forked_texts_are_independent() -> None:
    desk = Desk(MODEL, 5)
    desk.type("abc")
    desk.fork("other")
    other = drawn(desk, 20)
    desk.switch("main")
    assert "abc" == desk.text
    desk.type("d")
    desk.switch("other")
    assert "abc" + other == desk.text
    with pytest.raises(ConfigError, match="main"):
        desk.fork("main")
    with pytest.raises(ConfigError, match="main, other"):
        desk.switch("third")


@pytest.mark.parametrize("name", ["", "a b", "a\x1b", "x" * 41])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Desk(MODEL, 5).fork(name)


def test_another_column_may_replace_the_one_taken() -> None:
    desk = Desk(MODEL, 5)
    desk.type("abc")
    texts = ["".join(p.text for p in desk.column(t, 25)) for t in (0.0, 0.7, 0.7)]
    assert 3 == len(set(texts))
    assert "abc" == desk.text
    desk.take(2)
    assert "abc" + texts[1] == desk.text
    desk.take(1)
    assert "abc" + texts[0] == desk.text
    with pytest.raises(CharnnError, match=r"4.* 1 to 3"):
        desk.take(4)
    desk.type("d")
    with pytest.raises(CharnnError):
        desk.take(1)
    with pytest.raises(CharnnError):
        Desk(MODEL, 1).take(1)


def test_few_states_are_kept_and_others_recomputed_from_near() -> None:
    desk = Desk(MODEL, 5)
    drawn(desk, 2000)
    passage = desk.passage
    assert passage
    assert len(passage.states) <= 2000 // passages.KEEP_EVERY + 1
    read = []
    step = MODEL.predictor.step
    desk.tree.model = made()
    desk.tree.model.predictor.step = lambda *given: read.append(1) or step(*given)  # type: ignore[method-assign, func-returns-value]  # counts
    desk.undo(777)
    state(desk)
    assert len(read) <= passages.KEEP_EVERY


# --- against a naive desk


class Naive:
    """Keeps the state after every token, and copies whole texts."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.seed, self.index = model, seed, 0
        self.temperature = 0.8
        # A text is a list of (kind, action, text of the token, state after it).
        self.texts: dict[str, list[Any]] = {"main": []}
        self.undone: dict[str, list[Any]] = {"main": []}
        self.name, self.action = "main", 0
        self.asked: dict[int, int] = {}

    def sampler(self, steps: list[Any]) -> Sampler:
        filters = filter_settings(SamplingConfig(temperature=self.temperature))
        sampler = Sampler(self.model.predictor, self.seed, 0, filters)
        if steps:
            sampler.load_state_dict(steps[-1][3])
        return sampler

    def go(self, steps: list[Any]) -> None:
        self.texts[self.name], self.undone[self.name] = steps, []

    def type(self, text: str) -> None:
        steps, self.action = list(self.texts[self.name]), self.action + 1
        sampler = self.sampler(steps)
        for character, token in zip(text, CHARS.encode(text), strict=True):
            sampler.feed([int(token)])
            steps.append(("typed", self.action, character, sampler.state_dict()))
        if text:
            self.go(steps)

    def draw(self, tokens: int, index: int | None = None) -> None:
        steps, self.action = list(self.texts[self.name]), self.action + 1
        self.asked[self.action] = tokens
        sampler = self.sampler(steps)
        if not steps:
            sampler.feed([self.model.start_token])
        if index is not None:
            generator = np.array(Sfc32(self.seed, index).state, np.uint32)
            sampler.load_state_dict({**sampler.state_dict(), "generator": generator})
        steps += [
            ("drawn", self.action, CHARS.decode([token]), sampler.state_dict())
            for token in sampler.stream(tokens)
        ]
        if tokens:
            self.go(steps)

    def retry(self) -> None:
        steps, undone = self.texts[self.name], self.undone[self.name]
        if steps and steps[-1][0] == "drawn":
            last = steps[-1][1]
            self.index += 1
            self.texts[self.name] = [step for step in steps if step[1] != last]
            self.draw(self.asked[last], self.index)
            self.undone[self.name] = [*undone, steps]

    def undo(self, characters: int | None) -> None:
        steps, undone = self.texts[self.name], self.undone[self.name]
        if not steps or characters == 0:
            return
        if characters is None:
            left = [step for step in steps if step[1] != steps[-1][1]]
        else:
            left = steps[: max(0, len(steps) - characters)]
        self.go(left)
        self.undone[self.name] = [*undone, steps]

    def redo(self) -> None:
        undone = self.undone[self.name]
        if undone:
            self.go(undone[-1])
            self.undone[self.name] = undone[:-1]

    def fork(self, name: str) -> None:
        if name not in self.texts:
            self.texts[name] = self.texts[self.name]
            self.undone[name] = list(self.undone[self.name])
            self.name = name

    def switch(self, name: str) -> None:
        if name in self.texts:
            self.name = name

    def column(self, temperature: float, tokens: int) -> None:
        before, undone, kept = self.texts[self.name], self.undone[self.name], self.temperature
        self.index += 1
        self.temperature = temperature
        self.draw(tokens, self.index)
        self.temperature = kept
        if tokens == 0:
            self.texts[self.name], self.undone[self.name] = before, undone

    @property
    def text(self) -> str:
        return "".join(step[2] for step in self.texts[self.name])


NAMES = st.sampled_from(["main", "b", "c"])
LENGTHS = st.integers(0, 150)
OPERATIONS = st.one_of(
    st.tuples(st.just("type"), st.text("abcdefgh \n", max_size=80)),
    st.tuples(st.just("draw"), LENGTHS),
    st.tuples(st.just("retry")),
    st.tuples(st.just("undo"), st.none() | LENGTHS),
    st.tuples(st.just("redo")),
    st.tuples(st.just("fork"), NAMES),
    st.tuples(st.just("switch"), NAMES),
    st.tuples(st.just("column"), st.sampled_from([0.0, 0.5, 1.2]), st.integers(1, 90)),
    st.tuples(st.just("temperature"), st.sampled_from([0.5, 0.8, 1.5])),
    st.tuples(st.just("reopen")),
)


@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14), cell=st.sampled_from([*GATES]))
def test_any_sequence_of_operations_equals_that_of_a_naive_desk(
    operations: list[Any], cell: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = made(cell=cell)
    desk, naive = Desk(model, 9), Naive(model, 9)
    path = tmp_path_factory.mktemp("desk") / "x.desk"
    for name, *given_ in operations:
        if name == "reopen":
            save_desk(desk, path)
            desk = load_desk(path, made(cell=cell))
        elif name == "temperature":
            desk.set(name, *given_)
            naive.temperature = given_[0]
        else:
            getattr(naive, name)(*given_)
            try:
                done = getattr(desk, name)(*given_)
                if name in ("draw", "retry", "column"):
                    list(done)
                if name == "column":
                    desk.take(1 if len(desk.columns) == 1 else len(desk.columns))
            except CharnnError:
                pass  # there was nothing to do; the naive desk does nothing then
        assert naive.text == desk.text
        assert naive.name == desk.name
        steps = naive.texts[naive.name]
        if steps:
            same_state(steps[-1][3], state(desk))


# --- the file


def written() -> Desk:
    desk = Desk(MODEL, 5, SamplingConfig(temperature=0.7, stop=("zz",)))
    desk.type("a bad")
    drawn(desk, 700)
    desk.fork("other")
    desk.type("cab")
    drawn(desk, 40)
    list(desk.retry())
    desk.undo(10)
    for temperature in (0.5, 1.0):
        list(desk.column(temperature, 30))
    return desk


def test_a_saved_desk_continues_as_if_never_closed(tmp_path: Path) -> None:
    desk, path = written(), tmp_path / "x.desk"
    save_desk(desk, path, "a model")
    again = load_desk(path, made())
    for each in (desk, again):
        assert not again.changed
        assert ["main", "other"] == list(each.branches)
    assert (desk.text, desk.settings, desk.name) == (again.text, again.settings, again.name)
    nats = np.array([[p.nats for _, p in each.tree.pieces(each.passage)] for each in (desk, again)])
    np.testing.assert_allclose(nats[0], nats[1], rtol=1e-6)
    for act in (
        lambda d: d.take(2),
        lambda d: drawn(d, 90),
        lambda d: list(d.retry()),
        lambda d: d.undo(130),
        lambda d: d.redo(),
        lambda d: d.switch("main"),
        lambda d: d.undo(600),
        lambda d: drawn(d, 5),
    ):
        act(desk)
        act(again)
        assert desk.text == again.text
        same_state(state(desk), state(again))


def test_the_file_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.desk"
    save_desk(written(), path, "checkpoints/book")
    with pytest.raises(FileError, match="checkpoints/book") as caught:
        load_desk(path, made(digest="e" * 64))
    assert "\n" not in str(caught.value)


def test_flipped_bytes_and_cuts_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.desk"
    save_desk(written(), path)
    good = path.read_bytes()
    random = np.random.default_rng(0)
    places = [*range(0, 3000, 61), *random.integers(0, len(good), 100)]
    for place in places:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        with pytest.raises(DamagedFile) as caught:
            load_desk(path, MODEL)
        assert "\n" not in str(caught.value)
        path.write_bytes(good[:place])
        with pytest.raises(DamagedFile):
            load_desk(path, MODEL)


def test_missing_files_texts_and_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.desk"):
        load_desk(tmp_path / "none.desk", MODEL)
    (tmp_path / "text").write_text("Once upon a time there was a text that was no desk.")
    with pytest.raises(DamagedFile):
        load_desk(tmp_path / "text", MODEL)
    weights = {
        n: np.zeros(s, np.float32) for n, s in MODEL.predictor.config.tensor_shapes().items()
    }
    saved = Checkpoint(MODEL.predictor.config, CHARS.to_dict(), weights, 1)
    save(tmp_path / "model.safetensors", saved)
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        load_desk(tmp_path / "model.safetensors", MODEL)


METADATA_CHANGES: list[tuple[str, Any]] = [
    ("seed", -1),
    ("seed", "1"),
    ("index", None),
    ("index", 2**40),
    ("settings", 7),
    ("settings", {"stop": [1]}),
    ("settings", {"regex": 1}),
    ("settings", {"stop": [], "temperature": 5000}),
    ("branch", "third"),
    ("branches", []),
    ("branches", [["main", 99]]),
    ("branches", [["main"]]),
    ("branches", [["\u001b", 0]]),
    ("branches", 7),
    ("columns", []),
    ("columns", [-1]),
    ("nats", []),
    ("nats", None),
    ("model", None),
    ("model", {"digest": 1}),
    ("format", 99),
    ("kind", "poem"),
]


@pytest.mark.parametrize(("key", "value"), METADATA_CHANGES, ids=str)
def test_contradictory_metadata_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    from charnn.desk import desk_file

    write = desk_file.write_arrays
    monkeypatch.setattr(desk_file, "write_arrays", lambda p, a, m: write(p, a, {**m, key: value}))
    path = tmp_path / "x.desk"
    save_desk(written(), path)
    with pytest.raises(FileError) as caught:
        load_desk(path, MODEL)
    assert "\n" not in str(caught.value)


def test_a_setting_that_the_model_cannot_obey_is_refused_and_changes_nothing() -> None:
    desk = Desk(MODEL, 1)
    with pytest.raises(FileError):  # there is no training text
        desk.set("max_copy", 9)
    assert SamplingConfig() == desk.settings
    assert "" != drawn(desk, 9)


def mixed_model() -> Model:
    tree = NGramTree.of(np.arange(900) % CHARS.vocab_size, CHARS.vocab_size, 4)
    return replace(MODEL, predictor=mix(MODEL.predictor, (tree, MixtureWeights(0.5, 0.9))))


def test_a_desk_continues_with_the_network_alone_and_back() -> None:
    mixed = mixed_model()
    texts = {}
    for model, on in ((MODEL, False), (mixed, False), (mixed, True)):
        desk = Desk(model, 1)
        differ = desk.set_network_only(on)
        assert (model is mixed) == differ
        texts[model is mixed, on] = drawn(desk, 60)
    assert texts[False, False] == texts[True, True] != texts[True, False]
    desk.set_network_only(False)  # in mid-text, with columns and undone passages
    drawn(desk, 9)
    list(desk.column(1.0, 9))
    desk.undo()
    desk.set_network_only(True)
    whole = Desk(mixed, 1)
    whole.set_network_only(True)
    assert drawn(whole, 69)[60:] == drawn(desk, 9)


def test_a_desk_file_remembers_that_the_network_writes_alone(tmp_path: Path) -> None:
    mixed = mixed_model()
    desk = Desk(mixed, 1)
    desk.set_network_only(True)
    drawn(desk, 40)
    save_desk(desk, tmp_path / "a.desk")
    again = load_desk(tmp_path / "a.desk", mixed)
    assert again.tree.network_only
    same_state(state(desk), state(again))
    assert drawn(desk, 20) == drawn(again, 20)
