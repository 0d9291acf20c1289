"""Options that several commands share, each with one spelling and one help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from charnn.config import DEFAULT_TOKENIZER

DEFAULT_CHECKPOINTS = Path("checkpoints")


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
        "--int8", help="Round the weights to 8 bits: faster, and the same text on every machine."
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
