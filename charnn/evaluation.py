"""Held-out numbers under named protocols, the same for training, `eval` and analysis.

**cold-256**: windows of 256 that do not overlap, from the start state each, all positions counted,
the last partial window dropped; what nanoGPT reports. **carried**: one pass, the state carried from
the start of the split, every target once; what compares tokenizers. **lines**: each line from the
start state after a newline, every token of it and the newline that ends it counted; empty lines are
not there. It is for models of lines, which carry nothing from one to the next.

Shapes: B windows, T steps, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from charnn.checkpoint import Checkpoint
from charnn.errors import DamagedFile, TextError
from charnn.model import LanguageModel, State
from charnn.ngrams.mixture_torch import MixedLanguageModel
from charnn.ngrams.tree import counts_from_dict

COLD_WINDOW = 256
CARRIED_WINDOW = 512
LINE_WINDOW = 256  # a longer line is read in several, its state carried
MAX_BATCH, MAX_LINES, MAX_LOGITS = 64, 512, 1 << 24
IGNORED = -100  # a target that is padding, as torch's cross entropy knows it

Predictor = LanguageModel | MixedLanguageModel

Ids = npt.NDArray[Any]
Progress = Callable[[int, int], None]


class Batch(NamedTuple):
    """What a model said: logits (T, B, V) of targets (T, B), of which some may be `IGNORED`.

    ``total`` is how many targets there will be in all batches.
    """

    logits: torch.Tensor
    targets: Ids
    total: int


Batches = Iterator[Batch]


@dataclass(frozen=True)
class Score:
    """Loss over `targets` predicted tokens, which spell `chars` characters and `bytes` bytes.

    `chars` is None for text that is not UTF-8.
    """

    nats: float
    targets: int
    chars: int | None
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """Mean loss, in nats."""
        return self.nats / self.targets

    @property
    def bits_per_char(self) -> float | None:
        """Bits a character, comparable between tokenizers; None where there are no characters."""
        return self.nats / math.log(2) / self.chars if self.chars else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits a byte of UTF-8."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the keys that other programs read."""
        return {
            "nats_per_token": self.nats_per_token,
            "bits_per_char": self.bits_per_char,
            "bits_per_byte": self.bits_per_byte,
            "targets": self.targets,
        }


NOTHING = Score(0.0, 0, 0, 0)


class TextSizes:
    """How many characters and bytes the tokens stand for; a character lies with its first byte."""

    def __init__(self, chars_per_token: Ids, bytes_per_token: Ids, is_text: bool = True) -> None:
        self.chars_per_token, self.bytes_per_token = chars_per_token, bytes_per_token
        self.is_text = is_text

    def score(self, batches: Batches, progress: Progress | None = None) -> Score:
        """The score of all batches together."""
        score = NOTHING
        for logits, targets, total in batches:
            score = self.add(score, _loss(logits, targets), targets[targets != IGNORED])
            if progress:
                progress(score.targets, total)
        return score

    def add(self, score: Score, nats: float, targets: Ids) -> Score:
        """A score with a loss over more targets."""
        chars = None
        if score.chars is not None and self.is_text:
            chars = score.chars + int(self.chars_per_token[targets].sum())
        size = score.bytes + int(self.bytes_per_token[targets].sum())
        return Score(score.nats + nats, score.targets + targets.size, chars, size)


def evaluation_batch(vocab_size: int) -> int:
    """Cold windows that are scored at once: fewer where the logits would be large."""
    return max(1, min(MAX_BATCH, MAX_LOGITS // (COLD_WINDOW * vocab_size)))


def network_of(saved: Checkpoint, device: str = "cpu") -> LanguageModel:
    """The network of a checkpoint."""
    network = LanguageModel(saved.config)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in saved.weights.items()})
    return network.to(device)


def predictor_of(saved: Checkpoint, device: str = "cpu") -> Predictor:
    """What a checkpoint predicts by: its network, mixed with its n-grams where it has any.

    Raises:
        DamagedFile: they are no n-grams.
    """
    network = network_of(saved, device)
    counts = counts_from_dict(saved.ngrams, saved.config.vocab_size)
    return MixedLanguageModel(network, *counts) if counts else network


def cold(
    model: Predictor,
    tokens: Ids,
    sizes: TextSizes,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Scores tokens (N,) under cold-256; on at most `max_tokens`, in evenly spaced windows.

    Raises:
        TextError: there is nothing to predict.
    """
    return sizes.score(cold_batches(model, tokens, max_tokens), progress)


def cold_batches(model: Predictor, tokens: Ids, max_tokens: int | None = None) -> Batches:
    """What `model` says under cold-256, see `cold`.

    Raises:
        TextError: there is nothing to predict.
    """
    _require_targets(tokens)
    window = min(COLD_WINDOW, len(tokens) - 1)
    count = (len(tokens) - 1) // window
    chosen = np.arange(count)
    if max_tokens is not None and count * window > max_tokens:
        chosen = np.linspace(0, count - 1, max(1, max_tokens // window)).round().astype(np.int64)
    batch = evaluation_batch(model.config.vocab_size)
    for start in range(0, len(chosen), batch):
        at = chosen[start : start + batch, None] * window + np.arange(window + 1)
        ids = tokens[at].T
        logits, _ = _read(model, ids[:-1], model.initial_state(ids.shape[1]))
        yield Batch(logits, ids[1:], len(chosen) * window)


def carried(
    model: Predictor, tokens: Ids, sizes: TextSizes, progress: Progress | None = None
) -> Score:
    """Scores every token but the first of tokens (N,) in one pass that carries its state.

    Raises:
        TextError: there is nothing to predict.
    """
    _require_targets(tokens)
    return sizes.score(_carried_batches(model, tokens), progress)


def _carried_batches(model: Predictor, tokens: Ids) -> Batches:
    state = model.initial_state(1)
    for start in range(0, len(tokens) - 1, CARRIED_WINDOW):
        ids = np.asarray(tokens[start : start + CARRIED_WINDOW + 1])[:, None]
        logits, state = _read(model, ids[:-1], state)
        yield Batch(logits, ids[1:], len(tokens) - 1)


def lines(
    model: Predictor,
    tokens: Ids,
    newline: int,
    sizes: TextSizes,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Scores tokens (N,) under lines; on about `max_tokens`, in evenly spaced lines.

    What stands before the first newline is a line like others, and so is what follows the last,
    as if it ended with one.

    Raises:
        TextError: there is no line that is not empty.
    """
    return sizes.score(line_batches(model, tokens, newline, max_tokens), progress)


def line_batches(
    model: Predictor, tokens: Ids, newline: int, max_tokens: int | None = None
) -> Batches:
    """What `model` says under lines, see `lines`.

    Raises:
        TextError: there is no line that is not empty.
    """
    return (batch for batch, _ in placed_line_batches(model, tokens, newline, max_tokens))


def placed_line_batches(
    model: Predictor, tokens: Ids, newline: int, max_tokens: int | None = None
) -> Iterator[tuple[Batch, Ids]]:
    """What `model` says under lines, and where the targets (T, B) of each batch stand in `tokens`.

    A newline that the last line lacks stands behind them all.

    Raises:
        TextError: there is no line that is not empty.
    """
    ends = np.flatnonzero(tokens == newline)
    if len(tokens) and tokens[-1] != newline:
        ends = np.append(ends, len(tokens))
    lengths = np.diff(ends, prepend=-1)  # with the newline
    starts = ends - lengths + 1
    chosen = np.flatnonzero(lengths > 1)
    if not len(chosen):
        raise TextError("nothing to score: the text has no line that is not empty")
    total = int(lengths[chosen].sum())
    if max_tokens is not None and total > max_tokens:
        count = max(1, len(chosen) * max_tokens // total)
        chosen = chosen[np.linspace(0, len(chosen) - 1, count).round().astype(np.int64)]
        total = int(lengths[chosen].sum())
    chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
    rows = max(1, min(MAX_LINES, MAX_LOGITS // (LINE_WINDOW * model.config.vocab_size)))
    for at in range(0, len(chosen), rows):
        some = chosen[at : at + rows]
        yield from _some_lines(model, tokens, newline, starts[some], lengths[some], total)


def _some_lines(
    model: Predictor, tokens: Ids, newline: int, starts: Ids, lengths: Ids, total: int
) -> Iterator[tuple[Batch, Ids]]:
    """Reads lines, (B,), the longest first."""
    state = model.initial_state(len(starts))
    before: Ids = np.full(len(starts), newline)  # what each reads next
    for done in range(0, int(lengths[0]), LINE_WINDOW):
        live = int((lengths > done).sum())
        starts, lengths, before = starts[:live], lengths[:live], before[:live]
        state = tuple(type(layer)(*(part[:live] for part in layer)) for layer in state)
        steps = done + np.arange(min(LINE_WINDOW, int(lengths[0]) - done))[:, None]
        text = steps < lengths - 1
        targets = np.where(text, tokens[np.where(text, starts + steps, 0)], newline)
        logits, state = _read(model, np.concatenate([before[None], targets[:-1]]), state)
        wanted = np.where(steps < lengths, targets.astype(np.int64), IGNORED)
        yield Batch(logits, wanted, total), starts + steps
        before = targets[-1]


@contextmanager
def evaluating(model: Predictor) -> Iterator[None]:
    """Puts a model into evaluation mode for a block, and back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _require_targets(tokens: Ids) -> None:
    if len(tokens) < 2:
        raise TextError(
            f"nothing to score: the text has {len(tokens)} token(s), at least 2 are needed"
        )


@torch.inference_mode()
def _read(model: Predictor, ids: Ids, state: State) -> tuple[torch.Tensor, State]:
    """Reads ids (T, B) in evaluation mode."""
    wide = np.ascontiguousarray(ids, dtype=np.int64)
    if wide.size and wide.max() >= model.config.vocab_size:
        raise DamagedFile("the tokens hold an id outside the vocabulary: tokenize the text again")
    with evaluating(model):
        result: tuple[torch.Tensor, State] = model(
            torch.from_numpy(wide).to(next(model.parameters()).device), state
        )
        return result


def _loss(logits: torch.Tensor, targets: Ids) -> float:
    """Sum of the loss in nats: logits (T, B, V), targets (T, B), of which some may be ignored."""
    wanted = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.int64)).to(logits.device)
    return float(
        cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum", ignore_index=IGNORED)
    )
