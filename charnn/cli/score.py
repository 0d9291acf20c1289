"""`charnn score`: what a model thinks of a text, as data. numpy alone."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charnn.cli.console import has_colour, note_unknown, say
from charnn.cli.marks import LEGEND, style_of
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    EngineOption,
    Int8Option,
    JsonOption,
    ModelOption,
    QuietOption,
    SkipUnknownOption,
)
from charnn.cli.output import Output
from charnn.cli.sample import set_threads
from charnn.config import MAX_TOP, RESETS
from charnn.errors import ConfigError, TextError

if TYPE_CHECKING:
    from charnn.scoring.blocks import Block
    from charnn.scoring.spans import Unit
    from charnn.text.sources import TextSource
    from charnn.text.tokenizers import Tokenizer

Row = dict[str, Any]
# What a tab-separated table must not hold as it is.
ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}


def score(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...",
            help="Files, folders, '-' for stdin as it comes, or a corpus by name.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    per: Annotated[
        Literal["token", "word", "line", "document"],
        typer.Option("--per", help="What a row is about."),
    ] = "token",
    form: Annotated[
        Literal["jsonl", "tsv"] | None,
        typer.Option(
            "--format",
            help="jsonl: a JSON object a line; tsv: a table with tabs. [default: the text itself, "
            "coloured, where stdout takes colour; else jsonl]",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    top: Annotated[
        int,
        typer.Option(
            "--top",
            metavar="K",
            min=0,
            max=MAX_TOP,
            help="With each token, the K likeliest in its place.",
        ),
    ] = 0,
    reset: Annotated[
        Literal["line", "document", "never"] | None,
        typer.Option(
            "--reset",
            help="Where the model forgets what came before: at each line, at each document (a "
            "file), or never. [default: line for a model trained with --lines, else document]",
            show_default=False,
        ),
    ] = None,
    unknown: SkipUnknownOption = "error",
    encoding: EncodingOption = "utf-8",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            max=4096,
            help="Processor threads for --reset line. [default: one for each core]",
            show_default=False,
        ),
    ] = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    quiet: QuietOption = False,
) -> None:
    """Score a text token by token: surprisal in bits, for people and for programs.

    \b
    charnn score letter.txt                                where it surprises, in colour
    charnn score letter.txt --per word --format tsv        a table for statistics
    tail -f app.log | charnn score - --per line --json     lines as they come
    """
    if json and form == "tsv":
        raise ConfigError("--json is --format jsonl: leave one of --json and --format tsv out")
    if top and per != "token":
        raise ConfigError(f"--top tells of tokens, and the rows are to be of a {per}: use one")
    coloured = form is None and not json and per == "token" and has_colour(sys.stdout)
    if top and coloured:
        raise ConfigError("--top needs a table: add --format jsonl or --format tsv")
    output = Output()
    set_threads(1)  # of numpy; lines are read by threads of our own

    from charnn.checkpoint import load
    from charnn.ngrams.mixture import predictor
    from charnn.runs import find_model
    from charnn.scoring import spans
    from charnn.scoring.blocks import read
    from charnn.scoring.surprisal import Scorer
    from charnn.text.tokenizers import tokenizer_from_dict

    saved = load(find_model(model, checkpoints))
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    network = predictor(saved, engine, int8)
    where = reset or (RESETS[0] if saved.lines else RESETS[1])
    details = per == "token" and not coloured
    scorer = Scorer(network, saved.start_token, details, top, threads)
    totals = Totals()
    with closing(_open(texts, encoding)) as source:
        if not quiet:
            for each in source.notes:
                say(f"note: {each}")
            if coloured:
                say(LEGEND)
        names = [part.name for part in source.parts]
        blocks = totals.count(read(scorer, tokenizer, source, where, unknown))
        if coloured:
            _colour(blocks, output)
        elif per == "token":
            _write(_token_rows(blocks, tokenizer, names), output, form)
        else:
            rows = (_unit_row(unit, names) for unit in spans.units(blocks, per))
            _write(([row] for row in rows), output, form)
    output.flush()
    if not totals.tokens:
        known = "holds no character that the model knows" if totals.unknown else "is empty"
        raise TextError(f"nothing to score: the text {known}")
    if not quiet:
        note_unknown(totals.unknown, tokenizer.known, unknown)
        say(totals.report())


class Totals:
    """What was scored, for the last line of talk."""

    def __init__(self) -> None:
        self.tokens = self.chars = 0
        self.unknown: Counter[str] = Counter()
        self.bits, self.began = 0.0, time.monotonic()

    def count(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Lets blocks through, and adds them up."""
        for block in blocks:
            self.tokens += len(block.surprisals.tokens)
            self.chars += len(block.text)
            self.unknown.update(block.unknown)
            self.bits += float(block.char_bits.sum())
            yield block

    def report(self) -> str:
        """One line on all of it."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        return (
            f"{self.chars:,} characters, {self.bits:,.0f} bits, "
            f"{self.bits / max(1, self.chars):.3f} bits/char; "
            f"{self.chars / seconds:,.0f} characters/s"
        )


def _open(texts: list[str], encoding: str) -> TextSource:
    """The text; stdin alone is not kept first, but scored as it comes."""
    from charnn.text import sources

    if texts == ["-"] and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        return sources.TextSource("stdin", [sources.Part("stdin", Path("/dev/stdin"))])
    if any(text.endswith(".tokens") for text in texts):
        raise ConfigError("charnn score reads texts, not .tokens files: give the text itself")
    return sources.open_source(texts, encoding)


def _colour(blocks: Iterable[Block], output: Output) -> None:
    for block in blocks:
        pairs = zip(block.text, map(style_of, block.char_bits.tolist()), strict=True)
        for style, run in groupby(pairs, key=lambda pair: pair[1]):
            output.write("".join(character for character, _ in run), style)
    output.end_line()


def _token_rows(
    blocks: Iterable[Block], tokenizer: Tokenizer, names: list[str]
) -> Iterator[list[Row]]:
    spelt = [token.decode("utf-8", "surrogateescape") for token in tokenizer.token_bytes]
    for block in blocks:
        found, document = block.surprisals, names[block.document]
        assert found.entropy is not None, "details were asked for"
        assert found.rank is not None, "details were asked for"
        columns: list[list[Any]] = [
            block.lines.tolist(),
            block.chars.tolist(),
            [spelt[token] for token in found.tokens.tolist()],
            found.bits.tolist(),
            found.entropy.tolist(),
            found.rank.tolist(),
        ]
        keys = ("line", "char", "token", "bits", "entropy", "rank")
        rows = [
            {"document": document, **dict(zip(keys, values, strict=True))}
            for values in zip(*columns, strict=True)
        ]
        if found.top is not None and found.top_bits is not None:
            likeliest = zip(rows, found.top.tolist(), found.top_bits.tolist(), strict=True)
            for row, ids, bits in likeliest:
                row["top"] = [
                    {"token": spelt[token], "bits": of} for token, of in zip(ids, bits, strict=True)
                ]
        yield rows


def _unit_row(unit: Unit, names: list[str]) -> Row:
    row: Row = {"document": names[unit.document]}
    if unit.kind != "document":
        row |= {"line": unit.line, "char": unit.char, "text": unit.text}
    row |= {"chars": unit.chars, "bits": unit.bits}
    row["bits_per_char"] = unit.bits / unit.chars if unit.chars else None
    if unit.kind == "word":
        row |= {"after": unit.after, "after_bits": unit.after_bits}
    return row


def _write(groups: Iterable[list[Row]], output: Output, form: str | None) -> None:
    """Writes rows: what comes together leaves together."""
    headed = False
    for rows in groups:
        lines = []
        for row in rows:
            if form == "tsv":
                flat = _flat(row)
                if not headed:
                    lines.append("\t".join(flat))
                    headed = True
                lines.append("\t".join(map(_cell, flat.values())))
            else:
                lines.append(json_module.dumps(row))
        if lines:
            output.write("\n".join(lines) + "\n")


def _flat(row: Row) -> Row:
    """A row for a table: the alternatives in columns of their own."""
    flat = {key: value for key, value in row.items() if key != "top"}
    for place, each in enumerate(row.get("top", []), 1):
        flat |= {f"top{place}": each["token"], f"top{place}_bits": each["bits"]}
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return str(value)
    escaped = value.translate(ESCAPES)
    if escaped.isprintable():
        return escaped
    return "".join(
        f"\\x{ord(c) - 0xDC00:02x}"
        if 0xDC80 <= ord(c) <= 0xDCFF
        else f"\\x{ord(c):02x}"
        if ord(c) < 32
        else c
        for c in escaped
    )
