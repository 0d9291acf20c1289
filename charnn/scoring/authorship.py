"""Decides which of several models wrote a line, by likelihood ratio with calibrated offsets.

Each model scores each line from the initial state. The writer is the model with the lowest bits per
character after an offset of each model is subtracted. Offsets compensate for a model that is better
or worse on every text.

Shapes: L lines, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charnn.scoring.surprisal import Array, TokenScorer
from charnn.text.tokenizers import Tokenizer

ROUNDS = 5  # over all offsets, with three models or more


class Candidate(NamedTuple):
    """A model that may have written the lines."""

    scorer: TokenScorer
    tokenizer: Tokenizer


class LineBits(NamedTuple):
    """Lines (L,), their numbers of characters (L,), and their bits under each model (L, M)."""

    lines: list[str]
    chars: Array
    bits: Array


class Calibration(NamedTuple):
    """Offsets and how well they tell the models apart on held-out text.

    Attributes:
        offsets: (M,) bits per character; the first is 0.
        confusion: (M, M) lines of model i that were attributed to model j, counted on lines that
            the offsets were not chosen on.
    """

    offsets: Array
    confusion: Array

    @property
    def accuracy(self) -> float:
        """The share of lines attributed to the right model, as a mean over the models."""
        return float(np.mean(np.diag(self.confusion) / np.maximum(1, self.confusion.sum(axis=1))))


def shared_characters(candidates: Sequence[Candidate]) -> set[str] | None:
    """Returns the characters that all models know; None if all models know every character."""
    alphabets = [set(each.tokenizer.known) for each in candidates if each.tokenizer.known]
    return set.intersection(*alphabets) if alphabets else None


def line_bits(candidates: Sequence[Candidate], lines: Sequence[str], newline: bool) -> LineBits:
    """Returns the bits of lines without newlines under each model.

    `newline` adds the newline at the end of each line; all models must know it.

    Raises:
        UnknownCharacter: a model does not know a character.
    """
    whole = [line + "\n" for line in lines] if newline else list(lines)
    bits = np.zeros((len(whole), len(candidates)))
    for column, (scorer, tokenizer) in enumerate(candidates):
        ids = [tokenizer.encode(line) for line in whole]
        lengths = np.array([len(each) for each in ids], np.int64)
        if lengths.sum():
            found = scorer.lines(np.concatenate(ids), lengths).bits
            owners = np.repeat(np.arange(len(whole)), lengths)
            bits[:, column] = np.bincount(owners, found, minlength=len(whole))
    return LineBits(list(lines), np.array([len(line) for line in whole], np.int64), bits)


def verdicts(scored: LineBits, offsets: Array) -> Array:
    """Returns the index (L,) of the likeliest writer of each line, given offsets (M,)."""
    winners: Array = np.argmin(_rates(scored) - offsets, axis=1)
    return winners


def _rates(scored: LineBits) -> Array:
    """Returns the bits per character (L, M)."""
    rates: Array = scored.bits / np.maximum(1, scored.chars)[:, None]
    return rates


def calibrate(held_out: Sequence[LineBits]) -> Calibration:
    """Chooses offsets on half of each model's held-out lines, and measures them on the others."""
    count = len(held_out)
    rates = [_rates(each) for each in held_out]
    parts = [halves(len(rate)) for rate in rates]
    chosen = [rate[part] for rate, (part, _) in zip(rates, parts, strict=True)]
    truth = np.repeat(np.arange(count), [len(rate) for rate in chosen])
    offsets = _fit_offsets(np.concatenate(chosen), truth, count)
    confusion = np.zeros((count, count), np.int64)
    for writer, (rate, (_, rest)) in enumerate(zip(rates, parts, strict=True)):
        found = np.argmin(rate[rest] - offsets, axis=1)
        confusion[writer] = np.bincount(found, minlength=count)
    return Calibration(offsets, confusion)


def halves(count: int) -> tuple[Array, Array]:
    """Returns the indices of two random halves of the lines, the same in every run."""
    order = np.random.default_rng(0).permutation(count)
    return order[::2], order[1::2]


def _fit_offsets(rates: Array, truth: Array, count: int) -> Array:
    """Returns the offsets (M,) of the highest balanced accuracy, by coordinate ascent.

    `rates` (L, M) are bits per character of lines written by the models `truth` (L,).
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
    """Returns the best offset of one model, with the offsets of the others fixed.

    Each line has a threshold: `model` gets the line if its offset is above the threshold.
    """
    others = np.delete(rates - offsets, model, axis=1)
    names = np.delete(np.arange(len(offsets)), model)
    thresholds = rates[:, model] - others.min(axis=1)
    rival_right = names[others.argmin(axis=1)] == truth
    gains = weights * ((truth == model).astype(float) - rival_right)
    order = np.argsort(thresholds, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(gains[order])])
    thresholds = thresholds[order]
    # There is no offset between two equal thresholds.
    possible = np.concatenate([[True], thresholds[1:] > thresholds[:-1], [True]])
    sums[~possible] = -np.inf
    best = np.flatnonzero(sums >= sums.max() - 1e-12)
    edges = np.concatenate([[thresholds[0] - 0.1], thresholds, [thresholds[-1] + 0.1]])
    middles = (edges[best] + edges[best + 1]) / 2
    return float(middles[np.abs(middles).argmin()])  # the smallest of equally good offsets
