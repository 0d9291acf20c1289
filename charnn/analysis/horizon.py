"""How far a network remembers, in four ways on one axis of lags.

**gradient**: the norm of d loss / d state k steps back, layer by layer; it vanishes or explodes
(Pascanu, Mikolov and Bengio 2013). **singular**: the largest singular value of d state_t /
d state_(t-k), the whole state of all layers (after Verwimp et al. 2018, who take an embedding).
**truncated**, **shuffled**: the loss where the network sees the last k tokens only, or the tokens
before them in any order (Khandelwal et al. 2018). **by position**: the loss of the n-th token after
a cold start (Kaplan et al. 2020).

Shapes: K lags, S places in the text, L layers, P parts of a state, H units, N = L P H, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from charnn.analysis.steps import flat_state, lagged_jacobian
from charnn.config import HORIZON_SAMPLES, LAGS
from charnn.errors import DamagedFile, TextError
from charnn.evaluation import MAX_LOGITS, evaluating
from charnn.model import LanguageModel, State

Ids = NDArray[np.integer]
Numbers = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

GRADIENT_PLACES, JACOBIAN_PLACES = 32, 4
MAX_TOKENS_AT_ONCE = 1 << 15


class Horizon(NamedTuple):
    """What was measured; losses in nats a token.

    Attributes:
        lags: (K,) tokens.
        gradient: (L, K) norms, the means over places.
        singular: (K,) the largest singular values, the geometric means over places.
        truncated: (S, K) loss at each place with k tokens of context.
        shuffled: (S, K) the same with the longest context, shuffled beyond k.
        by_position: (W,) loss of the token after n tokens read from a cold start, n from 1.
    """

    lags: NDArray[np.int64]
    gradient: Numbers
    singular: Numbers
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

    def used(self, losses: Numbers, within: float = 0.01) -> int:
        """The least lag from which on mean losses (K,) stay `within` nats of that of the last."""
        far = np.flatnonzero(losses > losses[-1] + within)
        return int(self.lags[far[-1] + 1]) if far.size else int(self.lags[0])


def measure_horizon(
    model: LanguageModel,
    tokens: Ids,
    seed: int = 0,
    samples: int = HORIZON_SAMPLES,
    lags: Sequence[int] = LAGS,
    progress: Progress | None = None,
) -> Horizon:
    """Measures all four at places drawn from tokens (T,); lags beyond half of them are left out.

    Raises:
        TextError: the text has fewer than 8 tokens.
    """
    ids = np.asarray(tokens, np.int64)
    if len(ids) < 8:
        raise TextError(f"the text has {len(ids)} tokens, at least 8 are needed to look back")
    if ids.max() >= model.config.vocab_size:
        raise DamagedFile("the tokens hold an id outside the vocabulary: tokenize the text again")
    kept = np.array([lag for lag in lags if lag <= len(ids) // 2])
    longest = int(kept[-1])
    generator = np.random.default_rng(seed)
    # A place is that of the target; before it lies the longest context, whole.
    room = len(ids) - longest
    places = longest + np.sort(generator.choice(room, min(samples, room), replace=False))
    few = places[np.linspace(0, len(places) - 1, min(GRADIENT_PLACES, len(places))).astype(int)]
    fewer = few[:: max(1, len(few) // JACOBIAN_PLACES)][:JACOBIAN_PLACES]
    say = progress or (lambda _what, _done, _all: None)
    with evaluating(model):
        gradient = gradient_norms(model, ids, few, kept, say)
        singular = largest_singular_values(model, ids, fewer, kept, seed, say)
        truncated = truncated_losses(model, ids, places, kept, say)
        shuffled = shuffled_losses(model, ids, places, kept, generator, say)
        positions = losses_by_position(model, ids, places, longest, say)
    means = np.exp(np.log(np.maximum(singular, 1e-300)).mean(axis=0))
    return Horizon(kept, gradient.mean(axis=0), means, truncated, shuffled, positions)


def contexts(ids: NDArray[np.int64], places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The `length` tokens before each place: (length, S)."""
    read: NDArray[np.int64] = ids[places[None] + np.arange(-length, 0)[:, None]]
    return read


def gradient_norms(
    model: LanguageModel,
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    lags: NDArray[np.int64],
    say: Progress,
) -> Numbers:
    """(S, L, K): norms of d loss / d state of a layer, h and c together, k tokens before the loss.

    The loss is that of the token at a place; the state k back is the one that the last k tokens
    before it were read from, itself the memory of the tokens before those from a cold start.
    """
    longest = int(lags[-1])
    warm = min(longest, int(places.min()) - longest)
    state = model.initial_state(len(places))
    if warm:
        before = contexts(ids, places - longest, warm)
        with torch.no_grad():
            _, state = model(torch.from_numpy(before), state)
    read = torch.from_numpy(contexts(ids, places, longest))
    watched: dict[int, list[Tensor]] = {}
    logits = None
    for step in range(longest):
        if longest - step in lags:
            if step == 0:
                state = _as_leaves(state)
            watched[longest - step] = [part for layer in state for part in layer]
        logits, state = model(read[step : step + 1], state)
        say("gradients", step, longest)
    assert logits is not None, "a lag is 1 or more"
    loss = cross_entropy(logits[0], torch.from_numpy(ids[places]), reduction="sum")
    found = torch.autograd.grad(loss, [part for lag in lags for part in watched[int(lag)]])
    layers, parts = len(state), len(state[0])
    norms = np.zeros((len(places), layers, len(lags)))
    for number, part in enumerate(found):
        lag, layer = divmod(number // parts, layers)
        norms[:, layer, lag] += part.double().square().sum(dim=1).numpy()
    return np.sqrt(norms)


def largest_singular_values(
    model: LanguageModel,
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    lags: NDArray[np.int64],
    seed: int,
    say: Progress,
) -> Numbers:
    """(S, K): the largest singular value of the (N, N) Jacobian of the state over k tokens."""
    longest = int(lags[-1])
    warm = min(longest, int(places.min()) - longest)
    state = model.initial_state(len(places))
    with torch.no_grad():
        if warm:
            before = contexts(ids, places - longest, warm)
            _, state = model(torch.from_numpy(before), state)
    read = torch.from_numpy(contexts(ids, places, longest))
    return lagged_jacobian(model, read, flat_state(state), [int(lag) for lag in lags], seed, say)


@torch.inference_mode()
def truncated_losses(
    model: LanguageModel,
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    lags: NDArray[np.int64],
    say: Progress,
) -> Numbers:
    """(S, K): loss of the tokens at places after the last k tokens, from the start state."""
    losses = np.empty((len(places), len(lags)))
    for number, lag in enumerate(lags):
        losses[:, number] = _last_losses(model, contexts(ids, places, int(lag)), ids[places])
        say("truncated contexts", number + 1, len(lags))
    return losses


@torch.inference_mode()
def shuffled_losses(
    model: LanguageModel,
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    lags: NDArray[np.int64],
    generator: np.random.Generator,
    say: Progress,
) -> Numbers:
    """(S, K): loss after the longest context, of which what lies beyond the last k is shuffled."""
    longest = int(lags[-1])
    whole = contexts(ids, places, longest)
    losses = np.empty((len(places), len(lags)))
    for number, lag in enumerate(lags):
        mixed = whole.copy()
        far = longest - int(lag)
        mixed[:far] = generator.permuted(whole[:far], axis=0)
        losses[:, number] = _last_losses(model, mixed, ids[places])
        say("shuffled contexts", number + 1, len(lags))
    return losses


@torch.inference_mode()
def losses_by_position(
    model: LanguageModel,
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    length: int,
    say: Progress,
) -> Numbers:
    """(length,): mean loss of the token after n = 1 … length tokens, read from the start state."""
    windows = np.concatenate([contexts(ids, places, length), ids[places][None]])
    sums, done = np.zeros(length), 0
    for some in _portions(windows, model):
        read = torch.from_numpy(windows[:, some])
        logits, _ = model(read[:-1], model.initial_state(read.shape[1]))
        losses = cross_entropy(logits.flatten(0, 1), read[1:].flatten(), reduction="none")
        sums += losses.view(length, -1).double().sum(dim=1).numpy()
        done += read.shape[1]
        say("cold starts", done, len(places))
    return sums / len(places)


def _last_losses(
    model: LanguageModel, read: NDArray[np.int64], targets: NDArray[np.int64]
) -> Numbers:
    """(S,): loss of targets (S,) after what was read (T, S) from the start state."""
    losses = np.empty(len(targets))
    for some in _portions(read, model):
        logits, _ = model(
            torch.from_numpy(np.ascontiguousarray(read[:, some])),
            model.initial_state(read[:, some].shape[1]),
        )
        wanted = torch.from_numpy(targets[some])
        losses[some] = cross_entropy(logits[-1], wanted, reduction="none").numpy()
    return losses


def _portions(read: NDArray[np.int64], model: LanguageModel) -> list[slice]:
    """Columns of (T, S) that are read at once, so that activations and logits stay small."""
    length, count = read.shape
    most = min(MAX_TOKENS_AT_ONCE, MAX_LOGITS // model.config.vocab_size) // length
    size = max(1, most)
    return [slice(start, start + size) for start in range(0, count, size)]


def _as_leaves(state: State) -> State:
    return tuple(
        type(layer)(*(part.detach().requires_grad_() for part in layer)) for layer in state
    )
