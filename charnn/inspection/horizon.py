"""Memory horizon of a network: four measurements on one axis of lags k, in tokens.

**gradient**: the norm of d loss / d state k tokens earlier, layer by layer; it vanishes or explodes
(Pascanu, Mikolov and Bengio 2013). **singular**: the largest singular value of d state_t /
d state_(t-k), over the state of all layers (after Verwimp et al. 2018, who differentiate by an
embedding). **truncated**, **shuffled**: the loss when the network reads only the last k tokens, or
reads the tokens before them in shuffled order (Khandelwal et al. 2018). **by position**: the loss
of the n-th token after a cold start (Kaplan et al. 2020).

In running text a full context has the length of the longest lag. For a model of lines it is the
newline that every line starts from and the line so far; truncated and shuffled contexts start with
that newline too, and lags count tokens of the line. Values that overflow float32 are infinite.

Shapes: K lags, S samples (targets), T steps, L layers, P parts of a state, H units, N = L P H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.config import HORIZON_SAMPLES, LAGS
from charnn.errors import TextError
from charnn.evaluation import MAX_LOGITS, as_tensor
from charnn.inspection.jacobians import flat_state, lagged_singular_values
from charnn.model import LanguageModel, State, map_state

Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

GRADIENT_SAMPLES, JACOBIAN_SAMPLES = 32, 4
SHUFFLED_SAMPLES = 100  # few, since shuffled contexts take most of the time
FEWEST_TOKENS = 8  # of a text
FEWEST_DEEP_TOKENS = 50  # a lag is measured if this many tokens have it before them in their line
MOST_OF_A_LINE = 512  # targets further into a line are not drawn
MAX_TOKENS_AT_ONCE = 1 << 15
WITHIN = 0.01  # nats per token by which a loss may exceed that of the full context


class Horizon(NamedTuple):
    """Results of `measure_horizon`; losses are means in nats per token.

    Attributes:
        lags: (K,) the lags that the text is long enough for.
        too_far: the lags that are left out, since the text is too short.
        places: the number of samples.
        gradient: (L, K) norms, means over some of the samples.
        singular: (K,) largest singular values, geometric means over a few samples.
        whole: the loss after the full context.
        truncated: (K,) the loss after the last k tokens.
        shuffled: (K,) the loss after the full context, shuffled beyond k. The cost of shuffling is
            measured on some of the samples and added to `whole`, so that both curves meet.
        by_position: (W,) the loss of the token after n tokens from a cold start, n from 1.
    """

    lags: Ids
    too_far: tuple[int, ...]
    places: int
    gradient: Numbers
    singular: Numbers
    whole: float
    truncated: Numbers
    shuffled: Numbers
    by_position: Numbers

    @property
    def position_at_lags(self) -> Numbers:
        """`by_position` at each lag (K,): the mean since the previous lag."""
        means = [part.mean() for part in np.split(self.by_position, self.lags)[:-1]]
        return np.array(means)

    def context_length(self, losses: Numbers, within: float = WITHIN) -> int | None:
        """Returns the smallest lag from which on losses (K,) stay `within` nats of `whole`."""
        far = np.flatnonzero(~(losses <= self.whole + within))
        first = int(far[-1]) + 1 if len(far) else 0
        return int(self.lags[first]) if first < len(self.lags) else None


@dataclass(frozen=True)
class Samples:
    """Target tokens of a text, and the contexts that each can be predicted from.

    Attributes:
        ids: (T,) the text.
        positions: (S,) positions of the targets in `ids`.
        begins: (S,) where the full context of each target begins.
        warm: (S,) where reading begins for the state at an earlier token.
        head: (0,) or (1,) tokens read before every context: the newline for a model of lines.
    """

    ids: Ids
    positions: Ids
    begins: Ids
    warm: Ids
    head: Ids

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def targets(self) -> Ids:
        """The target tokens (S,)."""
        return self.ids[self.positions]

    def spread(self, count: int) -> Ids:
        """Returns the numbers of at most `count` samples, evenly spaced."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)

    def take(self, numbers: Ids) -> Samples:
        """Returns the samples of these numbers alone."""
        positions, begins, warm = self.positions[numbers], self.begins[numbers], self.warm[numbers]
        return Samples(self.ids, positions, begins, warm, self.head)

    def full(self) -> list[Ids]:
        """Returns the full context of each target."""
        return self._rows(self.begins, self.positions)

    def last(self, lag: int) -> list[Ids]:
        """Returns the last `lag` tokens before each target."""
        return self._rows(self.positions - lag, self.positions)

    def before(self, lag: int) -> list[Ids]:
        """Returns the tokens that lead to the state `lag` tokens before each target."""
        return self._rows(self.warm, self.positions - lag)

    def shuffled(self, lag: int, generator: np.random.Generator) -> list[Ids]:
        """Returns the full contexts, shuffled but for the last `lag` tokens."""
        return [
            np.concatenate(
                [self.head, generator.permutation(self.ids[a : p - lag]), self.ids[p - lag : p]]
            )
            for a, p in zip(self.begins, self.positions, strict=True)
        ]

    def _rows(self, starts: Ids, stops: Ids) -> list[Ids]:
        return [
            np.concatenate([self.head, self.ids[a:b]]) for a, b in zip(starts, stops, strict=True)
        ]


def measure_horizon(
    model: LanguageModel,
    tokens: NDArray[np.integer],
    seed: int = 0,
    samples: int = HORIZON_SAMPLES,
    lags: Sequence[int] = LAGS,
    progress: Progress | None = None,
    newline: int | None = None,
    gradients: int = GRADIENT_SAMPLES,
    jacobians: int = JACOBIAN_SAMPLES,
) -> Horizon:
    """Takes all four measurements on samples drawn from tokens (T,).

    Args:
        newline: the token that ends a line, for a model of lines.
        gradients: the number of samples that gradients are taken of.
        jacobians: the number of these that singular values are taken of.

    Raises:
        DamagedFile: a token is outside the model's vocabulary.
        TextError: the text, or every line of it, is too short.
    """
    ids = as_tensor(tokens, model).numpy()
    generator = np.random.default_rng(seed)
    drawn, kept = draw_samples(ids, lags, samples, generator, newline)
    progress = progress or (lambda _what, _done, _total: None)
    # Without gradients of the weights, gradients of states take a fraction of the time.
    model = deepcopy(model).eval().requires_grad_(False)
    few = drawn.take(drawn.spread(gradients))
    gradient = gradient_norms(model, few, kept, progress)
    singular = singular_values(model, few.take(few.spread(jacobians)), kept, seed, progress)
    whole, by_position = full_context_losses(model, drawn, int(kept[-1]), progress)
    report = partial(progress, "truncated contexts")
    truncated = losses_by_lag(model, drawn, kept, whole, drawn.last, report)
    chosen = drawn.spread(SHUFFLED_SAMPLES)
    some, some_whole = drawn.take(chosen), whole[chosen]
    shuffle = partial(some.shuffled, generator=generator)
    report = partial(progress, "shuffled contexts")
    shuffled = losses_by_lag(model, some, kept, some_whole, shuffle, report)
    cost = (shuffled - some_whole[:, None]).mean(axis=0)
    return Horizon(
        kept,
        tuple(lags[len(kept) :]),
        len(drawn),
        gradient.mean(axis=0),
        np.exp(np.log(np.maximum(singular, 1e-300)).mean(axis=0)),
        float(whole.mean()),
        truncated.mean(axis=0),
        whole.mean() + cost,
        by_position,
    )


def draw_samples(
    ids: Ids,
    lags: Sequence[int],
    count: int,
    generator: np.random.Generator,
    newline: int | None = None,
) -> tuple[Samples, Ids]:
    """Draws at most `count` targets of a text (T,), in order; returns them and the usable lags.

    All targets reach back as far as the longest usable lag, so that lags can be compared.

    Raises:
        TextError: the text, or every line of it, is too short.
    """
    if newline is not None:
        return _draw_in_lines(ids, lags, count, generator, newline)
    if len(ids) < FEWEST_TOKENS:
        raise TextError(
            f"the text has {len(ids)} tokens, horizon needs {FEWEST_TOKENS}: give a longer TEXT"
        )
    kept = np.array([lag for lag in lags if lag <= len(ids) // 2])
    longest = int(kept[-1])
    room = len(ids) - longest
    positions = longest + np.sort(generator.choice(room, min(count, room), replace=False))
    begins = positions - longest
    warm = np.maximum(begins - longest, 0)
    return Samples(ids, positions, begins, warm, np.zeros(0, np.int64)), kept


def _draw_in_lines(
    ids: Ids, lags: Sequence[int], count: int, generator: np.random.Generator, newline: int
) -> tuple[Samples, Ids]:
    starts = np.append(0, np.flatnonzero(ids[:-1] == newline) + 1)
    starts = np.repeat(starts, np.diff(np.append(starts, len(ids))))
    depth = np.arange(len(ids)) - starts  # tokens of its line before each token
    depth[depth > MOST_OF_A_LINE] = 0
    kept = [lag for lag in lags if (depth >= lag).sum() >= FEWEST_DEEP_TOKENS]
    if not kept:
        raise TextError(
            "the lines of the text are too short to look back: fewer than "
            f"{FEWEST_DEEP_TOKENS} tokens have another token before them in their line; "
            "give a longer TEXT"
        )
    deep = np.flatnonzero(depth >= kept[-1])
    positions = np.sort(generator.choice(deep, min(count, len(deep)), replace=False))
    begins = starts[positions]
    return Samples(ids, positions, begins, begins, np.array([newline])), np.array(kept)


def gradient_norms(
    model: LanguageModel, samples: Samples, lags: Ids, progress: Progress
) -> Numbers:
    """Returns (S, L, K): norms of d loss / d state of a layer, h and c together, k tokens earlier.

    The loss is that of the target; the state k tokens earlier is the one before the last k tokens
    of its context are read.
    """
    descending = lags.tolist()[::-1]
    read = _last_tokens(samples, descending[0])
    state = map_state(Tensor.requires_grad_, _state_before(model, samples, descending[0]))
    watched: list[Tensor] = []
    for lag, stop in zip(descending, [*descending[1:], 0], strict=True):
        watched += [part for layer in state for part in layer]
        logits, state = model(read[len(read) - lag : len(read) - stop], state)
        progress("gradients", len(read) - stop, len(read))
    loss = cross_entropy(logits[-1], torch.from_numpy(samples.targets), reduction="sum")
    squares = [part.double().square().sum(dim=1) for part in torch.autograd.grad(loss, watched)]
    by_part = torch.stack(squares).view(
        len(lags), len(state), -1, len(samples)
    )  # the longest lag first
    norms = by_part.sum(dim=2).sqrt().flip(0).permute(2, 1, 0).numpy()
    return np.where(np.isnan(norms), np.inf, norms)


def singular_values(
    model: LanguageModel, samples: Samples, lags: Ids, seed: int, progress: Progress
) -> Numbers:
    """Returns (S, K): the largest singular value of the state's (N, N) Jacobian over k tokens."""
    longest = int(lags[-1])
    state = flat_state(_state_before(model, samples, longest))
    read = _last_tokens(samples, longest)
    return lagged_singular_values(model, read, state, lags.tolist(), seed, progress)


def _last_tokens(samples: Samples, lag: int) -> Tensor:
    """Returns the last tokens (lag, S) before each target."""
    return torch.from_numpy(samples.ids[samples.positions + np.arange(-lag, 0)[:, None]])


@torch.no_grad()
def _state_before(model: LanguageModel, samples: Samples, lag: int) -> State:
    """Returns the state of each sample, `lag` tokens before its target."""
    rows = samples.before(lag)
    lengths = np.array([len(row) for row in rows])
    state = map_state(Tensor.clone, model.initial_state(len(rows)))
    for length in np.unique(lengths[lengths > 0]):
        same = np.flatnonzero(lengths == length)
        read = torch.from_numpy(np.stack([rows[n] for n in same], axis=1))
        _, found = model(read, model.initial_state(len(same)))
        for layer, new in zip(state, found, strict=True):
            for part, values in zip(layer, new, strict=True):
                part[same] = values
    return state


@torch.inference_mode()
def full_context_losses(
    model: LanguageModel, samples: Samples, length: int, progress: Progress
) -> tuple[Numbers, Numbers]:
    """Returns losses (S,) after the full context, and means (length,) after its first n tokens.

    Contexts that begin at the same position count once in the means.
    """
    rows = [np.append(*each) for each in zip(samples.full(), samples.targets, strict=True)]
    first = set(np.unique(samples.begins, return_index=True)[1].tolist())
    whole, sums = np.empty(len(rows)), np.zeros(length)
    for some, read, logits, lengths in _read(model, rows):
        flat = cross_entropy(logits[:-1].flatten(0, 1), read[1:].flatten(), reduction="none")
        losses = flat.view(-1, len(lengths)).double().numpy()
        whole[some] = losses[lengths - 2, np.arange(len(lengths))]
        sums += losses[:length, [n in first for n in range(len(rows))[some]]].sum(axis=1)
        progress("full contexts", some.start + len(lengths), len(rows))
    return whole, sums / len(first)


@torch.inference_mode()
def losses_by_lag(
    model: LanguageModel,
    samples: Samples,
    lags: Ids,
    whole: Numbers,
    contexts: Callable[[int], Sequence[Ids]],
    progress: Callable[[int, int], None],
) -> Numbers:
    """Returns (S, K): the loss of each target after the `contexts` of each lag, from a cold start.

    A lag that reaches back over the full context of every target has the losses `whole` (S,).
    """
    losses = np.empty((len(samples), len(lags)))
    targets = torch.from_numpy(samples.targets)
    for number, lag in enumerate(lags.tolist()):
        if (samples.positions - samples.begins <= lag).all():
            losses[:, number] = whole
        else:
            for some, _, logits, lengths in _read(model, contexts(lag)):
                last = logits[torch.from_numpy(lengths - 1), torch.arange(len(lengths))]
                losses[some, number] = cross_entropy(last, targets[some], reduction="none").numpy()
        progress(number + 1, len(lags))
    return losses


def _read(model: LanguageModel, rows: Sequence[Ids]) -> Iterator[tuple[slice, Tensor, Tensor, Ids]]:
    """Reads rows of tokens from the initial state, some at once to limit the size of the logits.

    Yields their slice, tokens (T, S) padded at the end, logits (T, S, V) and lengths (S,).
    """
    lengths = np.array([len(row) for row in rows])
    most = min(MAX_TOKENS_AT_ONCE, MAX_LOGITS // model.config.vocab_size)
    size = max(1, most // int(lengths.max()))
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        tokens = [torch.from_numpy(row) for row in rows[some]]
        read = torch.nn.utils.rnn.pad_sequence(tokens)
        logits, _ = model(read, model.initial_state(len(tokens)))
        yield some, read, logits, lengths[some]
