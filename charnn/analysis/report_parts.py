"""The sections of a report, each a function from the facts to HTML.

What a model file says of its own making is JSON from anywhere, and is read as such.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from charnn.analysis.baselines import zstd
from charnn.analysis.report_charts import Bar, Series, bar_chart, line_chart
from charnn.analysis.report_facts import Facts
from charnn.analysis.report_html import (
    activity_legend,
    by_activity,
    by_surprisal,
    facts_list,
    figure,
    in_columns,
    name_shown,
    number,
    paragraph,
    shown,
    surprisal_legend,
    table,
)
from charnn.analysis.units import HIGH, LOW
from charnn.config.analysis import REPORT_SEED

SYMBOL = {"char": "character", "byte": "byte", "sentencepiece": "piece"}
MOST_LAYERS = 8  # shown one by one
PLAIN_WORD = re.compile(r"[\w.:-]{1,40}\Z", re.ASCII)
GATE_NAMES = {"i": "input", "f": "forget", "o": "output", "r": "reset", "z": "update"}
TRAIN_FLAGS = ("max_steps", "batch_size", "bptt", "optimizer", "learning_rate", "seed")


def in_one_sentence(facts: Facts) -> str:
    """What it is, for the head of the page."""
    config = facts.model.config
    layers = "layer" if config.num_layers == 1 else "layers"
    reads = "lines, each by itself" if facts.model.lines else "running text"
    return (
        f"A recurrent network ({config.cell.upper()}, {config.num_layers} {layers} of "
        f"{config.hidden_size} units, {config.parameters:,} parameters) that learnt to write "
        f"{reads}, one {SYMBOL[facts.tokenizer.kind]} after the other."
    )


def what_it_is(facts: Facts) -> str:
    """Shape, tokenizer, parameters, digest."""
    config, saved = facts.model.config, facts.model
    listed = [
        ("Cell", config.cell.upper()),
        ("Layers", f"{config.num_layers} of {config.hidden_size:,} units"),
        ("Embedding", f"{config.embedding_size:,} numbers a symbol"),
        ("Dropout", f"{config.dropout:g} in training"),
        ("Parameters", f"{config.parameters:,}"),
        ("Tokenizer", f"{facts.tokenizer.kind}, {facts.tokenizer.vocab_size:,} symbols"),
        ("Reads", "lines, each from a fresh start" if saved.lines else "running text"),
        ("Digest", saved.digest or "none"),
    ]
    alphabet = ""
    if facts.tokenizer.kind == "char" and facts.tokenizer.vocab_size <= 300:
        spelt = "".join(token.decode("utf-8", "replace") for token in facts.tokenizer.token_bytes)
        spelt = spelt.replace("\n", "↵").replace("\t", "→").replace(" ", "␣")
        alphabet = paragraph(f"Its alphabet: {spelt}", "note")
    return facts_list(listed) + alphabet


def data(facts: Facts) -> str:
    """How much text there was."""
    info = facts.model.info
    listed = []
    for name, unit in (("chars", "characters"), ("bytes", "bytes")):
        if count := found_number(info, "corpus", name):
            listed.append((unit.capitalize(), f"{count:,.0f}"))
    for split, title in (("train", "Training"), ("valid", "Validation"), ("test", "Test")):
        if count := found_number(info, "corpus", "tokens", split):
            listed.append((title, f"{count:,.0f} tokens"))
    digest = _at(info, "corpus", "sha256")
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
        listed.append(("SHA-256 of the text", digest))
    if not listed:
        return paragraph("The model's file does not say how large its text was.", "note")
    return facts_list(listed)


def recipe(facts: Facts) -> str:
    """How long it was trained, and with which settings."""
    info = facts.model.info
    listed = []
    if steps := found_number(info, "step"):
        listed.append(("Steps", f"{steps:,.0f}"))
    if epochs := found_number(info, "epoch"):
        listed.append(("Passes over the text", f"{epochs:,.2f}"))
    if tokens := found_number(info, "tokens"):
        listed.append(("Tokens read", f"{tokens:,.0f}"))
    if seconds := found_number(info, "seconds"):
        listed.append(("Time", f"{seconds / 60:,.1f} minutes"))
    settings = [(key.replace("_", " "), text) for key, text in _settings(info)]
    if not listed and not settings:
        return paragraph("The model's file does not say how it was trained.", "note")
    fine = "fine-tuned from another model" if _at(info, "from") else ""
    return (
        facts_list([*listed, *([("Begun", fine)] if fine else [])])
        + ("<h3>Settings</h3>" if settings else "")
        + in_columns(settings)
    )


def curves(facts: Facts) -> str:
    """Training and validation loss over the steps."""
    key = "lines" if facts.model.lines else "cold_256"
    history = facts.model.info.get("history")
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []

    def points(name: str) -> list[tuple[float, float]]:
        pairs = [(found_number(row, "step"), found_number(row, name)) for row in rows]
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    series = [Series("training", points("train_loss")), Series("validation", points(key))]
    series = [each for each in series if len(each.points) > 1]
    if not series:
        return paragraph("The model's file holds no history of its training to draw.", "note")
    says = "; ".join(
        f"{name} from {ps[0][1]:.4f} at step {ps[0][0]:,.0f} to {ps[-1][1]:.4f} at step "
        f"{ps[-1][0]:,.0f}"
        for name, ps in series
    )
    drawn = line_chart(
        "curves", "Loss over the steps", f"{says}.", series, "step", "loss, nats a token"
    )
    protocol = "each line by itself" if facts.model.lines else "cold-256"
    caption = (
        f"In nats a token: {says}. Training is the mean since the validation before, dropout "
        f"included; validation is measured without ({protocol})."
    )
    return figure(drawn, caption)


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
    if scores.positions:
        found = scores.positions
        points = list(zip(found.positions.tolist(), found.bits.tolist(), strict=True))
        says = ", ".join(f"{bits:.3f} at {place}" for place, bits in points)
        drawn = line_chart(
            "positions",
            "Loss by place after a fresh start",
            f"Bits a token: {says}.",
            [Series("loss", points)],
            "place after a fresh start, in tokens",
            "bits a token",
            log_x=True,
        )
        caption = f"Bits a token by place, the mean of {found.windows:,} fresh starts: {says}."
        parts.append(figure(drawn, caption))
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
    return paragraph(said) + surprisal_legend() + by_surprisal(facts.scores.passage)


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
        parts.append(f"<h3>A character {shown(labeller.says)}</h3>")
        parts.append('<div class="pair"><div>')
        caption = f"{ranking.share:.1%} of the text"
        parts.append(table(caption, ("unit", "AUC", "right", "says yes"), rows))
        parts.append("</div><div>")
        said = f"Unit {ranking.units[0]} over a passage; 100% is {most:.2f}:"
        parts.append(paragraph(said, "note"))
        parts.append(by_activity(shown_passage, most, labeller.says))
        parts.append("</div></div>")
    if inside.rare:
        names = ", ".join(inside.rare)
        parts.append(paragraph(f"Too rare here, or nearly everywhere: {names}.", "note"))
    return "".join(parts)


def memory(facts: Facts) -> str:
    """How far back matters: losses and gradients over lags."""
    found = facts.memory
    assert found is not None, "else it is left out"
    lags = found.lags.tolist()

    def points(values: Any) -> list[tuple[float, float]]:
        return list(zip(lags, values.tolist(), strict=True))

    said = (
        f"the last token alone {found.truncated[0]:.3f}, the last {lags[-1]} "
        f"{found.truncated[-1]:.3f}"
    )
    losses = line_chart(
        "losses",
        "Loss by how much the network sees",
        f"Nats a token: {said}.",
        [
            Series("last k tokens alone", points(found.truncated)),
            Series("rest shuffled", points(found.shuffled)),
        ],
        "k, in tokens",
        "loss, nats a token",
        log_x=True,
    )
    layers = found.gradient[:4]
    series = [Series(f"layer {n}", points(norms)) for n, norms in enumerate(layers)]
    falls = "; ".join(
        f"{s.name} from {s.points[0][1]:.2e} to {s.points[-1][1]:.2e}" for s in series
    )
    gradients = line_chart(
        "gradients",
        "Gradient of a loss by the state k tokens back",
        f"Norms from 1 token back to {lags[-1]}: {falls}.",
        series,
        "k, in tokens",
        "norm",
        log_x=True,
        log_y=True,
    )
    return (
        '<div class="pair">'
        + figure(
            losses,
            "The loss where the network sees the last k tokens only, and where those before them "
            f"are shuffled: {said}. Where a curve is flat, what lies further back does not matter.",
        )
        + figure(
            gradients,
            "The gradient of a loss by the state k tokens back: where it vanishes, nothing could "
            "be learnt from there.",
        )
        + "</div>"
        + paragraph(
            f"Measured at {found.places} places, so within a few hundredths; 'charnn horizon' "
            "measures more of them, and singular values besides.",
            "note",
        )
    )


def speed(facts: Facts) -> str:
    """How fast it writes here, and how large it is."""
    parameters = facts.model.config.parameters
    listed = [
        ("Writes", f"{facts.chars_per_second:,.0f} characters a second"),
        ("", f"{facts.tokens_per_second:,.0f} tokens a second"),
        ("Engine", f"{facts.engine}, one thread"),
        ("File", f"{facts.size:,} bytes"),
        ("Weights", f"{4 * parameters:,} bytes as they are, about {parameters:,} in 8 bits"),
    ]
    said = "The fastest of the samples above, on the machine that wrote this page."
    return facts_list(listed) + paragraph(said, "note")


def again(facts: Facts) -> str:
    """Commands."""
    name = shlex.quote(name_shown(facts.name))
    write = "--lines 20" if facts.model.lines else "-n 500"
    commands = [
        f"charnn sample -m {name} {write} --seed {REPORT_SEED}",
        f"charnn eval -m {name} --baselines --classes"
        + ("" if facts.model.lines else " --positions"),
        f"charnn inspect -m {name}",
        *([] if facts.model.lines else [f"charnn horizon -m {name}"]),
        f"charnn report {name} -o report.html --force",
        _train_command(facts),
    ]
    return "<pre>" + "\n".join(map(shown, commands)) + "</pre>"


def found_number(info: Any, *keys: str) -> float | None:
    """A number somewhere in JSON, if there is one that can be shown."""
    value = _at(info, *keys)
    usable = type(value) in (int, float) and -1e15 < value < 1e15 and math.isfinite(value)
    return float(value) if usable else None


def _at(info: Any, *keys: str) -> Any:
    for key in keys:
        info = info.get(key) if isinstance(info, dict) else None
    return info


def _settings(info: Any) -> list[tuple[str, str]]:
    """The recipe's settings: numbers, and words that cannot be a path."""
    found = []
    settings = _at(info, "recipe")
    for key, value in sorted(settings.items()) if isinstance(settings, dict) else ():
        if not PLAIN_WORD.match(key):
            continue
        if isinstance(value, bool):
            found.append((key, "yes" if value else "no"))
        elif found_number(settings, key) is not None:
            found.append((key, f"{value:,}" if isinstance(value, int) else f"{value:g}"))
        elif isinstance(value, str) and PLAIN_WORD.match(value):
            found.append((key, value))
    return found


def _train_command(facts: Facts) -> str:
    config, settings = facts.model.config, _at(facts.model.info, "recipe")
    words = ["charnn train TEXT --cell", config.cell, f"--num-layers {config.num_layers}"]
    words.append(f"--hidden-size {config.hidden_size} --embedding-size {config.embedding_size}")
    words.append(f"--dropout {config.dropout:g} --tokenizer {facts.tokenizer.kind}")
    for key in TRAIN_FLAGS:
        value = _at(settings, key)
        plain = isinstance(value, str) and PLAIN_WORD.match(value)
        if plain or found_number(settings, key) is not None:
            words.append(f"--{key.replace('_', '-')} {value}")
    return " ".join([*words, *(["--lines"] if facts.model.lines else [])])
