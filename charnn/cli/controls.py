"""The controls of `charnn sample`: their options, and which of them contradict each other."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from charnn.cli.options import CHOICE, CONTENT, DISPLAY, ENDS
from charnn.config import COPIED_SPAN, MAX_COPY, SamplingConfig
from charnn.errors import ConfigError

FrequencyPenaltyOption = Annotated[
    float,
    typer.Option(
        "--frequency-penalty",
        metavar="X",
        help="Take X from a token's logit for each time it is among the latest 64; 0: off.",
        rich_help_panel=CHOICE,
    ),
]
PresencePenaltyOption = Annotated[
    float,
    typer.Option(
        "--presence-penalty",
        metavar="X",
        help="Take X from a token's logit if it is among the latest 64; 0: off.",
        rich_help_panel=CHOICE,
    ),
]
TypicalPOption = Annotated[
    float,
    typer.Option(
        "--typical-p",
        metavar="P",
        help="Choose among the tokens of nearly the expected surprisal that have probability P "
        "together; 1: all.",
        rich_help_panel=CHOICE,
    ),
]
BiasOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bias",
        metavar="TEXT=X",
        help="Add X to the logit of what would complete TEXT: --bias 'e=-2' writes fewer e; may be "
        "given several times.",
        show_default=False,
        rich_help_panel=CHOICE,
    ),
]
BestOfOption = Annotated[
    int,
    typer.Option(
        "--best-of",
        metavar="N",
        min=1,
        max=10_000,
        help="Write N texts and show the likeliest: the fewest bits per character.",
        rich_help_panel=CHOICE,
    ),
]
BanOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ban",
        metavar="TEXT",
        help="Never write this character or string; may be given several times.",
        show_default=False,
        rich_help_panel=CONTENT,
    ),
]
ClampOption = Annotated[
    list[str] | None,
    typer.Option(
        "--clamp",
        metavar="LAYER:UNIT=X",
        help="Hold a unit of the state at X all the while, such as 0:37=1: h of an RNN or a GRU, c "
        "of an LSTM (0:37:h=1 for its h); both count from 0. May be given several times.",
        show_default=False,
        rich_help_panel=CONTENT,
    ),
]
MaxCopyOption = Annotated[
    int,
    typer.Option(
        "--max-copy",
        metavar="N",
        help=f"Copy at most N characters in a row from the training text, {MAX_COPY} or fewer; "
        "0: any number.",
        rich_help_panel=CONTENT,
    ),
]
RegexOption = Annotated[
    str | None,
    typer.Option(
        "--regex",
        metavar="PATTERN",
        help="Write what matches this regular expression as a whole, the prompt apart. "
        "Needs: pip install 'charnn[regex]'.",
        show_default=False,
        rich_help_panel=CONTENT,
    ),
]
UntilOption = Annotated[
    Literal["sentence", "line", "paragraph"] | None,
    typer.Option(
        "--until",
        help="End after the first whole one.",
        show_default=False,
        rich_help_panel=ENDS,
    ),
]
ShowOption = Annotated[
    Literal["surprisal", "copied"] | None,
    typer.Option(
        "--show",
        help="On a terminal, colour each character by its bits, or underline what is copied from "
        f"the training text: spans of {COPIED_SPAN} characters or more, or those of --max-copy.",
        show_default=False,
        rich_help_panel=DISPLAY,
    ),
]
CopiedOption = Annotated[
    bool,
    typer.Option(
        "--copied",
        help="Say at the end how much is copied, as --show copied and --max-copy do.",
        rich_help_panel=DISPLAY,
    ),
]


def as_typed(text: str) -> str:
    """An argument read as UTF-8, whatever the locale made of its bytes."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def biases(given: list[str] | None) -> tuple[tuple[str, float], ...]:
    """The texts and numbers of TEXT=X.

    Raises:
        ConfigError: one is not of that form.
    """
    pairs = []
    for word in given or ():
        text, equals, number = as_typed(word).rpartition("=")
        try:
            pairs.append((text, float(number if equals and text else "")))
        except ValueError:
            raise ConfigError(
                f"--bias must be TEXT=NUMBER, such as 'e=-2', got {word[:80]!r}"
            ) from None
    return tuple(pairs)


def check_together(
    config: SamplingConfig, best_of: int, show: str | None, copied: bool, json: bool, quiet: bool
) -> None:
    """Refuses options that contradict each other.

    Raises:
        ConfigError: two do; it says why.
    """
    narrowing = {
        "--top-k": config.top_k > 0,
        "--top-p": config.top_p < 1,
        "--typical-p": config.typical_p < 1,
        "--min-p": config.min_p > 0,
    }
    for name, given in narrowing.items():
        if given and config.temperature == 0:
            raise ConfigError(
                f"--temperature 0 always takes the likeliest token, so {name} changes nothing: "
                "leave one of them out"
            )
    one = {
        "--temperature 0": config.temperature == 0,
        "--top-k 1": config.top_k == 1,
        "--top-p 0": config.top_p == 0,
    }
    for name, given in one.items():
        if given and best_of > 1:
            raise ConfigError(
                f"with {name} all {best_of} texts of --best-of are alike: leave one of them out"
            )
    if show and json:
        raise ConfigError("--show is for people and --json for programs: leave one of them out")
    if copied and quiet and not json:
        raise ConfigError("--copied says a number and --quiet nothing: leave one of them out")
