"""What a small parser knows of a text: for each character, whether it is inside quotes, and so on.

A label is that of the moment after a character was read: an opening mark is inside, a closing one
is not any more. No text is an error to a parser: what never closes ends with its paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.config import LABELS
from charnn.errors import ConfigError

Flags = NDArray[np.bool_]
CLOSING = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}
TRIPLE = ('"""', "'''")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
NUMBER = re.compile(r"\d+(?:[.,_:]\d+)*")
WORD = re.compile(r"[^\W\d_][^\W\d_'’-]+")
SENTENCE_END = ".!?…:"


class Labeller(NamedTuple):
    """A label that texts can be given.

    ``says`` completes "a character …"; ``mark`` names what ``marks`` finds, which is counted.
    """

    name: str
    says: str
    read: Callable[[str], Flags]
    mark: str
    marks: re.Pattern[str]


def make_labeller(name: str, text: str = "", pattern: str | None = None) -> Labeller:
    """The label of a name in `LABELS`, or "regex" for inside a match of `pattern`.

    What "line" means follows from `text`: past the column that half of its characters are past.

    Raises:
        ConfigError: there is no such label, or the pattern is none.
    """
    if name == "regex":
        return _of_pattern(pattern or "")
    if name == "line":
        column = int(np.median(_columns(text))) if text else 0
        return Labeller(
            "line",
            f"past column {column} of its line",
            lambda other: _columns(other) > column,
            "newlines",
            re.compile("\n"),
        )
    for labeller in _FIXED:
        if labeller.name == name:
            return labeller
    raise ConfigError(f"unknown label {name!r}: choose from all, {', '.join(LABELS)}")


def inside_quotes(text: str) -> Flags:
    """Inside "…", “…”, «…», „…“, '…', ‘…’ and Python's triple quotes.

    A straight single quote opens only before a word and not after a letter, and ends with the line;
    others end with the paragraph, triple ones only where they close. In quotes a backslash
    takes the next character along.
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
    """Inside (…), […] or {…}; a closing one that matches nothing is passed over."""
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


def in_an_indented_line(text: str) -> Flags:
    """In a line that begins with a space or a tab, from that on; its newline is not."""
    return _spans(text, (found.span() for found in re.finditer(r"(?m)^[ \t][^\n]*", text)))


def in_a_number(text: str) -> Flags:
    """In digits, with what stands between them as in 1,000.5."""
    return _spans(text, (found.span() for found in NUMBER.finditer(text)))


def in_a_name(text: str) -> Flags:
    """In a word of two letters or more with a capital that begins no line and no sentence."""

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
        raise ConfigError(f"--label-regex {pattern!r} is no pattern: {error}") from None
    if not pattern:
        raise ConfigError("--label-regex must be a pattern of at least one character, got ''")

    def inside(text: str) -> Flags:
        return _spans(text, (found.span() for found in compiled.finditer(text)))

    return Labeller("regex", f"inside a match of {pattern}", inside, "matches", compiled)


def _opens(before: str, after: str) -> bool:
    """Whether a single quote between these is no apostrophe, and no closing one."""
    return not before.isalnum() and after != "" and not after.isspace()


def _columns(text: str) -> NDArray[np.int64]:
    """How many characters of its line have been read, 0 at the newline."""
    places = np.arange(1, len(text) + 1)
    newline = np.fromiter((char == "\n" for char in text), bool, len(text))
    starts = np.maximum.accumulate(np.where(newline, places, 0)) if len(text) else places
    return places - starts


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
        in_an_indented_line,
        "indented lines",
        re.compile(r"(?m)^[ \t]+(?=\S)"),
    ),
    Labeller("number", "in a number", in_a_number, "digits", re.compile(r"\d")),
    Labeller(
        "name",
        "in a capitalised name",
        in_a_name,
        "capitals",
        re.compile("[A-Z]"),
    ),
)
