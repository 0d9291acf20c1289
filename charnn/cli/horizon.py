"""`charnn horizon`: how far a network remembers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import no_talk, note, note_alone, print_json, progress_lines, put, say
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
from charnn.cli.plot import over_lags
from charnn.config import CELLS_MINUTES, GATES, HORIZON_SAMPLES, MAX_SEED, TrainOptions
from charnn.errors import ConfigError

if TYPE_CHECKING:
    from charnn.inspection.horizon import Horizon, Numbers, Progress

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

    A norm beyond what 32 bits hold, as of an exploding network, is inf here and null with --json.
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
    if not quiet:
        _tell_what_is_left_out(found)


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
    from charnn.checkpoint import load
    from charnn.cli.reading import read_ids
    from charnn.evaluation import network_of
    from charnn.inspection.horizon import measure_horizon
    from charnn.model import LanguageModel
    from charnn.text.tokenizers import tokenizer_from_dict

    saved = load(path)
    if progress:
        note_alone(saved, "the horizon")
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    ids = read_ids(texts, path, tokenizer, encoding, saved.lines)
    newline = saved.start_token if saved.lines else None
    network = LanguageModel(saved.config) if fresh else network_of(saved)
    name = f"{path}, fresh" if fresh else str(path)
    if newline is not None and progress:
        note(
            "a model of lines: each line is read from its beginning, and a context that is cut "
            "short or shuffled begins with a newline too"
        )
    return {name: measure_horizon(network, ids, seed, samples, progress=progress, newline=newline)}


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
    from charnn.inspection.horizon import measure_horizon
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


def _tell_what_is_left_out(found: dict[str, Horizon]) -> None:
    for name, each in found.items():
        if each.too_far:
            lags = ", ".join(map(str, each.too_far))
            note(f"{name}: too few places have so many tokens before them: lag {lags}")


def _show(name: str, found: Horizon) -> None:
    """A table of all four, the norms and losses as plots, and what they come to."""
    layers = len(found.gradient)
    put(f"{name}: {found.places:,} places, losses in nats a token")
    put("")
    shown = range(layers) if layers <= 4 else (0, layers - 1)
    norms = "".join(f"{f'grad {layer}':>10}" for layer in shown)
    put(f"{'lag':>5}{norms}{'singular':>10}{'last k':>9}{'shuffled':>9}{'cold':>8}")
    cold = found.position_at_lags
    for k, lag in enumerate(found.lags):
        norms = "".join(f"{found.gradient[layer, k]:>10.2e}" for layer in shown)
        put(
            f"{lag:>5}{norms}{found.singular[k]:>10.2e}{found.truncated[k]:>9.4f}"
            f"{found.shuffled[k]:>9.4f}{cold[k]:>8.4f}"
        )
    lags = found.lags.tolist()
    put("")
    put("loss over k: the last k tokens alone, or all with those beyond k shuffled")
    losses = {"last k": found.truncated.tolist(), "shuffled": found.shuffled.tolist()}
    for line in over_lags(lags, losses):
        put(line)
    put("")
    put("gradient of a loss by the state k tokens back")
    series = {f"layer {layer}": found.gradient[layer].tolist() for layer in shown}
    for line in over_lags(lags, series, logarithmic=True):
        put(line)
    put("")
    put(f"within 0.01 nats of all that there is to read, which gives {found.whole:.4f}:")
    alone, ordered = (_up_to(found, each) for each in (found.truncated, found.shuffled))
    put(f"the last {alone} alone, order within {ordered}")


def _up_to(found: Horizon, losses: Numbers) -> str:
    used = found.context_length(losses)
    return f"more than {found.lags[-1]}" if used is None else str(used)


def _show_side_by_side(found: dict[str, Horizon]) -> None:
    lags = next(iter(found.values())).lags.tolist()
    reports = {
        "loss after the last k tokens alone, in nats a token": (
            {name: each.truncated.tolist() for name, each in found.items()},
            False,
        ),
        "gradient of a loss by the state k tokens back, of that of one back": (
            {name: _by_first(each.gradient[0]) for name, each in found.items()},
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
        for line in over_lags(lags, series, logarithmic):
            put(line)


def _by_first(norms: Numbers) -> list[float]:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        return [float(norm) for norm in norms / norms[0]]


def _to_json(found: Horizon) -> dict[str, Any]:
    """As JSON, in which there is null for what is not finite."""
    return {
        "lags": found.lags.tolist(),
        "too_far": list(found.too_far),
        "places": found.places,
        "gradient": _finite(found.gradient.tolist()),
        "singular": _finite(found.singular.tolist()),
        "whole": _finite(found.whole),
        "truncated": _finite(found.truncated.tolist()),
        "shuffled": _finite(found.shuffled.tolist()),
        "position_at_lags": _finite(found.position_at_lags.tolist()),
        "by_position": _finite(found.by_position.tolist()),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if math.isfinite(value) else None
