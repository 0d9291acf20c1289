"""A model class of the package surprisal.

results = CharnnModel("book").surprise(["The goat reads the log."])
print(results[0][9:14], results[0][1:2, "word"])
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from surprisal.interface import Model, SurprisalArray, SurprisalQuantity

import charnn
from charnn.scoring.surprisal import Array, ScoredText


class CharnnSurprisal(SurprisalArray):
    """The surprisal of each character of a text in nats, the unit of the package's other models.

    ``result[2:5]`` or ``result[2:5, "char"]`` adds up characters, ``result[1:2, "word"]`` words,
    each with the white space before it.
    """

    def __init__(self, scored: ScoredText) -> None:
        super().__init__()
        self._text, self._nats = scored.text, scored.char_bits * math.log(2)

    @property
    def tokens(self) -> list[str]:
        """The characters."""
        return list(self._text)

    @property
    def surprisals(self) -> Array:
        """The nats of each character."""
        return self._nats

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.tokens, self._nats.tolist(), strict=True)

    def __getitem__(self, where: Any) -> Any:
        wanted, kind = where if isinstance(where, tuple) else (where, "char")
        if kind not in ("char", "word"):
            raise ValueError(f"unrecognized slice type {kind!r}: use 'char' or 'word'")
        part: slice = slice(wanted, wanted + 1 or None) if isinstance(wanted, int) else wanted
        if kind == "word":
            spans = [found.span() for found in re.finditer(r"\s*\S+", self._text)][part]
            part = slice(spans[0][0], spans[-1][1]) if spans else slice(0)
        return SurprisalQuantity(float(self._nats[part].sum()), self._text[part])


class CharnnModel(Model):
    """A charnn model; each text is read from the state after the start token."""

    def __init__(self, model_id: str | None = None, unknown: str = "error", **options: Any) -> None:
        """Loads a model; the arguments are those of `charnn.load` and `charnn.score`.

        Raises:
            CharnnError: there is no such model.
        """
        super().__init__(model_id)
        self.model, self.unknown = charnn.load(model_id, **options), unknown

    def surprise(self, textbatch: list[str] | str) -> list[CharnnSurprisal]:
        """Returns the surprisal of each text.

        Raises:
            CharnnError: a text is empty, or has unknown characters and ``unknown`` is "error".
        """
        texts = [textbatch] if isinstance(textbatch, str) else textbatch
        return [CharnnSurprisal(charnn.score(text, self.model, self.unknown)) for text in texts]
