"""`charnn score`: surprisal of a text as rows, a table or colours. Needs no torch."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from charnn.cli.console import Output, has_colour, note, note_unknown, tell
from charnn.cli.marks import LEGEND, coloured_text
from charnn.cli.model import open_model, reading_of
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    EngineOption,
    Int8Option,
    JsonOption,
    ModelOption,
    NetworkOnlyOption,
    SkipUnknownOption,
    texts_argument,
)
from charnn.config import TOKENS_SUFFIX
from charnn.config.settings import Config, choice, require, switch, whole
from charnn.errors import ConfigError, TextError
from charnn.threads import set_numpy_threads

if TYPE_CHECKING:
    from charnn.scoring.surprisal import ScoredBlock, TextSpan
    from charnn.text.line_breaks import Reading
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


@dataclass(frozen=True)
class ScoreOptions(Config):
    """Options of `charnn score` alone: the rows, their format, and when the state is reset."""

    per: str = choice(
        "token",
        ("token", "word", "line", "document"),
        "One row for each token, word, line or document.",
    )
    split_punctuation: bool = switch(
        "With --per word: punctuation marks and symbols are rows of their own."
    )
    format: str | None = choice(
        None,
        ("jsonl", "tsv"),
        "jsonl: one JSON object per line; tsv: a table with tabs.",
        shown="the text in colour on a terminal, else jsonl",
    )
    top: int = whole(0, 0, 100, "With --per token: add the K likeliest tokens.", metavar="K")
    reset: str | None = choice(
        None,
        ("line", "document", "never"),
        "Return to the initial state at each line, at each document (a file), or never.",
        shown="line for a model trained with --lines, else document",
    )
    threads: int | None = whole(
        None, 1, 4096, "Processor threads, used with --reset line.", shown="one for each core"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.split_punctuation or self.per == "word",
            f"--split-punctuation works only with --per word, got --per {self.per}: leave out one",
        )
        require(
            not self.top or self.per == "token",
            f"--top works only with --per token, got --per {self.per}: leave out one",
        )


def score(
    texts: Annotated[
        list[str],
        texts_argument(
            "TEXT...", "Files, folders, '-' for stdin (scored as it arrives), or a corpus by name."
        ),
    ],
    model: ModelOption = None,
    options: ScoreOptions = ScoreOptions(),
    json: JsonOption = False,
    unknown: SkipUnknownOption = "error",
    encoding: EncodingOption = "utf-8",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    network_only: NetworkOnlyOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Print the surprisal of each token, word or line of a text.

    \b
    charnn score letter.txt                  the text, coloured by surprisal
    charnn score letter.txt --per word       one row of JSON for each word
    tail -f app.log | charnn score - --per line --json
    """
    per = options.per
    if json and options.format == "tsv":
        raise ConfigError("--json means --format jsonl: leave out --json or --format tsv")
    rows = json or options.format is not None or per != "token"
    coloured = not rows and has_colour(sys.stdout)
    if options.top and coloured:
        raise ConfigError("--top is not shown in colour: add --format jsonl or --format tsv")
    output = Output()
    set_numpy_threads(1)  # the scorer has threads for lines

    from charnn.scoring.surprisal import TokenScorer, score_text, spans

    _, loaded = open_model(model, checkpoints, network_only, engine=engine, int8=int8)
    tokenizer = loaded.tokenizer
    reset = options.reset or ("line" if loaded.of_lines else "document")
    details = per == "token" and not coloured
    scorer = TokenScorer(
        loaded.predictor, loaded.start_token, details, options.top, options.threads
    )
    totals = Totals()
    with closing(_open(texts, encoding, reading_of(loaded.info, tokenizer))) as source:
        note(*source.notes)
        if coloured:
            tell(LEGEND)
        names = [part.name for part in source.parts]
        blocks = totals.count(score_text(scorer, tokenizer, source, reset, unknown))
        if coloured:
            for block in blocks:
                for text, style in coloured_text(block.text, block.char_bits.tolist()):
                    output.write(text, style)
            output.end_line()
        elif per == "token":
            _write(_token_rows(blocks, tokenizer, names), output, options.format)
        else:
            span_rows = (
                [_span_row(span, names)] for span in spans(blocks, per, options.split_punctuation)
            )
            _write(span_rows, output, options.format)
    output.flush()
    if not totals.tokens:
        why = "has no character that the model knows" if totals.unknown else "is empty"
        raise TextError(f"nothing to score: the text {why}; give another text")
    note(*source.changes())
    note_unknown(totals.unknown, tokenizer.known, unknown)
    tell(totals.report())


class Totals:
    """Totals of a text, for the last line on stderr."""

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
        """Returns the totals as one line."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        return (
            f"{self.chars:,} characters, {self.bits:,.0f} bits, "
            f"{self.bits / max(1, self.chars):.3f} bits/char; "
            f"{self.chars / seconds:,.0f} characters/s"
        )


def _open(texts: list[str], encoding: str, reading: Reading) -> TextSource:
    """Opens the text; stdin in UTF-8 is scored as it arrives, unless its lines are to be joined."""
    from charnn.text import sources

    live = texts == ["-"] and not reading.unwrap
    if live and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        return sources.TextSource("stdin", [sources.Part("stdin", None)], (), reading)
    if files := [text for text in texts if text.endswith(TOKENS_SUFFIX)]:
        raise ConfigError(f"charnn score reads texts, got {files[0]}: give the text itself")
    return sources.open_source(texts, encoding, reading=reading)


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
