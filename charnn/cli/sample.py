"""`charnn sample`: text on stdout, piece by piece. numpy alone, so that it begins at once."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from charnn.cli.console import print_json, say
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
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
from charnn.config import SamplingConfig
from charnn.errors import FileError

if TYPE_CHECKING:
    from charnn.generation import Writing

RULE = "-" * 20
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
        int, typer.Option("-n", "--max-tokens", metavar="N", help="Length in tokens.")
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
            help=f"How many texts; a line of {len(RULE)} dashes stands between them.",
        ),
    ] = 1,
    seed: SeedOption = None,
    unknown: UnknownOption = "error",
    no_echo: Annotated[
        bool, typer.Option("--no-echo", help="Leave the prompt out of the output.")
    ] = False,
    threads: OneThreadOption = None,
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
    )
    output = Output()
    if prompt == "-":
        if sys.stdin is None:
            raise FileError("stdin is closed: give the prompt as an argument, or pipe it in")
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    else:  # in a locale without UTF-8, Python has read its bytes as something else
        prompt = os.fsencode(prompt).decode("utf-8", "surrogateescape")
    set_threads(threads)
    # From here on numpy is loaded, with the threads just set.
    from charnn import load
    from charnn.generation.sampler import draw_seed

    loaded = load(model, checkpoints)
    drawn = draw_seed() if seed is None else seed
    for index in range(num_samples):
        writing = loaded.write(prompt, config, drawn, index, unknown, echo=not no_echo)
        if index == 0 and seed is None and not quiet:
            say(f"seed {drawn}")
        if as_json:
            _write_json(writing, drawn)
        else:
            if index:
                output.end_line()
                output.write(f"{RULE}\n")
            _write_text(writing, output)


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


def _write_text(writing: Writing, output: Output) -> None:
    try:
        for piece in writing:
            output.write(piece)
    finally:
        if output.terminal:
            output.end_line()
        output.flush()


def _write_json(writing: Writing, seed: int) -> None:
    interrupt = None
    try:
        for _ in writing:
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
        }
    )
    if interrupt:
        raise interrupt
