"""`charnn show`: what one model is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import print_json, put, visible
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption
from charnn.errors import DamagedFile

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.text.tokenizers import Tokenizer

PLOT_WIDTH, PLOT_HEIGHT = 60, 10


def show(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A run's name, its folder or a file. [default: the newest run's best]",
            show_default=False,
        ),
    ] = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
) -> None:
    """Say what a model is: shape, tokenizer, recipe, history, size, digest."""
    from charnn.checkpoint import load
    from charnn.generation.native import kernels
    from charnn.runs import find_model
    from charnn.text.tokenizers import tokenizer_from_dict

    there = kernels()
    path = find_model(model, checkpoints)
    saved = load(path)
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
        **saved.info,
    }
    if json:
        print_json(facts)
        return
    put(f"{path}")
    for line in _describe(saved, tokenizer, facts["bytes"]):
        put(f"  {line}")
    built = f"native, {there[0]}" if there else "numpy; the native engine was not built here"
    put(f"  engine: {built}")
    try:
        for line in _history(saved.info):
            put(f"  {line}")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile(f"{path} says of its history what charnn cannot read") from None


def _describe(saved: Checkpoint, tokenizer: Tokenizer, size: int) -> list[str]:
    shape = saved.config
    return [
        f"{shape.cell} {shape.num_layers}x{shape.hidden_size}, embedding {shape.embedding_size}, "
        f"dropout {shape.dropout:g}: {shape.parameters:,} parameters",
        f"{tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} symbols{_symbols(tokenizer)}",
        f"{size:,} bytes, digest {saved.digest[:16]}",
        *(["a model of lines: each begins from a fresh start"] if saved.lines else []),
    ]


def _history(info: dict[str, Any]) -> Iterator[str]:
    """How it was trained, how it scored, and the losses as a plot."""
    if origin := info.get("from"):
        yield f"fine-tuned from the model with digest {origin['digest'][:16]}"
    if recipe := info.get("recipe"):
        minutes = info["seconds"] / 60
        yield f"trained {info['step']:,} steps, {info['epoch']:.2f} passes, {minutes:.1f} minutes"
        yield "recipe: " + ", ".join(f"{key} {value}" for key, value in sorted(recipe.items()))
    for name, score in info.get("results", {}).items():
        loss = f"{score['nats_per_token']:.4f} nats/token over {score['targets']:,} targets"
        yield f"validation, {name.replace('_', '-')}: {loss}"
    key = "lines" if recipe and recipe.get("lines") else "cold_256"
    history = [h for h in info.get("history", []) if h[key] is not None]
    if len(history) > 1:
        yield f"validation loss ({key.replace('_', '-')}) over the steps:"
        yield from plot([h["step"] for h in history], [h[key] for h in history])


def _symbols(tokenizer: Tokenizer) -> str:
    if tokenizer.kind != "char" or tokenizer.vocab_size > 300:
        return ""
    return ": " + visible("".join(t.decode() for t in tokenizer.token_bytes)).replace(
        "\n", "\\n"
    ).replace("\t", "\\t")


def plot(xs: list[int], ys: list[float]) -> list[str]:
    """A curve in plain characters, with its highest and lowest value and its first and last x."""
    high, low = max(ys), min(ys)
    grid = [[" "] * PLOT_WIDTH for _ in range(PLOT_HEIGHT)]
    span_x, span_y = max(xs[-1] - xs[0], 1), max(high - low, 1e-9)
    for x, y in zip(xs, ys, strict=True):
        column = round((x - xs[0]) / span_x * (PLOT_WIDTH - 1))
        row = round((high - y) / span_y * (PLOT_HEIGHT - 1))
        grid[row][column] = "*"
    labels = [f"{high:8.4f}", *[" " * 8] * (PLOT_HEIGHT - 2), f"{low:8.4f}"]
    rows = [
        f"{label} |{''.join(cells).rstrip()}" for label, cells in zip(labels, grid, strict=True)
    ]
    last = f"{xs[-1]:,}"
    rows.append(" " * 9 + "+" + "-" * PLOT_WIDTH)
    rows.append(" " * 10 + f"{xs[0]:,}".ljust(PLOT_WIDTH - len(last)) + last)
    return rows
