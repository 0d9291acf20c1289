"""A C program from a model: what it writes is what charnn writes with int8 weights."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from charnn.checkpoint import Checkpoint
from charnn.config import GATES, ModelConfig
from charnn.errors import FileError
from charnn.export.c_program import c_files, write_program
from charnn.generation import Model
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer, SentencePieceTokenizer

TEXT = "The goat is not a sailor, é?\n"
STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
COMPILERS = [name for name in ("gcc", "clang", "tcc") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler here")


def checkpoint_of(cell="lstm", embedding=24, hidden=24, tokenizer=None, start="\n"):
    tokenizer = tokenizer or CharTokenizer.learn(TEXT)
    config = ModelConfig(tokenizer.vocab_size, cell, embedding, hidden, 2)
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    return Checkpoint(config, tokenizer.to_dict(), weights, int(tokenizer.encode(start)[0]), {})


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
def test_it_writes_the_text_of_the_int8_engine(cell, embedding, hidden, compiler, tmp_path):
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


@needs_compiler
def test_a_compiler_that_is_let_loose_changes_no_character(tmp_path):
    checkpoint = checkpoint_of("lstm", 40, 40)
    expected = run(build(checkpoint, tmp_path, COMPILERS[0]), "--seed", "1").stdout
    for flags in (["-O0"], ["-O3", "-march=native"]):
        program = build(checkpoint, tmp_path, COMPILERS[0], *flags)
        assert expected == run(program, "--seed", "1").stdout


@needs_compiler
def test_a_large_vocabulary_goes_without_a_table_and_writes_the_same(tmp_path):
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
def test_pieces_are_written_and_prompts_refused_with_the_reason(tmp_path):
    checkpoint = checkpoint_of("rnn", 8, 8, SentencePieceTokenizer.learn([TEXT * 30], 280))
    program = build(checkpoint, tmp_path, COMPILERS[0])
    expected = Model.from_checkpoint(checkpoint, int8=True).generate(seed=3, max_tokens=50)
    found = run(program, "--seed", "3", "-n", "50")
    assert expected.encode("utf-8", "surrogateescape") == found.stdout
    refused = run(program, "--prompt", "goat")
    assert 1 == refused.returncode
    assert b"only charnn can find" in refused.stderr


@needs_compiler
def test_what_it_takes_is_told_and_right(tmp_path):
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
        (["--prompt", "Z"], 1, "never saw what begins here: Z"),
        (["--seed", "4294967296"], 2, "below 2^32"),
        (["--seed", "-1"], 2, "below 2^32"),
        (["-n", "ten"], 2, "a whole number"),
        (["--temperature", "nan"], 2, "from 0 to 1000"),
        (["--what", "1"], 2, "unknown"),
        (["-n"], 2, "without its value"),
    ],
    ids=str,
)
def test_wrong_words_are_told_in_one_line(words, code, expected, tmp_path):
    found = run(build(checkpoint_of(), tmp_path, COMPILERS[0]), *words)
    assert (code, 1) == (found.returncode, found.stderr.count(b"\n"))
    assert expected in found.stderr.decode()


@needs_compiler
def test_without_a_seed_it_tells_the_one_it_drew(tmp_path):
    program = build(checkpoint_of(), tmp_path, COMPILERS[0])
    first = run(program, "-n", "50")
    seed = first.stderr.decode().split()[1]
    assert first.stdout == run(program, "-n", "50", "--seed", seed).stdout


def test_a_folder_is_written_whole_and_only_a_program_is_replaced(tmp_path):
    checkpoint, folder = checkpoint_of(), tmp_path / "a" / "program"
    write_program(checkpoint, "goat", folder)
    files, _ = c_files(checkpoint)
    assert files == {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    (folder / "writer").write_bytes(b"")
    write_program(checkpoint_of("gru"), "goat", folder)
    assert "CHARNN_GRU" in (folder / "model.c").read_text("utf-8")
    assert files.keys() == {path.name for path in folder.iterdir()}
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(FileError, match="something else than such a program"):
        write_program(checkpoint, "goat", folder)
    assert "mine" == (folder / "diary.txt").read_text()
    assert [folder] == list(folder.parent.iterdir())


def test_weights_that_overflow_are_refused(tmp_path):
    checkpoint = checkpoint_of()
    for name in ("layers.0.norm.weight", "layers.0.cell.weight_ih"):
        checkpoint.weights[name] = np.full_like(checkpoint.weights[name], 3e38)
    with pytest.raises(FileError, match="too large to export"):
        write_program(checkpoint, "goat", tmp_path / "program")
    assert [] == list(tmp_path.iterdir())
