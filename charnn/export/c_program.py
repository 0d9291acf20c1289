"""A model as a folder of C files that any C99 compiler turns into a program.

The int8 weights, and the n-grams of a model that has some, are constants in model.c; engine.c is
the engine that charnn itself runs.

Shapes: V symbols, E features of a symbol, H units, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.checkpoint import Checkpoint
from charnn.config import GATES, STATES, for_cell
from charnn.engines.int8 import Product
from charnn.engines.weights import Arrangement, Matrix, arrange, quantise
from charnn.errors import FileError
from charnn.export.folder import exported_folder
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
    scratch: int
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
    model = _ModelSource(arrangement, tokenizer, counts)
    sizes = model.sizes
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
        "model.h": _header(checkpoint, tokenizer, sizes),
        "model.c": "".join(f"{line}\n" for line in model.lines),
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
        CharnnError: see `c_files`.
        FileError: the folder cannot be written, or `output` has files that are no program's.
    """
    files, _ = c_files(checkpoint)
    with exported_folder(output, {*files, BUILT}, "an exported program") as folder:
        for file, text in files.items():
            (folder / file).write_text(text, "utf-8", newline="\n")


class _ModelSource:
    """The lines of model.c and the program's sizes."""

    def __init__(
        self,
        arrangement: Arrangement,
        tokenizer: Tokenizer,
        counts: tuple[NGramTree, MixtureWeights] | None,
    ) -> None:
        config = arrangement.config
        cell = for_cell(CELLS, config.cell, "the exported C program", "sample with charnn")
        rows, width = len(GATES[config.cell]) * config.hidden_size, config.embedding_size
        self.lines = ['#include "model.h"', ""]
        self._bytes = self._multiply_adds = 0
        joined = b"".join(tokenizer.token_bytes)
        starts = np.cumsum([0, *map(len, tokenizer.token_bytes)])
        self._bytes += len(joined) + 4 * starts.size
        self._constant(f"const unsigned char token_bytes[{max(1, len(joined))}]", joined or b"\0")
        self._constant(f"const uint32_t token_starts[{starts.size}]", starts.tolist())
        self.lines.append("")
        self._array("embedding", arrangement.embedding)
        first, table = arrangement.layers[0].inputs, "0"
        # The input products of layer 0, one row per symbol, if they are smaller than its matrix.
        if 4 * config.vocab_size * rows <= first.weights.size:
            product = Product(first)
            products = [product.of_normalised(x) for x in arrangement.embedding]
            table = self._array("table", np.stack(products))
        layers = []
        for i, layer in enumerate(arrangement.layers):
            inputs = f"{{{rows}, {width}, {width}, 0, 0, 0, 0}}"
            if i or table == "0":
                inputs = self._matrix(f"input{i}", layer.inputs)
            recurrent = self._matrix(f"recurrent{i}", layer.recurrent)
            bias_hn = self._array(f"bias_hn{i}", layer.bias_hn)
            layers.append(f"    {{{inputs}, {recurrent}, {bias_hn}, {int(layer.residual)}}},")
        head = self._matrix("head", arrangement.head)
        weights = self._bytes
        ngrams = self._ngrams(*counts) if counts else "0"
        self.lines += [
            f"static const charnn_layer layers[{config.num_layers}] = {{",
            *layers,
            "};",
            "",
            "const charnn_model model = {",
            f"    {cell}, VOCAB_SIZE, {width}, ",
            f"    {config.hidden_size}, {config.num_layers}, embedding,",
            f"    {table}, layers, {head}, {ngrams}}};",
        ]
        # The same sum as in charnn_scratch_bytes.
        widest = max(config.hidden_size, width)
        scratch = sum(-(-4 * n // 64) * 64 for n in (widest, rows, rows, 1, widest))
        scratch += 8 * config.vocab_size if counts else 0
        nodes = counts[0].order if counts else 0
        state = 4 * (config.num_layers * len(STATES[config.cell]) * config.hidden_size + nodes)
        self.sizes = Sizes(
            weights,
            self._bytes - weights,
            state,
            scratch,
            state + 12 * config.vocab_size + scratch,
            self._multiply_adds,
        )

    def _ngrams(self, tree: NGramTree, weights: MixtureWeights) -> str:
        """Adds the constants of the n-grams; returns their address."""
        numbers = []
        for name in ("symbols", "counts", "dropped"):
            values = getattr(tree, name)
            numbers.append(f"{{{self._array(f'ngram_{name}', values)}, {values.itemsize}}}")
        self._array("ngram_first", tree.first.astype(np.int32))
        self._array("ngram_discounts", tree.discounts)
        self.lines += [
            "static const charnn_ngrams ngrams = {",
            f"    {tree.order}, {len(tree.children)},",
            f"    {weights.network:.17g}, {weights.ngrams:.17g}, {', '.join(numbers)},",
            "    ngram_first, ngram_discounts};",
            "",
        ]
        return "&ngrams"

    def _matrix(self, name: str, matrix: Matrix) -> str:
        """Adds the constants of a matrix; returns its charnn_matrix initialiser."""
        rows, columns = matrix.weights.shape
        self._multiply_adds += rows * columns
        weights = self._array(name, matrix.weights)
        scale = self._array(f"{name}_scale", matrix.scale)
        bias = self._array(f"{name}_bias", matrix.bias)
        return f"{{{rows}, {columns}, {columns}, {weights}, {scale}, 0, {bias}}}"

    def _array(self, name: str, values: NDArray[Any] | None) -> str:
        """Adds an array; returns its name, "0" for None."""
        if values is None:
            return "0"
        if values.dtype == np.float32 and not np.isfinite(values).all():
            raise FileError("the model's weights overflow in int8 arithmetic: export another model")
        self._bytes += values.nbytes
        kind, word = C_TYPES.get(values.dtype.name, (f"{values.dtype.name}_t", str))
        words = map(word, values.reshape(-1).tolist())
        self._constant(f"static const {kind} {name}[{values.size}]", words)
        self.lines.append("")
        return name

    def _constant(self, declaration: str, words: Iterable[object]) -> None:
        """Adds an array of `words`, in lines of at most `LINE` characters."""
        self.lines.append(f"{declaration} = {{")
        line = ""
        for word in map(str, words):
            if len(line) + len(word) + 1 > LINE:
                self.lines.append(line)
                line = ""
            line += f"{word},"
        self.lines += [line, "};"]


def _header(checkpoint: Checkpoint, tokenizer: Tokenizer, sizes: Sizes) -> str:
    return f"""/* The model in model.c and the sizes of its memory. */
#ifndef CHARNN_MODEL_H
#define CHARNN_MODEL_H

#include "engine.h"

#define VOCAB_SIZE {checkpoint.config.vocab_size}
#define START_TOKENS {{{", ".join(map(str, checkpoint.start))}}}
#define TAKES_PROMPTS {int(tokenizer.spelling in ("characters", "bytes"))}
#define STATE_NUMBERS {sizes.state // 4}
#define SCRATCH_BYTES {sizes.scratch}
#define WEIGHT_BYTES {sizes.weights}
#define NGRAM_BYTES {sizes.ngrams}
#define MULTIPLY_ADDS {sizes.multiply_adds}

extern const charnn_model model;
extern const unsigned char token_bytes[];
extern const uint32_t token_starts[VOCAB_SIZE + 1];

#endif
"""


def _float(value: float) -> str:
    """Returns a C literal that gives the same float32."""
    word = f"{value:.9g}"
    return f"{word}f" if "." in word or "e" in word else f"{word}.0f"


C_TYPES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "float32": ("float", _float),
    "float64": ("double", "{:.17g}".format),
}


def _a_prompt(tokenizer: Tokenizer) -> str:
    """Returns a prompt that the model can read: its first ASCII letter, or nothing."""
    letters = (b.decode("ascii", "ignore") for b in tokenizer.token_bytes)
    return next((letter for letter in letters if len(letter) == 1 and letter.isalpha()), "")
