"""Cutters that end a text before a stop string, or after a sentence, line or paragraph."""

from __future__ import annotations

import re
from collections.abc import Iterable

NEWLINE = re.compile(r"(?<!\r)\n")
FULL_STOPS = frozenset(".!?\u2026")
WIDE_STOPS = frozenset("\u3002\uff01\uff1f")  # full stops that no space follows
CLOSERS = frozenset("\"')]}\u2019\u201d\u00bb\u203a\u300d\u300f\uff09")


class StopMatcher:
    """Cuts a stream of text before the first stop string that it completes.

    Holds back as little as possible: the longest end of the text that may begin a stop string. The
    division of the text into pieces makes no difference.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        # In a text with CRLF, the CR before a stop string that begins with a newline goes with it.
        stops = tuple(stops)
        self.stops = dict.fromkeys([*stops, *(NEWLINE.sub("\r\n", stop) for stop in stops)])
        self.held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Takes the next piece; returns the text that is now known to be shown."""
        if not self.stops:
            return piece
        if self.found:
            return ""
        text = self.held + piece
        starts = ((text.find(stop), len(stop)) for stop in self.stops)
        # The stop string that ends first counts; of several that end there, the longest.
        ends = [(start + size, start) for start, size in starts if start >= 0]
        if ends:
            self.found, self.held = True, ""
            return text[: min(ends)[1]]
        longest = min(max(map(len, self.stops)) - 1, len(text))
        start = len(text) - longest
        while not any(stop.startswith(text[start:]) for stop in self.stops):
            start += 1
        self.held = text[start:]
        return text[:start]

    def flush(self) -> str:
        """Returns the text held back, at the end of the stream."""
        held, self.held = self.held, ""
        return held


class Ending:
    """Cuts a stream of text after its first complete sentence, line or paragraph.

    Complete means with a letter or digit of the stream itself, not of the prompt.

    - sentence: up to and including ``. ! ? …``, a run of them and of closing quotes and brackets,
      followed by white space; ``。！？`` need none. The white space is dropped.
    - line: up to a newline, which is dropped.
    - paragraph: up to a newline that an empty line follows: only spaces and tabs.

    A carriage return before a newline belongs to it. Holds back text that may turn out to follow
    the end: newlines, and spaces between paragraphs.
    """

    def __init__(self, kind: str) -> None:
        self.found = False
        self._read = {
            "sentence": self._sentence,
            "line": self._line,
            "paragraph": self._paragraph,
        }[kind]
        self._held = ""
        self._begun = False
        self._stopped = ""  # the latest full stop, while only closers follow

    def push(self, piece: str) -> str:
        """Takes the next piece; returns the text that is now known to be shown."""
        shown: list[str] = []
        for character in piece:
            if self.found:
                break
            self._read(character, shown)
        return "".join(shown)

    def flush(self) -> str:
        """Returns the text held back, at the end of the stream."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _line(self, character: str, shown: list[str]) -> None:
        if character == "\n" and self._begun:
            self.found = True
        elif character == "\r" and not self._held:
            self._held = character
        else:
            self._show(character, shown)

    def _paragraph(self, character: str, shown: list[str]) -> None:
        if self._begun and (character in "\r\n" or ("\n" in self._held and character in " \t")):
            if character == "\n" and "\n" in self._held:
                self.found = True
            else:
                self._held += character
        else:
            self._show(character, shown)

    def _show(self, character: str, shown: list[str]) -> None:
        self._begun = self._begun or character.isalnum()
        shown.append(self._held + character)
        self._held = ""

    def _sentence(self, character: str, shown: list[str]) -> None:
        if self._stopped and character not in FULL_STOPS | WIDE_STOPS | CLOSERS:
            if self._stopped in WIDE_STOPS or character.isspace():
                self.found = True
                return
            self._stopped = ""
        if character in FULL_STOPS | WIDE_STOPS and self._begun:
            self._stopped = character
        self._begun = self._begun or character.isalnum()
        shown.append(character)
