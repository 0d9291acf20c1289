"""How text is drawn from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charnn.config.checks import build, require, require_int, require_number, require_text
from charnn.config.model import MAX_VOCAB_SIZE

UNTIL = ("sentence", "line", "paragraph")
MAX_COPY = 200  # characters; four bytes each, and one more, stay below the depth of the index
# Characters from which on a span that stands in the training text is called copied.
COPIED_SPAN = 20
# How many tokens one continuation at the desk has: a paragraph to look at.
DESK_TOKENS = 200


@dataclass(frozen=True)
class SamplingConfig:
    """How text is drawn from a model: its length, the filters on each choice, where it stops.

    A temperature of 0 always takes the likeliest token; ``top_k`` 0, ``typical_p`` 1, ``top_p`` 1,
    ``min_p`` 0, ``repetition_penalty`` 1 and the other penalties 0 are off. ``bias`` is added to
    the tokens that would complete a text, ``ban`` rules them out; ``max_copy`` is how many
    characters in a row may be copied from the training text, 0 is any number; ``regex`` is what
    the whole text matches. ``stop`` strings end the text and are no part of it, ``until`` ends it
    after the first whole sentence, line or paragraph.
    """

    max_tokens: int = 500
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    typical_p: float = 1.0
    bias: tuple[tuple[str, float], ...] = ()
    ban: tuple[str, ...] = ()
    max_copy: int = 0
    regex: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        require_int("max_tokens", self.max_tokens, 0, 2**40)
        require_number("temperature", self.temperature, 0.0, 1000.0)
        require_int("top_k", self.top_k, 0, MAX_VOCAB_SIZE)
        require_number("top_p", self.top_p, 0.0, 1.0)
        require_number("min_p", self.min_p, 0.0, 1.0)
        require_number("repetition_penalty", self.repetition_penalty, 0.1, 10.0)
        require_number("frequency_penalty", self.frequency_penalty, -10.0, 10.0)
        require_number("presence_penalty", self.presence_penalty, -10.0, 10.0)
        require_number("typical_p", self.typical_p, 0.0, 1.0)
        biased = [text for text, _ in self.bias]
        for name, texts in {"stop": self.stop, "bias": biased, "ban": self.ban}.items():
            for text in texts:
                require_text(name, text)
        for text, value in self.bias:
            require_number(f"bias of {text!r}", value, -100.0, 100.0)
            require(biased.count(text) == 1, f"bias of {text!r} is given twice: give one number")
            require(text not in self.ban, f"{text!r} has both a bias and a ban: choose one")
        require_int("max_copy", self.max_copy, 0, MAX_COPY)
        require(
            self.until is None or self.until in UNTIL,
            f"until must be one of {', '.join(UNTIL)}, got {self.until!r}",
        )
        if self.regex is not None:
            require_text("regex", self.regex)
            for name in ("stop", "until", "ban", "max_copy"):
                require(
                    not getattr(self, name),
                    f"regex and {name.replace('_', '-')} contradict each other: the pattern alone "
                    "says what is written and where it ends; put it into the pattern",
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingConfig:
        """Makes settings from values by name, as JSON or keyword arguments have them.

        Lists become tuples; `stop` and `ban` may be one string, `bias` a mapping. A missing
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
        return build(cls, {name: _fixed(value) for name, value in given.items()})


def _fixed(value: Any) -> Any:
    """Turns lists, also nested ones, into tuples."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value
