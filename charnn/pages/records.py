"""Facts that a model file records about its training: text, recipe, losses.

The JSON of a model file is untrusted: values of an unexpected type or size are left out, and so are
strings that could be paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from charnn.bases import BASES
from charnn.config import ModelConfig
from charnn.pages import find_number, find_value
from charnn.pages.charts import Series

PLAIN_WORD = re.compile(r"[\w.:-]{1,40}\Z", re.ASCII)
MAX_POINTS = 300  # of the curve of training losses
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# Rows of numbers: the keys in the model's info, and how a number is shown.
CORPUS = {
    "Characters": ("corpus chars", "{:,.0f}"),
    "Bytes": ("corpus bytes", "{:,.0f}"),
    "Training": ("corpus tokens train", "{:,.0f} tokens"),
    "Validation": ("corpus tokens valid", "{:,.0f} tokens"),
    "Test": ("corpus tokens test", "{:,.0f} tokens"),
}
BUDGET = {
    "Steps": ("step", "{:,.0f}"),
    "Passes over the text": ("epoch", "{:,.2f}"),
    "Tokens read": ("tokens", "{:,.0f}"),
}

Rows = list[tuple[str, str]]


def card_rows(config: ModelConfig, units: str, info: dict[str, Any]) -> Rows:
    """Returns the main facts about a model; `units` are what its vocabulary counts."""
    layers = "layer" if config.num_layers == 1 else "layers"
    rows = [
        ("Network", f"{config.cell.upper()}, {config.num_layers} {layers} of {config.hidden_size}"),
        ("Parameters", f"{config.parameters:,}"),
        ("Vocabulary", f"{config.vocab_size:,} {units}"),
    ]
    if chars := find_number(info, "corpus", "chars") or find_number(info, "corpus", "bytes"):
        unit = "characters" if find_number(info, "corpus", "chars") else "bytes"
        rows.append(("Trained on", f"{chars:,.0f} {unit}"))
    if seconds := find_number(info, "seconds"):
        rows.append(("Trained for", _duration(seconds)))
    for unit in ("char", "byte"):
        if bits := find_number(info, "results", "carried", f"bits_per_{unit}"):
            name = "character" if unit == "char" else unit
            rows.append(("Held-out loss", f"{bits:.2f} bits per {name}"))
            break
    return rows


def corpus_rows(info: dict[str, Any]) -> Rows:
    """Returns the sizes of the text and its splits."""
    rows = _number_rows(info, CORPUS)
    digest = find_value(info, "corpus", "sha256")
    if isinstance(digest, str) and DIGEST.match(digest):
        rows.append(("SHA-256 of the text", digest))
    return rows


def budget_rows(info: dict[str, Any]) -> Rows:
    """Returns steps, passes, tokens and time, and which model the training started from."""
    rows = _number_rows(info, BUDGET)
    if seconds := find_number(info, "seconds"):
        rows.append(("Time", _duration(seconds)))
    if find_value(info, "from"):
        name = find_value(info, "from", "name")
        base = f"the base {name!r}" if name in list(BASES) else "another model"
        rows.append(("Started from", f"{base} (fine-tuning)"))
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} seconds"
    return f"{seconds / 60:,.1f}".removesuffix(".0") + " minutes"


def _number_rows(info: dict[str, Any], table: dict[str, tuple[str, str]]) -> Rows:
    found = {name: (find_number(info, *keys.split()), form) for name, (keys, form) in table.items()}
    return [(name, form.format(value)) for name, (value, form) in found.items() if value]


def score_rows(info: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns protocol, nats per token, bits per character and bits per byte of each score."""
    rows = []
    for key in ("carried", "cold_256", "lines"):
        names = ("nats_per_token", "bits_per_char", "bits_per_byte")
        found = [find_number(info, "results", key, name) for name in names]
        if found[0] is not None:
            losses = ("–" if each is None else f"{each:.4f}" for each in found)
            rows.append((key.replace("_", "-"), *losses))
    return rows


def settings(info: dict[str, Any]) -> Rows:
    """Returns the settings of the recipe: numbers, yes or no, and words that cannot be a path."""
    recipe = find_value(info, "recipe")
    rows = []
    for key, value in sorted(recipe.items()) if isinstance(recipe, dict) else ():
        if not PLAIN_WORD.match(key):
            continue
        name = key.replace("_", " ")
        if isinstance(value, bool):
            rows.append((name, "yes" if value else "no"))
        elif find_number(recipe, key) is not None:
            rows.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
        elif isinstance(value, str) and PLAIN_WORD.match(value):
            rows.append((name, value))
    return rows


def losses(
    info: dict[str, Any], protocol: str, steps: Sequence[tuple[float, float]] = ()
) -> list[Series]:
    """Returns training and validation losses by step; curves of one point are left out.

    With `steps`, the training loss of every step, its curve shows means of groups of steps.
    """
    history = find_value(info, "history")
    rows = history if isinstance(history, list) else []
    curves = []
    for name, key in (("training", "train_loss"), ("validation", protocol)):
        points = [(find_number(row, "step"), find_number(row, key)) for row in rows]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if name == "training" and len(steps) > 1:
            size = -(-len(steps) // MAX_POINTS)
            groups = [steps[at : at + size] for at in range(0, len(steps), size)]
            known = [(some[-1][0], sum(y for _, y in some) / len(some)) for some in groups]
        if len(known) > 1:
            curves.append(Series(name, known))
    return curves
