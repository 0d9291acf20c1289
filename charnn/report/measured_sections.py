"""The sections of a report that say what a model does, each a function from the facts to HTML."""

from __future__ import annotations

from typing import Any

from charnn.inspection.units import HIGH, LOW
from charnn.report.charts import Bar, Series, bar_chart, line_chart
from charnn.report.facts import REPORT_SEED, Facts
from charnn.report.html import (
    activity_legend,
    by_activity,
    by_surprisal,
    figure,
    number,
    paragraph,
    shown,
    surprisal_legend,
    table,
)
from charnn.scoring.baselines import zstd

MOST_LAYERS = 8  # shown one by one
GATE_NAMES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}


def held_out(facts: Facts) -> str:
    """Scores beside baselines, where the bits go, the loss after a fresh start."""
    scores, held = facts.scores, facts.held
    assert scores is not None, "else it is left out"
    assert held is not None, "what is scored"
    whole = len(held.tokens) == held.whole
    extent = "all" if whole else f"the first {len(held.tokens):,} of"
    own = [f"this model, {name}" for name in scores.protocols]
    rows = [
        (name, number(each.bits_per_char), number(each.bits_per_byte))
        for name, each in zip(own, scores.protocols.values(), strict=True)
    ]
    rows += [
        (row["name"], number(row["bits_per_char"]), number(row["bits_per_byte"]))
        for row in scores.baselines
    ]
    parts = [
        paragraph(
            f"On {extent} {held.whole:,} tokens of the validation split, which it did not learn "
            "from. Lower is better. N-grams are counted on "
            + (f"{scores.trained_on:,} tokens of its training text" if scores.trained_on else "no")
            + " (modified Kneser-Ney); compressors see this text alone"
            + ("." if zstd() else "; zstd was not there.")
        ),
        '<div class="pair"><div>',
        table("Bits it takes", ("", "bits/character", "bits/byte"), rows, own),
        "</div><div>",
    ]
    used = [row for row in scores.classes if row["chars"]]
    parts.append(
        table(
            "Where the bits go",
            ("kind", "of text", "of bits", "bits/character"),
            [
                (
                    row["class"],
                    f"{row['share_of_chars']:.1%}",
                    f"{row['share_of_bits']:.1%}",
                    number(row["bits_per_char"]),
                )
                for row in used
            ],
        )
    )
    parts.append("</div></div>")
    found = scores.positions
    points = list(zip(found.positions.tolist(), found.bits.tolist(), strict=True))
    says = ", ".join(f"{bits:.3f} at {place}" for place, bits in points)
    place, of = "place after a fresh start", f"{found.windows:,} fresh starts"
    if facts.model.lines:
        place, of = "place in a line", f"those of {found.windows:,} lines that reach it"
    drawn = line_chart(
        "positions",
        f"Loss by {place}",
        f"Bits a token: {says}.",
        [Series("loss", points)],
        f"{place}, in tokens",
        "bits a token",
        log_x=True,
    )
    parts.append(figure(drawn, f"Bits a token by place, the mean of {of}: {says}."))
    return "".join(parts)


def samples(facts: Facts) -> str:
    """Texts at each temperature."""
    parts = [
        paragraph(
            f"Without a prompt, with seed {REPORT_SEED}; a lower temperature is safer, a higher "
            "one wilder.",
            "note",
        )
    ]
    written = [
        f'<div class="sample"><h3>Temperature {temperature:g}</h3>'
        f'<p class="text">{shown(text)}</p></div>'
        for temperature, text in facts.samples
    ]
    return "".join([*parts, '<div class="samples">', *written, "</div>"])


def passage(facts: Facts) -> str:
    """Held-out text coloured by surprisal."""
    assert facts.scores is not None, "else it is left out"
    said = (
        "Held-out text; the ground of each character says how much it surprised the model after "
        "all that came before. Strong surprises are underlined too, and a title holds the bits."
    )
    return (
        paragraph(said) + surprisal_legend() + by_surprisal(facts.scores.passage, facts.model.lines)
    )


def gates(facts: Facts) -> str:
    """How often gates are shut and open."""
    assert facts.inside is not None, "else it is left out"
    found = facts.inside.gates
    if found is None:
        return paragraph("A vanilla RNN has no gates.", "note")
    bars, rows = [], []
    low, high = found.low.mean(axis=2), found.high.mean(axis=2)
    for layer in range(min(len(low), MOST_LAYERS)):
        for at, gate in enumerate(found.gates):
            shut, opened = float(low[layer, at]), float(high[layer, at])
            name = f"layer {layer}, {GATE_NAMES[gate]}"
            says = f"{shut:.0%} shut, {opened:.0%} open"
            bars.append(Bar(name, [(shut, 0), (max(0.0, 1 - shut - opened), 3), (opened, 1)], says))
            rows.append(f"{name}: {says}")
    drawn = bar_chart("gates", "How often gates are shut and open", "; ".join(rows), bars, 1.0)
    caption = (
        f"The share of time, over {facts.inside.tokens:,} tokens and all units of a layer, that a "
        f"gate is shut (below {LOW:g}, on the left), between, and open (above {HIGH:g}, right)."
    )
    more = len(low) > MOST_LAYERS
    return figure(drawn, caption + (f" The first {MOST_LAYERS} layers." if more else ""))


def units_of_labels(facts: Facts) -> str:
    """The best units of each label, and what the best one does."""
    inside = facts.inside
    assert inside is not None, "else it is left out"
    parts = [
        paragraph(
            f"Which units tell best whether a character is inside quotes, and so on, over "
            f"{inside.tokens:,} held-out tokens: half of them chose the units and their "
            "thresholds, the numbers are of the other half. AUC is 1 for a unit that always "
            "tells, 0.5 for one that knows nothing. To tell a label is not yet to bring it about."
        ),
    ]
    if inside.labels:
        parts.append(activity_legend())
    for labeller, ranking, detectors, shown_passage, most in inside.labels:
        best = list(zip(ranking.units, ranking.auc, detectors, ranking.directions, strict=False))
        rows = [
            (
                str(unit),
                f"{area:.3f}",
                f"{found.accuracy:.1%}",
                f"{'above' if direction > 0 else 'below'} {found.threshold:.3f}",
            )
            for unit, area, found, direction in best
        ]
        parts.append(f"<h3>A character {shown(labeller.phrase)}</h3>")
        parts.append('<div class="pair"><div>')
        caption = f"{ranking.share:.1%} of the text"
        parts.append(table(caption, ("unit", "AUC", "right", "says yes"), rows))
        parts.append("</div><div>")
        said = f"Unit {ranking.units[0]} over a passage; 100% is {most:.2f}:"
        parts.append(paragraph(said, "note"))
        parts.append(by_activity(shown_passage, most, labeller.phrase, facts.model.lines))
        parts.append("</div></div>")
    if inside.rare:
        names = ", ".join(inside.rare)
        parts.append(paragraph(f"Too rare here, or nearly everywhere: {names}.", "note"))
    return "".join(parts)


def memory(facts: Facts) -> str:
    """How far back matters: losses and norms over lags."""
    found = facts.memory
    assert found is not None, "else it is left out"
    lags = found.lags.tolist()

    def points(values: Any) -> list[tuple[float, float]]:
        return list(zip(lags, values.tolist(), strict=True))

    one = "token alone" if not facts.model.lines else "token of its line alone"
    said = f"the last {one} {found.truncated[0]:.3f}, the last {lags[-1]} {found.truncated[-1]:.3f}"
    losses = line_chart(
        "losses",
        "Loss by how much the network sees",
        f"Nats a token: {said}.",
        [
            Series("last k tokens alone", points(found.truncated)),
            Series("rest shuffled", points(found.shuffled)),
            Series("k-th token after a fresh start", points(found.position_at_lags)),
        ],
        "k, in tokens",
        "loss, nats a token",
        log_x=True,
    )
    layers = len(found.gradient)
    shown_layers = range(layers) if layers < 4 else (0, layers // 2, layers - 1)
    series = [Series(f"gradient, layer {n}", points(found.gradient[n])) for n in shown_layers]
    series.append(Series("singular value", points(found.singular)))
    falls = "; ".join(
        f"{s.name} from {s.points[0][1]:.2e} to {s.points[-1][1]:.2e}" for s in series
    )
    norms = line_chart(
        "norms",
        "Gradient of a loss, and largest singular value of the state, by the state k tokens back",
        f"From 1 token back to {lags[-1]}: {falls}.",
        series,
        "k, in tokens",
        "norm",
        log_x=True,
        log_y=True,
    )
    within = (
        ""
        if not facts.model.lines
        else " Each line is read from its beginning, and every context begins with a newline, as "
        "all lines do."
    )
    return (
        '<div class="pair">'
        + figure(
            losses,
            "The loss where the network sees the last k tokens only, and where those before them "
            f"are shuffled: {said}. Where a curve is flat, what lies further back does not matter."
            + within,
        )
        + figure(
            norms,
            "The gradient of a loss by the state k tokens back: where it vanishes, nothing could "
            "be learnt from there. And the most by which a small change of the state grows, or "
            "is left, after k tokens: the largest singular value of the Jacobian.",
        )
        + "</div>"
        + paragraph(
            f"Measured at {found.places} places, the same for all, so the shape of a curve says "
            "more than its height; 'charnn horizon' takes more of them."
            + (
                f" Too few places lie as far into their lines as {found.too_far[0]} tokens."
                if found.too_far and facts.model.lines
                else ""
            ),
            "note",
        )
    )
