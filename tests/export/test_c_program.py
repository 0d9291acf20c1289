"""A C program from a model: what it writes is what charnn writes with int8 weights and n-grams."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_model import random_model

from charnn.config import GATES
from charnn.errors import FileError
from charnn.export.c_program import c_files, write_program
from charnn.generation import Model
from charnn.ngrams.section import MixtureWeights, NGramSection
from charnn.ngrams.tree import NGramTree
from charnn.text.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    tokenizer_from_dict,
)

TEXT = "The goat is not a sailor, é?\n"
PARABLE = "".join(
    f"The {a} is {('not ', '')[n % 3 == 0]}a {b}, is it{'?' * (n % 4)}\n"
    for n, (a, b) in enumerate([("goat", "sailor"), ("sailor", "goat"), ("host", "oar")] * 9)
)
STRICT = ["-std=c99", "-O2", "-pedantic", "-Wall", "-Wextra", "-Werror"]
ARRAYS = ("symbols", "counts", "dropped")
STRICTER = ["-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wdouble-promotion"]
SANE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILERS = [name for name in ("gcc", "clang", "tcc") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler here")
MIXED = MixtureWeights(0.5, 0.6)


def checkpoint_of(cell="lstm", embedding=24, hidden=24, tokenizer=None, start="\n"):
    tokenizer = tokenizer or CharTokenizer.learn(TEXT)
    first = int(tokenizer.encode(start)[0])
    more = {"start_token": first, "start": [first, first]}
    return random_model(tokenizer, cell, hidden, 2, embedding=embedding, scale=0.4, **more)


def mixed(checkpoint, order=4, weights=MIXED, once=None, width=None, **arrays):
    """The same with the n-grams of `PARABLE`; `arrays` in place of what was counted."""
    ids = tokenizer_from_dict(checkpoint.tokenizer, checkpoint.config.vocab_size).encode(PARABLE)
    tree = NGramTree.of(ids, checkpoint.config.vocab_size, order, once)
    found = {**tree.arrays, **arrays}
    found = {name: array.astype(width or array.dtype) for name, array in found.items()}
    return replace(checkpoint, ngrams=NGramSection(tree.order, weights, found))


def build(checkpoint, folder: Path, compiler: str, *flags: str) -> Path:
    files, _ = c_files(checkpoint)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    sources = sorted(folder.glob("*.c"))
    command = [compiler, *(flags or STRICT), *sources, "-lm", "-o", folder / "writer"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert (0, "") == (built.returncode, built.stderr), built.stderr
    return folder / "writer"


def run(program: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *words], capture_output=True, timeout=60)


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("embedding", "hidden"), [(24, 24), (10, 25)])
@pytest.mark.parametrize("cell", GATES)
def test_the_program_writes_the_text_of_the_int8_engine(
    cell, embedding, hidden, compiler, tmp_path
):
    checkpoint = checkpoint_of(cell, embedding, hidden)
    program = build(checkpoint, tmp_path, compiler)
    model = Model.from_checkpoint(checkpoint, int8=True)
    for prompt, seed, temperature in (("é go", 5, 0.8), ("", 4294967295, 1.3), ("T", 0, 0.0)):
        words = ["-n", "300", "--seed", str(seed), "--temperature", str(temperature)]
        found = run(program, *words, "--prompt", prompt)
        options = {"max_tokens": 300, "seed": seed, "temperature": temperature}
        expected = model.generate(prompt, echo=True, **options)
        assert expected == found.stdout.decode()
        assert (0, b"") == (found.returncode, found.stderr)


@pytest.mark.slow
@needs_compiler
def test_optimisation_flags_change_no_character(tmp_path):
    checkpoint = checkpoint_of("lstm", 40, 40)
    expected = run(build(checkpoint, tmp_path, COMPILERS[0]), "--seed", "1").stdout
    for flags in (["-O0"], ["-O3", "-march=native"]):
        program = build(checkpoint, tmp_path, COMPILERS[0], *flags)
        assert expected == run(program, "--seed", "1").stdout


@needs_compiler
def test_a_large_vocabulary_has_no_table_and_writes_the_same_text(tmp_path):
    checkpoint = checkpoint_of("gru", 8, 8, ByteTokenizer())
    files, _ = c_files(checkpoint)
    assert "float table[" not in files["model.c"]
    program = build(checkpoint, tmp_path, COMPILERS[0])
    found = run(program, "--seed", "3", "-n", "200").stdout
    expected = Model.from_checkpoint(checkpoint, int8=True).generate(seed=3, max_tokens=200)
    assert expected.encode("utf-8", "surrogateescape") == found


def test_a_small_vocabulary_has_a_table():
    files, _ = c_files(checkpoint_of("lstm", 200, 8))
    assert "float table[" in files["model.c"]


@needs_compiler
def test_a_sentencepiece_program_writes_and_refuses_prompts(tmp_path):
    checkpoint = checkpoint_of("rnn", 8, 8, SentencePieceTokenizer.learn([TEXT * 30], 280))
    program = build(checkpoint, tmp_path, COMPILERS[0])
    expected = Model.from_checkpoint(checkpoint, int8=True).generate(seed=3, max_tokens=50)
    found = run(program, "--seed", "3", "-n", "50")
    assert expected.encode("utf-8", "surrogateescape") == found.stdout
    refused = run(program, "--prompt", "goat")
    assert 1 == refused.returncode
    assert b"--prompt" in refused.stderr


@needs_compiler
def test_the_stated_memory_and_work_are_right(tmp_path):
    checkpoint = checkpoint_of("lstm", 24, 24)
    files, sizes = c_files(checkpoint)
    program = build(checkpoint, tmp_path, COMPILERS[0])
    told = run(program, "--about").stdout.decode().split()
    assert str(sizes.weights) in told
    assert str(sizes.working) in told
    assert 4 * 2 * 2 * 24 == sizes.state
    matrices = [4 * 24 * 24] * 3 + [checkpoint.config.vocab_size * 24]
    if "float table[" not in files["model.c"]:
        matrices.append(4 * 24 * 24)
    assert sum(matrices) == sizes.multiply_adds
    assert "malloc" not in "".join(text for name, text in files.items() if name.endswith(".c"))
    assert f"{sizes.working:,} bytes" in files["README.md"]


@needs_compiler
@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--prompt", "Z"], 1, "Z"),
        (["--seed", "4294967296"], 2, "2^32"),
        (["--seed", "-1"], 2, "2^32"),
        (["-n", "ten"], 2, "ten"),
        (["--temperature", "nan"], 2, "--temperature nan"),
        (["--what", "1"], 2, "--what"),
        (["-n"], 2, "-n"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_in_one_line(words, code, expected, tmp_path):
    found = run(build(checkpoint_of(), tmp_path, COMPILERS[0]), *words)
    assert (code, 1) == (found.returncode, found.stderr.count(b"\n"))
    assert expected in found.stderr.decode()


@needs_compiler
def test_without_a_seed_the_drawn_one_is_printed(tmp_path):
    program = build(checkpoint_of(), tmp_path, COMPILERS[0])
    first = run(program, "-n", "50")
    seed = first.stderr.decode().split()[1]
    assert first.stdout == run(program, "-n", "50", "--seed", seed).stdout


def test_a_program_replaces_an_earlier_program_only(tmp_path):
    checkpoint, folder = checkpoint_of(), tmp_path / "a" / "program"
    write_program(checkpoint, "goat", folder)
    files, _ = c_files(checkpoint)
    assert files == {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    (folder / "writer").write_bytes(b"")
    write_program(checkpoint_of("gru"), "goat", folder)
    assert "CHARNN_GRU" in (folder / "model.c").read_text("utf-8")
    assert files.keys() == {path.name for path in folder.iterdir()}
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(FileError, match="-o"):
        write_program(checkpoint, "goat", folder)
    assert "mine" == (folder / "diary.txt").read_text()
    assert [folder] == list(folder.parent.iterdir())


def test_overflowing_weights_are_refused(tmp_path):
    checkpoint = checkpoint_of()
    for name in ("layers.0.norm.weight", "layers.0.cell.weight_ih"):
        checkpoint.weights[name] = np.full_like(checkpoint.weights[name], 3e38)
    with pytest.raises(FileError, match="weights"):
        write_program(checkpoint, "goat", tmp_path / "program")
    assert [] == list(tmp_path.iterdir())


@needs_compiler
@pytest.mark.parametrize(
    ("compiler", "cell", "order", "once", "width"),
    [(name, "lstm", 6, 3, None) for name in COMPILERS]
    + [
        (*COMPILERS[:1], *words)
        for words in (("gru", 3, None, "u2"), ("rnn", 2, None, "u4"), ("lstm", 1, None, None))
        if COMPILERS
    ],
)
def test_a_program_with_n_grams_writes_the_text_of_the_int8_engine(
    compiler, cell, order, once, width, tmp_path
):
    checkpoint = mixed(checkpoint_of(cell), order, MixtureWeights(0.4, 0.7), once, width)
    program = build(checkpoint, tmp_path, compiler)
    model = Model.from_checkpoint(checkpoint, int8=True)
    alone = Model.from_checkpoint(replace(checkpoint, ngrams=None), int8=True)
    cases = ("The goat", 5, 0.8), ("", 4294967295, 1.3), ("éé", 0, 0.0), ("is it", 77, 0.5)
    for prompt, seed, temperature in cases:
        words = ["-n", "300", "--seed", str(seed), "--temperature", str(temperature)]
        found = run(program, *words, "--prompt", prompt)
        options = {"max_tokens": 300, "seed": seed, "temperature": temperature, "echo": True}
        assert (0, b"") == (found.returncode, found.stderr)
        assert model.generate(prompt, **options) == found.stdout.decode()
        assert alone.generate(prompt, **options) != found.stdout.decode()


@needs_compiler
def test_n_grams_of_bytes_and_of_pieces_are_mixed_in(tmp_path):
    for tokenizer in ByteTokenizer(), SentencePieceTokenizer.learn([PARABLE * 3], 300):
        checkpoint = mixed(checkpoint_of("gru", 8, 8, tokenizer), 5, MixtureWeights(0.2, 0.9))
        folder = tmp_path / tokenizer.kind
        folder.mkdir()
        found = run(build(checkpoint, folder, COMPILERS[0]), "--seed", "3", "-n", "150").stdout
        expected = Model.from_checkpoint(checkpoint, int8=True).generate(seed=3, max_tokens=150)
        assert expected.encode("utf-8", "surrogateescape") == found


@needs_compiler
def test_the_stated_memory_of_n_grams_is_right(tmp_path):
    plain = checkpoint_of("lstm", 24, 24)
    checkpoint = mixed(plain, 5)
    (_, before), (files, sizes) = c_files(plain), c_files(checkpoint)
    arrays = checkpoint.ngrams.arrays
    symbols, contexts = len(arrays["symbols"]), len(arrays["children"])
    widths = {name: arrays[name].itemsize for name in ARRAYS}
    taken = symbols * (widths["symbols"] + widths["counts"]) + contexts * widths["dropped"]
    assert taken + 4 * (contexts + 1) + 8 * 3 * 5 == sizes.ngrams
    assert (before.weights, 0) == (sizes.weights, before.ngrams)
    assert before.state + 4 * 5 == sizes.state
    assert before.working + 4 * 5 + 8 * plain.config.vocab_size == sizes.working
    lines = run(build(checkpoint, tmp_path, COMPILERS[0]), "--about").stdout.decode().splitlines()
    told = {line[:12].strip(): line[12:].split()[0] for line in lines}
    assert str(sizes.weights) == told["weights"]
    assert str(sizes.ngrams) == told["n-grams"]
    assert str(sizes.state) == told["state"]
    assert str(sizes.working) == told["memory"]
    assert f"Mixed with {symbols:,} n-grams of its text, up to 5 long" in files["README.md"]
    assert f"| n-grams, constant too | {sizes.ngrams:,} bytes |" in files["README.md"]
    assert "Mixed" not in c_files(plain)[0]["README.md"]
    assert "n-grams, constant too" not in c_files(plain)[0]["README.md"]


def test_discounts_and_weights_are_written_exactly():
    checkpoint = mixed(checkpoint_of(), 4, MixtureWeights(1 / 3, 1 / 7))
    files, _ = c_files(checkpoint)
    text = files["model.c"].split("ngram_discounts[12] = {")[1]
    values = [float(word) for word in text.split("}")[0].replace(",", " ").split()]
    tree = NGramTree(checkpoint.config.vocab_size, 4, checkpoint.ngrams.arrays)
    assert tree.discounts.ravel().tolist() == values
    weights = files["model.c"].split("charnn_ngrams ngrams = {")[1].split(",")[2:4]
    assert [1 / 3, 1 / 7] == [float(power) for power in weights]


@pytest.mark.parametrize("compiler", [name for name in COMPILERS if name != "tcc"])
def test_the_engine_compiles_without_any_warning(compiler, tmp_path):
    build(mixed(checkpoint_of()), tmp_path, compiler, *STRICT, *STRICTER)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [name for name in COMPILERS if name != "tcc"][:1])
def test_extreme_counts_cause_no_memory_error(compiler, tmp_path):
    plain = mixed(checkpoint_of("lstm", 8, 8), 5)
    sizes = {name: len(plain.ngrams.arrays[name]) for name in ("counts", "dropped")}
    for most in (None, 0, 2**32 - 1):
        arrays = {}
        if most is not None:
            arrays = {name: np.full(size, most, np.uint32) for name, size in sizes.items()}
        checkpoint = mixed(checkpoint_of("lstm", 8, 8), 5, MixtureWeights(0.2, 0.9), **arrays)
        program = build(checkpoint, tmp_path, compiler, "-std=c99", *SANE)
        for prompt in "The goat is", "éé":
            found = run(program, "--seed", "1", "-n", "300", "--prompt", prompt)
            assert (0, b"") == (found.returncode, found.stderr)
            expected = Model.from_checkpoint(checkpoint, int8=True)
            text = expected.generate(prompt, seed=1, max_tokens=300, echo=True)
            assert text == found.stdout.decode()
