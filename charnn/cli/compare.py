"""`charnn compare`: which model wrote this? numpy alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charnn.cli.console import note_unknown, print_json, put, say
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    EngineOption,
    JsonOption,
    QuietOption,
)
from charnn.cli.sample import set_threads
from charnn.config import HELD_OUT_CHARS
from charnn.errors import CharnnError, ConfigError, TextError

if TYPE_CHECKING:
    from charnn.scoring.compare import Calibration, LineBits, Reader


def compare(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Files, folders, '-' for stdin, or a corpus by name. [default: none: only how "
            "well the models can be told apart]",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A run's name, its folder or a .safetensors file; two or more times.",
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Characters that a model never saw: error, or skip them for all models."),
    ] = "error",
    encoding: EncodingOption = "utf-8",
    engine: EngineOption = "auto",
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a JSON object for each line of TEXT, no summary.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Tell which model wrote a text, line by line, by what each makes of it.

    \b
    charnn compare letter.txt -m austen -m melville
    charnn compare domains.txt -m names -m generated --jsonl
    """
    paths = models or []
    if len(paths) < 2:
        raise ConfigError(f"compare takes two models or more, got {len(paths)}: -m A -m B")
    if json and jsonl:
        raise ConfigError("--json is a summary and --jsonl a row for each line: use one of them")
    if jsonl and not texts:
        raise ConfigError("--jsonl gives a row for each line of a TEXT: name one")
    set_threads(1)

    import numpy as np

    from charnn.checkpoint import load
    from charnn.ngrams.mixture import predictor
    from charnn.runs import find_model
    from charnn.scoring import compare as core
    from charnn.scoring.surprisal import Scorer
    from charnn.text.tokenizers import tokenizer_from_dict

    files = [find_model(each, checkpoints) for each in paths]
    if len(set(files)) < len(files):
        raise ConfigError("a model is given twice: name different ones")
    readers: list[Reader] = []
    for file in files:
        saved = load(file)
        network = predictor(saved, engine)
        tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
        readers.append(core.Reader(Scorer(network, saved.start_token), tokenizer))
    known = core.known_characters(readers)
    newline = known is None or "\n" in known
    held_out = _held_out(readers, files, known, newline, quiet)
    found = core.calibrate(held_out) if held_out else None
    offsets = found.offsets if found else np.zeros(len(files))
    names = [str(path) for path in paths]
    total, chars, won, count = np.zeros(len(files)), 0, np.zeros(len(files), np.int64), 0
    missing: Counter[str] = Counter()
    keep = known if unknown == "skip" else None
    for part in _text(readers, texts or [], encoding, keep, newline, missing):
        winners = core.verdicts(part.bits, part.chars, offsets)
        total, chars, count = (
            total + part.bits.sum(axis=0),
            chars + int(part.chars.sum()),
            count + len(winners),
        )
        won += np.bincount(winners, minlength=len(files))
        if jsonl:
            for row in _rows(part, winners, offsets, names):
                print_json(row)
    if not quiet:
        note_unknown(missing, known or (), unknown)
    if texts and not count:
        raise TextError("nothing to compare: the text has no line that is not empty")
    if jsonl:
        return
    rates = total / max(1, chars) - offsets
    best = int(rates.argmin())
    value: dict[str, Any] = {"models": names, "calibration": _calibration(found)}
    if texts:
        value |= {
            "lines": count,
            "chars": chars,
            "bits": dict(zip(names, total.tolist(), strict=True)),
            "lines_won": dict(zip(names, won.tolist(), strict=True)),
            "ratio_bits": float(
                np.sort(total - offsets * chars)[1] - (total - offsets * chars)[best]
            ),
            "verdict": names[best],
        }
    if json:
        print_json(value)
        return
    if texts:
        put(f"{count:,} lines, {chars:,} characters")
        put(f"{'model':<30}{'bits':>14}{'bits/char':>12}{'lines won':>12}")
        for name, bits, lines in zip(names, total.tolist(), won.tolist(), strict=True):
            put(f"{name:<30}{bits:>14,.0f}{bits / max(1, chars):>12.4f}{lines:>12,}")
        put(f"{names[best]} is the likeliest writer, by {value['ratio_bits']:,.1f} bits")
    if found:
        _show(found, names)


def _show(found: Calibration, names: list[str]) -> None:
    put("")
    put("held-out lines of each model (rows), taken for which (columns):")
    put(f"{'':<30}" + "".join(f"{name[-11:]:>12}" for name in names))
    for name, row in zip(names, found.confusion.tolist(), strict=True):
        put(f"{name:<30}" + "".join(f"{count:>12,}" for count in row))
    offsets = ", ".join(f"{offset:.4f}" for offset in found.offsets.tolist())
    put(f"known as its own: {found.accuracy:.1%} of the lines; offsets {offsets} bits/char")


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    if not found:
        return None
    return {
        "offsets": found.offsets.tolist(),
        "confusion": found.confusion.tolist(),
        "accuracy": found.accuracy,
    }


def _rows(part: LineBits, winners: Any, offsets: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    adjusted = part.bits - offsets * part.chars[:, None]
    adjusted.sort(axis=1)
    margins = (adjusted[:, 1] - adjusted[:, 0]).tolist()
    for line, chars, bits, winner, margin in zip(
        part.lines, part.chars.tolist(), part.bits.tolist(), winners.tolist(), margins, strict=True
    ):
        yield {
            "text": line,
            "chars": chars,
            "bits": dict(zip(names, bits, strict=True)),
            "ratio_bits": margin,
            "verdict": names[winner],
        }


def _text(
    readers: Sequence[Reader],
    texts: list[str],
    encoding: str,
    keep: set[str] | None,
    newline: bool,
    missing: Counter[str],
) -> Iterator[LineBits]:
    """The lines of a text that are not empty, about a megabyte at a time.

    Characters that are not to be kept are counted in `missing`.
    """
    from charnn.scoring.compare import line_bits
    from charnn.text.sources import open_source

    if not texts:
        return
    with open_source(texts, encoding) as source:
        held = ""
        for text in source.texts():
            if keep is not None:
                missing.update(c for c in text if c not in keep and c != "\n")
            *lines, held = (held + text).split("\n")
            yield line_bits(readers, _clean(lines, keep), newline)
        yield line_bits(readers, _clean([held], keep), newline)


def _clean(lines: list[str], keep: set[str] | None) -> list[str]:
    if keep is not None:
        lines = ["".join(c for c in line if c in keep) for line in lines]
    return [line for line in lines if line]


def _held_out(
    readers: Sequence[Reader], files: list[Path], known: set[str] | None, newline: bool, quiet: bool
) -> list[LineBits]:
    """Each model's validation lines by all models; nothing where those of one are not there."""
    from charnn.scoring.compare import line_bits
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
            if not quiet:
                say(f"note: no held-out text of {file}: nothing is calibrated, the fewest bits win")
            return []
        found.append(line_bits(readers, lines, newline))
    return found
