"""Unknown characters: names for people, the nearest known characters, and errors."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Collection, Mapping

from charnn.errors import ConfigError, UnknownCharacter

UNKNOWN = ("error", "skip", "replace")
# Typographic characters and their keyboard forms, whose names have few words in common.
PLAIN = {
    **dict.fromkeys("‘’‚‛′´`", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("\u00a0\u2028\u2029\t\r", " "),
}
ENOUGH_SHARED_WORDS = 0.65
MOST_SHOWN = 5


def check_choice(unknown: str) -> None:
    """Raises ConfigError if `unknown` is not one of `UNKNOWN`."""
    if unknown not in UNKNOWN:
        raise ConfigError(f"--unknown must be one of {', '.join(UNKNOWN)}, got {unknown!r}")


def describe(character: str) -> str:
    """Returns printable form, code point and name of a character."""
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{' ' if name else ''}{name})"


def nearest(character: str, known: Collection[str], count: int = 3) -> list[str]:
    """Returns up to `count` known characters that could replace `character`, the nearest first.

    Candidates are its other case, its keyboard form, its base (e for é), and similar names.
    """
    if unicodedata.category(character) == "Cs":
        return []
    marks_off = (
        c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)
    )
    base = next(marks_off, "")
    candidates = [*_cases(character), PLAIN.get(character, ""), base, *_cases(base)]
    found = [c for c in dict.fromkeys(candidates) if len(c) == 1 and c in known and c != character]
    if len(found) < count:
        words = _words(character)
        scored = []
        for other in known:
            others = _words(other)
            common = len(words & others)
            shared = common / max(1, len(words) + len(others) - common)
            if shared >= ENOUGH_SHARED_WORDS and other not in found:
                scored.append((-shared, other))
        found += [other for _, other in sorted(scored)]
    return found[:count]


@functools.cache
def _words(character: str) -> frozenset[str]:
    """Returns the words of a character's name; cached, since each is compared with each."""
    return frozenset(unicodedata.name(character, "").split())


def _cases(character: str) -> list[str]:
    return [character.swapcase(), character.lower(), character.upper(), character.casefold()]


def unknown_character(
    character: str, position: int, known: Collection[str], others: int
) -> UnknownCharacter:
    """Returns the error for an unknown character.

    Args:
        position: of the character in the text, from 1.
        others: the number of further unknown characters.
    """
    near = [describe(c) for c in nearest(character, known)]
    more = f", the first of {others + 1:,} unknown ones" if others else ""
    hint = f"nearest known: {', '.join(near)}" if near else "no known character is near it"
    error = UnknownCharacter(
        f"the tokenizer does not know {describe(character)}, "
        f"at character {position:,}{more}; {hint}"
    )
    error.replaceable = bool(near)
    return error


def not_a_character(code: int, position: int) -> UnknownCharacter:
    """Returns the error for a surrogate: half a character, or a byte that is not UTF-8.

    Args:
        position: of the surrogate in the text, from 1.
    """
    if 0xDC80 <= code <= 0xDCFF:
        what = f"byte 0x{code - 0xDC00:02x} at position {position:,} is not UTF-8"
    else:
        what = f"U+{code:04X} at position {position:,} is half of a surrogate pair"
    return UnknownCharacter(f"{what}: remove it; only --tokenizer byte takes any bytes")


def what_changed(missing: Mapping[str, int], known: Collection[str], unknown: str) -> str:
    """Returns a line on the characters that `--unknown skip` or `replace` changed.

    Args:
        missing: the unknown characters and their counts.
    """
    changes = []
    for character in sorted(missing, key=lambda each: -missing[each])[:MOST_SHOWN]:
        near = nearest(character, known, 1) if unknown == "replace" else []
        times = f" ({missing[character]:,} times)" if missing[character] > 1 else ""
        changes.append(f"{character!r} {f'became {near[0]!r}' if near else 'left out'}{times}")
    rest = len(missing) - len(changes)
    more = f", and {rest:,} others" if rest else ""
    total = sum(missing.values())
    few = f"{total:,} unknown character{'s' * (total > 1)}"
    return f"--unknown {unknown}: {few}: {', '.join(changes)}{more}"
