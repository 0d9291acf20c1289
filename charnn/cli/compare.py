"""`charnn compare`: tells which of several models wrote a text. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import note, note_unknown, print_json, put, show_live
from charnn.cli.model import model_path, reading_of
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    EngineOption,
    JsonOption,
    NetworkOnlyOption,
    SkipUnknownOption,
    complete_models,
    texts_argument,
)
from charnn.errors import CharnnError, ConfigError, TextError, UnknownCharacter
from charnn.threads import set_numpy_threads

if TYPE_CHECKING:
    from charnn.scoring.authorship import Calibration, Candidate, LineBits
    from charnn.scoring.surprisal import Array
    from charnn.text.sources import TextSource

HELD_OUT_CHARS = 200_000  # of each model's validation split, for calibration


def compare(
    texts: Annotated[
        list[str] | None,
        texts_argument(
            "[TEXT]...",
            "Text to attribute: files, folders, '-' for stdin, or a corpus by name. [default: "
            "none, only report how well the models can be told apart]",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A run's name, its folder or a .safetensors file; give two or more.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ] = None,
    unknown: SkipUnknownOption = "error",
    encoding: EncodingOption = "utf-8",
    engine: EngineOption = "auto",
    network_only: NetworkOnlyOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a JSON object for each line of TEXT, no summary.")
    ] = False,
) -> None:
    """Tell which model a text fits best, by the bits of each line.

    \b
    charnn compare letter.txt -m austen -m melville
    charnn compare domains.txt -m names -m generated --jsonl
    """
    names = models or []
    if len(names) < 2:
        raise ConfigError(f"compare takes two models or more, got {len(names)}: give -m A -m B")
    if json and jsonl:
        raise ConfigError("--json prints a summary and --jsonl rows: use one of them")
    if jsonl and not texts:
        raise ConfigError("--jsonl prints a row for each line of a TEXT: name a TEXT")
    set_numpy_threads(1)

    import numpy as np

    from charnn.generation import Model
    from charnn.scoring.authorship import Candidate, calibrate, shared_characters, verdicts
    from charnn.scoring.surprisal import TokenScorer
    from charnn.text.line_breaks import Reading
    from charnn.text.sources import open_source

    show_live("comparing")
    files = [model_path(name, checkpoints) for name in names]
    if len(set(files)) < len(files):
        raise ConfigError("a model is given twice: name different ones")
    candidates: list[Candidate] = []
    readings: list[Reading] = []
    for file in files:
        model = Model.load(file, engine, network_only=network_only)
        readings.append(reading_of(model.info, model.tokenizer))
        scorer = TokenScorer(model.predictor, model.start_token)
        candidates.append(Candidate(scorer, model.tokenizer))
    known = shared_characters(candidates)
    newline = known is None or "\n" in known
    bits, won = np.zeros(len(files)), np.zeros(len(files), np.int64)
    lines = chars = 0
    missing: Counter[str] = Counter()
    # CRLF is kept, and lines are joined, only if all models read their texts so.
    reading = Reading(*map(all, zip(*readings, strict=True)))
    with open_source(texts, encoding, None, reading) if texts else nullcontext() as source:
        if source and unknown == "error":
            _check_alphabets(source, candidates, names)
        held_out = _held_out(candidates, files, known, newline)
        found = calibrate(held_out) if held_out else None
        offsets = found.offsets if found else np.zeros(len(files))
        keep = known if unknown == "skip" else None
        for some in _scored(candidates, source, keep, newline, missing) if source else ():
            winners = verdicts(some, offsets)
            bits, won = bits + some.bits.sum(0), won + np.bincount(winners, minlength=len(files))
            lines, chars = lines + len(winners), chars + int(some.chars.sum())
            if jsonl:
                for row in _rows(some, winners, offsets, names):
                    print_json(row)
    note(*((*source.notes, *source.changes()) if source else ()))
    note_unknown(missing, known or (), unknown)
    if texts and not lines:
        raise TextError("nothing to compare: the text has only empty lines; give another text")
    if jsonl:
        return
    calibration = found and {**found._asdict(), "accuracy": found.accuracy}
    value: dict[str, Any] = {"models": names, "calibration": calibration}
    if texts:
        adjusted = bits - offsets * chars
        best = int(adjusted.argmin())
        value |= {
            "lines": lines,
            "chars": chars,
            "bits": dict(zip(names, bits.tolist(), strict=True)),
            "lines_won": dict(zip(names, won.tolist(), strict=True)),
            "ratio_bits": float(np.sort(adjusted)[1] - adjusted[best]),
            "verdict": names[best],
        }
    if json:
        print_json(value)
        return
    if texts:
        _put_verdict(value)
    if found:
        _put_calibration(found, names)


def _put_verdict(value: dict[str, Any]) -> None:
    chars = value["chars"]
    plural = "s" * (value["lines"] != 1)
    put(f"{value['lines']:,} line{plural}, {chars:,} characters")
    wide = max(map(len, ["model", *value["bits"]]))
    put(f"{'model':<{wide}}{'bits':>12}{'bits/char':>11}{'lines won':>11}")
    for name, bits in value["bits"].items():
        won = value["lines_won"][name]
        put(f"{name:<{wide}}{bits:>12,.0f}{bits / chars:>11.4f}{won:>11,}")
    put(f"{value['verdict']} is the likeliest writer, by {value['ratio_bits']:,.1f} bits")


def _put_calibration(found: Calibration, names: list[str]) -> None:
    put("")
    put("held-out lines of each model (rows), attributed to (columns):")
    wide = max(map(len, names))
    put(" " * wide + "".join(f"{name[-11:]:>12}" for name in names))
    for name, row in zip(names, found.confusion.tolist(), strict=True):
        put(f"{name:<{wide}}" + "".join(f"{count:>12,}" for count in row))
    apart = found.offsets.max() - found.offsets.min()
    put(
        f"{found.accuracy:.1%} of the held-out lines are attributed to the right model, with "
        f"offsets of up to {apart:.2f} bits/char between the models"
    )


def _rows(
    scored: LineBits, winners: Array, offsets: Array, names: list[str]
) -> Iterator[dict[str, Any]]:
    adjusted = scored.bits - offsets * scored.chars[:, None]
    adjusted.sort(axis=1)
    margins = (adjusted[:, 1] - adjusted[:, 0]).tolist()
    columns = (scored.lines, scored.chars.tolist(), scored.bits.tolist(), winners.tolist(), margins)
    for line, chars, bits, winner, margin in zip(*columns, strict=True):
        yield {
            "text": line,
            "chars": chars,
            "bits": dict(zip(names, bits, strict=True)),
            "ratio_bits": margin,
            "verdict": names[winner],
        }


def _check_alphabets(source: TextSource, candidates: Sequence[Candidate], names: list[str]) -> None:
    """Raises UnknownCharacter, which names the model, if a model lacks a character."""
    for name, (_, tokenizer) in zip(names, candidates, strict=True):
        if not tokenizer.known:
            continue
        # If a model lacks the newline, no newline is scored: a known character replaces it here.
        newline = "\n" if "\n" in tokenizer.known else next(iter(tokenizer.known))
        offset = 0
        for text in source.texts():
            try:
                tokenizer.encode(text.replace("\n", newline), "error", offset)
            except UnknownCharacter as error:
                raise UnknownCharacter(f"{name}: {error}") from None
            offset += len(text)


def _scored(
    candidates: Sequence[Candidate],
    source: TextSource,
    keep: set[str] | None,
    newline: bool,
    missing: Counter[str],
) -> Iterator[LineBits]:
    """Yields the non-empty lines of a text, about a megabyte at a time, with their bits.

    Characters outside `keep` are left out, and counted in `missing`.
    """
    from charnn.scoring.authorship import line_bits

    rest = ""
    for text in source.texts():
        if keep is not None:
            missing.update(c for c in text if c not in keep and c != "\n")
        *lines, rest = (rest + text).split("\n")
        yield line_bits(candidates, _clean(lines, keep), newline)
    yield line_bits(candidates, _clean([rest], keep), newline)


def _clean(lines: list[str], known: set[str] | None) -> list[str]:
    """Returns the non-empty lines, without characters outside `known`."""
    if known is not None:
        lines = ["".join(c for c in line if c in known) for line in lines]
    return [line for line in lines if line]


def _held_out(
    candidates: Sequence[Candidate], files: list[Path], known: set[str] | None, newline: bool
) -> list[LineBits]:
    """Returns each model's validation lines scored by all models; [] if one model has none."""
    from charnn.scoring.authorship import line_bits
    from charnn.text.token_file import TokenFile

    found = []
    for file in files:
        try:
            tokens = TokenFile.open(file.parent / "tokens")
            text = tokens.tokenizer.decode(tokens.split("valid")[:HELD_OUT_CHARS])
            lines = _clean(text.split("\n")[1:-1], known)
            if tokens.source["chars"] is None or len(lines) < 2:
                raise TextError("too few lines of text")
        except CharnnError:
            note(
                f"{file} has no held-out text beside it: the models are compared without "
                "calibration, by the fewest bits"
            )
            return []
        found.append(line_bits(candidates, lines, newline))
    return found
