"""The charts of a report, each with a caption that gives its numbers in words."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from charnn.inspection.units import GATE_NAMES, HIGH, LOW
from charnn.pages import records
from charnn.pages.charts import Bar, Series, bar_chart, line_chart
from charnn.report.facts import Facts

MAX_LAYERS = 8  # layers in the chart of gates


class Figure(NamedTuple):
    """A chart as SVG, "" if there is nothing to draw, and its caption."""

    svg: str
    caption: str


def learning_curves(facts: Facts) -> Figure:
    """Draws training and validation loss over the steps."""
    protocol = "lines" if facts.model.lines else "cold_256"
    series = records.losses(facts.model.info, protocol, facts.steps)
    ends = "; ".join(
        f"{name} from {points[0][1]:.4f} at step {points[0][0]:,.0f} to {points[-1][1]:.4f} at "
        f"step {points[-1][0]:,.0f}"
        for name, points, _ in series
    )
    measured = "each line from the initial state" if facts.model.lines else "cold-256"
    since = "of the steps" if facts.steps else "since the previous evaluation"
    alone = " Both are of the network alone." if facts.model.mixture else ""
    return Figure(
        line_chart(
            "curves", "Loss over the steps", f"{ends}.", series, "step", "loss, nats a token"
        ),
        f"In nats a token: {ends}. A training loss is the mean {since}, with dropout; a validation "
        f"loss is measured without dropout ({measured}).{alone}",
    )


def loss_by_position(facts: Facts) -> Figure:
    """Draws the loss by position after the initial state."""
    assert facts.scores is not None, "else the section is left out"
    found = facts.scores.positions
    points = _pairs(found.positions, found.bits)
    values = ", ".join(f"{bits:.3f} at {position}" for position, bits in points)
    axis, averaged = "position in the window", f"{found.windows:,} windows"
    if facts.model.lines:
        axis, averaged = "position in the line", f"those of {found.windows:,} lines that reach it"
    return Figure(
        line_chart(
            "positions",
            f"Loss by {axis}",
            f"Bits a token: {values}.",
            [Series("loss", points)],
            f"{axis}, in tokens",
            "bits a token",
            log_x=True,
        ),
        f"Bits a token by {axis}, the mean of {averaged}: {values}.",
    )


def gate_saturation(facts: Facts) -> Figure | None:
    """Draws the share of time that gates are shut and open; None for a cell without gates."""
    assert facts.inside is not None, "else the section is left out"
    found = facts.inside.gates
    if found is None:
        return None
    bars = []
    low, high = found.low.mean(axis=2), found.high.mean(axis=2)
    for layer in range(min(len(low), MAX_LAYERS)):
        for at, gate in enumerate(found.gates):
            shut, opened = float(low[layer, at]), float(high[layer, at])
            parts = [(shut, 0), (max(0.0, 1 - shut - opened), 3), (opened, 1)]
            name = f"layer {layer}, {GATE_NAMES[gate]}"
            bars.append(Bar(name, parts, f"{shut:.0%} shut, {opened:.0%} open"))
    values = "; ".join(f"{bar.name}: {bar.value}" for bar in bars)
    caption = (
        f"The share of time, over {facts.inside.tokens:,} tokens and all units of a layer, that a "
        f"gate is shut (below {LOW:g}, left), between, and open (above {HIGH:g}, right)."
    )
    if len(low) > MAX_LAYERS:
        caption += f" Only the first {MAX_LAYERS} layers are drawn."
    return Figure(
        bar_chart("gates", "Share of time gates are shut and open", values, bars, 1), caption
    )


def loss_by_context(facts: Facts) -> Figure:
    """Draws the loss by the number of tokens that the network sees."""
    found = facts.memory
    assert found is not None, "else the section is left out"
    by_lag = partial(_pairs, found.lags)
    line = " of its line" if facts.model.lines else ""
    ends = (
        f"{found.truncated[0]:.3f} with the last token{line} alone, {found.truncated[-1]:.3f} with "
        f"the last {found.lags[-1]}"
    )
    caption = (
        f"The loss if the network sees the last k tokens only, and if all earlier ones are "
        f"shuffled: {ends}. Where a curve is flat, earlier text does not matter."
    )
    if facts.model.lines:
        caption += " Each line is read from its beginning, and every context begins with a newline."
    return Figure(
        line_chart(
            "losses",
            "Loss by context length",
            f"Nats a token: {ends}.",
            [
                Series("last k tokens alone", by_lag(found.truncated)),
                Series("earlier tokens shuffled", by_lag(found.shuffled)),
                Series("k-th token after the initial state", by_lag(found.position_at_lags)),
            ],
            "k, in tokens",
            "loss, nats a token",
            log_x=True,
        ),
        caption,
    )


def norms_by_lag(facts: Facts) -> Figure:
    """Draws gradient norms and singular values by the number of tokens back."""
    found = facts.memory
    assert found is not None, "else the section is left out"
    by_lag = partial(_pairs, found.lags)
    layers = len(found.gradient)
    drawn = range(layers) if layers < 4 else (0, layers // 2, layers - 1)
    series = [Series(f"gradient, layer {n}", by_lag(found.gradient[n])) for n in drawn]
    series.append(Series("singular value", by_lag(found.singular)))
    ends = "; ".join(
        f"{name} from {points[0][1]:.2e} to {points[-1][1]:.2e}" for name, points, _ in series
    )
    return Figure(
        line_chart(
            "norms",
            "Gradient norm and largest singular value by lag",
            f"From 1 token back to {found.lags[-1]}: {ends}.",
            series,
            "k, in tokens",
            "norm",
            log_x=True,
            log_y=True,
        ),
        "The norm of the gradient of a loss with respect to the state k tokens back: where it "
        "vanishes, training could learn nothing. And the largest singular value of the Jacobian of "
        "the state with respect to the state k tokens back: the largest factor by which a small "
        "change grows.",
    )


def _pairs(xs: Any, ys: Any) -> list[tuple[float, float]]:
    return list(zip(xs.tolist(), ys.tolist(), strict=True))
