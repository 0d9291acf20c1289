"""Model files: round trips, files that are never written, damaged and hostile files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from charnn import checkpoint as checkpoints
from charnn.checkpoint import Checkpoint, TrainingState, load, peek, save
from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.errors import DamagedFile, FileError
from charnn.tensor_file import (
    DTYPE_NAMES,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    layout,
    pack_header,
    seal,
)
from charnn.version import __version__

TOKENIZERS: dict[str, dict[str, Any]] = {
    "char": {"kind": "char", "vocabulary": np.array([10, 97, 0x1F410], np.uint32)},
    "byte": {"kind": "byte"},
    "sentencepiece": {"kind": "sentencepiece", "model": np.arange(250, dtype=np.uint8)},
}


def make(
    cell: str = "lstm", tokenizer: str = "char", training: bool = True, seed: int = 0
) -> Checkpoint:
    """Returns a checkpoint of a tiny model with random numbers."""
    draw = np.random.default_rng(seed)
    model = ModelConfig(3, cell, embedding_size=2, hidden_size=2, num_layers=2)

    def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    state = None
    if training:
        recipe = TrainConfig(max_steps=9, batch_size=2, learning_rate=1e-05)
        progress = {"step": 4, "loss_sum": 1.25, "best_loss": None, "environment": {"torch": "2"}}
        state = TrainingState(recipe, progress, filled(recipe.tensor_shapes(model)))
    info = {"corpus": {"chars": 7, "name": "é\u2028\x1b"}, "history": [{"step": 4, "cold": 2.5}]}
    weights = filled(model.tensor_shapes())
    return Checkpoint(model, TOKENIZERS[tokenizer], weights, 1, info, state, start=[1, 0])


def assert_same_arrays(expected: dict[str, Any], actual: dict[str, Any]) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == actual[name].dtype
            assert np.array_equal(value, actual[name]), name
        else:
            assert value == actual[name]


def assert_same(expected: Checkpoint, actual: Checkpoint) -> None:
    assert expected.config == actual.config
    assert expected.start_token == actual.start_token
    assert expected.start == actual.start
    assert expected.info == actual.info
    assert_same_arrays(expected.tokenizer, actual.tokenizer)
    assert_same_arrays(expected.weights, actual.weights)
    assert (expected.training is None) == (actual.training is None)
    if expected.training and actual.training:
        assert expected.training.config == actual.training.config
        assert expected.training.progress == actual.training.progress
        assert_same_arrays(expected.training.arrays, actual.training.arrays)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.safetensors"


# --- good files


@pytest.mark.parametrize("cell", GATES)
def test_weights_stored_as_f16_are_read_as_the_nearest_float32(path: Path, cell: str) -> None:
    saved = make(cell, training=False)
    save(path, saved)
    size = path.stat().st_size
    save(path, saved, dtype="F16")
    assert path.stat().st_size < size
    loaded = load(path)
    for name, weight in saved.weights.items():
        assert np.float32 == loaded.weights[name].dtype
        assert np.array_equal(weight.astype(np.float16).astype(np.float32), loaded.weights[name])
    save(path, loaded, dtype="F16")
    assert_same(loaded, load(path))


def test_a_weight_too_large_for_f16_is_refused_by_name(path: Path) -> None:
    saved = make()
    saved.weights["head.bias"][1] = 1e5
    with pytest.raises(FileError, match=r"head\.bias"):
        save(path, saved, dtype="F16")
    assert not path.exists()


def test_weights_of_two_types_are_refused(path: Path) -> None:
    forge(path, lambda _, arrays: arrays.update({"norm.bias": arrays["norm.bias"].astype("f2")}))
    with pytest.raises(DamagedFile, match=r"norm\.bias"):
        load(path)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("cell", GATES)
def test_a_checkpoint_is_loaded_as_it_was_saved(
    path: Path, cell: str, tokenizer: str, training: bool
) -> None:
    saved = make(cell, tokenizer, training)
    save(path, saved)
    loaded = load(path)
    assert_same(saved, loaded)
    assert 64 == len(loaded.digest)
    assert list(saved.config.tensor_shapes()) == list(loaded.weights)
    found = peek(path)
    assert saved.info == found["info"]
    assert __version__ == found["charnn"]
    assert training == ("training" in found)


def test_saving_a_loaded_checkpoint_gives_the_same_bytes(path: Path) -> None:
    save(path, make())
    data = path.read_bytes()
    save(path, load(path))
    assert data == path.read_bytes()


@pytest.mark.parametrize("strided", [np.asfortranarray, lambda a: np.repeat(a, 2, -1)[..., ::2]])
def test_strided_arrays_are_saved_with_their_values(
    path: Path, strided: Callable[[np.ndarray], np.ndarray]
) -> None:
    saved = make()
    saved.weights = {name: strided(array) for name, array in saved.weights.items()}
    assert not saved.weights["head.weight"].flags.c_contiguous
    save(path, saved)
    assert_same(saved, load(path))


def test_the_plain_library_reads_the_file(path: Path) -> None:
    saved = make(tokenizer="char")
    save(path, saved)
    arrays = safetensors.numpy.load_file(path)
    for name, array in saved.weights.items():
        assert np.array_equal(array, arrays[name])
    assert np.array_equal(saved.tokenizer["vocabulary"], arrays["tokenizer.vocabulary"])
    assert saved.training is not None
    for name, array in saved.training.arrays.items():
        assert np.array_equal(array, arrays[f"training.{name}"])
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    assert [METADATA_KEY] == list(metadata)
    assert "model" == json.loads(metadata[METADATA_KEY])["kind"]


def test_equal_input_gives_equal_bytes_in_every_process(tmp_path: Path) -> None:
    program = f"""
import runpy, sys
from pathlib import Path
test = runpy.run_path({str(Path(__file__))!r})
test["save"](Path(sys.argv[1]), test["make"]())
"""
    files = []
    for seed in ("0", "1", "2"):
        target = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).resolve().parent.parent
        subprocess.run(
            [sys.executable, "-c", program, target], env=environment, cwd=root, check=True
        )
        files.append(target.read_bytes())
    assert files[0] == files[1] == files[2]


def test_the_file_names_no_path_and_no_host(path: Path) -> None:
    save(path, make(training=False))
    data = path.read_bytes()
    assert str(path.parent).encode() not in data
    assert os.uname().nodename.encode() not in data


def test_a_file_replaced_while_it_is_read_is_the_old_or_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make(seed=1), make(seed=2)
    save(path, old)
    read_header = checkpoints.read_header

    def replaced_meanwhile(*args: Any) -> Any:
        header = read_header(*args)
        save(path, new)
        return header

    monkeypatch.setattr(checkpoints, "read_header", replaced_meanwhile)
    assert_same(old, load(path))
    monkeypatch.undo()
    assert_same(new, load(path))


# --- files that are never written


def refused_and_untouched(path: Path, broken: Checkpoint) -> str:
    good = make(seed=7)
    save(path, good)
    with pytest.raises(FileError) as caught:
        save(path, broken)
    assert_same(good, load(path))
    assert [path.name] == os.listdir(path.parent)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_never_reach_a_file(path: Path, value: float) -> None:
    for name in ("head.weight", "training.exp_avg.norm.bias", "training.state.1.c"):
        broken = make()
        assert broken.training is not None
        arrays = broken.training.arrays if name.startswith("training") else broken.weights
        arrays[name.removeprefix("training.")].flat[1] = value
        assert f"{name} holds numbers that are not finite" in refused_and_untouched(path, broken)


def test_a_history_that_is_not_finite_never_reaches_a_file(path: Path) -> None:
    broken = make()
    broken.info["history"] = [{"cold_256": float("nan")}]
    assert "is not written" in refused_and_untouched(path, broken)


def test_a_file_that_load_would_refuse_is_not_written(path: Path) -> None:
    too_long, wrong_type, wrong_shape, missing, wrong_start = (make() for _ in range(5))
    too_long.info["history"] = ["x" * 1000] * (MAX_HEADER_BYTES // 1000)
    wrong_type.weights["head.bias"] = wrong_type.weights["head.bias"].astype(np.float64)
    wrong_shape.weights["head.bias"] = np.zeros(4, np.float32)
    del missing.weights["head.bias"]
    wrong_start.start_token = 3
    for broken in (too_long, wrong_type, wrong_shape, missing, wrong_start):
        refused_and_untouched(path, broken)


# --- damaged and hostile files


def forge(
    path: Path,
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None] = lambda *_: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Writes a checkpoint with changed metadata and arrays, and a digest that fits them."""
    save(path, checkpoint or make())
    arrays = safetensors.numpy.load_file(path)
    metadata = peek(path)
    del metadata["digest"]
    change(metadata, arrays)
    tensors = layout({name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()})
    data = b"".join(array.tobytes() for array in arrays.values())
    digest = seal(hashlib.sha256(data), tensors, metadata)
    path.write_bytes(pack_header(tensors, metadata, digest) + data)


def refusal(path: Path) -> str:
    """Returns the one-line error for a file; checks that time and memory stay small."""
    size = path.stat().st_size
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(DamagedFile) as caught:
            load(path)
        took, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < len(str(path)) + 500
    assert took < 10
    assert peak < 8 * min(size, MAX_HEADER_BYTES) + 2 * size + (4 << 20)
    return line


def test_a_forged_file_without_a_change_is_loaded(path: Path) -> None:
    forge(path)
    assert_same(make(), load(path))


@pytest.mark.parametrize("training", [True, False])
def test_a_flipped_bit_is_refused(path: Path, training: bool) -> None:
    saved = make("rnn", training=training)
    save(path, saved)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8:start])
    del tensors["__metadata__"]
    places = [start + tensor["data_offsets"][0] for tensor in tensors.values()]
    with path.open("r+b") as file:
        for place in [*range(start), *places, len(data) - 1]:
            # All bits of the smaller header, one bit per byte of the other.
            for bit in range(8) if place < start and not training else [place % 8]:
                os.pwrite(file.fileno(), bytes([data[place] ^ 1 << bit]), place)
                with pytest.raises(DamagedFile) as caught:
                    load(path)
                assert "\n" not in str(caught.value)
            os.pwrite(file.fileno(), data[place : place + 1], place)
    assert_same(saved, load(path))


WRONG_CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "hidden_size": (*map(str, (10**9, 3, 0, -1, 2.0, '"2"', "null", "true")), "9" * 4000),
    "vocab_size": (*map(str, (10**9, 4, 2, 0)), "[" * 400 + "]" * 400),
    "num_layers": ("1", "3", "256", str(10**9)),
    "cell": ('"gru"', '"quantum"', "7", "null", '["lstm"]', json.dumps("x" * 1_000_000)),
    "embedding_size": ("3", str(2**15)),
    "dropout": ("2", "-1", '"a"'),
    "more": ("1",),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG_CONFIGURATIONS.items() for value in values],
)
def test_a_wrong_configuration_is_refused(path: Path, key: str, value: str) -> None:
    def change(metadata: dict[str, Any], _: dict[str, np.ndarray]) -> None:
        metadata["model"][key] = json.loads(value)

    forge(path, change)
    assert "damaged" in refusal(path)


def without(metadata: dict[str, Any], *keys: str) -> None:
    for key in keys[:-1]:
        metadata = metadata[key]
    del metadata[keys[-1]]


BROKEN: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], Any]] = {
    "no configuration": lambda m, _: without(m, "model"),
    "half a configuration": lambda m, _: without(m, "model", "vocab_size"),
    "a configuration that is a list": lambda m, _: m.update(model=[]),
    "no tokenizer": lambda m, _: without(m, "tokenizer"),
    "a tokenizer without a kind": lambda m, _: m.update(tokenizer={}),
    "no info": lambda m, _: without(m, "info"),
    "no start token": lambda m, _: without(m, "start_token"),
    "a start token above the vocabulary": lambda m, _: m.update(start_token=3),
    "a start token that is true": lambda m, _: m.update(start_token=True),
    "a start above the vocabulary": lambda m, _: m.update(start=[1, 3]),
    "no token to start with": lambda m, _: m.update(start=[]),
    "a start that is a number": lambda m, _: m.update(start=1),
    "a start of thousands": lambda m, _: m.update(start=[1] * 5000),
    "no format": lambda m, _: without(m, "format"),
    "format 0": lambda m, _: m.update(format=0),
    "format true": lambda m, _: m.update(format=True),
    "format of 4000 digits": lambda m, _: m.update(format=10**4000),
    "no recipe": lambda m, _: without(m, "training", "config"),
    "no progress": lambda m, _: without(m, "training", "progress"),
    "training that is a number": lambda m, _: m.update(training=1),
    "a recipe of another batch": lambda m, _: m["training"]["config"].update(batch_size=3),
    "a recipe that is impossible": lambda m, _: m["training"]["config"].update(bptt=0),
    "training arrays without training": lambda m, _: without(m, "training"),
    "no weight": lambda _, a: a.pop("layers.1.cell.weight_hh"),
    "no moment": lambda _, a: a.pop("training.exp_avg_sq.head.bias"),
    "no state": lambda _, a: a.pop("training.state.0.h"),
    "a weight too many": lambda _, a: a.update({"layers.2.cell.bias": np.zeros(8, np.float32)}),
    "another array": lambda _, a: a.update({"../../x": np.zeros(8, np.float32)}),
    "weights of bytes": lambda _, a: a.update({"head.bias": np.zeros(3, np.uint8)}),
    "a transposed weight": lambda _, a: a.update({"head.weight": a["head.weight"].T.copy()}),
    "a flat weight": lambda _, a: a.update({"head.weight": a["head.weight"].ravel()}),
    "a long weight": lambda _, a: a.update({"head.bias": np.zeros(4, np.float32)}),
    "NaN in a weight": lambda _, a: a["head.bias"].__setitem__(1, np.nan),
    "infinity in a moment": lambda _, a: a["training.exp_avg.head.bias"].__setitem__(0, np.inf),
    "NaN in the state": lambda _, a: a["training.state.0.c"].__setitem__((0, 0), np.nan),
}


@pytest.mark.parametrize("what", BROKEN)
def test_inconsistent_contents_are_refused(path: Path, what: str) -> None:
    forge(path, BROKEN[what])
    assert "damaged" in refusal(path)


def test_a_tensor_that_is_not_finite_is_named(path: Path) -> None:
    forge(path, BROKEN["NaN in a weight"])
    assert "head.bias holds numbers that are not finite" in refusal(path)


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(path: Path) -> None:
    forge(path, lambda m, _: m.update(format=checkpoints.FORMAT + 1, charnn="9.8.7"))
    line = refusal(path)
    assert "charnn 9.8.7" in line
    assert f"format {checkpoints.FORMAT + 1}" in line
    assert "newer" in line
    with pytest.raises(DamagedFile, match="newer"):
        peek(path)


def test_an_invalid_digest_is_refused(path: Path) -> None:
    for digest in (None, 7, "", "0" * 64, ["x"]):
        save(path, make())
        arrays = safetensors.numpy.load_file(path)
        metadata = {**peek(path), "digest": digest}
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
        path.write_bytes(safetensors.numpy.save(arrays, {METADATA_KEY: text}))
        assert "digest" in refusal(path)


def test_a_token_file_is_no_model(path: Path) -> None:
    metadata = {"kind": "tokens", "format": 1}
    tensors = layout({"tokens": ("U8", (3,))})
    digest = seal(hashlib.sha256(b"abc"), tensors, metadata)
    path.write_bytes(pack_header(tensors, metadata, digest) + b"abc")
    assert "is a token file, not a model" in refusal(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for unreadable in (tmp_path, tmp_path / "missing", tmp_path / ("x" * 300)):
        for read in (load, peek):
            with pytest.raises(FileError, match="cannot read") as caught:
                read(unreadable)
            assert str(unreadable) in str(caught.value)


def test_loading_takes_little_more_memory_than_twice_the_file(path: Path) -> None:
    model = ModelConfig(3, "lstm", hidden_size=600, embedding_size=600, num_layers=1)
    weights = {name: np.zeros(s, np.float32) for name, s in model.tensor_shapes().items()}
    save(path, Checkpoint(model, {"kind": "byte"}, weights, 0))
    tracemalloc.start()
    try:
        load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.2 * path.stat().st_size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["model", "tokenizer", "info", "training", "start_token", "format", "kind"])


@given(changes=st.dictionaries(KEYS, JSON, min_size=1, max_size=3))
def test_any_metadata_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    try:
        forge(path, lambda metadata, _: metadata.update(changes), make(training=False))
    except ValueError:  # not JSON, so `seal` cannot give it a digest
        return
    with suppress(DamagedFile):
        assert_same_arrays(make(training=False).weights, load(path).weights)
