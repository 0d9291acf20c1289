"""Settings of sampling: texts and lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charnn.config.model import MAX_VOCAB_SIZE
from charnn.config.settings import (
    Config,
    Setting,
    choice,
    number,
    require,
    setting,
    settings_of,
    switch,
    whole,
)
from charnn.errors import ConfigError

UNTIL = ("sentence", "line", "paragraph")
MAX_COPY = 200  # characters; four bytes each and one more stay below the depth of the index
RECENT = 64  # the latest tokens, prompt included, that the penalties look at
NARROWING = ("top_k", "top_p", "typical_p", "min_p")  # without effect at temperature 0
BIAS = Setting("", kind=float, low=-100, high=100)
COUNT = Setting("", kind=int, low=1, high=2**32)
MAX_LENGTH = 2**20  # characters of a line

# Sections of the help.
CHOICE, CONTENT, ENDS, LINES = "Choice of tokens", "Content", "Length", "Lines"


def parse_bias(word: str) -> tuple[str, float]:
    """Parses TEXT=NUMBER; raises ValueError for any other word."""
    text, _, value = word.rpartition("=")
    return text, float(value if text else "")


@dataclass(frozen=True)
class SamplingConfig(Config):
    """Settings of one text: its length, the filters on each choice, where it stops.

    The defaults of all settings but ``max_tokens`` and ``temperature`` switch them off.
    """

    max_tokens: int = whole(
        500, 0, 2**40, "Length of the text in tokens.", flags=("-n", "--max-tokens"), section=ENDS
    )
    temperature: float = number(
        0.8,
        0,
        1000,
        "Below 1 more predictable, above 1 more varied; 0 always takes the likeliest token.",
        flags=("-t", "--temperature"),
        section=CHOICE,
    )
    top_k: int = whole(
        0, 0, MAX_VOCAB_SIZE, "Choose among the N likeliest tokens; 0: all.", section=CHOICE
    )
    top_p: float = number(
        1.0,
        0,
        1,
        "Choose among the fewest tokens whose probabilities add up to P; 1: all.",
        metavar="P",
        section=CHOICE,
    )
    min_p: float = number(
        0.0,
        0,
        1,
        "Rule out tokens less likely than P times the likeliest; 0: none.",
        metavar="P",
        section=CHOICE,
    )
    repetition_penalty: float = number(
        1.0,
        0.1,
        10,
        f"Above 1 makes the latest {RECENT} tokens less likely; 1: off.",
        section=CHOICE,
    )
    stop: tuple[str, ...] = setting(
        (), "End before this text. A newline: --stop $'\\n'.", several=True, section=ENDS
    )
    frequency_penalty: float = number(
        0.0,
        -10,
        10,
        f"Subtract X from a logit for each time its token is in the latest {RECENT}; 0: off.",
        section=CHOICE,
    )
    presence_penalty: float = number(
        0.0,
        -10,
        10,
        f"Subtract X from a logit if its token is in the latest {RECENT}; 0: off.",
        section=CHOICE,
    )
    typical_p: float = number(
        1.0,
        0,
        1,
        "Choose among the tokens of most typical surprisal whose probabilities add up to P; "
        "1: all.",
        metavar="P",
        section=CHOICE,
    )
    bias: tuple[tuple[str, float], ...] = setting(
        (),
        "Add X, -100 to 100, to the logits of tokens that complete TEXT: --bias e=-2.",
        several=True,
        metavar="TEXT=X",
        parse=parse_bias,
        form="TEXT=NUMBER, such as e=-2",
        section=CHOICE,
    )
    ban: tuple[str, ...] = setting(
        (), "Never write this character or string.", several=True, section=CONTENT
    )
    max_copy: int = whole(
        0,
        0,
        MAX_COPY,
        "Copy at most N characters in a row from the training text; 0: any number.",
        section=CONTENT,
    )
    regex: str | None = setting(
        None,
        "Make the whole text, without the prompt, match this regular expression. "
        'Needs: pip install "charnn[regex]".',
        metavar="PATTERN",
        section=CONTENT,
    )
    until: str | None = choice(
        None, UNTIL, "End after the first whole sentence, line or paragraph.", section=ENDS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        biased = [text for text, _ in self.bias]
        for name, texts in {"stop": self.stop, "bias": biased, "ban": self.ban}.items():
            require("" not in texts, f"{name} must be a string of at least one character, got ''")
        for text, value in self.bias:
            problem = BIAS.problem(value)
            require(not problem, f"bias of {text!r} {problem}")
            require(biased.count(text) == 1, f"bias of {text!r} is given twice: give one number")
            require(text not in self.ban, f"{text!r} has both a bias and a ban: choose one")
        if self.regex is not None:
            require(self.regex != "", "regex must be a pattern of at least one character, got ''")
            for name in ("stop", "until", "ban", "max_copy"):
                require(
                    not getattr(self, name),
                    f"regex and {name.replace('_', '-')} contradict each other: the pattern alone "
                    "decides what the text contains and where it ends; put it into the pattern",
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingConfig:
        """Makes settings from values by name, as JSON or keyword arguments have them.

        `stop` and `ban` may be one string, `bias` a mapping. A missing
        setting has its default.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        given = dict(values)
        for name in ("stop", "ban"):
            if isinstance(given.get(name), str):
                given[name] = [given[name]]
        if isinstance(given.get("bias"), Mapping):
            given["bias"] = list(given["bias"].items())
        elif isinstance(given.get("bias"), str):
            try:
                given["bias"] = [settings_of(cls)["bias"].read(given["bias"])]
            except ConfigError as error:
                raise ConfigError(f"bias {error}") from None
        return super().from_dict(given)


@dataclass(frozen=True)
class LineConfig(Config):
    """Settings of `charnn sample --lines`: the number of lines, their lengths and their prefix.

    The model ends a line, but not before ``min_length``; a line longer than ``max_length`` is
    sampled again. Lengths include the prefix.
    """

    count: int = 1
    prefix: str = setting("", "With --lines: beginning of every line.", section=LINES)
    min_length: int = whole(
        1, 1, MAX_LENGTH, "With --lines: lowest length in characters.", section=LINES
    )
    max_length: int = whole(
        1000,
        1,
        MAX_LENGTH,
        "With --lines: highest length in characters; longer lines are sampled again.",
        section=LINES,
    )
    unique: bool = switch("With --lines: no line twice.", section=LINES)

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = COUNT.problem(self.count)
        require(not problem, f"lines {problem}")
        require(
            self.min_length <= self.max_length,
            f"min_length {self.min_length} is above max_length {self.max_length}: no line fits",
        )
        require(
            "\n" not in self.prefix, "prefix must be the beginning of one line, without a newline"
        )
        require(
            len(self.prefix) <= self.max_length,
            f"the prefix has {len(self.prefix)} characters, and max_length is {self.max_length}: "
            "give a shorter prefix or a higher max_length",
        )
