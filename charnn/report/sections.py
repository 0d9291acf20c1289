"""The sections of a report that say what a model is, each a function from the facts to HTML.

What a model file says of its own making is JSON from anywhere, and is read as such.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from charnn.checkpoint import Checkpoint
from charnn.report.charts import Series, line_chart
from charnn.report.facts import REPORT_SEED, Facts
from charnn.report.html import (
    facts_list,
    figure,
    in_columns,
    name_shown,
    paragraph,
    shown,
)

PLAIN_WORD = re.compile(r"[\w.:-]{1,40}\Z", re.ASCII)
TRAIN_FLAGS = ("max_steps", "batch_size", "bptt", "optimizer", "learning_rate", "seed")


def in_one_sentence(facts: Facts) -> str:
    """What it is, for the head of the page."""
    config = facts.model.config
    layers = "layer" if config.num_layers == 1 else "layers"
    reads = "lines, each by itself" if facts.model.lines else "running text"
    return (
        f"A recurrent network ({config.cell.upper()}, {config.num_layers} {layers} of "
        f"{config.hidden_size} units, {config.parameters:,} parameters) that learnt to write "
        f"{reads}, one {facts.tokenizer.unit} after the other."
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
        *_mixed_in(saved),
        ("Digest", saved.digest or "none"),
    ]
    alphabet = ""
    if facts.tokenizer.known and facts.tokenizer.vocab_size <= 300:
        spelt = "".join(token.decode("utf-8", "replace") for token in facts.tokenizer.token_bytes)
        spelt = spelt.replace("\n", "↵").replace("\t", "→").replace(" ", "␣")
        alphabet = paragraph(f"Its alphabet: {spelt}", "note")
    return facts_list(listed) + alphabet


def _mixed_in(saved: Checkpoint) -> list[tuple[str, str]]:
    if not (facts := saved.ngram_facts()):
        return []
    said = (
        "{count:,} n-grams, up to {order} symbols, in what it writes and in the held-out table "
        "(mixture weights: network {weights[network]:.2f}, n-grams {weights[ngrams]:.2f}); curves, "
        "gates, units and memory are of the network alone"
    )
    return [("Mixed with", said.format(**facts))]


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
        short = seconds < 120
        listed.append(("Time", f"{seconds:,.0f} s" if short else f"{seconds / 60:,.1f} minutes"))
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


def speed(facts: Facts) -> str:
    """How fast it writes here, and how large it is."""
    parameters = facts.model.config.parameters
    listed = [
        (
            "Writes",
            f"{facts.chars_per_second:,.0f} characters, {facts.tokens_per_second:,.0f} tokens "
            "a second",
        ),
        ("Engine", f"{facts.engine}, one thread"),
        ("File", f"{facts.size:,} bytes"),
        ("Weights", f"{4 * parameters:,} bytes as they are, about {parameters:,} in 8 bits"),
    ]
    said = "The fastest of the samples above, on the machine that wrote this page."
    return facts_list(listed) + paragraph(said, "note")


def again(facts: Facts) -> str:
    """Commands."""
    name = shlex.quote(name_shown(facts.called))
    write = "--lines 20" if facts.model.lines else "-n 500"
    commands = [
        f"charnn sample -m {name} {write} --seed {REPORT_SEED}",
        f"charnn eval -m {name} --baselines --classes --positions",
        f"charnn inspect -m {name}",
        f"charnn horizon -m {name}",
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
            found.append((key, f"{value:g}" if isinstance(value, float) else str(value)))
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
    if _at(settings, "max_steps"):  # where there is a recipe, no word of n-grams is none
        words.append(f"--ngram {found_number(settings, 'ngram') or 0}")
    return " ".join([*words, *(["--lines"] if facts.model.lines else [])])
