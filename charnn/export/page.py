"""A model as one offline HTML page: the model, an engine in JavaScript and the controls.

The page requests nothing from any network. Its Content-Security-Policy allows only its own two
scripts and its style sheet, by their hashes. Strings of a model, its name included, are inserted as
escaped text, or as JSON in which no character can end the script element.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from charnn.checkpoint import Checkpoint
from charnn.config import ACTIVITY_STEPS, MAX_SEED, SURPRISAL_BITS, SamplingConfig, for_cell
from charnn.engines.weights import Matrix, arrange, quantise
from charnn.errors import CharnnError
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree, tree_and_weights
from charnn.pages import plain_name, read, render, source_hash, style_sheet
from charnn.pages.records import card_rows
from charnn.tensor_file import replacing
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict

# Browsers hold no string above half a gigabyte, and are slow long before.
MAX_PAGE_BYTES = 256 << 20
CELLS = {"rnn": "rnn", "gru": "gru", "lstm": "lstm"}  # the names of cells in engine.js


def write_page(checkpoint: Checkpoint, name: str, output: Path) -> None:
    """Writes the page of `make_page` to `output`, whole or not at all; raises CharnnError."""
    text = make_page(checkpoint, name).encode()
    with replacing(output) as file:
        file.write(text)


def make_page(checkpoint: Checkpoint, name: str) -> str:
    """Returns the page of a model with the title `name`.

    Raises:
        CharnnError: the model is too large for a page, its weights overflow, or the page lacks its
            cell or tokenizer.
        DamagedFile: its tokenizer or its n-grams are damaged.
    """
    config = checkpoint.config
    counts = tree_and_weights(checkpoint.ngrams, config.vocab_size)
    vectors = config.vocab_size * config.embedding_size
    counted = sum(array.nbytes for array in counts[0].arrays.values()) if counts else 0
    size = (config.parameters + 3 * vectors + counted) * 4 // 3
    if size > MAX_PAGE_BYTES:
        raise CharnnError(
            f"the page would have {size >> 20:,} MiB, and browsers open at most "
            f"{MAX_PAGE_BYTES >> 20}: export a smaller model, or use --to c"
        )
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer, config.vocab_size)
    title = plain_name(name)
    data = {
        "name": title,
        "network": network_data(checkpoint),
        "ngrams": None if counts is None else ngrams_data(*counts),
        "tokenizer": tokenizer_data(tokenizer),
        "start": checkpoint.start,
        "facts": facts(checkpoint, tokenizer),
        "steps": {"surprisal": SURPRISAL_BITS, "unit": ACTIVITY_STEPS},
    }
    style = style_sheet(read("charnn.pages", "page.css"))
    engine, page = read("charnn.export", "engine.js"), read("charnn.export", "page.js")
    values = {
        "title": title,
        "policy": f"default-src 'none'; img-src data:; style-src {source_hash(style)}; "
        f"script-src {source_hash(engine)} {source_hash(page)}; base-uri 'none'; "
        "form-action 'none'",
        "style": style,
        "data": to_script_json(data),
        "engine": engine,
        "page": page,
        "temperature": f"{SamplingConfig.temperature:g}",
        "top_p": f"{SamplingConfig.top_p:g}",
        "max_seed": str(MAX_SEED),
    }
    return render(read("charnn.export", "page.html"), values)


def to_script_json(data: Any) -> str:
    """Returns ASCII JSON that can neither end a script element nor begin another one."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def network_data(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the int8 network: shapes, and arrays as base64 of little-endian numbers.

    Raises:
        CharnnError: the weights overflow, or the page cannot run the cell.
    """
    config = checkpoint.config
    arranged = arrange(config, checkpoint.weights)
    matrices = [m for layer in arranged.layers for m in (layer.inputs, layer.recurrent)]
    arrays = [a for m in (*matrices, arranged.head) for a in (m.weights, m.bias) if a is not None]
    if not all(np.isfinite(array).all() for array in (*arrays, arranged.embedding)):
        raise CharnnError("the model's weights overflow in int8 arithmetic: export another model")
    model = quantise(arranged)
    return {
        "cell": for_cell(CELLS, config.cell, "the exported page", "sample with charnn"),
        "vocab_size": config.vocab_size,
        "embedding_size": config.embedding_size,
        "hidden_size": config.hidden_size,
        "embedding": _base64(model.embedding),
        "layers": [
            {
                "inputs": _matrix(layer.inputs),
                "recurrent": _matrix(layer.recurrent),
                "bias_hn": None if layer.bias_hn is None else _base64(layer.bias_hn),
                "residual": layer.residual,
            }
            for layer in model.layers
        ],
        "head": _matrix(model.head),
    }


def ngrams_data(tree: NGramTree, weights: MixtureWeights) -> dict[str, Any]:
    """Returns the n-grams: order, weights, and arrays as base64 with the bytes of a number."""
    arrays = tree.arrays
    return {
        "order": tree.order,
        "weights": weights._asdict(),
        "discounts": tree.discounts.tolist(),
        **{
            name: {"bytes": array.itemsize, "numbers": _base64(array)}
            for name, array in arrays.items()
        },
    }


def tokenizer_data(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the bytes of each id as Latin-1 strings, and how the page encodes prompts.

    Raises:
        CharnnError: the page has no rule for the prompts of this tokenizer.
    """
    if tokenizer.spelling is None:
        raise CharnnError(
            f"a page cannot encode prompts for the {tokenizer.kind} tokenizer: export with --to c, "
            "or write with 'charnn sample'"
        )
    return {
        "units": tokenizer.units,
        "spelling": tokenizer.spelling,
        "tokens": [data.decode("latin-1") for data in tokenizer.token_bytes],
        "scores": tokenizer.merge_scores(),
    }


def facts(checkpoint: Checkpoint, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Returns facts about the model as (name, value), without paths or implausible values."""
    config = checkpoint.config
    listed = card_rows(config, tokenizer.units, checkpoint.info)
    numbers = config.parameters + 3 * config.vocab_size * config.embedding_size
    listed.append(("Weights", f"{numbers / 1e6:,.1f} MB, int8"))
    if ngrams := checkpoint.mixture_facts()["ngrams"]:
        listed.append(("N-grams", f"{ngrams['count']:,}, up to {ngrams['order']} long"))
    return listed


def _matrix(matrix: Matrix) -> dict[str, Any]:
    assert matrix.scale is not None, "an int8 matrix has scales"
    rows, columns = matrix.weights.shape
    return {
        "rows": rows,
        "columns": columns,
        "weights": _base64(matrix.weights),
        "scale": _base64(matrix.scale),
        "bias": None if matrix.bias is None else _base64(matrix.bias),
    }


def _base64(array: np.ndarray[Any, Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode("ascii")
