"""Labels of the characters of a text, made by small parsers: quotes, brackets, numbers.

A label describes the state after a character: an opening mark is inside, a closing mark outside.
Every text can be parsed: a quote or bracket that never closes ends with its paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import LABELS
from charnn.errors import ConfigError

Flags = NDArray[np.bool_]
CLOSING = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}
TRIPLE = ('"""', "'''")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
NUMBER = re.compile(r"\d+(?:[.,_:]\d+)*")  # with separators, as in 1,000.5
INDENTED = re.compile(r"(?m)^[ \t][^\n]*")  # without the newline
WORD = re.compile(r"[^\W\d_][^\W\d_'’-]+")
SENTENCE_END = ".!?…:"


class Labeller(NamedTuple):
    """A label, and the function that reads it from a text.

    ``phrase`` completes "a character …". The effect of a unit is also counted in matches of
    ``marks``, whose name is ``mark``.
    """

    name: str
    phrase: str
    read: Callable[[str], Flags]
    mark: str
    marks: re.Pattern[str]


def make_labeller(name: str, text: str = "", pattern: str | None = None) -> Labeller:
    """Makes the labeller of a name in `LABELS`, or "regex": inside a match of `pattern`.

    "line" labels characters past the median column of `text`.

    Raises:
        ConfigError: the label is unknown, or the pattern is not a regular expression.
    """
    if name == "regex":
        return _of_pattern(pattern or "")
    if name == "line":
        column = int(np.median(_columns(text))) if text else 0
        phrase = f"past column {column} of its line"
        newline = re.compile("\n")
        return Labeller("line", phrase, lambda other: _columns(other) > column, "newlines", newline)
    for labeller in _FIXED:
        if labeller.name == name:
            return labeller
    raise ConfigError(f"unknown label {name!r}: choose from all, {', '.join(LABELS)}")


def inside_quotes(text: str) -> Flags:
    """Marks text inside "…", “…”, «…», „…“, '…', ‘…’ and Python's triple quotes.

    A straight single quote opens only before a word and not after a letter, and ends with the line;
    other quotes end with the paragraph, triple quotes only where they close. In straight quotes a
    backslash escapes the next character.
    """
    flags = np.zeros(len(text), bool)
    closer, at, size = "", 0, len(text)
    while at < size:
        char, step = text[at], 1
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        if not closer:
            if text[at : at + 3] in TRIPLE:
                closer, step = text[at : at + 3], 3
            elif char in CLOSING and (char not in "'‘" or _opens(before, after)):
                closer = CLOSING[char]
        elif char == "\\" and after and closer in ('"', "'", *TRIPLE):
            step = 2
        elif text.startswith(closer, at) and (closer not in "'’" or not after.isalnum()):
            step, closer = len(closer), ""
        elif char == "\n" and closer not in TRIPLE and (closer == "'" or after == "\n"):
            closer = ""
        flags[at : at + step] = closer != ""
        at += step
    return flags


def inside_brackets(text: str) -> Flags:
    """Marks text inside (…), […] or {…}; a closing bracket that matches none is ignored."""
    flags = np.zeros(len(text), bool)
    waiting: list[str] = []
    for at, char in enumerate(text):
        if char in BRACKETS:
            waiting.append(BRACKETS[char])
        elif char in waiting:
            while waiting.pop() != char:
                pass
        elif char == "\n" and text[at + 1 : at + 2] == "\n":
            waiting.clear()
        flags[at] = bool(waiting)
    return flags


def in_a_name(text: str) -> Flags:
    """Marks capitalised words of two or more letters that start no line and no sentence."""

    def names() -> Iterator[tuple[int, int]]:
        for found in WORD.finditer(text):
            start = found.start()
            if found[0][0].isupper():
                blanks = start
                while blanks and text[blanks - 1] in " \t\"'“‘«([":
                    blanks -= 1
                if blanks and text[blanks - 1] not in SENTENCE_END + "\n":
                    yield found.span()

    return _spans(text, names())


def _of_pattern(pattern: str) -> Labeller:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"--label-regex {pattern!r} is not a regular expression: {error}"
        ) from None
    if not pattern:
        raise ConfigError("--label-regex needs at least one character, got ''")
    phrase = f"inside a match of {pattern}"
    return Labeller("regex", phrase, partial(_matches, compiled), "matches", compiled)


def _opens(before: str, after: str) -> bool:
    """Tells whether a single quote between these opens; else it closes or is an apostrophe."""
    return not before.isalnum() and after != "" and not after.isspace()


def _columns(text: str) -> NDArray[np.int64]:
    """Returns the column of each character: 1 at the start of its line, 0 at its newline."""
    places = np.arange(1, len(text) + 1)
    newline = np.fromiter((char == "\n" for char in text), bool, len(text))
    starts = np.maximum.accumulate(np.where(newline, places, 0)) if len(text) else places
    return places - starts


def _matches(pattern: re.Pattern[str], text: str) -> Flags:
    return _spans(text, (found.span() for found in pattern.finditer(text)))


def _spans(text: str, spans: Iterator[tuple[int, int]]) -> Flags:
    flags = np.zeros(len(text), bool)
    for start, end in spans:
        flags[start:end] = True
    return flags


_FIXED = (
    Labeller(
        "quotes",
        "inside quotes",
        inside_quotes,
        "quote marks",
        re.compile(r"""["“”«»„]|(?<!\w)'|'(?!\w)"""),
    ),
    Labeller("brackets", "inside brackets", inside_brackets, "brackets", re.compile(r"[\[\](){}]")),
    Labeller(
        "indent",
        "in an indented line",
        partial(_matches, INDENTED),
        "indented lines",
        re.compile(r"(?m)^[ \t]+(?=\S)"),
    ),
    Labeller("number", "in a number", partial(_matches, NUMBER), "digits", re.compile(r"\d")),
    Labeller("name", "in a capitalised name", in_a_name, "capitals", re.compile("[A-Z]")),
)
