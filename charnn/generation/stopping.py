"""Where a text may end by itself: after the first whole sentence, line or paragraph."""

from __future__ import annotations

FULL_STOPS = frozenset(".!?\u2026")
WIDE_STOPS = frozenset("\u3002\uff01\uff1f")  # after these no space is written
CLOSERS = frozenset("\"')]}\u2019\u201d\u00bb\u203a\u300d\u300f\uff09")


class Ending:
    """Cuts a stream of text at the end of its first whole sentence, line or paragraph.

    Whole is what holds a letter or a digit, of the stream itself, not of what came before.

    - sentence: up to and with ``. ! ? …``, a run of them and of closing quotes and brackets, where
      white space follows; ``。！？`` need none. That white space is not part of the text.
    - line: up to a newline, which is not part of the text.
    - paragraph: up to a newline after which an empty line follows: nothing but spaces and tabs.

    It holds back what may turn out to be behind the end: newlines and spaces between paragraphs.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.found = False
        self._held = ""
        self._begun = False
        self._stopped = ""  # the kind of stop that was just read, with what closes after it

    def push(self, piece: str) -> str:
        """Takes the next piece; returns what can be shown now."""
        shown: list[str] = []
        for character in piece:
            if self.found:
                break
            getattr(self, f"_{self.kind}")(character, shown)
        return "".join(shown)

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _line(self, character: str, shown: list[str]) -> None:
        if character == "\n" and self._begun:
            self.found = True
            return
        self._begun = self._begun or character.isalnum()
        shown.append(character)

    def _paragraph(self, character: str, shown: list[str]) -> None:
        if self._begun and (character == "\n" or (self._held and character in " \t\r")):
            if character == "\n" and self._held:
                self.found = True
            else:
                self._held += character
            return
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
