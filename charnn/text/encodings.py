"""What the bytes of a text are: marks, encodings, and what to try where they are not UTF-8."""

from __future__ import annotations

import codecs
import difflib
import itertools
import re
from collections.abc import Iterable
from contextlib import suppress
from encodings.aliases import aliases

from charnn.errors import ConfigError

ENOUGH_HIGH, ENOUGH_ZEROS = 100, 8  # bytes above ASCII, and zeros, to guess by them
ESCAPED, BEYOND = re.compile("[\udc80-\udcff]"), re.compile("[^\0-\x7f]")
ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
BOM = codecs.BOM_UTF8
# The longer marks first: that of UTF-32 begins like that of UTF-16.
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BINARY = frozenset(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")
# What is told apart with some confidence. Other encodings of Latin letters differ in too few bytes.
GUESSED = ("cp1251", "koi8_r", "cp866", "cp1253", "cp932", "euc_jp", "gb18030", "big5", "cp949")
WESTERN = frozenset("àâäáãåæçèéêëìíîïñòóôöõøùúûüœßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØÙÚÛÜŒ‘’“”–—…«»°€£§¿¡·\xa0")


def resolve(encoding: str) -> str:
    """The one spelling of an encoding's name: "UTF8" gives "utf-8".

    Raises:
        ConfigError: Python has no such encoding of text.
    """
    try:
        "".encode(encoding)  # refuses also what is no encoding of text, such as base64
        codecs.getincrementaldecoder(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        spelt = encoding.lower().replace("-", "_")
        near = difflib.get_close_matches(spelt, sorted({*aliases, *aliases.values()}), n=3)
        hint = f" (near it: {', '.join(near)})" if near else ""
        raise ConfigError(
            f"unknown encoding {encoding!r}{hint}; use a name that Python knows, such as utf-8, "
            "utf-16, cp1252, latin-1 or shift_jis"
        ) from None


def marked_encoding(start: bytes) -> str | None:
    """The encoding that the first bytes of a file announce, where it is not UTF-8."""
    return next((name for mark, name in OTHER_MARKS.items() if start.startswith(mark)), None)


def character_boundary(data: bytes) -> int:
    """Where to cut `data` so that no UTF-8 character is split; its length where it is not UTF-8."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
        if byte < 0x80:
            break
    return len(data)


def zeros_of_utf16(sample: bytes, share: float) -> str | None:
    """UTF-16 without a mark, told by its zeros: that `share` of the bytes, on one side of pairs.

    `sample` begins at an even place of its file.
    """
    zeros = [sample[parity::2].count(0) for parity in (0, 1)]
    if max(zeros) > max(share * len(sample), ENOUGH_ZEROS) and 10 * min(zeros) < max(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def likely_encoding(sample: bytes) -> str | None:
    """The encoding that bytes, which are not UTF-8, are probably in.

    Only what can be told with some confidence: UTF-16 by its zeros, Windows Western European by
    lone accented letters among ASCII ones, some others as charset-normalizer tells them.
    `sample` begins at an even place of its file.
    """
    if utf16 := zeros_of_utf16(sample, 0.1):
        return utf16
    if BINARY.intersection(sample):
        return None
    high = len(sample) - len(sample.translate(None, bytes(range(0x80, 0x100))))
    with suppress(UnicodeDecodeError):
        accented = [c for c in sample.decode("cp1252") if not c.isascii()]
        western = sum(c in WESTERN for c in accented)
        # Of another alphabet whole words are high, however few there are among ASCII ones.
        alone = len(ALONE.findall(sample))
        few = 4 * high <= len(sample)
        if few and 2 * alone > high and 10 * western >= 9 * len(accented):
            return "cp1252"
    if high < ENOUGH_HIGH:
        return None
    import charset_normalizer  # a tenth of a second, which only a text that is refused pays for

    whole = sample[: sample.rfind(b"\n") + 1] or sample  # lines, so characters too
    best = charset_normalizer.from_bytes(
        b"\n".join(word for word in whole.split() if not word.isascii()),  # which tell it apart
        cp_isolation=[*GUESSED],
        enable_fallback=False,
    ).best()
    return best.encoding if best else None


def wrong_bytes(chunks: Iterable[bytes]) -> tuple[int, int]:
    """How many bytes of a text are not UTF-8, and how many characters beyond ASCII it has."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    wrong = beyond = 0
    for data in itertools.chain(chunks, [b""]):
        text = decoder.decode(data, final=not data)
        if not text.isascii():
            strays = len(ESCAPED.findall(text))
            wrong += strays
            beyond += len(BEYOND.findall(text)) - strays
    return wrong, beyond
