"""`charnn sample --lines`: lines on stdout, each as soon as it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charnn.cli.console import note, print_json
from charnn.cli.output import Output
from charnn.config import LineConfig, SamplingConfig
from charnn.errors import ConfigError, FileError

if TYPE_CHECKING:
    from charnn.generation import Model

LinesOption = Annotated[
    int | None,
    typer.Option(
        "--lines",
        metavar="N",
        min=1,
        help="Write N lines instead, each from a fresh start and ended by the model: names, "
        "titles, records.",
        show_default=False,
    ),
]
PrefixOption = Annotated[
    str,
    typer.Option(
        "--prefix", metavar="TEXT", help="With --lines: what every line begins with.",
        show_default=False,
    ),
]  # fmt: skip
MinLengthOption = Annotated[
    int, typer.Option("--min-length", metavar="N", help="With --lines: shortest, in characters.")
]
MaxLengthOption = Annotated[
    int,
    typer.Option(
        "--max-length",
        metavar="N",
        help="With --lines: longest, in characters; a longer one is drawn again.",
    ),
]
UniqueOption = Annotated[bool, typer.Option("--unique", help="With --lines: no line twice.")]
NewOption = Annotated[
    bool, typer.Option("--new", help="With --lines: none that the text of the run has.")
]


def line_config(
    count: int | None,
    prefix: str,
    min_length: int,
    max_length: int,
    unique: bool,
    new: bool,
    not_with: dict[str, bool],
) -> LineConfig | None:
    """What is asked of lines, or None where none are.

    Args:
        not_with: by name, what makes no sense with lines, and whether it was given.

    Raises:
        ConfigError: a setting is out of range, or contradicts another.
    """
    if count is None:
        others = {
            "prefix": prefix != LineConfig.prefix,
            "min_length": min_length != LineConfig.min_length,
            "max_length": max_length != LineConfig.max_length,
            "unique": unique,
            "new": new,
        }
        given = [name for name, is_given in others.items() if is_given]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{flags} only makes sense with --lines N: say how many lines")
        return None
    for name, given_too in not_with.items():
        if given_too:
            raise ConfigError(
                f"{name} makes no sense with --lines: a line begins with --prefix and ends where "
                "the model ends it, at --max-length at the latest; leave it out"
            )
    return LineConfig(count, prefix, min_length, max_length, unique)


def write_lines(
    model: Model,
    path: Path,
    lines: LineConfig,
    config: SamplingConfig,
    seed: int,
    unknown: str,
    new: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Writes lines to stdout.

    Args:
        path: the file that the model came from; its run has the text for `new`.

    Raises:
        TextError: not so many lines were found as were asked for.
        FileError: the text is not there, or is not the model's.
    """
    if not model.of_lines and not quiet:
        note(
            "this model was not trained with --lines: it never saw a line begin from nothing, "
            "so its lines are those after a newline"
        )
    known = training_lines(model, path) if new else frozenset()
    writer = model.lines(lines, config, seed, known, unknown)
    output = Output()
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


def training_lines(model: Model, path: Path) -> frozenset[str]:
    """The lines of the text that a model was trained and validated on.

    Raises:
        FileError: its run is not there, or holds another text.
    """
    from charnn.text.token_file import TokenFile

    beside = path.parent / "tokens"
    if not beside.exists():
        raise FileError(
            f"--new needs the text that the model learnt from, and {beside} is not there: sample "
            "from the run's folder, or leave --new out"
        )
    tokens = TokenFile.open(beside)
    if tokens.source["sha256"] != model.info.get("corpus", {}).get("sha256"):
        raise FileError(f"{beside} is not the text that {path} learnt from: leave --new out")
    text = tokens.tokenizer.decode(tokens.tokens)
    return frozenset(line.removesuffix("\r") for line in text.split("\n"))
