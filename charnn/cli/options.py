"""Options that several commands share, each with one spelling and one help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from charnn.config import DEFAULT_NGRAM, DEFAULT_TOKENIZER, MAX_SEED

DEFAULT_CHECKPOINTS = Path("checkpoints")
# Sections of the help of what writes.
CHOICE, CONTENT, ENDS, DISPLAY = "What is likely", "What is written", "How long", "What is shown"


class Sectioned(TyperCommand):
    """A command whose help has its options in sections: those that they name, last the others."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then sections in the order in which they come up."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            name = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            if record:
                (sections.setdefault(name, []) if name else others).append(record)
        for name, records in {**sections, "Options": others}.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def option(*names: str, text: str, auto: bool = True) -> Any:
    """An option whose default, if it is None, is shown as auto."""
    return typer.Option(
        *names, help=f"{text} [default: auto]" if auto else text, show_default=not auto
    )


TextsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TEXT...",
        help="Files, folders, '-' for stdin, one .tokens file, or a corpus by name.",
        show_default=False,
    ),
]
ReadTextsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TEXT]...",
        help="What the network reads. [default: the run's own validation split]",
        show_default=False,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A run's name, its folder or a file. [default: the newest run's best]",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A run's name, its folder or a .safetensors file. [default: the newest run's best]",
        show_default=False,
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help=f"char, byte or sentencepiece. [default: {DEFAULT_TOKENIZER}]", show_default=False
    ),
]
VocabSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Pieces that sentencepiece learns. [default: by the size of the text]",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str, typer.Option(help="Percent of the text for training, validation[, test].")
]
ValidOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Validate on this text instead.", show_default=False),
]
EncodingOption = Annotated[str, typer.Option(help="How the text's bytes are read.")]
LinesOption = Annotated[
    bool,
    typer.Option(
        "--lines",
        help="Each line is a sample of its own, as in a list of names: read from a fresh start, "
        "in any order.",
    ),
]
NgramOption = Annotated[
    int | None,
    typer.Option(
        "--ngram",
        help="Count the n-grams of the text too, up to so many symbols, 2 to 16, and mix them in "
        "at the end, where that lowers the validation loss; 0 for none: a smaller file, and less "
        f"is copied. [default: {DEFAULT_NGRAM}, or 0 where fewer than 100 tokens are held out]",
        show_default=False,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Of the recurrent layers: float32, bfloat16, or auto, which is bfloat16 where the "
        "processor has it."
    ),
]
ThreadsOption = Annotated[int | None, option("--threads", text="Processor threads.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
EngineOption = Annotated[
    Literal["auto", "native", "numpy"],
    typer.Option(help="What computes: native, numpy, or auto, which is native where it was built."),
]
Int8Option = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Round the weights to 8 bits: faster, and the same text on every machine.",
    ),
]
CheckpointsOption = Annotated[
    Path,
    typer.Option(
        "--checkpoints",
        metavar="DIR",
        envvar="CHARNN_CHECKPOINTS",
        help="The folder that holds the runs.",
        show_envvar=True,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout, nothing else there.")
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
# How text is drawn; the defaults are those of `SamplingConfig`.
TemperatureOption = Annotated[
    float,
    typer.Option(
        "-t",
        "--temperature",
        metavar="X",
        help="Below 1 safer, above 1 wilder; 0 always takes the likeliest token.",
        rich_help_panel=CHOICE,
    ),
]
TopKOption = Annotated[
    int,
    typer.Option(
        "--top-k",
        metavar="N",
        help="Choose among the N likeliest tokens; 0: all.",
        rich_help_panel=CHOICE,
    ),
]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p",
        metavar="P",
        help="Choose among the fewest tokens that have probability P together; 1: all.",
        rich_help_panel=CHOICE,
    ),
]
MinPOption = Annotated[
    float,
    typer.Option(
        "--min-p",
        metavar="P",
        help="Rule out what is less likely than P times the likeliest token; 0: nothing.",
        rich_help_panel=CHOICE,
    ),
]
RepetitionPenaltyOption = Annotated[
    float,
    typer.Option(
        "--repetition-penalty",
        metavar="X",
        help="Above 1 makes the latest 64 tokens less likely; 1: off.",
        rich_help_panel=CHOICE,
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        help="End before this text; may be given several times. A newline: --stop $'\\n'.",
        show_default=False,
        rich_help_panel=ENDS,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=MAX_SEED,
        help="The same seed gives the same text. [default: drawn, and shown on stderr]",
        show_default=False,
    ),
]
SkipUnknownOption = Annotated[
    Literal["error", "skip"],
    typer.Option("--unknown", help="Characters the model never saw: error or skip."),
]
UnknownOption = Annotated[
    Literal["error", "skip", "replace"],
    typer.Option(
        "--unknown",
        help="What to do with a character of the prompt that the model never saw: "
        "replace puts the nearest known one.",
    ),
]
OneThreadOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=4096,
        help="Processor threads. 2 can help a model of over a million weights a layer, where "
        "nothing else runs. [default: 1]",
        show_default=False,
    ),
]
