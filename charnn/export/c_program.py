"""A model as a folder of C files that any C99 compiler turns into a program.

The int8 weights, and the n-grams of a model that has some, are constants in model.c; engine.c is
the engine that charnn itself runs.

Shapes: V symbols, E features of a symbol, H units, G gates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.checkpoint import Checkpoint
from charnn.config import GATES, STATES, for_cell
from charnn.engines.int8 import Product
from charnn.engines.weights import Arrangement, Matrix, arrange, quantise
from charnn.errors import FileError
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree, tree_and_weights
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict

HERE = Path(__file__).parent
ENGINE = HERE.parent / "engines" / "engine"
LINE = 100
BUILT = "writer"  # the compiled program in the commands of program/README.md
CELLS = {"rnn": "CHARNN_RNN", "gru": "CHARNN_GRU", "lstm": "CHARNN_LSTM"}


class Sizes(NamedTuple):
    """Bytes that a program needs, and its multiply-adds per token."""

    weights: int
    ngrams: int
    state: int
    working: int
    multiply_adds: int


def c_files(checkpoint: Checkpoint) -> tuple[dict[str, str], Sizes]:
    """Returns the text of each file of the program, and the program's sizes.

    Raises:
        ConfigError: the program cannot run a model of this cell.
        DamagedFile: the tokenizer or the n-grams of `checkpoint` are damaged.
        FileError: its weights overflow.
    """
    config = checkpoint.config
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer, config.vocab_size)
    arrangement = quantise(arrange(config, checkpoint.weights))
    counts = tree_and_weights(checkpoint.ngrams, config.vocab_size)
    model = _Model(arrangement, counts)
    source = "".join(f"{line}\n" for line in model.lines(tokenizer))
    sizes = model.sizes()
    shape = f"The network: {config.cell.upper()}, {config.num_layers} x {config.hidden_size} units,"
    symbols = f"{config.vocab_size:,} symbols ({tokenizer.kind})"
    mixed = row = ""
    if counts:
        tree, weights = counts
        mixed = f"\nMixed with {len(tree.symbols):,} n-grams of its text, up to {tree.order} long; "
        mixed += f"mixture weights: network {weights.network:.3g}, n-grams {weights.ngrams:.3g}."
        row = f"| n-grams, constant too | {sizes.ngrams:,} bytes |\n"
    readme = (HERE / "program" / "README.md").read_text("utf-8")
    return {
        "engine.h": (ENGINE / "engine.h").read_text("utf-8"),
        "engine.c": (ENGINE / "engine.c").read_text("utf-8"),
        "model.h": _header(checkpoint, tokenizer, sizes, model.scratch_bytes),
        "model.c": source,
        "main.c": (HERE / "program" / "main.c").read_text("utf-8"),
        "README.md": readme.format(
            description=f"{shape} over {symbols}, {config.parameters:,} parameters.{mixed}",
            prompt=_a_prompt(tokenizer),
            weight_bytes=sizes.weights,
            ngram_row=row,
            state_bytes=sizes.state,
            working_bytes=sizes.working,
            multiply_adds=sizes.multiply_adds,
        ),
    }, sizes


def write_program(checkpoint: Checkpoint, name: str, output: Path) -> None:
    """Writes the program's folder whole or not at all; replaces an earlier program.

    Raises:
        ConfigError: the program cannot run a model of this cell.
        DamagedFile: the tokenizer or the n-grams of `checkpoint` are damaged.
        FileError: the folder cannot be written, or `output` has files that are no program's.
    """
    files, _ = c_files(checkpoint)
    if output.exists():
        here = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
        if here - files.keys() - {BUILT}:
            raise FileError(f"{output} holds other files than an exported program: give another -o")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as room:
            made, old = Path(room, "new"), Path(room, "old")
            made.mkdir()
            for file, text in files.items():
                (made / file).write_text(text, "utf-8")
            try:
                if output.exists():
                    output.rename(old)
                made.rename(output)
            except BaseException:  # Ctrl-C between the two renames
                if old.exists() and not output.exists():
                    old.rename(output)
                raise
    except OSError as error:
        raise FileError(f"cannot write {output}: {error.strerror or error}") from error


class _Model:
    """Writes the constants of model.c and counts their bytes."""

    def __init__(
        self, arrangement: Arrangement, counts: tuple[NGramTree, MixtureWeights] | None
    ) -> None:
        self.arrangement, self.config = arrangement, arrangement.config
        self.counts = counts
        self.bytes = 0  # of all arrays that are written
        self.ngram_bytes = 0  # of the arrays of n-grams
        self.multiply_adds = 0
        config = self.config
        self.cell = for_cell(CELLS, config.cell, "the exported C program", "sample with charnn")
        self.rows = len(GATES[config.cell]) * config.hidden_size
        # The same sum as in charnn_scratch_bytes.
        widest = max(config.hidden_size, config.embedding_size)
        self.scratch_bytes = sum(
            -(-4 * n // 64) * 64 for n in (widest, self.rows, self.rows, 1, widest)
        ) + (8 * config.vocab_size if counts else 0)

    def lines(self, tokenizer: Tokenizer) -> Iterator[str]:
        """Yields the lines of model.c."""
        arrangement, config = self.arrangement, self.config
        yield '#include "model.h"'
        yield ""
        yield from self._bytes(tokenizer)
        # The input products of layer 0, one row per symbol, if they are smaller than its matrix.
        first = arrangement.layers[0].inputs
        with_table = 4 * config.vocab_size * self.rows <= first.weights.size
        yield from self._array("float", "embedding", arrangement.embedding)
        if with_table:
            product = Product(first)
            table = np.stack([product.of_normalised(x) for x in arrangement.embedding])
            yield from self._array("float", "table", table)
        layers = []
        for i, layer in enumerate(arrangement.layers):
            inputs = f"{{{self.rows}, {config.input_size(i)}, {config.input_size(i)}, 0, 0, 0, 0}}"
            if i or not with_table:
                inputs = yield from self._matrix(f"input{i}", layer.inputs)
            recurrent = yield from self._matrix(f"recurrent{i}", layer.recurrent)
            bias_hn = "0"
            if layer.bias_hn is not None:
                bias_hn = f"bias_hn{i}"
                yield from self._array("float", bias_hn, layer.bias_hn)
            layers.append(f"    {{{inputs}, {recurrent}, {bias_hn}, {int(layer.residual)}}},")
        head = yield from self._matrix("head", arrangement.head)
        before = self.bytes
        ngrams = yield from self._ngrams()
        self.ngram_bytes = self.bytes - before
        yield f"static const charnn_layer layers[{config.num_layers}] = {{"
        yield from layers
        yield "};"
        yield ""
        yield "const charnn_model model = {"
        yield f"    {self.cell}, VOCAB_SIZE, {config.embedding_size}, "
        yield f"    {config.hidden_size}, {config.num_layers}, embedding,"
        yield f"    {'table' if with_table else '0'}, layers, {head}, {ngrams}}};"

    def sizes(self) -> Sizes:
        """Returns the sizes; call it after `lines`."""
        config = self.config
        nodes = self.counts[0].order if self.counts else 0
        state = 4 * (config.num_layers * len(STATES[config.cell]) * config.hidden_size + nodes)
        working = state + 12 * config.vocab_size + self.scratch_bytes
        weights = self.bytes - self.ngram_bytes
        return Sizes(weights, self.ngram_bytes, state, working, self.multiply_adds)

    def _ngrams(self) -> Generator[str, None, str]:
        """Yields the constants of the n-grams; returns their address, "0" if there are none."""
        if not self.counts:
            return "0"
        tree, weights = self.counts
        numbers = []
        for name in ("symbols", "counts", "dropped"):
            values = getattr(tree, name)
            yield from self._array(f"uint{8 * values.itemsize}_t", f"ngram_{name}", values)
            numbers.append(f"{{ngram_{name}, {values.itemsize}}}")
        yield from self._array("int32_t", "ngram_first", tree.first.astype(np.int32))
        yield from self._array("double", "ngram_discounts", tree.discounts)
        yield "static const charnn_ngrams ngrams = {"
        yield f"    {tree.order}, {len(tree.children)},"
        yield f"    {weights.network:.17g}, {weights.ngrams:.17g}, {', '.join(numbers)},"
        yield "    ngram_first, ngram_discounts};"
        yield ""
        return "&ngrams"

    def _matrix(self, name: str, matrix: Matrix) -> Generator[str, None, str]:
        """Yields the constants of a matrix; returns its charnn_matrix initialiser."""
        rows, columns = matrix.weights.shape
        self.multiply_adds += rows * columns
        yield from self._array("int8_t", name, matrix.weights)
        assert matrix.scale is not None, "an int8 matrix has scales"
        yield from self._array("float", f"{name}_scale", matrix.scale)
        bias = "0"
        if matrix.bias is not None:
            bias = f"{name}_bias"
            yield from self._array("float", bias, matrix.bias)
        return f"{{{rows}, {columns}, {columns}, {name}, {name}_scale, 0, {bias}}}"

    def _array(self, kind: str, name: str, values: NDArray[np.generic]) -> Iterator[str]:
        if kind == "float" and not np.isfinite(values).all():
            raise FileError("the model's weights overflow in int8 arithmetic: export another model")
        self.bytes += values.nbytes
        flat = values.reshape(-1).tolist()
        words = map(WORDS.get(kind, str), flat)
        yield f"static const {kind} {name}[{values.size}] = {{"
        yield from _wrapped(words)
        yield "};"
        yield ""

    def _bytes(self, tokenizer: Tokenizer) -> Iterator[str]:
        joined = b"".join(tokenizer.token_bytes)
        starts = np.cumsum([0, *map(len, tokenizer.token_bytes)])
        self.bytes += len(joined) + 4 * starts.size
        yield f"const unsigned char token_bytes[{max(1, len(joined))}] = {{"
        yield from _wrapped(map(str, joined or b"\0"))
        yield "};"
        yield f"const uint32_t token_starts[{starts.size}] = {{"
        yield from _wrapped(map(str, starts.tolist()))
        yield "};"
        yield ""


def _header(checkpoint: Checkpoint, tokenizer: Tokenizer, sizes: Sizes, scratch: int) -> str:
    return f"""/* The model in model.c and the sizes of its memory. */
#ifndef CHARNN_MODEL_H
#define CHARNN_MODEL_H

#include "engine.h"

#define VOCAB_SIZE {checkpoint.config.vocab_size}
#define START_TOKEN {checkpoint.start_token}
#define TAKES_PROMPTS {int(tokenizer.spelling in ("characters", "bytes"))}
#define STATE_NUMBERS {sizes.state // 4}
#define SCRATCH_BYTES {scratch}
#define WEIGHT_BYTES {sizes.weights}
#define NGRAM_BYTES {sizes.ngrams}
#define MULTIPLY_ADDS {sizes.multiply_adds}

extern const charnn_model model;
extern const unsigned char token_bytes[];
extern const uint32_t token_starts[VOCAB_SIZE + 1];

#endif
"""


def _float(value: float) -> str:
    """A C literal that gives the same float32."""
    word = f"{value:.9g}"
    return f"{word}f" if "." in word or "e" in word else f"{word}.0f"


def _double(value: float) -> str:
    """A C literal that gives the same float64."""
    return f"{value:.17g}"


WORDS = {"float": _float, "double": _double}


def _wrapped(words: Iterable[str]) -> Iterator[str]:
    """Joins words with commas into lines of at most `LINE` characters."""
    line = ""
    for word in words:
        if len(line) + len(word) + 1 > LINE:
            yield line
            line = ""
        line += word + ","
    yield line


def _a_prompt(tokenizer: Tokenizer) -> str:
    """Returns a prompt that the model can read: its first ASCII letter, or nothing."""
    letters = (b.decode("ascii", "ignore") for b in tokenizer.token_bytes)
    return next((letter for letter in letters if len(letter) == 1 and letter.isalpha()), "")
