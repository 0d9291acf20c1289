"""Options that commands share, and options made from the settings of a config dataclass."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand

from charnn.config import TrainOptions
from charnn.config.settings import MAX_SEED, Setting, settings_of, spelt
from charnn.errors import ConfigError

DEFAULT_CHECKPOINTS = Path("checkpoints")
DISPLAY = "What is shown"  # a section of the help
NEWEST = "[default: the newest run's best]"
METAVARS = {int: "N", float: "X", str: "TEXT"}


class Sectioned(TyperCommand):
    """A command whose help lists options under the sections that they name, the others last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then the sections in the order in which the options name them."""
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
                    formatter.write_dl(records, col_max=30 if formatter.width > 50 else 12)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each setting of the config dataclasses that it takes.

    A parameter whose default is a config dataclass becomes one option a setting, and the command
    receives the dataclass filled. Options that are not given keep the value of the default.
    """
    signature = inspect.signature(command)
    bases: dict[str, Any] = {
        name: each.default
        for name, each in signature.parameters.items()
        if is_dataclass(each.default)
    }
    if not bases:
        return command
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if base := bases.get(name):
            parameters += [
                inspect.Parameter(
                    key,
                    parameter.kind,
                    default=None,
                    annotation=_annotated(setting, option(key, setting, getattr(base, key))),
                )
                for key, setting in settings_of(type(base)).items()
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, base in bases.items():
            given = {key: values.pop(key) for key in settings_of(type(base))}
            values[name] = replace(
                base,
                **{
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in given.items()
                    if value is not None
                },
            )
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def option(name: str, setting: Setting, default: Any = None) -> Any:
    """Makes an option of a setting; `default` is for the help text."""
    plain = setting.kind is bool or (isinstance(setting.choices, tuple) and setting.choices)
    return typer.Option(
        *(setting.flags or (f"--{name.replace('_', '-')}",)),
        help=_help(setting, default),
        metavar=None if plain else _metavar(setting),
        parser=None if plain else _parser(setting),
        show_default=False,
        rich_help_panel=setting.section or None,
    )


def _metavar(setting: Setting) -> str:
    return setting.metavar or "|".join(setting.choices) or METAVARS[setting.kind]


def option_of(config: type, name: str) -> Any:
    """Makes an option of one setting of a config dataclass, for a parameter that may be None."""
    return option(name, settings_of(config)[name], getattr(config, name))


def _annotated(setting: Setting, info: Any) -> Any:
    kind: Any = setting.kind
    if isinstance(setting.choices, tuple) and setting.choices:
        kind = Literal[setting.choices]
    elif setting.several:
        kind = list[str]
    return Annotated.__class_getitem__((kind | None, info))  # type: ignore[attr-defined]


def _help(setting: Setting, default: Any) -> str:
    shown = setting.shown or spelt(default)
    facts = [f"default: {shown}"] * bool(shown) + [setting.range] * bool(setting.range)
    if setting.several:
        facts.append("may be given several times")
    return f"{setting.help} [{'; '.join(facts)}]" if facts else setting.help


def _parser(setting: Setting) -> Callable[[str], Any]:
    def parse(word: Any) -> Any:
        if not isinstance(word, str):
            return word  # a default, which typer passes too
        try:
            return setting.read(word if setting.parse is str else as_typed(word))
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def given_flags(context: typer.Context) -> dict[str, str]:
    """Returns names and flags of the options and arguments given on the command line."""
    given = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source and source.name == "COMMANDLINE":
            argument = parameter.param_type_name == "argument"
            given[parameter.name or ""] = (
                parameter.human_readable_name.strip("[]")
                if argument
                else max(parameter.opts, key=len)
            )
    return given


def as_typed(text: str) -> str:
    """Returns an argument read as UTF-8; Python reads its bytes by the locale."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


TextsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TEXT...",
        help="Files, folders, '-' for stdin, one .tokens file, or a corpus by name.",
        show_default=False,
    ),
]
OptionalTextsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TEXT]...",
        help="Files, folders, '-' for stdin, one .tokens file, or a corpus by name.",
        show_default=False,
    ),
]
ReadTextsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TEXT]...",
        help="Text that the network reads. [default: the run's validation split]",
        show_default=False,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help=f"A run's name, its folder or a file. {NEWEST}",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help=f"A run's name, its folder or a file. {NEWEST}",
        show_default=False,
    ),
]
TokenizerOption = Annotated[str | None, option_of(TrainOptions, "tokenizer")]
VocabSizeOption = Annotated[int | None, option_of(TrainOptions, "vocab_size")]
EncodingOption = Annotated[
    str, typer.Option("--encoding", metavar="TEXT", help="Encoding of the text.")
]
ThreadsOption = Annotated[int | None, option_of(TrainOptions, "threads")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Device that computes.")
]
EngineOption = Annotated[
    Literal["auto", "native", "numpy"],
    typer.Option(
        "--engine", help="Code that computes the network; auto: native where it was built."
    ),
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
        help="Folder that holds the runs.",
        show_envvar=True,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors on stderr.")]
SeedOption = Annotated[
    int | None,
    option(
        "seed",
        Setting(
            "The same seed gives the same text.",
            kind=int,
            low=0,
            high=MAX_SEED,
            shown="drawn, and shown on stderr",
        ),
    ),
]
SkipUnknownOption = Annotated[
    Literal["error", "skip"],
    typer.Option("--unknown", help="What to do with characters that the model does not know."),
]
UnknownOption = Annotated[
    Literal["error", "skip", "replace"],
    typer.Option(
        "--unknown",
        help="What to do with characters of the prompt that the model does not know; replace: "
        "take the nearest known ones.",
    ),
]
OneThreadOption = Annotated[
    int | None,
    option(
        "threads",
        Setting(
            "Processor threads; 2 can help a model with over a million weights a layer.",
            kind=int,
            low=1,
            high=4096,
            shown="1",
        ),
    ),
]
PromptArgument = Annotated[
    str,
    typer.Argument(
        metavar="[PROMPT]",
        help="Beginning of the text. [default: the start token]",
        parser=as_typed,
        show_default=False,
    ),
]
