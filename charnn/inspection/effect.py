"""Whether a unit that predicts a label also brings it about: texts with the unit held, and without.

A predictor may only watch. If it is held where it is inside the label, and at the same seed where
it is outside, and what is written has as much of the label either way, it is no cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charnn.checkpoint import Checkpoint
from charnn.config import EFFECT_CHARS, LineConfig, SamplingConfig
from charnn.engines.clamps import Clamp, Unit, check_clamps
from charnn.errors import TextError
from charnn.generation.line_writer import Line
from charnn.generation.model import Model
from charnn.inspection.labels import Labeller
from charnn.inspection.units import Detector

Numbers = NDArray[np.float64]
Progress = Callable[[int, int], None]
TEXTS = 8  # with each setting, which say how much chance there is in the numbers
MOST_LINES = 1 << 20  # more than are ever written
CLEAR = 3.0  # standard errors from which on a difference is called one


class Written(NamedTuple):
    """What was written with one setting: of each text, the label's share and marks per 1,000.

    ``clamps`` are the values held; none when the network was left alone.
    """

    clamps: tuple[Clamp, ...]
    shares: Numbers
    marks: Numbers
    text: str


class Effect(NamedTuple):
    """What is written left alone, held as inside the label, and held as outside it.

    Text i comes from the same generator of the seed in all three. Of a model of lines it is line i
    that does; its texts are as many lines as have the tokens, so those of a number need not be of
    the same lines.
    """

    alone: Written
    inside: Written
    outside: Written

    @property
    def difference(self) -> float:
        """Share of the label, held inside less held outside."""
        return float((self.inside.shares - self.outside.shares).mean())

    @property
    def error(self) -> float:
        """The standard error of `difference`, over the texts."""
        pairs = self.inside.shares - self.outside.shares
        return float(pairs.std(ddof=1) / math.sqrt(len(pairs)))

    @property
    def verdict(self) -> str:
        """cause, opposite (an effect the other way) or none (no clear effect)."""
        if abs(self.difference) <= CLEAR * self.error or self.difference == 0.0:
            return "none"
        return "cause" if self.difference > 0 else "opposite"


def measure_effect(
    saved: Checkpoint,
    labeller: Labeller,
    found: Sequence[tuple[Unit, Detector]],
    seed: int,
    chars: int = EFFECT_CHARS,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Effect:
    """Writes about `chars` tokens with each setting, at temperature 1, and labels them.

    A model of lines writes lines, each from a fresh start with the unit held from there on.

    Raises:
        ConfigError: a unit is given twice.
        TextError: a model of lines ends none, with a unit held.
    """
    settings = (
        (),
        tuple(Clamp(unit, each.inside) for unit, each in found),
        tuple(Clamp(unit, each.outside) for unit, each in found),
    )
    check_clamps(settings[1])
    config = SamplingConfig(max_tokens=max(1, chars // TEXTS), temperature=1.0)
    results = []
    for number, clamps in enumerate(settings):
        model = Model.from_checkpoint(saved, engine=engine, clamps=clamps)
        texts = []
        lines = None
        if model.of_lines:
            lines = iter(model.lines(LineConfig(MOST_LINES), config, seed))
        for index in range(TEXTS):
            texts.append(
                _some_lines(lines, config.max_tokens, clamps)
                if lines
                else "".join(model.write("", config, seed, index))
            )
            if progress:
                progress(number * TEXTS + index + 1, len(settings) * TEXTS)
        sizes = [max(1, len(text)) for text in texts]
        shares = [labeller.read(t).sum() / size for t, size in zip(texts, sizes, strict=True)]
        marks = [
            1000 * sum(1 for _ in labeller.marks.finditer(text)) / size
            for text, size in zip(texts, sizes, strict=True)
        ]
        results.append(Written(clamps, np.array(shares), np.array(marks), texts[0]))
    return Effect(*results)


def _some_lines(lines: Iterator[Line], tokens: int, clamps: Sequence[Clamp]) -> str:
    """The next lines, as many as have so many tokens together."""
    written, count = [], 0
    while count < tokens:
        try:
            line = next(lines)
        except TextError:
            raise TextError(_why_no_line(clamps)) from None
        written.append(line.text + "\n")
        count += line.tokens
    return "".join(written)


def _why_no_line(clamps: Sequence[Clamp]) -> str:
    """What to do about lines that do not end."""
    if not clamps:
        return "the model's lines do not end, so there is nothing to measure: leave --effect out"
    held = ", ".join(f"{unit} at {value:.3f}" for unit, value in clamps)
    fewer = "hold fewer with --together, or " if len(clamps) > 1 else ""
    return (
        f"with {held}, the model's lines do not end, so there is nothing to measure: {fewer}"
        "look for another label with --find or --label-regex"
    )
