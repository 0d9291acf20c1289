"""Held-out losses under named protocols: one pass that yields logits, summed or per token.

**cold-256**: windows of 256 tokens that do not overlap, each from the initial state; every position
counts, the last partial window is dropped. nanoGPT reports this number. **carried**: one pass over
the split with the state carried from its start; every target counts once. Use it to compare
tokenizers. **lines**: each line from the initial state after a newline; its tokens and the newline
that ends it count, empty lines are skipped. It is for models of lines.

Shapes: B streams, T steps, V symbols, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from charnn.checkpoint import Checkpoint
from charnn.errors import DamagedFile, TextError
from charnn.model import LanguageModel, map_state
from charnn.ngrams.mixture_torch import MixedLanguageModel
from charnn.ngrams.tree import tree_and_weights

COLD_WINDOW = 256
CARRIED_WINDOW = 512
LINE_WINDOW = 256  # a longer line is read in several windows with the state carried
MAX_BATCH, MAX_LINES, MAX_LOGITS = 64, 512, 1 << 24
IGNORED = -100  # a padded target: the default ignore_index of torch's cross_entropy

Predictor = LanguageModel | MixedLanguageModel

Ids = npt.NDArray[Any]
Progress = Callable[[int, int], None]


class Batch(NamedTuple):
    """Logits (T, B, V) and their targets (T, B), `IGNORED` where padded.

    ``places`` (T, B) holds the index of each target in the tokens that are scored; ``total`` is the
    number of targets in all batches together.
    """

    logits: torch.Tensor
    targets: Ids
    places: Ids
    total: int


Batches = Iterator[Batch]


class TokenLosses(NamedTuple):
    """Targets (N,) in the order of the text, and the loss (N,) of each in nats, float64."""

    targets: Ids
    nats: Ids


@dataclass(frozen=True)
class Score:
    """Summed loss over `targets` tokens, which decode to `chars` characters and `bytes` bytes.

    `chars` is None for text that is not UTF-8.
    """

    nats: float
    targets: int
    chars: int | None
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """Mean loss in nats."""
        return self.nats / self.targets

    @property
    def bits_per_char(self) -> float | None:
        """Bits per character, comparable between tokenizers; None without characters."""
        return self.nats / math.log(2) / self.chars if self.chars else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of UTF-8."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values under the public keys."""
        names = ("nats_per_token", "bits_per_char", "bits_per_byte", "targets")
        return {name: getattr(self, name) for name in names}


NOTHING = Score(0.0, 0, 0, 0)


class TextSizes:
    """Characters and bytes per token; a character belongs to the token with its first byte."""

    def __init__(self, chars_per_token: Ids, bytes_per_token: Ids, is_text: bool = True) -> None:
        self.chars_per_token, self.bytes_per_token = chars_per_token, bytes_per_token
        self.is_text = is_text

    def score(self, batches: Batches, progress: Progress | None = None) -> Score:
        """Returns the score of all batches together; `progress` gets targets done and in all."""
        score = NOTHING
        for logits, targets, _, total in batches:
            nats = float(_cross_entropy(logits, targets, "sum"))
            score = self.add(score, nats, targets[targets != IGNORED])
            if progress:
                progress(score.targets, total)
        return score

    def add(self, score: Score, nats: float, targets: Ids) -> Score:
        """Returns `score` extended by the loss of more targets."""
        chars = None
        if score.chars is not None and self.is_text:
            chars = score.chars + int(self.chars_per_token[targets].sum())
        size = score.bytes + int(self.bytes_per_token[targets].sum())
        return Score(score.nats + nats, score.targets + targets.size, chars, size)


def token_losses(batches: Batches, progress: Progress | None = None) -> TokenLosses:
    """Returns the loss of each target of all batches, in the order of the text."""
    found, done = [], 0
    for logits, targets, places, total in batches:
        real = targets != IGNORED
        nats = _cross_entropy(logits, targets, "none").view(targets.shape).cpu().numpy()
        found.append((places[real], targets[real], nats[real]))
        done += int(real.sum())
        if progress:
            progress(done, total)
    all_places, all_targets, all_nats = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.argsort(all_places)
    return TokenLosses(all_targets[order], all_nats[order].astype(np.float64))


def network_of(saved: Checkpoint, device: str = "cpu") -> LanguageModel:
    """Returns the network of a checkpoint."""
    network = LanguageModel(saved.config)
    network.load_state_dict({name: torch.from_numpy(a) for name, a in saved.weights.items()})
    return network.to(device)


def predictor_of(saved: Checkpoint, device: str = "cpu") -> Predictor:
    """Returns the network of a checkpoint, mixed with its n-grams if it has any.

    Raises:
        DamagedFile: the n-grams are damaged.
    """
    network = network_of(saved, device)
    counts = tree_and_weights(saved.ngrams, saved.config.vocab_size)
    return MixedLanguageModel(network, *counts) if counts else network


def evaluation_batch(vocab_size: int) -> int:
    """Returns how many cold windows are scored at once: fewer for a large vocabulary."""
    return max(1, min(MAX_BATCH, MAX_LOGITS // (COLD_WINDOW * vocab_size)))


def cold_batches(model: Predictor, tokens: Ids, max_tokens: int | None = None) -> Batches:
    """Yields logits under cold-256; of at most `max_tokens`, in evenly spaced windows.

    Raises:
        TextError: there are fewer than two tokens.
    """
    require_targets(tokens)
    window = min(COLD_WINDOW, len(tokens) - 1)
    count = (len(tokens) - 1) // window
    chosen = np.arange(count)
    if max_tokens is not None and count * window > max_tokens:
        chosen = np.linspace(0, count - 1, max(1, max_tokens // window)).round().astype(np.int64)
    batch = evaluation_batch(model.config.vocab_size)
    for start in range(0, len(chosen), batch):
        places = (chosen[start : start + batch, None] * window + np.arange(window + 1)).T
        ids = tokens[places]
        logits, _ = _read(model, ids[:-1], model.initial_state(ids.shape[1]))
        yield Batch(logits, ids[1:], places[1:], len(chosen) * window)


def carried_batches(model: Predictor, tokens: Ids) -> Batches:
    """Yields logits for every token but the first, in one pass that carries the state.

    Raises:
        TextError: there are fewer than two tokens.
    """
    require_targets(tokens)
    state = model.initial_state(1)
    for start in range(0, len(tokens) - 1, CARRIED_WINDOW):
        ids = np.asarray(tokens[start : start + CARRIED_WINDOW + 1])[:, None]
        logits, state = _read(model, ids[:-1], state)
        places = start + np.arange(1, len(ids))[:, None]
        yield Batch(logits, ids[1:], places, len(tokens) - 1)


def line_batches(
    model: Predictor, tokens: Ids, newline: int, max_tokens: int | None = None
) -> Batches:
    """Yields logits under lines, longest lines first; of about `max_tokens`, evenly spaced lines.

    Text before the first newline is a line, and so is text after the last one: it gets the newline
    that it lacks, whose place is ``len(tokens)``.

    Raises:
        TextError: every line is empty.
    """
    ends = np.flatnonzero(tokens == newline)
    if len(tokens) and tokens[-1] != newline:
        ends = np.append(ends, len(tokens))
    lengths = np.diff(ends, prepend=-1)  # with the newline
    starts = ends - lengths + 1
    chosen = np.flatnonzero(lengths > 1)
    if not len(chosen):
        raise TextError("nothing to score: the text has only empty lines; give more text")
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
) -> Batches:
    """Reads B lines side by side, the longest first."""
    state = model.initial_state(len(starts))
    before: Ids = np.full(len(starts), newline)  # the next input of each stream
    for done in range(0, int(lengths[0]), LINE_WINDOW):
        live = int((lengths > done).sum())
        starts, lengths, before = starts[:live], lengths[:live], before[:live]
        state = map_state(itemgetter(slice(live)), state)
        steps = done + np.arange(min(LINE_WINDOW, int(lengths[0]) - done))[:, None]
        text = steps < lengths - 1
        targets = np.where(text, tokens[np.where(text, starts + steps, 0)], newline)
        logits, state = _read(model, np.concatenate([before[None], targets[:-1]]), state)
        wanted = np.where(steps < lengths, targets.astype(np.int64), IGNORED)
        yield Batch(logits, wanted, starts + steps, total)
        before = targets[-1]


@contextmanager
def evaluating(model: Predictor) -> Iterator[None]:
    """Puts a model into evaluation mode for a block, then back into its former mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def require_targets(tokens: Ids) -> None:
    """Raises TextError for fewer than two tokens."""
    if len(tokens) < 2:
        raise TextError(
            f"nothing to score: the text has {len(tokens)} token(s); give a text of at least 2"
        )


def as_tensor(ids: Ids, model: Predictor) -> torch.Tensor:
    """Returns ids as int64 on the device of `model`.

    Raises:
        DamagedFile: an id is not in the vocabulary.
    """
    wide = np.ascontiguousarray(ids, dtype=np.int64)
    if wide.size and wide.max() >= model.config.vocab_size:
        raise DamagedFile("the tokens hold an id outside the vocabulary: tokenize the text again")
    return torch.from_numpy(wide).to(next(model.parameters()).device)


@torch.inference_mode()
def _read(model: Predictor, ids: Ids, state: Any) -> tuple[torch.Tensor, Any]:
    """Reads ids (T, B) in evaluation mode."""
    with evaluating(model):
        result: tuple[torch.Tensor, Any] = model(as_tensor(ids, model), state)
        return result


def _cross_entropy(logits: torch.Tensor, targets: Ids, reduction: str) -> torch.Tensor:
    """Loss in nats of targets (T, B) under logits (T, B, V), summed or one per target."""
    wanted = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.int64)).to(logits.device)
    return cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), reduction=reduction, ignore_index=IGNORED
    )
