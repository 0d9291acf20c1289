"""`charnn tokenize`: writes a text as a token file, in bounded memory."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import note, print_json, progress_of, tell
from charnn.cli.options import JsonOption, output_option, texts_argument
from charnn.cli.signals import OrderlyEnd
from charnn.config import DEFAULT_TOKENIZER, TOKENS_SUFFIX, TextOptions
from charnn.errors import ConfigError, TextError

if TYPE_CHECKING:
    from charnn.text.sources import TextSource
    from charnn.text.token_file import TokenFile


def tokenize(
    texts: Annotated[
        list[str],
        texts_argument(
            "TEXT...", "Files, folders, '-' for stdin, or a corpus by name; joined in this order."
        ),
    ],
    output: Annotated[
        Path,
        output_option(
            f"FILE{TOKENS_SUFFIX}", "Token file to write; 'charnn train' takes it as TEXT."
        ),
    ],
    options: TextOptions = TextOptions(),
    as_json: JsonOption = False,
) -> None:
    """Turn a text into token ids once, to train on them many times.

    \b
    charnn tokenize book.txt -o book.tokens
    zcat big.txt.gz | charnn tokenize - -o big.tokens --tokenizer sentencepiece
    """
    if output.suffix != TOKENS_SUFFIX:
        raise ConfigError(
            f"-o {output} must end in {TOKENS_SUFFIX}: use -o {output}{TOKENS_SUFFIX}"
        )
    ready = next(
        (text for text in [*texts, options.valid or ""] if text.endswith(TOKENS_SUFFIX)), None
    )
    if ready:
        raise TextError(
            f"{ready} is a token file already: give the text itself, or type 'charnn train {ready}'"
        )
    began, replaced = time.monotonic(), output.exists()
    with OrderlyEnd() as end:
        try:
            file = _write(texts, output, options)
        except KeyboardInterrupt:
            raise typer.Exit(end.code) from None
    facts = {**_describe(file, time.monotonic() - began), "replaced": replaced}
    if as_json:
        print_json(facts)
        return
    note(*facts["notes"])
    chars = "" if facts["chars"] is None else f"{facts['chars']:,} characters, "
    tell(f"text: {chars}{facts['bytes']:,} bytes")
    sizes = ", ".join(f"{s['stop'] - s['start']:,} {name}" for name, s in facts["splits"].items())
    tell(f"tokens: {sizes}; {facts['vocab_size']:,} different ({facts['tokenizer']})")
    tell(
        f"{'replaced' if replaced else 'wrote'} {facts['path']}, {facts['file_bytes']:,} bytes, "
        f"in {facts['seconds']:.1f} s "
        f"({facts['megabytes_per_second']:,.0f} MB/s)"
    )


def _write(texts: list[str], output: Path, options: TextOptions) -> TokenFile:
    from charnn.text.line_breaks import Reading
    from charnn.text.sources import open_source
    from charnn.text.token_writer import write_token_file

    reading = Reading(options.keep_crlf, options.unwrap)
    with ExitStack() as opened:

        def read(names: list[str]) -> TextSource:
            # A copy of stdin goes beside the output: the system's temporary folder may be memory.
            text = open_source(names, options.encoding, output.parent, reading)
            text.notes += text.advice()
            return opened.enter_context(text)

        return write_token_file(
            output,
            read(texts),
            tokenizer=options.tokenizer or DEFAULT_TOKENIZER,
            vocab_size=options.vocab_size,
            split=options.split,
            valid=read([options.valid]) if options.valid else None,
            progress=progress_of("reading the text"),
        )


def _describe(file: TokenFile, seconds: float) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "tokenizer": file.tokenizer.kind,
        "vocab_size": file.tokenizer.vocab_size,
        "tokens": len(file.tokens),
        "chars": file.source["chars"],
        "bytes": file.source["bytes"],
        "splits": {name: split._asdict() for name, split in file.splits.items()},
        "start_token": file.start_token,
        "source": file.source,
        "digest": file.digest,
        "file_bytes": file.path.stat().st_size,
        "notes": file.notes,
        "seconds": round(seconds, 3),
        "megabytes_per_second": round(file.source["bytes"] / 1e6 / max(seconds, 1e-9), 1),
    }
