"""Names of runs and corpora, which are names of files: letters of any script, no path."""

from __future__ import annotations

import re
import unicodedata

MAX_CHARACTERS, MAX_BYTES = 64, 200  # a file system allows 255 bytes, with what is added
# Devices that Windows has in every folder, with any suffix. Windows also drops a dot at the end.
DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)


def is_name(text: str) -> bool:
    """Tells whether a text is a name: a letter or digit, then also marks, ".", "_" and "-".

    Names that Windows cannot give to a folder are excluded, so runs can move between systems.
    """
    size = len(text.encode("utf-8", "replace"))
    fits = 0 < len(text) <= MAX_CHARACTERS and size <= MAX_BYTES
    fits = fits and text[0].isalnum() and text[-1] != "." and all(map(_fits, text))
    return fits and not DEVICE.fullmatch(text)


def to_name(text: str, default: str, longest: int = MAX_CHARACTERS) -> str:
    """Returns the name that is most like a text, in Unicode NFC: "My book" gives "My-book"."""
    spaced = "".join(c if _fits(c) else " " for c in unicodedata.normalize("NFC", text))
    name = re.sub(" +", "-", spaced)
    start = next((place for place, c in enumerate(name) if c.isalnum()), len(name))
    name = name[start : start + longest]
    while len(name.encode()) > MAX_BYTES:
        name = name[:-1]
    name = name.rstrip("._-") or default
    return f"{default}-{name}" if DEVICE.fullmatch(name) else name


def _fits(character: str) -> bool:
    return (
        character.isalnum()
        or character in "._-"
        or unicodedata.category(character) in ("Mn", "Mc")  # vowel signs, and accents on letters
    )
