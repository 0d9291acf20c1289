"""How far a network remembers, in four ways on one axis of lags.

**gradient**: the norm of d loss / d state k steps back, layer by layer; it vanishes or explodes
(Pascanu, Mikolov and Bengio 2013). **singular**: the largest singular value of d state_t /
d state_(t-k), the whole state of all layers (after Verwimp et al. 2018, who take an embedding).
**truncated**, **shuffled**: the loss where the network sees the last k tokens only, or the tokens
before them in any order (Khandelwal et al. 2018). **by position**: the loss of the n-th token after
a cold start (Kaplan et al. 2020).

A norm that float32 cannot hold is infinite. Where places lie, and what is read before each, is
said by `charnn.inspection.horizon_places`.

Shapes: K lags, S places in the text, L layers, P parts of a state, H units, N = L P H, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.config import HORIZON_SAMPLES, LAGS
from charnn.errors import DamagedFile
from charnn.evaluation import MAX_LOGITS, evaluating
from charnn.inspection.horizon_places import Ids, Places, choose_places
from charnn.inspection.jacobians import flat_state, lagged_jacobian
from charnn.model import LanguageModel, State

Numbers = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

GRADIENT_PLACES, JACOBIAN_PLACES = 32, 4
SHUFFLED_PLACES = 100  # shuffling is the dearest by far; see `Horizon.shuffled`
MAX_TOKENS_AT_ONCE = 1 << 15


class Horizon(NamedTuple):
    """What was measured; losses in nats a token, the means over places.

    Attributes:
        lags: (K,) tokens.
        too_far: lags that too few places reach back.
        places: how many places there were.
        gradient: (L, K) norms, the means over some of the places.
        singular: (K,) the largest singular values, the geometric means over a few places.
        whole: the loss after all that there is to read: the longest lag, or the line so far.
        truncated: (K,) loss with the last k tokens alone.
        shuffled: (K,) loss with the whole, shuffled beyond k. What shuffling costs is the mean over
            some of the places; `whole` is added, so that both curves end where they meet.
        by_position: (W,) loss of the token after n tokens read from a cold start, n from 1.
    """

    lags: NDArray[np.int64]
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
        """(K,) `by_position` on the axis of lags: its mean over the tokens since the lag before."""
        before = np.concatenate([[0], self.lags[:-1]])
        return np.array([
            self.by_position[a:b].mean() for a, b in zip(before, self.lags, strict=True)
        ])  # fmt: skip

    def used(self, losses: Numbers, within: float = 0.01) -> int | None:
        """The least lag from which on losses (K,) stay `within` nats of that of the whole."""
        near = np.append(losses <= self.whole + within, True)
        first = len(near) - int(np.argmin(near[::-1])) if not near.all() else 0
        return int(self.lags[first]) if first < len(self.lags) else None


def measure_horizon(
    model: LanguageModel,
    tokens: Ids,
    seed: int = 0,
    samples: int = HORIZON_SAMPLES,
    lags: Sequence[int] = LAGS,
    progress: Progress | None = None,
    newline: int | None = None,
    gradients: int = GRADIENT_PLACES,
    jacobians: int = JACOBIAN_PLACES,
) -> Horizon:
    """Measures all four at places drawn from tokens (T,), at the lags that enough places have.

    Args:
        newline: for a model of lines, the token that ends one.
        gradients: at how many of the places there are gradients.
        jacobians: at how many of these there are singular values.

    Raises:
        TextError: the text, or every line of it, is too short to look back.
    """
    ids = np.asarray(tokens, np.int64)
    if len(ids) and ids.max() >= model.config.vocab_size:
        raise DamagedFile("the tokens hold an id outside the vocabulary: tokenize the text again")
    generator = np.random.default_rng(seed)
    chosen = choose_places(ids, lags, samples, generator, newline)
    kept, places = chosen.lags, chosen.places
    few = places.some(gradients)
    some = places.numbers(SHUFFLED_PLACES)
    say = progress or (lambda _what, _done, _all: None)
    with evaluating(model), _without_weights(model):
        gradient = gradient_norms(model, few, kept, say)
        singular = largest_singular_values(model, few.some(jacobians), kept, seed, say)
        whole, positions = whole_losses(model, places, int(kept[-1]), say)
        truncated = truncated_losses(model, places, kept, whole, say)
        shuffled = shuffled_losses(model, places.at(some), kept, whole[some], generator, say)
    means = np.exp(np.log(np.maximum(singular, 1e-300)).mean(axis=0))
    cost = (shuffled - whole[some, None]).mean(axis=0)
    return Horizon(
        kept,
        chosen.too_far,
        len(places),
        gradient.mean(axis=0),
        means,
        float(whole.mean()),
        truncated.mean(axis=0),
        whole.mean() + cost,
        positions,
    )


@contextmanager
def _without_weights(model: LanguageModel) -> Iterator[None]:
    """Gradients are of states alone in this block, which spares the most of their time."""
    wanted = [(each, each.requires_grad) for each in model.parameters()]
    try:
        for each, _ in wanted:
            each.requires_grad_(False)
        yield
    finally:
        for each, before in wanted:
            each.requires_grad_(before)


def gradient_norms(
    model: LanguageModel, places: Places, lags: NDArray[np.int64], say: Progress
) -> Numbers:
    """(S, L, K): norms of d loss / d state of a layer, h and c together, k tokens before the loss.

    The loss is that of the token at a place; the state k back is the one that the last k tokens
    before it were read from, itself the memory of the tokens before those from a cold start.
    """
    order = sorted(map(int, lags), reverse=True)
    read = torch.from_numpy(places.last(order[0]))
    state = _as_leaves(state_before(model, places, order[0]))
    watched: dict[int, list[Tensor]] = {}
    for number, lag in enumerate(order):
        watched[lag] = [part for layer in state for part in layer]
        following = order[number + 1] if number + 1 < len(order) else 0
        logits, state = model(read[order[0] - lag : order[0] - following], state)
        say("gradients", order[0] - following, order[0])
    wanted = torch.from_numpy(places.targets)
    loss = cross_entropy(logits[-1], wanted, reduction="sum")
    found = torch.autograd.grad(loss, [part for lag in lags for part in watched[int(lag)]])
    layers, parts = len(state), len(state[0])
    norms = np.zeros((len(places), layers, len(lags)))
    for number, part in enumerate(found):
        lag, layer = divmod(number // parts, layers)
        norms[:, layer, lag] += part.double().square().sum(dim=1).numpy()
    return np.where(np.isnan(norms), np.inf, np.sqrt(norms))


def largest_singular_values(
    model: LanguageModel, places: Places, lags: NDArray[np.int64], seed: int, say: Progress
) -> Numbers:
    """(S, K): the largest singular value of the (N, N) Jacobian of the state over k tokens."""
    longest = int(lags[-1])
    state = flat_state(state_before(model, places, longest))
    read = torch.from_numpy(places.last(longest))
    return lagged_jacobian(model, read, state, [int(lag) for lag in lags], seed, say)


@torch.no_grad()
def state_before(model: LanguageModel, places: Places, lag: int) -> State:
    """The states `lag` tokens before places, each the memory of what its place allows to read."""
    rows = places.before(lag)
    lengths = np.array([len(row) for row in rows])
    state = tuple(
        type(layer)(*(part.clone() for part in layer))  # which may be one and the same
        for layer in model.initial_state(len(rows))
    )
    for length in np.unique(lengths[lengths > 0]):
        here = np.flatnonzero(lengths == length)
        read = torch.from_numpy(np.stack([rows[n] for n in here], axis=1))
        _, found = model(read, model.initial_state(len(here)))
        for layer, new in zip(state, found, strict=True):
            for part, values in zip(layer, new, strict=True):
                part[here] = values
    return state


@torch.inference_mode()
def whole_losses(
    model: LanguageModel, places: Places, length: int, say: Progress
) -> tuple[Numbers, Numbers]:
    """(S,), (length,): losses after all that there is to read, and after n = 1 … length of it.

    The latter are means over the different beginnings.
    """
    rows = [
        np.append(row, target) for row, target in zip(places.all(), places.targets, strict=True)
    ]
    first = set(np.unique(places.begins, return_index=True)[1].tolist())
    whole, sums = np.empty(len(rows)), np.zeros(length)
    for some in _portions(rows, model):
        windows, ends = _padded(rows[some])
        read = torch.from_numpy(windows)
        logits, _ = model(read[:-1], model.initial_state(read.shape[1]))
        flat = cross_entropy(logits.flatten(0, 1), read[1:].flatten(), reduction="none")
        losses = flat.view(-1, read.shape[1]).double().numpy()
        whole[some] = losses[ends - 2, np.arange(len(ends))]  # the row ends with the target
        once = [n for n in range(len(ends)) if n + some.start in first]
        sums += losses[:length, once].sum(axis=1)
        say("whole contexts", some.start + len(ends), len(rows))
    return whole, sums / len(first)


@torch.inference_mode()
def truncated_losses(
    model: LanguageModel, places: Places, lags: NDArray[np.int64], whole: Numbers, say: Progress
) -> Numbers:
    """(S, K): loss of the tokens at places after the last k tokens, from the start state."""
    told = partial(say, "truncated contexts")
    return _losses_by_lag(model, places, lags, whole, places.ending, told)


@torch.inference_mode()
def shuffled_losses(
    model: LanguageModel,
    places: Places,
    lags: NDArray[np.int64],
    whole: Numbers,
    generator: np.random.Generator,
    say: Progress,
) -> Numbers:
    """(S, K): loss after the whole, of which what lies beyond the last k is shuffled."""
    made = partial(places.shuffled, generator=generator)
    told = partial(say, "shuffled contexts")
    return _losses_by_lag(model, places, lags, whole, made, told)


def _losses_by_lag(
    model: LanguageModel,
    places: Places,
    lags: NDArray[np.int64],
    whole: Numbers,
    contexts: Callable[[int], Sequence[NDArray[np.int64]]],
    say: Callable[[int, int], None],
) -> Numbers:
    """(S, K): loss after the contexts that are made for each lag, or the whole one."""
    losses = np.empty((len(places), len(lags)))
    for number, lag in enumerate(lags.tolist()):
        reached = places.reaches(lag)
        losses[:, number] = whole if reached else _last_losses(model, contexts(lag), places.targets)
        say(number + 1, len(lags))
    return losses


def _last_losses(
    model: LanguageModel, rows: Sequence[NDArray[np.int64]], targets: NDArray[np.int64]
) -> Numbers:
    """(S,): loss of targets (S,) after rows that are read from the start state."""
    losses = np.empty(len(targets))
    for some in _portions(rows, model):
        read, ends = _padded(rows[some])
        logits, _ = model(torch.from_numpy(read), model.initial_state(len(ends)))
        last = logits[torch.from_numpy(ends - 1), torch.arange(len(ends))]
        losses[some] = cross_entropy(
            last, torch.from_numpy(targets[some]), reduction="none"
        ).numpy()
    return losses


def _padded(rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows side by side, (T, S), and how long each is; what follows its end changes nothing."""
    lengths = np.array([len(row) for row in rows])
    read = np.zeros((lengths.max(), len(rows)), np.int64)
    for number, row in enumerate(rows):
        read[: len(row), number] = row
    return read, lengths


def _portions(rows: Sequence[NDArray[np.int64]], model: LanguageModel) -> list[slice]:
    """Rows that are read at once, so that activations and logits stay small."""
    longest = max(len(row) for row in rows)
    most = min(MAX_TOKENS_AT_ONCE, MAX_LOGITS // model.config.vocab_size) // longest
    size = max(1, most)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _as_leaves(state: State) -> State:
    return tuple(
        type(layer)(*(part.detach().requires_grad_() for part in layer)) for layer in state
    )
