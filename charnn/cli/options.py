"""Options that commands share, and options made from the settings of a config dataclass."""

from __future__ import annotations

import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from charnn.cli.console import QUIET
from charnn.config import TrainConfig, TrainOptions
from charnn.config.settings import Setting, settings_of, spelt
from charnn.config.training import COMMON, DEVICES
from charnn.errors import ConfigError

DEFAULT_CHECKPOINTS = Path("checkpoints")
DISPLAY = "Display"  # a section of the help
TABLE = re.compile(r"\{([\w.]+):(\w+)\}")  # a table in a help text, as in "{module:TABLE}"
WRAPPING: Any = {
    "subsequent_indent": "    ",
    "break_long_words": False,
    "break_on_hyphens": False,
}
METAVARS = {int: "N", float: "X", str: "TEXT"}


class Sectioned(TyperCommand):
    """A command whose help lists options under the sections that they name, the others last."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Writes the help text; lines of examples that are too long continue on the next line."""
        width, lines, whole, example = formatter.width - 4, list[str](), self.help or "", False
        for line in inspect.cleandoc(whole).splitlines():
            example = bool(line) and (example or line == "\b")
            lines += textwrap.wrap(line, width, **WRAPPING) if example else [line]
        self.help = "\n".join(lines)
        super().format_help_text(ctx, formatter)
        self.help = whole

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Returns the parts of the usage line, without braces around what is required."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, common options, and the other sections in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], COMMON: []}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            name = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            if record:
                flags, text = record
                record = flags, TABLE.sub(lambda found: ", ".join(names_in(*found.groups())), text)
                (sections.setdefault(name, []) if name else others).append(record)
        for name, records in {**sections, "Options": others}.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=30 if formatter.width > 50 else 12)


def names_in(module: str, table: str) -> list[str]:
    """Returns the names in a table of a module."""
    return list(getattr(import_module(module), table))


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --quiet, and an option for each setting of the config dataclasses it takes.

    A parameter whose default is a config dataclass becomes one option for each setting, and the
    command receives the dataclass filled. Options that are not given keep the value of the default.
    """
    signature = inspect.signature(command, eval_str=True)
    bases: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if not is_dataclass(parameter.default):
            parameters.append(parameter)
            continue
        base = bases[name] = parameter.default
        for key, setting in settings_of(type(base)).items():
            kind: Any = list[str] if setting.several else setting.kind
            info = option(key, setting, getattr(base, key))
            annotation: Any = Annotated[kind | None, info]
            parameters.append(parameter.replace(name=key, default=None, annotation=annotation))
    parameters.append(
        inspect.Parameter(
            "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption
        )
    )

    @functools.wraps(command)
    def run(quiet: bool, **values: Any) -> None:
        QUIET.set(quiet)
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

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def option(name: str, setting: Setting, default: Any = None) -> Any:
    """Makes an option of a setting; `default` is for the help text."""
    switch = setting.kind is bool
    metavar = setting.metavar or "|".join(setting.choices) or METAVARS.get(setting.kind)
    return typer.Option(
        *(setting.flags or (f"--{name.replace('_', '-')}",)),
        help=_help(setting, default),
        metavar=None if switch else metavar,
        parser=None if switch else _parser(setting),
        autocompletion=COMPLETIONS.get(name) or _completion(setting),
        show_default=False,
        rich_help_panel=setting.section or None,
    )


def _completion(setting: Setting) -> Callable[[], list[str]] | None:
    """Returns a function that lists the values of a setting, from its choices or its table."""
    if setting.choices:
        return lambda: list(setting.choices)
    found = TABLE.search(setting.help)
    return (lambda: names_in(*found.groups())) if found else None


def complete_runs(context: typer.Context) -> list[str]:
    """Lists the names of the runs."""
    from charnn.runs import list_runs

    checkpoints = context.params.get("checkpoints") or os.environ.get("CHARNN_CHECKPOINTS")
    return [run.name for run in list_runs(Path(checkpoints or DEFAULT_CHECKPOINTS))]


def complete_models(context: typer.Context) -> list[str]:
    """Lists runs and bases; a shell completes files where no name fits."""
    return [*complete_runs(context), *names_in("charnn.bases", "BASES")]


def complete_starts(context: typer.Context) -> list[str]:
    """Lists what --from takes."""
    from charnn.bases import SCRATCH

    return [*complete_models(context), SCRATCH]


def complete_texts(incomplete: str) -> list[str]:
    """Lists corpora and the files of the working folder; a shell completes other paths."""
    files = (
        [] if os.path.dirname(incomplete) else sorted(e.name for e in os.scandir() if e.is_file())
    )
    corpora = names_in("charnn.text.corpora", "CORPORA")
    return [*corpora, *(name for name in files if not name.startswith("."))]


COMPLETIONS: dict[str, Callable[..., list[str]]] = {
    "name": complete_runs,
    "from_model": complete_starts,
}


def option_of(config: type, name: str) -> Any:
    """Makes an option of one setting of a config dataclass, outside the sections of the help."""
    setting = replace(settings_of(config)[name], section="")
    return option(name, setting, getattr(config, name))


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


def threads_option(help: str, shown: str) -> Any:
    """Makes the option --threads."""
    setting = settings_of(TrainConfig)["threads"]
    return option("threads", replace(setting, help=help, section="", shown=shown))


def argument(metavar: str, help: str, **more: Any) -> Any:
    """Makes an argument whose help names its default."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, **more)


def texts_argument(metavar: str, help: str) -> Any:
    """Makes the argument TEXT."""
    return argument(metavar, help, autocompletion=complete_texts)


def output_option(metavar: str, help: str) -> Any:
    """Makes the option -o."""
    return typer.Option("-o", "--output", metavar=metavar, help=help, show_default=False)


def _unknown_option(help: str, *choices: str) -> Any:
    return option("unknown", Setting(help, choices=choices, shown="error"))


TEXTS = "Files, folders, '-' for stdin, one .tokens file, or a corpus by name."
MODEL = (
    "A run's name, a run's folder, a model file, a base that ships: {charnn.bases:BASES}, or "
    "hf:OWNER/NAME on the Hub."
)
NEWEST = "[default: the newest run's best model]"
TextsArgument = Annotated[list[str], texts_argument("TEXT...", TEXTS)]
OptionalTextsArgument = Annotated[list[str] | None, texts_argument("[TEXT]...", TEXTS)]
ReadTextsArgument = Annotated[
    list[str] | None,
    texts_argument("[TEXT]...", f"{TEXTS} [default: the validation split of the model's run]"),
]
ModelArgument = Annotated[
    str | None, argument("[MODEL]", f"{MODEL} {NEWEST}", autocompletion=complete_models)
]
PromptArgument = Annotated[
    str,
    argument(
        "[PROMPT]",
        "Beginning, which the model continues. [default: none, a new text begins]",
        parser=as_typed,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        *("-m", "--model"),
        metavar="MODEL",
        help=f"{MODEL} {NEWEST}",
        show_default=False,
        autocompletion=complete_models,
    ),
]
EncodingOption = Annotated[str, option_of(TrainOptions, "encoding")]
ThreadsOption = Annotated[int | None, threads_option("Processor threads.", "auto")]
OneThreadOption = Annotated[
    int | None,
    threads_option(
        "Processor threads; 2 can help a model with over a million weights a layer.", "1"
    ),
]
DeviceOption = Annotated[
    str, option("device", Setting("Device that computes.", choices=DEVICES, shown="auto"))
]
EngineOption = Annotated[
    str,
    option(
        "engine",
        Setting(
            "Code that computes the network: {charnn.engines:ENGINES}; auto: native where it was "
            "built, else numpy.",
            metavar="ENGINE",
            shown="auto",
        ),
    ),
]
Int8Option = Annotated[
    bool,
    typer.Option(
        "--int8", help="Round the weights to 8 bits: faster, and the same text on every machine."
    ),
]
NetworkOnlyOption = Annotated[
    bool,
    typer.Option(
        "--network-only",
        help="Use the network alone, without the n-grams mixed into it.",
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
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print only warnings and errors on stderr.")
]
SeedOption = Annotated[
    int | None,
    option(
        "seed",
        replace(
            settings_of(TrainConfig)["seed"],
            help="The same seed gives the same text.",
            section="",
            shown="random, and printed on stderr",
        ),
    ),
]
SkipUnknownOption = Annotated[
    Literal["error", "skip"],
    _unknown_option(
        "Characters that the model does not know: stop with an error, or skip them.",
        "error",
        "skip",
    ),
]
UnknownOption = Annotated[
    Literal["error", "skip", "replace"],
    _unknown_option(
        "Characters of the prompt that the model does not know: stop with an error, skip them, or "
        "replace each by the nearest known one.",
        "error",
        "skip",
        "replace",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what exists at -o.")]
