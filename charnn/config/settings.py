"""Settings: fields of a config dataclass that carry their help, default and range.

The check of a value, the option of the command line and its help text are made from the field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from os import PathLike
from typing import Any, TypeVar

from charnn.errors import ConfigError, did_you_mean

MAX_SEED = 2**32 - 1
MANY = 100_000  # a limit from here on only keeps out nonsense, and help texts leave it out
KEY = "setting"
REQUIRED: Any = MISSING  # the default of a field without one

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A field's help and range.

    Attributes:
        help: the effect and the unit, as a sentence.
        kind: the type of a value: int, float, str or bool.
        low: the lowest number.
        high: the highest number.
        choices: the strings to choose from, if they are limited; the table of a family, such as
            that of the cells, is read whenever a value is checked.
        several: whether the field is a tuple, filled by giving the option several times.
        listed: whether the field is a tuple, filled from one word with commas.
        shown: the default for people, where it is not the field's own.
        flags: spellings of the option; left out: the field's name.
        metavar: the name of the value in help; left out: by `kind`.
        section: the title under which help lists the option.
        parse: a function that makes the value of a word, where `kind` does not; it raises
            ValueError for any other word.
        form: the words that `parse` takes, such as "TEXT=NUMBER".
    """

    help: str
    kind: type = str
    low: float = -float("inf")
    high: float = float("inf")
    choices: Collection[str] = ()
    several: bool = False
    listed: bool = False
    shown: str = ""
    flags: tuple[str, ...] = ()
    metavar: str = ""
    section: str = ""
    parse: Callable[[str], Any] | None = None
    form: str = ""

    def problem(self, value: object) -> str | None:
        """Returns what is wrong with a value, such as "must be …, got 3"; None if it is fine."""
        if self.choices:
            good, wanted = value in self.choices, f"one of {', '.join(self.choices)}"
        elif self.kind in (int, float):
            allowed = int if self.kind is int else (int, float)
            number = isinstance(value, allowed) and not isinstance(value, bool)
            good = number and self.low <= value <= self.high  # type: ignore[operator]  # a number here
            what = "whole number" if self.kind is int else "number"
            capped = self.high < MANY or (number and value > self.high)  # type: ignore[operator]  # same
            wanted = f"a {what} from {spelt(self.low)}" + f" to {spelt(self.high)}" * capped
        elif self.kind is bool:
            good, wanted = isinstance(value, bool), "true or false"
        elif self.parse is str:
            good, wanted = isinstance(value, (str, PathLike)), "a name or a path"
        else:
            good, wanted = self.parse is not None or isinstance(value, str), "a string"
        return None if good else f"must be {wanted}, got {value!r}"

    def read(self, word: str) -> Any:
        """Returns the value of a word; for a setting given several times, one element.

        Raises:
            ConfigError: the word is no such value, or it is out of range.
        """
        if self.listed:
            one = replace(self, listed=False)
            try:
                return tuple(one.read(part.strip()) for part in word.split(","))
            except ConfigError as error:
                raise ConfigError(f"{error}; separate values by commas: {self.metavar}") from None
        try:
            value = (self.parse or self.kind)(word)
        except ValueError:
            require(not self.form, f"must be {self.form}, got {word[:80]!r}")
            value = word
        if problem := self.problem(value):
            raise ConfigError(problem)
        return value

    @property
    def range(self) -> str:
        """The range for help, such as "0 to 1" or "from 1"; "" if every value is allowed."""
        if self.listed or self.kind not in (int, float) or self.low == -float("inf"):
            return ""
        if self.high < MANY:
            return f"{spelt(self.low)} to {spelt(self.high)}"
        return "above 0" if 0 < self.low < 1e-3 else f"from {spelt(self.low)}"


def setting(default: Any, help: str, **more: Any) -> Any:
    """Makes a dataclass field of a string; `more` are other attributes of `Setting`."""
    return field(default=default, metadata={KEY: Setting(help, **more)})


def whole(default: Any, low: int, high: int, help: str, **more: Any) -> Any:
    """Makes a dataclass field of a whole number."""
    return setting(default, help, kind=int, low=low, high=high, **more)


def number(default: float | None, low: float, high: float, help: str, **more: Any) -> Any:
    """Makes a dataclass field of a number."""
    return setting(default, help, kind=float, low=low, high=high, **more)


def choice(default: Any, choices: Collection[str], help: str, **more: Any) -> Any:
    """Makes a dataclass field of one of a few strings."""
    return setting(default, help, choices=choices, **more)


def switch(help: str, **more: Any) -> Any:
    """Makes a dataclass field that is off by default."""
    return setting(False, help, kind=bool, **more)


def optional(config: type, name: str, shown: str | None = None, **more: Any) -> Any:
    """Makes a field like `name` of another dataclass, except that its default is None.

    `shown` is the default for people; left out, it is that of the other dataclass. `more` replaces
    other attributes of the `Setting`.
    """
    like = settings_of(config)[name]
    shown = spelt(getattr(config, name)) if shown is None else shown
    return field(default=None, metadata={KEY: replace(like, shown=shown, **more)})


def settings_of(config: type) -> dict[str, Setting]:
    """Returns the settings of a dataclass by field name."""
    return {f.name: f.metadata[KEY] for f in fields(config) if KEY in f.metadata}


def check(config: Any) -> None:
    """Checks all settings of a dataclass; None is allowed where it is the default.

    Raises:
        ConfigError: a value is out of range.
    """
    for each in fields(config):
        value, setting = getattr(config, each.name), each.metadata.get(KEY)
        if setting and not (value is None and each.default is None):
            for one in value if setting.several or setting.listed else (value,):
                problem = setting.problem(one)
                require(not problem, f"{each.name} {problem}")


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def plain(value: Any) -> Any:
    """Returns a scalar of numpy or torch as Python's own, and a list as a tuple."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return value.item() if getattr(value, "shape", None) == () else value


class Config:
    """Base of the config dataclasses: checks the settings when it is built, and maps to JSON."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))  # the dataclasses are frozen
        check(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]  # always a dataclass
        return values

    @classmethod
    def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
        """Makes the dataclass from values by field name; a missing setting has its default.

        Raises:
            ConfigError: a setting is unknown, out of range, or missing without a default.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # always a dataclass
        unknown = sorted(set(values) - known)
        if unknown:
            options = f"choose from {', '.join(sorted(known))}"
            guess = did_you_mean(str(unknown[0]), known, options)
            raise ConfigError(f"unknown settings: {', '.join(map(str, unknown))}; {guess}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"incomplete settings: {error}") from None


def spelt(value: object) -> str:
    """Returns a default or a limit as help shows it; "" for None and for nothing."""
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value in (None, (), "") or isinstance(value, bool) else f"{value}"
