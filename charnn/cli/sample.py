"""`charnn sample`: text on stdout, piece by piece, without torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from charnn.cli.console import (
    Output,
    note,
    note_unknown,
    note_unwritable,
    print_json,
    spelled,
    tell,
)
from charnn.cli.marks import COPIED_SPAN, LEGEND, Copies, marked
from charnn.cli.model import open_model, reading_of, seed_or_drawn
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    DISPLAY,
    CheckpointsOption,
    EngineOption,
    Int8Option,
    JsonOption,
    ModelOption,
    NetworkOnlyOption,
    OneThreadOption,
    PromptArgument,
    SeedOption,
    UnknownOption,
    given_flags,
)
from charnn.cli.soft_wrap import Styled
from charnn.config import LineConfig, SamplingConfig
from charnn.config.sampling import CHOICE, CONTENT, ENDS, LINES, NARROWING
from charnn.config.settings import choice, setting, switch, whole
from charnn.errors import ConfigError, FileError
from charnn.threads import set_numpy_threads

if TYPE_CHECKING:
    from charnn.generation import Model, Writing
    from charnn.generation.line_writer import LineWriter
    from charnn.predictor import Predictor

RULE = "-" * 20
SIDE_BY_SIDE = 8  # from this number of texts on, several are written at the same time
MANY_TEXTS = 2**32
ONLY_WITH_LINES = ("prefix", "min_length", "max_length", "unique", "new")
NOT_WITH_LINES = (
    *("prompt", "max_tokens", "stop", "until", "regex"),
    *("num_samples", "best_of", "show", "copied", "no_echo"),
)


@dataclass(frozen=True)
class SampleOptions:
    """Options of `charnn sample` alone: which texts, and what is shown of them."""

    num_samples: int = whole(
        1,
        1,
        MANY_TEXTS,
        f"Number of texts, with {len(RULE)} dashes between them; {SIDE_BY_SIDE} or more are "
        "written at the same time.",
        section=ENDS,
    )
    best_of: int = whole(
        1,
        1,
        10_000,
        "Write N texts and show only the one with the fewest bits per character.",
        section=CHOICE,
    )
    lines: int | None = whole(
        None,
        1,
        MANY_TEXTS,
        "Write N separate lines, such as names or titles, each from the initial state.",
        section=LINES,
    )
    new: bool = switch("With --lines: no line of the training text.", section=LINES)
    clamp: tuple[str, ...] = setting(
        (),
        "Clamp a hidden unit to X: 0:37=1 clamps unit 37 of layer 0, both counted from 0. In an "
        "LSTM that is c; 0:37:h=1 clamps h.",
        several=True,
        metavar="LAYER:UNIT=X",
        section=CONTENT,
    )
    show: str | None = choice(
        None,
        ("surprisal", "copied"),
        "On a terminal, colour characters by their bits, or underline spans copied from the "
        f"training text: {COPIED_SPAN} characters or more.",
        section=DISPLAY,
    )
    copied: bool = switch("Print the share of copied characters at the end.", section=DISPLAY)
    no_echo: bool = switch("Leave the prompt out of the output.", section=DISPLAY)


def sample(
    context: typer.Context,
    prompt: PromptArgument = "",
    config: SamplingConfig = SamplingConfig(),
    wanted: SampleOptions = SampleOptions(),
    limits: LineConfig = LineConfig(),
    model: ModelOption = None,
    seed: SeedOption = None,
    unknown: UnknownOption = "error",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    network_only: NetworkOnlyOption = False,
    threads: OneThreadOption = None,
    as_json: JsonOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Write text in the style of a trained model.

    \b
    charnn sample
    charnn sample "It was a" -n 300 -t 1 --num-samples 3
    charnn sample - < beginning.txt
    charnn sample -m names --lines 20 --unique --new
    """
    _refuse_contradictions(given_flags(context), config, wanted.best_of, wanted.num_samples)
    output = Output()
    from_stdin = prompt == "-"
    if from_stdin:
        if sys.stdin is None:
            raise FileError("stdin is closed: give the prompt as an argument, or pipe it in")
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    set_numpy_threads(threads)  # before numpy is loaded
    options = {"engine": engine, "int8": int8, "clamps": wanted.clamp}
    path, loaded = open_model(model, checkpoints, network_only, **options)
    tokenizer = loaded.tokenizer
    if from_stdin and "\r\n" in prompt and not reading_of(loaded.info, tokenizer).keep_crlf:
        prompt = prompt.replace("\r\n", "\n")
        note("the CRLF line ends of the prompt became LF")
    prompt = spelled(prompt, tokenizer)
    limits = replace(limits, prefix=spelled(limits.prefix, tokenizer))
    missing = tokenizer.unknown_in(prompt if wanted.lines is None else limits.prefix)
    if "\\" in missing and "\\n" in prompt:
        note("a newline of the prompt is typed $'\\n'")
    note_unknown(missing, tokenizer.known, unknown)
    note_unwritable(config, tokenizer)
    drawn = seed_or_drawn(seed)
    if wanted.lines is not None:
        if not loaded.of_lines:
            note("the model was not trained with --lines: each line starts after a newline")
        known = training_lines(loaded, path) if wanted.new else frozenset()
        limits = replace(limits, count=wanted.lines)
        lines = loaded.lines(limits, config, drawn, known, unknown)
        _write_lines(lines, output, drawn, as_json)
        return
    if loaded.of_lines:
        note("the model was trained with --lines: 'charnn sample --lines 20' writes lines")
    show = wanted.show if output.colour else None
    if wanted.show and not show:
        note("--show needs a terminal with colour: the text is shown without marks")
    counted = wanted.copied or config.max_copy > 0 or wanted.show == "copied"
    copies = Copies(loaded) if counted else None
    if show == "surprisal":
        tell(LEGEND)
    together = wanted.num_samples >= SIDE_BY_SIDE and wanted.best_of == 1 and not show
    if together:
        _note_few_at_once(tokenizer.vocab_size, wanted.num_samples)
    keep = as_json or counted or wanted.best_of > 1 or together
    echo, coloured = not wanted.no_echo, show == "surprisal"
    writings = (
        loaded.write(prompt, config, drawn, index, unknown, echo, coloured, keep)
        for index in range(wanted.num_samples * wanted.best_of)
    )
    workers = (loaded.predictor, threads) if together else None
    prompted = bool(prompt) and echo
    texts = _texts(writings, wanted.best_of, workers)
    for number, (writing, pieces) in enumerate(texts):
        if as_json:
            _print_sample(writing, pieces, drawn, copies)
            continue
        if number:
            output.end_line()
            output.write(f"{RULE}\n")
        _write_text(marked(pieces, writing, show, prompted, copies), output)
        if copies:
            copies.share(writing)
    if copies and not as_json:
        tell(copies.report())


def _note_few_at_once(vocab_size: int, texts: int) -> None:
    """Notes that a large vocabulary limits how many texts are written at once."""
    from charnn.generation.batch import BATCH_SIZE, batch_size

    if (size := batch_size(vocab_size)) < min(BATCH_SIZE, texts):
        note(f"{vocab_size:,} symbols: only {size} texts are written at once, to save memory")


def _texts(
    writings: Iterator[Writing], best_of: int, workers: tuple[Predictor, int | None] | None
) -> Iterator[tuple[Writing, Iterable[str]]]:
    """Yields the likeliest of each `best_of` texts with its pieces: fewest bits per character.

    The pieces of a single text come while it is written; of several, all are written first. With
    `workers`, a predictor and its threads, texts are written at the same time.
    """
    if workers:
        from charnn.generation.batch import write_together

        for writing in write_together(writings, *workers):
            yield writing, [writing.shown] if writing.shown else []
        return
    for first in writings:
        if best_of == 1:
            yield first, first
        else:
            candidates = chain([first], islice(writings, best_of - 1))
            written = ((writing, list(writing)) for writing in candidates)
            yield min(written, key=lambda found: _bits(found[0]))


def training_lines(model: Model, path: Path) -> frozenset[str]:
    """Returns the lines of the text that the model at `path` was trained and validated on.

    Raises:
        FileError: the tokens are missing, or those of another text.
    """
    from charnn.text.token_file import TokenFile

    beside = path.parent / "tokens"
    if not beside.exists():
        raise FileError(
            f"--new needs the training text, and {beside} is missing: sample from the run's "
            "folder, or leave --new out"
        )
    tokens = TokenFile.open(beside)
    if tokens.source["sha256"] != model.info.get("corpus", {}).get("sha256"):
        raise FileError(f"{beside} is not the training text of {path}: leave --new out")
    text = tokens.tokenizer.decode(tokens.tokens)
    return frozenset(line.removesuffix("\r") for line in text.split("\n"))


def _bits(writing: Writing) -> float:
    return math.inf if writing.bits_per_char is None else writing.bits_per_char


def _refuse_contradictions(
    given: dict[str, str], config: SamplingConfig, best_of: int, num_samples: int
) -> None:
    """Refuses options that contradict each other; `given` are names and flags."""
    if "lines" in given:
        for name in NOT_WITH_LINES:
            if name in given:
                raise ConfigError(
                    f"{given[name]} contradicts --lines: a line begins with --prefix and the model "
                    f"ends it, before --max-length; leave {given[name]} out"
                )
    elif alone := [given[name] for name in ONLY_WITH_LINES if name in given]:
        raise ConfigError(f"{', '.join(alone)} needs --lines N: add the number of lines")
    for name in NARROWING:
        if config.temperature == 0 and getattr(config, name) != getattr(SamplingConfig, name):
            raise ConfigError(
                f"--temperature 0 always takes the likeliest token, so {given[name]} has no "
                "effect: leave one of them out"
            )
    for name, greedy in {"temperature": 0, "top_k": 1, "top_p": 0}.items():
        for flag, count in {"--best-of": best_of, "--num-samples": num_samples}.items():
            if count > 1 and getattr(config, name) == greedy:
                raise ConfigError(
                    f"with {given[name]} {greedy} all {count} texts of {flag} are the same: leave "
                    "one of them out"
                )
    for name, other in (("show", "as_json"), ("copied", "quiet")):
        if name in given and other in given and not (name == "copied" and "as_json" in given):
            raise ConfigError(
                f"{given[name]} and {given[other]} contradict each other: leave one of them out"
            )


def _write_text(parts: Iterable[Styled], output: Output) -> None:
    try:
        for text, style in parts:
            output.write(text, style)
    finally:
        if output.terminal:
            output.end_line()
        output.flush()


def _print_sample(
    writing: Writing, pieces: Iterable[str], seed: int, copies: Copies | None
) -> None:
    interrupt = None
    try:
        for _ in pieces:
            pass
    except KeyboardInterrupt as error:
        interrupt = error
    print_json(
        {
            "prompt": writing.prompt,
            "text": writing.text,
            "seed": seed,
            "tokens": writing.tokens,
            "finish_reason": writing.finish_reason,
            "bits_per_char": writing.bits_per_char,
            "index": writing.index,
            **({"copied": copies.share(writing)} if copies else {}),
        }
    )
    if interrupt:
        raise interrupt


def _write_lines(writer: LineWriter, output: Output, seed: int, as_json: bool) -> None:
    try:
        for line in writer:
            if as_json:
                print_json(
                    {
                        "prefix": writer.prefix,
                        "text": line.text,
                        "seed": seed,
                        "index": line.index,
                        "tries": line.tries,
                        "tokens": line.tokens,
                        "bits_per_char": line.bits_per_char,
                    }
                )
            else:
                output.write(f"{line.text}\n")
    finally:
        output.flush()
