"""`charnn eval`: held-out numbers under named protocols."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import note_unknown, print_json, progress_lines, put
from charnn.cli.eval_tables import (
    BaselinesOption,
    ClassesOption,
    DynamicOption,
    DynamicRateOption,
    DynamicRuleOption,
    Evaluated,
    PositionsOption,
    Wishes,
    more,
    put_more,
)
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SkipUnknownOption,
    ThreadsOption,
)
from charnn.cli.reading import line_pieces
from charnn.config import PROTOCOLS, STREAM_PROTOCOLS, TOKENS_SUFFIX
from charnn.errors import ConfigError, DamagedFile, TextError, UnknownCharacter

if TYPE_CHECKING:
    from charnn.evaluation import TextSizes
    from charnn.text.tokenizers import Ids, Tokenizer


def evaluate(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="What to score. [default: the run's own validation split]",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(PROTOCOLS)}, or several with commas. [default: lines for a model "
            f"trained with --lines, else {','.join(STREAM_PROTOCOLS)}]",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the run's text or of a .tokens file. [default: valid]",
            show_default=False,
        ),
    ] = None,
    unknown: SkipUnknownOption = "error",
    dynamic: DynamicOption = False,
    dynamic_rule: DynamicRuleOption = None,
    dynamic_rate: DynamicRateOption = None,
    baselines: BaselinesOption = False,
    positions: PositionsOption = False,
    classes: ClassesOption = False,
    encoding: EncodingOption = "utf-8",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a text: loss, bits per character, bits per byte.

    \b
    charnn eval                        the newest run on its validation split
    charnn eval chapter.txt -m book    a run on another text
    charnn eval --protocol lines       each line by itself, from a fresh start
    charnn eval --baselines --classes  beside n-grams and gzip, and where the bits go
    """
    chosen = [name.strip() for name in (protocol or "lines").split(",")]
    if bad := [name for name in chosen if name not in PROTOCOLS]:
        raise ConfigError(f"unknown protocol {bad[0]!r}: choose from {', '.join(PROTOCOLS)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be 1 or more, got {threads}")
    wishes = Wishes(dynamic, dynamic_rule, dynamic_rate, baselines, positions, classes)
    wishes.check()

    from charnn.checkpoint import load
    from charnn.runs import find_model
    from charnn.text.tokenizers import tokenizer_from_dict
    from charnn.training import machine  # before evaluation, which loads torch

    from charnn import evaluation  # isort: skip - see the line above

    path = find_model(model, checkpoints)
    saved = load(path)
    tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)
    if protocol is None and not saved.lines:
        chosen = list(STREAM_PROTOCOLS)
    missing: Counter[str] = Counter()
    ids, sizes, facts = _read(
        texts or [], split, path, tokenizer, unknown, encoding, saved.lines, missing
    )
    if not quiet:
        note_unknown(missing, tokenizer.known, unknown)
    newline = _newline(tokenizer) if "lines" in chosen or saved.lines else 0
    chosen_device = machine.choose_device(device)
    predictor = evaluation.predictor_of(saved, chosen_device)
    scores: dict[str, Any] = {}
    with machine.prepared(threads or machine.default_threads()):
        for name in chosen:
            progress = None if quiet else progress_lines(name)
            if name == "lines":
                score = evaluation.lines(predictor, ids, newline, sizes, progress=progress)
            else:
                scorer = evaluation.carried if name == "carried" else evaluation.cold
                score = scorer(predictor, ids, sizes, progress=progress)
            scores[name.replace("-", "_")] = score
        it = Evaluated(predictor, path, tokenizer, ids, sizes, saved.lines, newline, quiet)
        found = more(wishes, it)
    if json:
        print_json(
            {
                "model": str(path),
                "tokenizer": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                "parameters": saved.config.parameters,
                **({"ngrams": saved.ngram_facts()} if saved.ngrams else {}),
                **facts,
                **{key: score.to_dict() for key, score in scores.items()},
                **found,
            }
        )
        return
    put(f"{path}: {facts['tokens']:,} tokens of {facts['split'] or 'the text'}")
    put(f"{'protocol':<10}{'nats/token':>12}{'bits/char':>12}{'bits/byte':>12}{'targets':>12}")
    for key, score in scores.items():
        bits = [_number(score.bits_per_char), _number(score.bits_per_byte)]
        label = key.replace("_", "-")
        put(
            f"{label:<10}{score.nats_per_token:>12.4f}{bits[0]:>12}{bits[1]:>12}{score.targets:>12,}"
        )
    put_more(found)


def _read(
    texts: list[str],
    split: str | None,
    path: Path,
    tokenizer: Tokenizer,
    unknown: str,
    encoding: str,
    of_lines: bool,
    missing: Counter[str],
) -> tuple[Ids, TextSizes, dict[str, Any]]:
    """The ids to score, what they stand for, and the facts of the text for people and programs.

    For a model of lines a text is made into lines as it was in training. Characters that are
    skipped are counted in `missing`.
    """
    if not texts or any(text.endswith(TOKENS_SUFFIX) for text in texts):
        if len(texts) > 1 or unknown != "error" or encoding != "utf-8":
            raise ConfigError(
                "tokens are scored as they are: give one .tokens file, or none for the run's own, "
                "without --unknown and --encoding"
            )
        return _read_tokens(Path(texts[0]) if texts else path.parent / "tokens", split, tokenizer)
    if split is not None:
        raise ConfigError(
            "--split chooses a part of the run's text or of a .tokens file, not of a TEXT"
        )

    import numpy as np

    from charnn.evaluation import TextSizes
    from charnn.text.sources import open_source
    from charnn.text.splits import count_characters

    parts, chars, size = [], 0, 0
    is_text = True
    with open_source(texts, encoding) as source:
        pieces = line_pieces(source, tokenizer.kind == "byte") if of_lines else source.pieces()
        for piece in pieces:
            size += len(piece.data)
            if tokenizer.kind == "byte":
                parts.append(tokenizer.encode_bytes(piece.data))
                is_text = is_text and _is_utf8(piece.data)
                chars += count_characters(piece.data)
            else:
                text = piece.text()
                parts.append(tokenizer.encode(text, unknown, chars))
                if unknown == "skip":
                    missing.update(tokenizer.unknown_in(text))
                chars += len(text)
    ids = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, is_text)
    facts = {
        "split": None,
        "tokens": len(ids),
        "chars": chars if is_text else None,
        "bytes": size,
        "unknown": missing.total(),
    }
    return ids, sizes, facts


def _newline(tokenizer: Tokenizer) -> int:
    try:
        return int(tokenizer.encode("\n")[0])
    except UnknownCharacter:
        raise TextError(
            "the model knows no newline, so there are no lines for it: choose another --protocol"
        ) from None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_tokens(
    path: Path, split: str | None, tokenizer: Tokenizer
) -> tuple[Ids, TextSizes, dict[str, Any]]:
    from charnn.evaluation import TextSizes
    from charnn.text.token_file import TokenFile

    if not path.exists():
        raise TextError(f"no text given, and {path} is not there: name a TEXT to score")
    tokens = TokenFile.open(path)
    tokens.verify()
    if tokens.tokenizer.token_bytes != tokenizer.token_bytes:
        raise DamagedFile(f"{path} was made with another tokenizer than the model's: give the text")
    if split is None and "valid" not in tokens.splits:
        raise TextError(f"{path} has no validation split: name a TEXT to score, or --split train")
    name = split or "valid"
    part = tokens.split(name)
    is_text = tokens.source["chars"] is not None
    sizes = TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token, is_text)
    facts = {
        "split": name,
        "tokens": len(part),
        "chars": tokens.splits[name].chars,
        "bytes": tokens.splits[name].bytes,
        "unknown": 0,
    }
    return part, sizes, facts


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
