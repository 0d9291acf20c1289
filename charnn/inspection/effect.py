"""Ablation of hidden units: samples with units clamped, against samples without.

A unit that predicts a label need not cause it. Text is sampled with the unit clamped to its mean
value inside the label, and outside it. If both texts have the same share of the label, the unit is
no cause.
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
from charnn.generation.model import Model
from charnn.inspection.labels import Labeller
from charnn.inspection.units import Detector

Numbers = NDArray[np.float64]
Progress = Callable[[int, int], None]
TEXTS = 8  # sampled with each setting; their spread gives the standard error
MOST_LINES = 1 << 20  # more lines than are ever sampled
CLEAR = 3.0  # standard errors that make a difference clear


class ClampedSamples(NamedTuple):
    """Texts sampled with the same ``clamps``, or without any.

    ``shares`` (texts,) are the shares of characters with the label, ``marks`` (texts,) the marks
    per 1,000 characters; ``text`` is the first text.
    """

    clamps: tuple[Clamp, ...]
    shares: Numbers
    marks: Numbers
    text: str


class Effect(NamedTuple):
    """Samples without clamps, clamped as inside the label, and clamped as outside it.

    Text i uses the same random numbers in all three. For a model of lines, line i does, and a text
    consists of the lines that fill its tokens.
    """

    alone: ClampedSamples
    inside: ClampedSamples
    outside: ClampedSamples

    @property
    def difference(self) -> float:
        """The share of the label, clamped inside less clamped outside."""
        return float((self.inside.shares - self.outside.shares).mean())

    @property
    def error(self) -> float:
        """The standard error of `difference`, over the texts."""
        pairs = self.inside.shares - self.outside.shares
        return float(pairs.std(ddof=1) / math.sqrt(len(pairs)))

    @property
    def verdict(self) -> str:
        """The kind of effect: "cause", "opposite" (rarer inside) or "none" (not clear)."""
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
    """Samples about `chars` tokens with each setting at temperature 1, and labels them.

    Raises:
        ConfigError: a unit is given twice.
        TextError: the lines of a model of lines never end.
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
        for text in _sample(model, config, seed, clamps):
            texts.append(text)
            if progress:
                progress(number * TEXTS + len(texts), len(settings) * TEXTS)
        shares = [labeller.read(text).sum() / max(1, len(text)) for text in texts]
        marks = [
            1000 * sum(1 for _ in labeller.marks.finditer(text)) / max(1, len(text))
            for text in texts
        ]
        results.append(ClampedSamples(clamps, np.array(shares), np.array(marks), texts[0]))
    return Effect(*results)


def _sample(
    model: Model, config: SamplingConfig, seed: int, clamps: Sequence[Clamp]
) -> Iterator[str]:
    """Yields `TEXTS` texts of `max_tokens` tokens, made of whole lines for a model of lines."""
    if not model.of_lines:
        for index in range(TEXTS):
            yield "".join(model.write("", config, seed, index))
        return
    lines = iter(model.lines(LineConfig(MOST_LINES), config, seed))
    for _ in range(TEXTS):
        text, tokens = "", 0
        while tokens < config.max_tokens:
            try:
                line = next(lines)
            except TextError:
                held = ", ".join(f"{unit}={value:.3f}" for unit, value in clamps) or "no clamps"
                raise TextError(
                    f"with {held} the model's lines never end, so --effect has nothing to label: "
                    "clamp fewer units with --together, or choose another label with --find"
                ) from None
            text += line.text + "\n"
            tokens += line.tokens
        yield text
