"""`charnn horizon`: the memory horizon of a network."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.cli.console import Stages, note, print_json, put, show_live
from charnn.cli.model import load_model, note_network_alone, read_text_for
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    ReadTextsArgument,
    ThreadsOption,
)
from charnn.cli.plot import columns_of, over_lags
from charnn.config import GATES, HORIZON_SAMPLES, MAX_SEED, TrainOptions
from charnn.config.settings import Config, choice, number, require, switch, whole
from charnn.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from charnn.inspection.horizon import Horizon
    from charnn.model import LanguageModel

CELLS_MINUTES = 0.5  # for each of the cells that are compared
FAINT = 0.01  # below this share of its norm at lag 1 a gradient teaches a network little
COMPARED_UNITS, COMPARED_EMBEDDING = 128, 64  # hidden and embedding size of --cells, one layer


@dataclass(frozen=True)
class HorizonOptions(Config):
    """Options of `charnn horizon` alone."""

    fresh: bool = switch("Measure an untrained network of the model's shape.")
    cells: tuple[str, ...] | None = choice(
        None,
        GATES,
        f"Train a small network of each cell on TEXT and compare them: {', '.join(GATES)}.",
        listed=True,
        metavar="CELL,CELL",
    )
    minutes: float | None = number(
        None, 0.01, 1, "With --cells: minutes of training for each cell.", shown=f"{CELLS_MINUTES}"
    )
    samples: int = whole(
        HORIZON_SAMPLES,
        8,
        100_000,
        "Positions of the text whose losses are averaged; the time grows with N.",
    )
    seed: int = whole(0, 0, MAX_SEED, "Seed that draws the samples.")
    table: bool = switch("Add the table of all measurements, and a plot of gradients.")

    def __post_init__(self) -> None:
        super().__post_init__()
        cells = self.cells or ()
        require(
            self.cells is not None or self.minutes is None,
            "--minutes is the budget of --cells: add --cells rnn,gru,lstm",
        )
        require(len({*cells}) == len(cells), f"--cells names a cell twice: {','.join(cells)}")
        require(
            not (cells and self.fresh),
            "--cells trains its own networks, so --fresh has no effect: leave it out",
        )


def horizon(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    options: HorizonOptions = HorizonOptions(),
    encoding: EncodingOption = "utf-8",
    threads: ThreadsOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
) -> None:
    """Measure how far back a network remembers, in four ways.

    \b
    charnn horizon                            the newest run
    charnn horizon --fresh                    the same shape before training
    charnn horizon --cells rnn,gru,lstm TEXT  three small new networks

    Norms that overflow 32 bits are shown as inf, and are null with --json.
    """
    if options.cells and model is not None:
        raise ConfigError("--cells trains its own networks: leave --model out")
    if options.cells and not texts:
        raise ConfigError("--cells trains on a text: add a TEXT")
    show_live("loading PyTorch")
    from charnn.training import machine

    with machine.prepared(threads or machine.default_threads()):
        from charnn.inspection.horizon import measure_horizon

        networks = (
            _train_cells(options, texts or [], encoding)
            if options.cells
            else iter([_load_network(model, checkpoints, texts or [], options.fresh, encoding)])
        )
        found: dict[str, Horizon] = {
            name: measure_horizon(
                network,
                ids,
                options.seed,
                options.samples,
                progress=Stages(),
                newline=newline,
            )
            for name, network, ids, newline in networks
        }
    if as_json:
        print_json({name: _to_json(each) for name, each in found.items()})
    else:
        for name, each in found.items():
            put(*_verdict(name, each))
        if options.cells:
            _show_side_by_side(found, options.table)
        else:
            (only,) = found.values()
            _show(only, options.table)
    for name, each in found.items():
        if each.too_far:
            lags = ", ".join(map(str, each.too_far))
            note(f"{name}: too little of the text reaches back as far as lag {lags}")


# A name, a network, the text it reads, and the newline of a model of lines.
Subject = tuple[str, "LanguageModel", "np.ndarray", int | None]


def _load_network(
    model: str | None, checkpoints: Path, texts: list[str], fresh: bool, encoding: str
) -> Subject:
    """Loads the network of a model, or makes a new one of its shape."""
    from charnn.evaluation import network_of
    from charnn.model import LanguageModel

    path, saved, tokenizer = load_model(model, checkpoints)
    note_network_alone(saved, "the horizon")
    if saved.lines:
        note("a model of lines: lags count tokens of a line, each context starts with a newline")
    ids = read_text_for(saved, tokenizer, path, texts, encoding=encoding).ids
    network = LanguageModel(saved.config) if fresh else network_of(saved)
    name = f"{path}, fresh" if fresh else str(path)
    return name, network, ids, saved.start_token if saved.lines else None


def _train_cells(asked: HorizonOptions, texts: list[str], encoding: str) -> Iterator[Subject]:
    """Trains a small network of each cell on the same text, in a temporary folder."""
    from charnn.text.token_file import TokenFile
    from charnn.training.launch import start

    minutes = asked.minutes or CELLS_MINUTES
    with tempfile.TemporaryDirectory() as folder:
        for cell in asked.cells or ():
            Stages()(f"training {cell} for {minutes:g} minutes")
            options = TrainOptions(
                name=cell,
                cell=cell,
                minutes=minutes,
                encoding=encoding,
                seed=asked.seed,
                num_layers=1,
                hidden_size=COMPARED_UNITS,
                embedding_size=COMPARED_EMBEDDING,
            )
            with start(texts, options, Path(folder)) as (trainer, _):
                for _event in trainer.run():
                    pass
                ids = TokenFile.open(trainer.home.tokens).split("valid")
                yield cell, trainer.network.cpu(), ids, None


def _verdict(name: str, found: Horizon) -> Iterator[str]:
    """Yields how far back a network looks, and how far back its gradient reaches, in sentences."""
    from charnn.inspection.horizon import WITHIN

    last = int(found.lags[-1])
    alone, ordered = map(found.context_length, (found.truncated, found.shuffled))
    far, come = (f"about {alone}", "come") if alone else (f"more than {last}", "do not come")
    yield (
        f"{name} looks back {far} tokens: the last {alone or last} alone {come} within {WITHIN} "
        f"nats/token of its loss with the full context, {found.whole:.4f}."
    )
    yield (
        f"The order of the text matters beyond {last} tokens, too."
        if ordered is None
        else f"Shuffling all text before the last {ordered} tokens costs at most {WITHIN} nats."
    )
    norms = _relative(found.gradient[0].tolist())
    if not all(map(math.isfinite, norms)):
        yield "The gradient overflows or is zero."
        return
    weak = next((lag for lag, norm in zip(found.lags, norms, strict=True) if norm < FAINT), None)
    yield (
        f"At lag {last} the gradient is still above {FAINT:.0%} of that at lag 1."
        if weak is None
        else f"At lag {weak} the gradient is below {FAINT:.0%} of that at lag 1."
    )


def _show(found: Horizon, table: bool) -> None:
    """Plots the losses over the lags; with `table` also all measurements and the gradients."""
    shown = range(len(found.gradient))
    if len(shown) > 4:
        shown = range(0, len(shown), len(shown) - 1)  # the first and the last layer
    losses = {"last k": found.truncated, "shuffled": found.shuffled, "cold": found.position_at_lags}
    lags, columns = found.lags.tolist(), columns_of(sys.stdout)
    if table:
        gradients = {f"grad {layer}": found.gradient[layer] for layer in shown}
        series = {**gradients, "singular": found.singular}
        put("", f"{found.places:,} samples, losses in nats per token")
        put(f"{'lag':>5}" + _row(series, "10") + _row(losses, "9"))
        for k, lag in enumerate(lags):
            norms = "".join(f"{values[k]:>10.2e}" for values in series.values())
            put(f"{lag:>5}{norms}" + "".join(f"{values[k]:>9.4f}" for values in losses.values()))
    put("", "loss after the last k tokens alone, and after all with the earlier ones shuffled")
    put(*over_lags(lags, {name: losses[name] for name in ("last k", "shuffled")}, columns=columns))
    if table:
        put("", "gradient of a loss by the state k tokens earlier")
        put(
            *over_lags(
                lags, {f"layer {layer}": found.gradient[layer] for layer in shown}, True, columns
            )
        )


def _row(names: Iterable[str], width: str) -> str:
    return "".join(f"{name:>{width}}" for name in names)


def _show_side_by_side(found: dict[str, Horizon], table: bool) -> None:
    lags = next(iter(found.values())).lags.tolist()
    reports: list[tuple[str, str, dict[str, Any]]] = [
        (
            "loss after the last k tokens alone, in nats per token",
            ".4f",
            {name: each.truncated for name, each in found.items()},
        ),
        (
            "gradient of a loss by the state k tokens earlier, relative to lag 1",
            ".2e",
            {name: _relative(each.gradient[0].tolist()) for name, each in found.items()},
        ),
        (
            "largest singular value of the state by the state k tokens earlier",
            ".2e",
            {name: each.singular for name, each in found.items()},
        ),
    ]
    for title, style, curves in reports if table else reports[:2]:
        put("", title)
        if table:
            put(f"{'lag':>5}" + _row(curves, "12"))
            for k, lag in enumerate(lags):
                put(f"{lag:>5}" + "".join(f"{ys[k]:>12{style}}" for ys in curves.values()))
        put(*over_lags(lags, curves, style == ".2e", columns_of(sys.stdout)))


def _relative(norms: list[float]) -> list[float]:
    return [norm / norms[0] if norms[0] else math.nan for norm in norms]


def _to_json(found: Horizon) -> dict[str, Any]:
    """Returns the measurements as JSON values, with null for what is not finite."""
    values = {**found._asdict(), "position_at_lags": found.position_at_lags}
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value if math.isfinite(value) else None
