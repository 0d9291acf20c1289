"""One page about a trained model, to read and to print: facts, curves, samples, a look inside.

The page holds no script and requests nothing, which its Content-Security-Policy enforces. It shows
no path and no host name; every string that a model brings is escaped (`charnn.pages.render`).
"""

from __future__ import annotations

from pathlib import Path

from charnn.config import ACTIVITY_STEPS, GOOD_AUC, SURPRISAL_BITS
from charnn.pages import level, plain_name, read, records, render, source_hash, style_sheet
from charnn.report import commands, figures
from charnn.report.facts import SEED, Facts
from charnn.scoring.baselines import zstd
from charnn.tensor_file import replacing
from charnn.version import __version__

SECTIONS = {
    "model": "Model",
    "data": "Training text",
    "recipe": "Training recipe",
    "curves": "Learning curves",
    "held-out": "Held-out scores",
    "samples": "Samples",
    "passage": "Surprisal",
    "gates": "Gates",
    "units": "Hidden units",
    "horizon": "Memory horizon",
    "speed": "Speed and size",
    "again": "Commands",
}
MAX_ALPHABET = 300  # vocabularies up to this size are listed


def write_report(facts: Facts, output: Path) -> None:
    """Writes the page to `output`, whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    text = make_report(facts)
    with replacing(output) as file:
        file.write(text.encode())


def make_report(facts: Facts) -> str:
    """Returns the page of a model."""
    style = style_sheet(read("charnn.pages", "charts.css"), read("charnn.report", "report.css"))
    values = {
        "facts": facts,
        "saved": facts.model,
        "config": facts.model.config,
        "left_out": facts.left_out,
        "sections": SECTIONS,
        "figures": figures,
        "records": records,
        "commands": commands.commands(facts),
        "title": plain_name(facts.name),
        "symbol": facts.tokenizer.unit,
        **facts.model.mixture_facts(),
        "alphabet": alphabet(facts),
        "style": style,
        "policy": f"default-src 'none'; style-src {source_hash(style)}; base-uri 'none'; "
        "form-action 'none'",
        "number": number,
        "level": level,
        "surprisal_steps": SURPRISAL_BITS,
        "activity_steps": ACTIVITY_STEPS,
        "good_auc": GOOD_AUC,
        "seed": SEED,
        "zstd": zstd() is not None,
        "version": __version__,
    }
    return render(read("charnn.report", "report.html"), values)


def alphabet(facts: Facts) -> str:
    """Returns all symbols of a small character tokenizer, white space as signs; "" for others."""
    tokenizer = facts.tokenizer
    if not tokenizer.known or tokenizer.vocab_size > MAX_ALPHABET:
        return ""
    spelt = "".join(token.decode("utf-8", "replace") for token in tokenizer.token_bytes)
    return spelt.replace("\n", "↵").replace("\t", "→").replace(" ", "␣")


def number(value: float | None, style: str = ",.4f") -> str:
    """Formats a number; a dash stands for None."""
    return "–" if value is None else format(value, style)
