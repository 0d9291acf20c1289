"""`charnn show`: the facts of one model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charnn.cli.console import print_json, put, visible
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption, ModelArgument
from charnn.cli.plot import columns_of, learning_curves
from charnn.errors import DamagedFile

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.text.tokenizers import Tokenizer

INDENT = 2


def show(
    model: ModelArgument = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
) -> None:
    """Print the facts of a model: shape, tokenizer, recipe, history, size, digest."""
    from charnn.bases import base_of
    from charnn.checkpoint import load
    from charnn.engines.compiled import kernels
    from charnn.runs import find_model
    from charnn.text.tokenizers import tokenizer_from_dict

    there = kernels()
    path = find_model(model, checkpoints)
    saved, shipped = load(path), base_of(path)
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    facts: dict[str, Any] = {
        "model": str(path),
        "bytes": path.stat().st_size,
        "digest": saved.digest,
        "shape": saved.config.to_dict(),
        "parameters": saved.config.parameters,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "training_state": saved.training is not None,
        "engine": {"name": "native" if there else "numpy", "kernel": there[0] if there else None},
        "lines": saved.lines,
        **saved.mixture_facts(),
        "base": shipped
        and {
            "name": shipped[0],
            "language": shipped[1].language,
            "read": shipped[1].read,
            "licence": shipped[1].licence,
        },
        **saved.info,
    }
    if json:
        print_json(facts)
        return
    put(f"{path}")
    if shipped:
        name, base = shipped
        put(f"  base {name!r}: {base.language}; read {base.read} ({base.licence}); docs/base.md")
    for line in _describe(saved, tokenizer, facts["bytes"]):
        put(f"  {line}")
    built = f"native, {there[0]}" if there else "numpy (the native engine was not built)"
    put(f"  engine: {built}")
    try:
        for line in _history(saved.info):
            put(f"{' ' * INDENT}{line}")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile(f"the history in {path} is damaged: charnn cannot read it") from None


def _describe(saved: Checkpoint, tokenizer: Tokenizer, size: int) -> list[str]:
    shape = saved.config
    return [
        f"{shape.cell} {shape.num_layers}x{shape.hidden_size}, embedding {shape.embedding_size}, "
        f"dropout {shape.dropout:g}: {shape.parameters:,} parameters",
        f"{tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} symbols{_symbols(tokenizer)}",
        f"{size:,} bytes, digest {saved.digest[:16]}",
        *([f"mixed with {saved.mixture}"] if saved.mixture else []),
        *(["a model of lines: each begins from the initial state"] if saved.lines else []),
    ]


def _history(info: dict[str, Any]) -> Iterator[str]:
    """Yields lines about the run, the scores, and the losses as a plot."""
    if origin := info.get("from"):
        known = f"the base {origin['name']!r}, " if "name" in origin else "the model with "
        yield f"fine-tuned from {known}digest {origin['digest'][:16]}"
    if recipe := info.get("recipe"):
        minutes = info["seconds"] / 60
        yield f"trained {info['step']:,} steps, {info['epoch']:.2f} passes, {minutes:.1f} minutes"
        yield "recipe: " + ", ".join(f"{key} {value}" for key, value in sorted(recipe.items()))
    for name, score in info.get("results", {}).items():
        loss = f"{score['nats_per_token']:.4f} nats/token over {score['targets']:,} targets"
        yield f"validation, {name.replace('_', '-')}: {loss}"
    yield from learning_curves(info, columns_of(sys.stdout) - INDENT)


def _symbols(tokenizer: Tokenizer) -> str:
    if not tokenizer.known or tokenizer.vocab_size > 300:
        return ""
    return ": " + visible("".join(tokenizer.known)).replace("\n", "\\n").replace("\t", "\\t")
