"""`charnn show`: the facts of one model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.cli.console import print_json, put, visible, warn
from charnn.cli.model import load_model
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption, ModelArgument
from charnn.cli.plot import columns_of, learning_curves
from charnn.errors import DamagedFile

if TYPE_CHECKING:
    from charnn.text.tokenizers import Tokenizer


def show(
    model: ModelArgument = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
) -> None:
    """Print the facts of a model: shape, recipe, losses, digest.

    \b
    charnn show
    charnn show book --json
    """
    from charnn.bases import base_of
    from charnn.engines.compiled import kernels

    kernel = next(iter(kernels()), None)
    path, saved, tokenizer = load_model(model, checkpoints)
    name, base = base_of(path) or ("", None)
    facts: dict[str, Any] = {
        **saved.info,  # first: what a file says of itself replaces nothing that is measured
        "model": str(path),
        "bytes": path.stat().st_size,
        "digest": saved.digest,
        "shape": saved.config.to_dict(),
        "parameters": saved.config.parameters,
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size},
        "training_state": saved.training is not None,
        "engine": {"name": "native" if kernel else "numpy", "kernel": kernel},
        "lines": saved.lines,
        **saved.mixture_facts(),
        "base": base
        and {"name": name, "language": base.language, "read": base.read, "licence": base.licence},
    }
    if json:
        print_json(facts)
        return
    shape = saved.config
    put(f"{path}")
    if base:
        put(f"  base {name!r}: {base.language}; trained on {base.read} ({base.licence})")
    put(
        f"  {shape.cell} {shape.num_layers}x{shape.hidden_size}, embedding {shape.embedding_size}, "
        f"dropout {shape.dropout:g}: {shape.parameters:,} parameters"
    )
    put(f"  {tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} symbols{_symbols(tokenizer)}")
    put(f"  {facts['bytes']:,} bytes, digest {saved.digest[:16]}")
    if saved.mixture:
        put(f"  mixed with {saved.mixture}")
    for caution in saved.mixture_cautions:
        warn(caution)
    if saved.lines:
        put("  trained with --lines: each line begins from the initial state")
    built = f"native, {kernel}" if kernel else "numpy (the native engine was not built)"
    put(f"  engine: {built}")
    try:
        for line in _history(saved.info, path.with_name("metrics.jsonl")):
            put(f"  {line}")
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise DamagedFile(f"the history in {path} is damaged: charnn cannot read it") from None


def _history(info: dict[str, Any], metrics: Path) -> Iterator[str]:
    """Yields lines about the run, the scores, and the losses as a plot."""
    if origin := info.get("from"):
        known = f"the base {origin['name']!r}, " if "name" in origin else "the model with "
        yield f"fine-tuned from {known}digest {origin['digest'][:16]}"
    if recipe := info.get("recipe"):
        minutes = info["seconds"] / 60
        yield f"trained {info['step']:,} steps, {info['epoch']:.2f} passes, {minutes:.1f} minutes"
        yield "recipe: " + ", ".join(
            f"{key} {_short(value)}" for key, value in sorted(recipe.items())
        )
    for name, score in info.get("results", {}).items():
        loss = f"{score['nats_per_token']:.4f} nats/token over {score['targets']:,} targets"
        yield f"validation, {name.replace('_', '-')}: {loss}"
    yield from learning_curves(info, columns_of(sys.stdout) - 2, metrics)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def _symbols(tokenizer: Tokenizer) -> str:
    if not tokenizer.known or tokenizer.vocab_size > 300:
        return ""
    return ": " + visible("".join(tokenizer.known)).replace("\n", "\\n").replace("\t", "\\t")
