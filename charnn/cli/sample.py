"""`charnn sample`: text on stdout, piece by piece. numpy alone, so that it begins at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from charnn.cli.console import no_talk, note, note_unknown, print_json, say
from charnn.cli.controls import (
    BanOption,
    BestOfOption,
    BiasOption,
    ClampOption,
    CopiedOption,
    FrequencyPenaltyOption,
    MaxCopyOption,
    PresencePenaltyOption,
    RegexOption,
    ShowOption,
    TypicalPOption,
    UntilOption,
    as_typed,
    biases,
    check_together,
)
from charnn.cli.marks import LEGEND, Copies, Marks, Styled, likeliest, marks_for
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    DISPLAY,
    ENDS,
    CheckpointsOption,
    EngineOption,
    Int8Option,
    JsonOption,
    MinPOption,
    ModelOption,
    OneThreadOption,
    QuietOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    UnknownOption,
)
from charnn.cli.output import Output
from charnn.cli.sample_lines import (
    LinesOption,
    MaxLengthOption,
    MinLengthOption,
    NewOption,
    PrefixOption,
    UniqueOption,
    line_config,
    write_lines,
)
from charnn.config import COPIED_SPAN, LineConfig, SamplingConfig
from charnn.errors import FileError

if TYPE_CHECKING:
    from charnn.generation import Writing

RULE = "-" * 20
MANY = 8  # texts from which on they are written side by side, each shown when it has ended
# What the linear algebra libraries under numpy read when they are loaded.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def sample(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]",
            help="What the text goes on from; - reads it from stdin, its last newline included. "
            "Left out: the text begins as a text begins.",
            show_default=False,
        ),
    ] = "",
    model: ModelOption = None,
    max_tokens: Annotated[
        int,
        typer.Option(
            "-n", "--max-tokens", metavar="N", help="Length in tokens.", rich_help_panel=ENDS
        ),
    ] = SamplingConfig.max_tokens,
    temperature: TemperatureOption = SamplingConfig.temperature,
    top_k: TopKOption = SamplingConfig.top_k,
    top_p: TopPOption = SamplingConfig.top_p,
    min_p: MinPOption = SamplingConfig.min_p,
    repetition_penalty: RepetitionPenaltyOption = SamplingConfig.repetition_penalty,
    stop: StopOption = None,
    num_samples: Annotated[
        int,
        typer.Option(
            "--num-samples",
            metavar="N",
            min=1,
            help=f"How many texts; a line of {len(RULE)} dashes stands between them. {MANY} or "
            "more are written side by side, each shown as it ends.",
            rich_help_panel=ENDS,
        ),
    ] = 1,
    lines: LinesOption = None,
    prefix: PrefixOption = LineConfig.prefix,
    min_length: MinLengthOption = LineConfig.min_length,
    max_length: MaxLengthOption = LineConfig.max_length,
    unique: UniqueOption = False,
    new: NewOption = False,
    seed: SeedOption = None,
    unknown: UnknownOption = "error",
    no_echo: Annotated[
        bool,
        typer.Option(
            "--no-echo", help="Leave the prompt out of the output.", rich_help_panel=DISPLAY
        ),
    ] = False,
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    threads: OneThreadOption = None,
    frequency_penalty: FrequencyPenaltyOption = SamplingConfig.frequency_penalty,
    presence_penalty: PresencePenaltyOption = SamplingConfig.presence_penalty,
    typical_p: TypicalPOption = SamplingConfig.typical_p,
    bias: BiasOption = None,
    best_of: BestOfOption = 1,
    ban: BanOption = None,
    clamp: ClampOption = None,
    max_copy: MaxCopyOption = SamplingConfig.max_copy,
    regex: RegexOption = SamplingConfig.regex,
    until: UntilOption = None,
    show: ShowOption = None,
    copied: CopiedOption = False,
    as_json: JsonOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    quiet: QuietOption = False,
) -> None:
    """Write text in the style of a trained model, each piece as soon as it is known."""
    config = SamplingConfig(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        typical_p=typical_p,
        bias=biases(bias),
        ban=tuple(map(as_typed, ban or ())),
        max_copy=max_copy,
        regex=None if regex is None else as_typed(regex),
        until=until,
    )
    not_with_lines = {
        "a PROMPT": prompt != "",
        "--num-samples": num_samples != 1,
        "--stop": bool(stop),
        "--until": until is not None,
        "--best-of": best_of != 1,
        "--regex": regex is not None,
        "--show": show is not None,
        "--copied": copied,
        "--max-tokens": max_tokens != SamplingConfig.max_tokens,
        "--no-echo": no_echo,
    }
    prefix = os.fsencode(prefix).decode("utf-8", "surrogateescape")
    line_limits = line_config(lines, prefix, min_length, max_length, unique, new, not_with_lines)
    check_together(config, best_of, show, copied, as_json, quiet)
    counted = copied or max_copy > 0 or show == "copied"
    output = Output()
    if prompt == "-":
        if sys.stdin is None:
            raise FileError("stdin is closed: give the prompt as an argument, or pipe it in")
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    else:
        prompt = as_typed(prompt)
    set_threads(threads)
    # From here on numpy is loaded, with the threads just set.
    from charnn import load
    from charnn.generation.batch import write_together
    from charnn.generation.sampler import draw_seed
    from charnn.runs import find_model

    path = find_model(model, checkpoints)
    loaded = load(path, engine=engine, int8=int8, clamps=clamp or ())
    drawn = draw_seed() if seed is None else seed
    if not quiet:
        missing = loaded.tokenizer.unknown_in(prefix if line_limits else prompt)
        note_unknown(missing, loaded.tokenizer.known, unknown)
    if line_limits:
        if seed is None and not quiet:
            say(f"seed {drawn}")
        write_lines(loaded, path, line_limits, config, drawn, unknown, new, as_json, quiet)
        return
    if loaded.of_lines and not quiet:
        note("this model was trained with --lines: 'charnn sample --lines 20' is what it is for")
    copies = Copies(loaded, max_copy or COPIED_SPAN) if counted else None
    if show and not output.colour:
        (no_talk if quiet else note)("--show needs a terminal with colour; the text is as it is")
        show = None
    if num_samples >= MANY and best_of == 1 and not show:
        if seed is None and not quiet:
            say(f"seed {drawn}")
        texts = (
            loaded.write(prompt, config, drawn, index, unknown, not no_echo)
            for index in range(num_samples)
        )
        _write_many(
            write_together(texts, loaded.predictor, threads), output, drawn, copies, as_json
        )
        if copies and not quiet and not as_json:
            say(copies.report())
        return
    for index in range(num_samples):
        candidates = (
            loaded.write(
                prompt,
                config,
                drawn,
                each,
                unknown,
                not no_echo,
                surprisals=show == "surprisal",
                keep=as_json or counted or best_of > 1,
            )
            for each in range(index * best_of, (index + 1) * best_of)
        )
        first = next(candidates)
        if index == 0 and not quiet:
            if seed is None:
                say(f"seed {drawn}")
            if show == "surprisal":
                say(LEGEND)
        writing, pieces = likeliest(first, candidates)
        if as_json:
            _write_json(writing, pieces, drawn, copies)
        else:
            if index:
                output.end_line()
                output.write(f"{RULE}\n")
            prompted = bool(prompt) and not no_echo
            _write_text(pieces, output, marks_for(show, writing, prompted, copies))
            if copies:
                copies.share(writing)
    if copies and not quiet and not as_json:
        say(copies.report())


def set_threads(threads: int | None) -> None:
    """Settles how many threads numpy will use; must come before numpy is loaded.

    One is the default, since a second that has to share its core makes a step several times
    slower; whoever set a variable in the environment knows better.
    """
    for name in THREAD_VARIABLES:
        if threads is not None:
            os.environ[name] = str(threads)
        else:
            os.environ.setdefault(name, "1")


def _write_text(pieces: Iterable[str], output: Output, marks: Marks | None) -> None:
    try:
        for piece in pieces:
            if marks:
                _write_styled(output, marks.push(piece))
            else:
                output.write(piece)
    finally:
        if marks:
            _write_styled(output, marks.flush())
        if output.terminal:
            output.end_line()
        output.flush()


def _write_many(
    texts: Iterable[Writing], output: Output, seed: int, copies: Copies | None, as_json: bool
) -> None:
    """Writes texts that have ended, each as it comes."""
    for number, writing in enumerate(texts):
        if as_json:
            _write_json(writing, (), seed, copies)
            continue
        if number:
            output.end_line()
            output.write(f"{RULE}\n")
        if shown := writing.shown:
            output.write(shown)
        if copies:
            copies.share(writing)
    output.flush()


def _write_styled(output: Output, parts: Iterable[Styled]) -> None:
    for text, style in parts:
        output.write(text, style)


def _write_json(
    writing: Writing, pieces: Iterable[str], seed: int, copies: Copies | None = None
) -> None:
    interrupt = None
    try:
        for _ in pieces:
            pass
    except KeyboardInterrupt as error:
        interrupt = error
    shares = {"copied": copies.share(writing)} if copies else {}
    print_json(
        {
            "prompt": writing.prompt,
            "text": writing.text,
            "seed": seed,
            "tokens": writing.tokens,
            "finish_reason": writing.finish_reason,
            "bits_per_char": writing.bits_per_char,
            "index": writing.index,
            **shares,
        }
    )
    if interrupt:
        raise interrupt
