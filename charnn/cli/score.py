"""`charnn score`: surprisal of a text as rows, a table or colours. Needs no torch."""

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

from charnn.cli.console import Output, has_colour, note_unknown, say, set_threads
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
from charnn.config import TOKENS_SUFFIX
from charnn.errors import ConfigError, TextError

if TYPE_CHECKING:
    from charnn.scoring.text_surprisal import ScoredBlock, TextSpan
    from charnn.text.sources import TextSource
    from charnn.text.tokenizers import Tokenizer

Row = dict[str, Any]
# Escapes of a table: control characters, the backslash, and bytes that are not UTF-8.
ESCAPES = {
    **{code: f"\\x{code:02x}" for code in range(32)},
    **{0xDC00 + byte: f"\\x{byte:02x}" for byte in range(128, 256)},
    ord("\\"): "\\\\",
    ord("\t"): "\\t",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
}


def score(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...",
            help="Files, folders, '-' for stdin (scored as it arrives), or a corpus by name.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    per: Annotated[
        Literal["token", "word", "line", "document"],
        typer.Option("--per", help="One row for each token, word, line or document."),
    ] = "token",
    form: Annotated[
        Literal["jsonl", "tsv"] | None,
        typer.Option(
            "--format",
            help="jsonl: one JSON object per line; tsv: a table with tabs. [default: the text in "
            "colour on a terminal, else jsonl]",
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
            max=100,
            help="Add the K likeliest tokens to each row of a token.",
        ),
    ] = 0,
    reset: Annotated[
        Literal["line", "document", "never"] | None,
        typer.Option(
            "--reset",
            help="Return to the initial state at each line, at each document (a file), or never. "
            "[default: line for a model trained with --lines, else document]",
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
            help="Processor threads, used with --reset line. [default: one for each core]",
            show_default=False,
        ),
    ] = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    quiet: QuietOption = False,
) -> None:
    """Score a text token by token: surprisal in bits, for people and for programs.

    \b
    charnn score letter.txt                                the text, coloured by surprisal
    charnn score letter.txt --per word --format tsv        a table for statistics
    tail -f app.log | charnn score - --per line --json     each line as it arrives
    """
    if json and form == "tsv":
        raise ConfigError("--json means --format jsonl: leave out --json or --format tsv")
    if top and per != "token":
        raise ConfigError(f"--top works only with --per token, got --per {per}: leave out one")
    coloured = form is None and not json and per == "token" and has_colour(sys.stdout)
    if top and coloured:
        raise ConfigError("--top is not shown in colour: add --format jsonl or --format tsv")
    output = Output()
    set_threads(1)  # numpy's own; the scorer has threads for lines

    from charnn.generation import Model
    from charnn.runs import find_model
    from charnn.scoring.surprisal import TokenScorer
    from charnn.scoring.text_surprisal import score_text, spans

    loaded = Model.load(find_model(model, checkpoints), engine, int8)
    tokenizer = loaded.tokenizer
    reset = reset or ("line" if loaded.of_lines else "document")
    details = per == "token" and not coloured
    scorer = TokenScorer(loaded.predictor, loaded.start_token, details, top, threads)
    totals = Totals()
    with closing(_open(texts, encoding)) as source:
        if not quiet:
            for each in source.notes:
                say(f"note: {each}")
            if coloured:
                say(LEGEND)
        names = [part.name for part in source.parts]
        blocks = totals.count(score_text(scorer, tokenizer, source, reset, unknown))
        if coloured:
            _colour(blocks, output)
        elif per == "token":
            _write(_token_rows(blocks, tokenizer, names), output, form)
        else:
            _write(([_span_row(span, names)] for span in spans(blocks, per)), output, form)
    output.flush()
    if not totals.tokens:
        why = "has no character that the model knows" if totals.unknown else "is empty"
        raise TextError(f"nothing to score: the text {why}")
    if not quiet:
        note_unknown(totals.unknown, tokenizer.known, unknown)
        say(totals.report())


class Totals:
    """Totals of a text, for the line that ends the talk on stderr."""

    def __init__(self) -> None:
        self.tokens = self.chars = 0
        self.unknown: Counter[str] = Counter()
        self.bits, self.began = 0.0, time.monotonic()

    def count(self, blocks: Iterable[ScoredBlock]) -> Iterator[ScoredBlock]:
        """Yields the blocks and adds them to the totals."""
        for block in blocks:
            self.tokens += len(block.surprisals.tokens)
            self.chars += len(block.text)
            self.unknown.update(block.unknown)
            self.bits += float(block.char_bits.sum())
            yield block

    def report(self) -> str:
        """Returns the line."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        return (
            f"{self.chars:,} characters, {self.bits:,.0f} bits, "
            f"{self.bits / max(1, self.chars):.3f} bits/char; "
            f"{self.chars / seconds:,.0f} characters/s"
        )


def _open(texts: list[str], encoding: str) -> TextSource:
    """Opens the text; stdin in UTF-8 is scored as it arrives, without a temporary copy."""
    from charnn.text import sources

    if texts == ["-"] and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        return sources.TextSource("stdin", [sources.Part("stdin", Path("/dev/stdin"))])
    if files := [text for text in texts if text.endswith(TOKENS_SUFFIX)]:
        raise ConfigError(f"charnn score reads texts, got {files[0]}: give the text itself")
    return sources.open_source(texts, encoding)


def _colour(blocks: Iterable[ScoredBlock], output: Output) -> None:
    for block in blocks:
        pairs = zip(block.text, map(style_of, block.char_bits.tolist()), strict=True)
        for style, run in groupby(pairs, key=lambda pair: pair[1]):
            output.write("".join(character for character, _ in run), style)
    output.end_line()


def _token_rows(
    blocks: Iterable[ScoredBlock], tokenizer: Tokenizer, names: list[str]
) -> Iterator[list[Row]]:
    import numpy as np

    spelt = [token.decode("utf-8", "surrogateescape") for token in tokenizer.token_bytes]
    texts = np.array(spelt, object)
    for block in blocks:
        found = block.surprisals
        columns: dict[str, Any] = {
            "line": block.lines,
            "char": block.chars,
            "token": texts[found.tokens],
            "bits": found.bits,
            "entropy": found.entropy,
            "rank": found.rank,
        }
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        document = names[block.document]
        rows = [{"document": document, **dict(zip(columns, each, strict=True))} for each in values]
        if found.top is not None and found.top_bits is not None:
            likeliest = zip(rows, found.top.tolist(), found.top_bits.tolist(), strict=True)
            for row, ids, bits in likeliest:
                row["top"] = [
                    {"token": spelt[token], "bits": of} for token, of in zip(ids, bits, strict=True)
                ]
        yield rows


def _span_row(span: TextSpan, names: list[str]) -> Row:
    row: Row = {"document": names[span.document]}
    if span.kind != "document":
        row |= {"line": span.line, "char": span.char, "text": span.text}
    row |= {"chars": span.chars, "bits": span.bits}
    row["bits_per_char"] = span.bits / span.chars if span.chars else None
    if span.kind == "word":
        row |= {"after": span.after, "after_bits": span.after_bits}
    return row


def _write(groups: Iterable[list[Row]], output: Output, form: str | None) -> None:
    """Writes rows as JSON Lines or as a table with a header, one write for each group."""
    headed = False
    for rows in groups:
        if form == "tsv":
            flat = [_flat(row) for row in rows]
            lines = ["\t".join(map(_cell, row.values())) for row in flat]
            if flat and not headed:
                lines.insert(0, "\t".join(flat[0]))
                headed = True
        else:
            lines = [json_module.dumps(row) for row in rows]
        if lines:
            output.write("\n".join(lines) + "\n")


def _flat(row: Row) -> Row:
    """Returns a row whose alternatives are columns of their own."""
    flat = {key: value for key, value in row.items() if key != "top"}
    for place, each in enumerate(row.get("top", []), 1):
        flat |= {f"top{place}": each["token"], f"top{place}_bits": each["bits"]}
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).translate(ESCAPES)
