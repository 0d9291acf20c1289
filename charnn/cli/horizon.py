"""`charnn horizon`: how far a network remembers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import no_talk, print_json, progress_lines, put, say
from charnn.cli.lag_plot import curves
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    QuietOption,
    ReadTextsArgument,
    ThreadsOption,
)
from charnn.config import CELLS_MINUTES, GATES, HORIZON_SAMPLES, MAX_SEED, TrainOptions
from charnn.errors import ConfigError

if TYPE_CHECKING:
    from charnn.analysis.horizon import Horizon, Progress

MOST_MINUTES = 1.0
COMPARED_UNITS, COMPARED_EMBEDDING = 128, 64  # of one layer


def horizon(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure a network of that shape before any training.")
    ] = False,
    cells: Annotated[
        str | None,
        typer.Option(
            "--cells",
            metavar="CELLS",
            help=f"Train a small network of each on TEXT, {', '.join(GATES)} or some of them with "
            "commas, and lay their curves over each other.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="X",
            min=0.01,
            max=MOST_MINUTES,
            help=f"With --cells: minutes of training for each. [default: {CELLS_MINUTES}]",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="N",
            min=8,
            max=100_000,
            help="Places of the text whose losses are averaged; time grows with it.",
        ),
    ] = HORIZON_SAMPLES,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=MAX_SEED, help="Which places.")
    ] = 0,
    encoding: EncodingOption = "utf-8",
    threads: ThreadsOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how far a network remembers, in four ways.

    \b
    charnn horizon                             the newest run on its validation split
    charnn horizon --fresh                     the same shape before training
    charnn horizon --cells rnn,gru,lstm TEXT   three small networks, side by side
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be 1 or more, got {threads}")
    if cells is None and minutes is not None:
        raise ConfigError("--minutes is the training of --cells: add --cells rnn,gru,lstm")
    chosen = [name.strip() for name in cells.split(",")] if cells is not None else []
    if bad := [name for name in chosen if name not in GATES]:
        raise ConfigError(f"unknown cell {bad[0]!r}: choose from {', '.join(GATES)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"--cells has one of them twice: {cells}")
    if chosen and (model is not None or fresh):
        raise ConfigError("--cells trains networks of its own: leave --model and --fresh out")
    if chosen and not texts:
        raise ConfigError("--cells learns from a text: name a TEXT")

    from charnn.runs import find_model
    from charnn.training import machine  # before what loads torch

    progress = None if quiet else _Progress()
    with machine.prepared(threads or machine.default_threads()):
        if chosen:
            found = _of_cells(
                chosen, texts or [], minutes or CELLS_MINUTES, encoding, samples, seed, progress
            )
        else:
            path = find_model(model, checkpoints)
            found = _of_model(path, texts or [], fresh, encoding, samples, seed, progress)
    if as_json:
        print_json({name: _to_json(each) for name, each in found.items()})
    elif chosen:
        _show_side_by_side(found)
    else:
        for name, each in found.items():
            _show(name, each)


class _Progress:
    """A line now and then for each thing that is measured."""

    def __init__(self) -> None:
        self._lines: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._lines:
            self._lines[what] = progress_lines(what)
        self._lines[what](done, total)


def _of_model(
    path: Path,
    texts: list[str],
    fresh: bool,
    encoding: str,
    samples: int,
    seed: int,
    progress: Progress | None,
) -> dict[str, Horizon]:
    from charnn.analysis.horizon import measure_horizon
    from charnn.checkpoint import load
    from charnn.cli.reading import read_ids
    from charnn.evaluation import network_of
    from charnn.model import LanguageModel
    from charnn.text.tokenizers import tokenizer_from_dict

    saved = load(path)
    if saved.lines:
        raise ConfigError("a model of lines remembers nothing from line to line: name another one")
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    ids = read_ids(texts, path, tokenizer, encoding)
    network = LanguageModel(saved.config) if fresh else network_of(saved)
    name = f"{path}, fresh" if fresh else str(path)
    return {name: measure_horizon(network, ids, seed, samples, progress=progress)}


def _of_cells(
    cells: Sequence[str],
    texts: list[str],
    minutes: float,
    encoding: str,
    samples: int,
    seed: int,
    progress: Progress | None,
) -> dict[str, Horizon]:
    """Small networks of each cell, trained on the same text in a folder that is thrown away."""
    from charnn.analysis.horizon import measure_horizon
    from charnn.text.token_file import TokenFile
    from charnn.training.launch import start

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells:
            (say if progress else no_talk)(f"training {cell} for {minutes:g} minutes")
            options = TrainOptions(
                name=cell,
                cell=cell,
                minutes=minutes,
                encoding=encoding,
                seed=seed,
                num_layers=1,
                hidden_size=COMPARED_UNITS,
                embedding_size=COMPARED_EMBEDDING,
            )
            with start(texts, options, Path(folder)) as (trainer, _):
                for _event in trainer.run():
                    pass
                ids = TokenFile.open(trainer.home.tokens).split("valid")
                found[cell] = measure_horizon(
                    trainer.network.cpu(), ids, seed, samples, progress=progress
                )
    return found


def _show(name: str, found: Horizon) -> None:
    """A table of all four, the norms and losses as plots, and what they come to."""
    layers = len(found.gradient)
    put(f"{name}: {len(found.truncated):,} places, losses in nats a token")
    put("")
    shown = range(layers) if layers <= 4 else (0, layers - 1)
    norms = "".join(f"{f'grad {layer}':>10}" for layer in shown)
    put(f"{'lag':>5}{norms}{'singular':>10}{'last k':>9}{'shuffled':>9}{'cold':>8}")
    truncated, shuffled = found.truncated.mean(axis=0), found.shuffled.mean(axis=0)
    cold = found.position_at_lags
    for k, lag in enumerate(found.lags):
        norms = "".join(f"{found.gradient[layer, k]:>10.2e}" for layer in shown)
        put(
            f"{lag:>5}{norms}{found.singular[k]:>10.2e}{truncated[k]:>9.4f}{shuffled[k]:>9.4f}"
            f"{cold[k]:>8.4f}"
        )
    lags = found.lags.tolist()
    put("")
    put("loss over k: the last k tokens alone, or all with those beyond k shuffled")
    for line in curves(lags, {"last k": truncated.tolist(), "shuffled": shuffled.tolist()}):
        put(line)
    put("")
    put("gradient of a loss by the state k tokens back")
    series = {f"layer {layer}": found.gradient[layer].tolist() for layer in shown}
    for line in curves(lags, series, logarithmic=True):
        put(line)
    put("")
    put(f"within 0.01 nats of the longest context, {lags[-1]} tokens:")
    put(f"the last {found.used(truncated)} alone, order within {found.used(shuffled)}")


def _show_side_by_side(found: dict[str, Horizon]) -> None:
    lags = next(iter(found.values())).lags.tolist()
    reports = {
        "loss after the last k tokens alone, in nats a token": (
            {name: each.truncated.mean(axis=0).tolist() for name, each in found.items()},
            False,
        ),
        "gradient of a loss by the state k tokens back, of that of one back": (
            {name: (e.gradient[0] / e.gradient[0, 0]).tolist() for name, e in found.items()},
            True,
        ),
        "largest singular value of the state by the state k tokens back": (
            {name: each.singular.tolist() for name, each in found.items()},
            True,
        ),
    }
    for number, (title, (series, logarithmic)) in enumerate(reports.items()):
        if number:
            put("")
        put(title)
        put(f"{'lag':>5}" + "".join(f"{name:>12}" for name in series))
        for k, lag in enumerate(lags):
            style = ".2e" if logarithmic else ".4f"
            put(f"{lag:>5}" + "".join(f"{format(ys[k], style):>12}" for ys in series.values()))
        for line in curves(lags, series, logarithmic):
            put(line)


def _to_json(found: Horizon) -> dict[str, Any]:
    return {
        "lags": found.lags.tolist(),
        "places": len(found.truncated),
        "gradient": found.gradient.tolist(),
        "singular": found.singular.tolist(),
        "truncated": found.truncated.mean(axis=0).tolist(),
        "shuffled": found.shuffled.mean(axis=0).tolist(),
        "position_at_lags": found.position_at_lags.tolist(),
        "by_position": found.by_position.tolist(),
    }
