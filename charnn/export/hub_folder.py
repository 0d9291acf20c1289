"""A folder for the Hugging Face Hub: a model file, its card, and config.json for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from charnn.checkpoint import Checkpoint, load
from charnn.errors import ConfigError
from charnn.export.folder import exported_folder
from charnn.export.model_file import write_model_file
from charnn.generation import Model
from charnn.hub import CONFIG, MODEL, MODEL_TYPE
from charnn.pages import plain_name, read, records, render
from charnn.version import __version__

CARD = "README.md"
TEMPERATURES, SEED = (0.5, 0.8, 1.1), 1
SAMPLE_TOKENS, SAMPLE_LINES = 400, 10
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")


def write_hub_folder(
    checkpoint: Checkpoint, name: str, output: Path, license: str = "other"
) -> None:
    """Writes the folder of a model repository, whole or not at all; replaces an earlier one.

    `license` is an identifier of the Hub. The samples on the card are those of the model file in
    the folder, whose weights are rounded to 16 bits.

    Raises:
        ConfigError: `license` is no identifier.
        FileError: the folder cannot be written, or `output` has other files than an earlier export.
        CharnnError: the model cannot write.
    """
    if not LICENSE.fullmatch(license):
        raise ConfigError(
            f"--license {license[:80]!r} is no identifier of a licence: give one that the Hub "
            "knows, such as mit, cc-by-4.0 or other"
        )
    with exported_folder(output, (MODEL, CONFIG, CARD), "a folder for the Hub") as folder:
        write_model_file(checkpoint, name, folder / MODEL)
        saved = load(folder / MODEL)
        (folder / CARD).write_text(make_card(saved, name, license), "utf-8", newline="\n")
        (folder / CONFIG).write_text(make_config(saved), "utf-8", newline="\n")


def make_config(saved: Checkpoint) -> str:
    """Returns config.json: facts that programs need before they load the model."""
    facts = {
        "model_type": MODEL_TYPE,
        "charnn": __version__,
        "digest": saved.digest,
        "shape": saved.config.to_dict(),
        "parameters": saved.config.parameters,
        "tokenizer": {"kind": saved.tokenizer["kind"], "vocab_size": saved.config.vocab_size},
        "lines": saved.lines,
        **saved.mixture_facts(),
    }
    return json.dumps(facts, indent=2) + "\n"


def make_card(saved: Checkpoint, name: str, license: str) -> str:
    """Returns the card of a model: Markdown with the front matter that the Hub reads."""
    model = Model.from_checkpoint(saved)
    samples = [
        (temperature, model.example(SAMPLE_TOKENS, SAMPLE_LINES, SEED, temperature=temperature))
        for temperature in TEMPERATURES
    ]
    values = {
        "title": plain_name(name),
        "license": license,
        "saved": saved,
        "unit": model.tokenizer.unit,
        "kind": model.tokenizer.kind,
        "rows": records.card_rows(saved.config, model.tokenizer.units, saved.info),
        "records": records,
        "samples": samples,
        "seed": SEED,
        "version": __version__,
    }
    return render(read("charnn.export", "model_card.md"), values)
