"""Encodings of a text: byte order marks, names, and which to try where bytes are not UTF-8."""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable
from contextlib import suppress
from encodings.aliases import aliases

from charnn.errors import ConfigError, TextError, did_you_mean

ENOUGH_ZEROS = 8  # UTF-16 and UTF-32 have more zero bytes than these in a sample
MOST_WORDS_BYTES = 1 << 18  # different words beyond ASCII that encodings are compared on
MOST_CANDIDATES, SHOWN_CHARACTERS = 4, 24
ESCAPED, BEYOND = re.compile("[\udc80-\udcff]"), re.compile("[^\0-\x7f]")
BOM = codecs.BOM_UTF8
# The longer marks come first: the mark of UTF-32 begins like that of UTF-16.
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BINARY = frozenset(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")


def resolve(encoding: str) -> str:
    """Returns the one spelling of an encoding's name: "UTF8" gives "utf-8".

    Raises:
        ConfigError: Python has no such encoding of text.
    """
    try:
        "".encode(encoding)  # refuses a codec that encodes no text, such as base64
        codecs.getincrementaldecoder(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        known = sorted(name.replace("_", "-") for name in {*aliases, *aliases.values()})
        names = "use a name that Python knows, such as utf-8, utf-16, cp1252, latin-1 or shift_jis"
        hint = did_you_mean(encoding.lower().replace("_", "-"), known, names)
        raise ConfigError(f"unknown --encoding {encoding!r}: {hint}") from None


def marked_encoding(start: bytes) -> str | None:
    """Returns the encoding of the byte order mark at the start of a file, unless it is UTF-8."""
    return next((name for mark, name in OTHER_MARKS.items() if start.startswith(mark)), None)


def character_boundary(data: bytes) -> int:
    """Returns where to cut `data` so that no UTF-8 character is split; its length if not UTF-8."""
    end = data[-4:]
    _, whole = codecs.utf_8_decode(end, "surrogateescape", False)
    return len(data) - len(end) + whole


def count_characters(data: bytes) -> int | None:
    """Counts the characters of UTF-8 bytes; None where `data` is not UTF-8."""
    try:
        return len(data.decode("utf-8"))
    except UnicodeDecodeError:
        return None


def unmarked_unicode(sample: bytes, share: float) -> str | None:
    """Recognises UTF-16 and UTF-32 without a byte order mark by their zeros; None if it is neither.

    In UTF-16 at least `share` of the bytes are zeros, nearly all on one side of the pairs. Such
    bytes may be valid UTF-8 too, so charset-normalizer would not run. `sample` begins at a whole
    character.
    """
    for name in ("utf-32-le", "utf-32-be"):
        with suppress(UnicodeDecodeError):
            text = sample[: len(sample) & ~3].decode(name)
            if len(text) > ENOUGH_ZEROS and all(c.isprintable() or c.isspace() for c in text):
                return name
    zeros = [sample[parity::2].count(0) for parity in (0, 1)]
    if max(zeros) > max(share * len(sample), ENOUGH_ZEROS) and 10 * min(zeros) < max(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def likely_encodings(sample: bytes, chunks: Iterable[bytes]) -> dict[str, str]:
    """Returns the encodings that charset-normalizer finds likely, the likeliest first.

    Each comes with a word of the text as it reads in that encoding, so that a person can choose:
    the first word that the encodings read most differently. An encoding that fails on a word of
    the text, or reads all words like one before it, is left out. Binary data has none.

    Args:
        sample: whole lines of the text around its first wrong byte, to tell the encoding by.
        chunks: the whole text.
    """
    if BINARY.intersection(sample):
        return {}
    words: dict[bytes, None] = {}
    size, held = 0, b""
    for chunk in itertools.chain(chunks, [b" "]):
        *whole, held = re.split(rb"\s+", held + chunk)
        for word in whole:
            if not word.isascii() and word not in words:
                words[word] = None
                size += len(word)
        if size + len(held) > MOST_WORDS_BYTES:
            break
    import charset_normalizer  # takes 0.1 s, and only refused texts need it

    readings: dict[tuple[str, ...], str] = {}
    for match in charset_normalizer.from_bytes(sample, enable_fallback=False):
        alike = match.could_be_from_charset  # encodings that decode the sample to the same text
        for name in ["cp1252"] * ("cp1252" in alike) + [match.encoding, *alike]:
            with suppress(UnicodeDecodeError):
                reading = tuple(word.decode(name)[:SHOWN_CHARACTERS] for word in words)
                if len(readings) < MOST_CANDIDATES:
                    readings.setdefault(reading, name)
    if not readings:
        return {}
    columns = list(zip(*readings, strict=True))
    clearest = max(columns, key=lambda column: len(set(column)))
    return dict(zip(readings.values(), clearest, strict=True))


def first_wrong_byte(chunks: Iterable[bytes]) -> tuple[int, bool]:
    """Returns the offset of the first byte that is not UTF-8, and whether the text ends too early.

    Raises:
        TextError: all bytes are UTF-8, since the text has changed.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for data in itertools.chain(chunks, [b""]):
        offset += len(data)
        try:
            decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            cut_off = error.reason == "unexpected end of data"
            return offset - len(error.object) + error.start, cut_off
    raise TextError("the text changed while it was read: try again when it is whole")


def wrong_bytes(chunks: Iterable[bytes]) -> tuple[int, int]:
    """Counts the bytes of a text that are not UTF-8, and its characters beyond ASCII."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    wrong = beyond = 0
    for data in itertools.chain(chunks, [b""]):
        text = decoder.decode(data, final=not data)
        if not text.isascii():
            strays = len(ESCAPED.findall(text))
            wrong += strays
            beyond += len(BEYOND.findall(text)) - strays
    return wrong, beyond
