"""Settings: checks, words of the command line and help, made from the fields of dataclasses."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import pytest

from charnn.config import (
    DynamicConfig,
    LabOptions,
    LineConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
    TrainOptions,
)
from charnn.config.settings import Config, choice, number, optional, setting, settings_of, whole
from charnn.errors import ConfigError


@dataclass(frozen=True)
class Example(Config):
    """A setting of each kind."""

    count: int = whole(1, 0, 9, "Things.")
    share: float | None = number(None, 0, 1, "Part of them.")
    colour: str = choice("red", ("red", "green"), "Colour.")
    names: tuple[str, ...] = setting((), "Name.", several=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"count": -1}, ("count", "0", "9", "-1")),
        ({"count": 10}, ("count", "10")),
        ({"count": 1.0}, ("count", "1.0")),
        ({"count": True}, ("count", "True")),
        ({"count": None}, ("count", "None")),
        ({"share": math.nan}, ("share", "nan")),
        ({"share": "1"}, ("share", "'1'")),
        ({"colour": "blue"}, ("colour", "red", "green", "'blue'")),
        ({"names": ("a", 1)}, ("names", "1")),
    ],
)
def test_a_value_out_of_range_names_the_field_the_range_and_the_value(
    values: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        Example(**values)
    assert all(word in str(error.value) for word in named)


def test_values_in_range_are_accepted() -> None:
    Example(9, None, "green", ("a", ""))
    Example(0, 1)


def test_a_word_of_the_command_line_becomes_a_checked_value() -> None:
    settings = settings_of(Example)
    assert (3, 0.5, "a") == (
        settings["count"].read("3"),
        settings["share"].read("0.5"),
        settings["names"].read("a"),
    )
    for name, word in (("count", "3.5"), ("count", "12"), ("share", "much")):
        with pytest.raises(ConfigError, match=word):
            settings[name].read(word)
    assert ("e=", -2.0) == settings_of(SamplingConfig)["bias"].read("e==-2")
    assert (80, 20) == settings_of(TrainOptions)["split"].read("80,20")


def test_an_optional_setting_has_the_range_of_the_original() -> None:
    @dataclass(frozen=True)
    class Choice(Config):
        count: int | None = optional(Example, "count")

    assert Choice().count is None
    with pytest.raises(ConfigError):
        Choice(10)


@pytest.mark.parametrize(
    "config",
    [DynamicConfig, LabOptions, LineConfig, ModelConfig, SamplingConfig, TrainConfig, TrainOptions],
)
def test_every_help_is_a_sentence_and_every_default_is_in_range(config: type) -> None:
    for each in fields(config):
        if made := each.metadata.get("setting"):
            assert made.help.endswith((".", "]")), each.name
            if isinstance(each.default, (int, float)):
                assert made.problem(each.default) is None, each.name
