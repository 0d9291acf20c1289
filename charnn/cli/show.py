"""`charnn show`: what one model is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from charnn.cli.console import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    JsonOption,
    print_json,
    put,
    visible,
)

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
    from charnn.runs import find_model
    from charnn.text.tokenizers import tokenizer_from_dict

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
        **saved.info,
    }
    if json:
        print_json(facts)
        return
    shape, info = saved.config, saved.info
    put(f"{path}")
    put(
        f"  {shape.cell} {shape.num_layers}x{shape.hidden_size}, embedding {shape.embedding_size}, "
        f"dropout {shape.dropout:g}: {shape.parameters:,} parameters"
    )
    put(f"  {tokenizer.kind} tokenizer, {tokenizer.vocab_size:,} symbols{_symbols(tokenizer)}")
    put(f"  {facts['bytes']:,} bytes, digest {saved.digest[:16]}")
    if recipe := info.get("recipe"):
        put(
            f"  trained {info.get('step', 0):,} steps, {info.get('epoch', 0):.2f} passes, "
            f"{info.get('seconds', 0) / 60:.1f} minutes"
        )
        put("  recipe: " + ", ".join(f"{key} {value}" for key, value in sorted(recipe.items())))
    for name, score in (info.get("results") or {}).items():
        loss = f"{score['nats_per_token']:.4f} nats/token over {score['targets']:,} targets"
        put(f"  validation, {name.replace('_', '-')}: {loss}")
    history = [h for h in info.get("history", []) if h.get("cold_256") is not None]
    if len(history) > 1:
        put("  validation loss (cold-256) over the steps:")
        for row in plot([h["step"] for h in history], [h["cold_256"] for h in history]):
            put(f"  {row}")


def _symbols(tokenizer: Any) -> str:
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
