"""Which of several models wrote this? Likelihoods of lines, and a threshold found on held-out text.

Each model reads each line from the start state. The smaller its bits per character, less an offset
of its own, the more likely it wrote the line; offsets make up for one model being the better one.

Shapes: L lines, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charnn.scoring.surprisal import Array, Scorer
from charnn.text.tokenizers import Tokenizer

ROUNDS = 5  # over all offsets, where there are more than two


class Reader(NamedTuple):
    """A model that reads lines."""

    scorer: Scorer
    tokenizer: Tokenizer


class LineBits(NamedTuple):
    """Lines (L,) with how many characters each has, (L,), and the bits of each model, (L, M)."""

    lines: list[str]
    chars: Array
    bits: Array


class Calibration(NamedTuple):
    """What was found on held-out text.

    ``offsets`` (M,), in bits per character, the first 0. ``confusion`` (M, M): of the lines of
    model i, how many were taken for those of model j; lines that no offset was chosen by.
    """

    offsets: Array
    confusion: Array

    @property
    def accuracy(self) -> float:
        """The mean share of each model's lines that were known as its own."""
        return float(np.mean(np.diag(self.confusion) / np.maximum(1, self.confusion.sum(axis=1))))


def known_characters(readers: Sequence[Reader]) -> set[str] | None:
    """The characters that all models know; None where all know every one."""
    known: set[str] | None = None
    for reader in readers:
        if reader.tokenizer.kind == "char":
            own = {token.decode() for token in reader.tokenizer.token_bytes}
            known = own if known is None else known & own
    return known


def line_bits(readers: Sequence[Reader], lines: Sequence[str], newline: bool) -> LineBits:
    """The bits of lines, which hold no newline, by each model.

    `newline` says whether the one that ends each line is counted: all models must know it.

    Raises:
        UnknownCharacter: a model does not know a character.
    """
    ended = [line + "\n" for line in lines] if newline else list(lines)
    bits = np.zeros((len(ended), len(readers)))
    for place, (scorer, tokenizer) in enumerate(readers):
        ids = [tokenizer.encode(line) for line in ended]
        lengths = np.array([len(each) for each in ids], np.int64)
        if not lengths.sum():
            continue
        found = scorer.lines(np.concatenate(ids), lengths).bits
        owners = np.repeat(np.arange(len(ended)), lengths)
        bits[:, place] = np.bincount(owners, found, minlength=len(ended))
    return LineBits(list(lines), np.array([len(line) for line in ended], np.int64), bits)


def verdicts(bits: Array, chars: Array, offsets: Array) -> Array:
    """Which model (L,) is the likeliest writer, from bits (L, M) of so many characters (L,)."""
    winners: Array = np.argmin(bits / np.maximum(1, chars)[:, None] - offsets, axis=1)
    return winners


def calibrate(held_out: Sequence[LineBits]) -> Calibration:
    """Chooses offsets on half of the held-out lines of each model, and tries them on the rest."""
    count = len(held_out)
    rates = [each.bits / np.maximum(1, each.chars)[:, None] for each in held_out]
    parts = [halves(len(rate)) for rate in rates]
    chosen = [rate[part] for rate, (part, _) in zip(rates, parts, strict=True)]
    truth = np.repeat(np.arange(count), [len(rate) for rate in chosen])
    offsets = _offsets(np.concatenate(chosen), truth, count)
    confusion = np.zeros((count, count), np.int64)
    for writer, (rate, (_, rest)) in enumerate(zip(rates, parts, strict=True)):
        taken = np.argmin(rate[rest] - offsets, axis=1)
        confusion[writer] = np.bincount(taken, minlength=count)
    return Calibration(offsets, confusion)


def halves(count: int) -> tuple[Array, Array]:
    """Two halves of so many lines, always the same, that no rhythm of a text falls in with."""
    order = np.random.default_rng(0).permutation(count)
    return order[::2], order[1::2]


def _offsets(rates: Array, truth: Array, count: int) -> Array:
    """Offsets (M,) of the greatest balanced accuracy on bits per character (L, M) of known writers.

    One after another, each is put where it does best with the others as they are.
    """
    offsets = np.zeros(count)
    weights = (1 / np.maximum(1, np.bincount(truth, minlength=count)))[truth]
    for _ in range(1 if count == 2 else ROUNDS):
        before = offsets.copy()
        for model in range(1, count):
            offsets[model] = _best_offset(rates, truth, weights, offsets, model)
        if np.array_equal(before, offsets):
            break
    return offsets


def _best_offset(rates: Array, truth: Array, weights: Array, offsets: Array, model: int) -> float:
    """A line goes to `model` from an offset of so much on: the offset that most are right at."""
    others = np.delete(rates - offsets, model, axis=1)
    names = np.delete(np.arange(len(offsets)), model)
    needs = rates[:, model] - others.min(axis=1)
    rival_right = names[others.argmin(axis=1)] == truth
    gains = weights * ((truth == model).astype(float) - rival_right)
    order = np.argsort(needs, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(gains[order])])
    sorted_needs = needs[order]
    # Between two lines that need the same, there is no offset.
    possible = np.concatenate([[True], sorted_needs[1:] > sorted_needs[:-1], [True]])
    sums[~possible] = -np.inf
    best = np.flatnonzero(sums >= sums.max() - 1e-12)
    edges = np.concatenate([[sorted_needs[0] - 0.1], sorted_needs, [sorted_needs[-1] + 0.1]])
    middles = (edges[best] + edges[best + 1]) / 2
    return float(middles[np.abs(middles).argmin()])  # the nearest to no offset at all
