"""Fits the two mixture weights of a network and n-grams on held-out text.

Shapes: N targets, V symbols.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from charnn.evaluation import IGNORED, Batches, Predictor
from charnn.model import LanguageModel
from charnn.ngrams.mixture_torch import MixedLanguageModel
from charnn.ngrams.section import MAX_WEIGHT, MIN_WEIGHT, HeldOutLosses, MixtureWeights
from charnn.ngrams.tree import NGramTree

WORTH = 0.005  # nats per token by which the loss must fall
BLOCK = 64  # consecutive targets that belong to the same half
MAX_NUMBERS, AT_ONCE = 1 << 23, 1 << 20  # limits of N x V: kept, and read at once
SMALLEST_FALL = 1e-6  # of the loss; float32 resolves no smaller one
NETWORK_ONLY, NGRAMS_ONLY = MixtureWeights(1.0, 0.0), MixtureWeights(0.0, 1.0)  # never stored


def fit_and_check(
    network: LanguageModel, tree: NGramTree, read: Callable[[Predictor], Batches]
) -> tuple[MixtureWeights, HeldOutLosses]:
    """Fits the weights on one half of held-out text and measures losses on the other.

    `read` yields a predictor's logits on that text. Blocks of `BLOCK` targets belong to the halves
    alternately, so that both resemble each other; a small text has smaller blocks.
    """
    own, targets = _log_probabilities(read(network))
    ngrams, _ = _log_probabilities(read(MixedLanguageModel(network, tree, NGRAMS_ONLY)))
    count = len(targets)
    first = torch.arange(count) // max(1, min(BLOCK, count // 4)) % 2 == 0
    weights = fit_weights(own[first], ngrams[first], targets[first])
    check = own[~first], ngrams[~first], targets[~first]
    alone, counted, mixed = (
        mean_loss(*check, each)[0] for each in (NETWORK_ONLY, NGRAMS_ONLY, weights)
    )
    return weights, HeldOutLosses(alone, counted, mixed, int(first.sum()))


def fit_weights(own: Tensor, ngrams: Tensor, targets: Tensor) -> MixtureWeights:
    """Returns the weights with the lowest loss of targets (N,), given log-probabilities (N, V).

    Log-linear interpolation (Klakow 1998): the loss is convex in both weights, so Newton's method
    within their limits finds the minimum; a step is halved until the loss falls.
    """
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    loss, gradient, hessian = mean_loss(own, ngrams, targets, weights)
    for _ in range(20):
        step, fallen = _minimum(weights, gradient, hessian) - weights, 0.0
        for _ in range(20):
            ahead = (weights + step).clamp(MIN_WEIGHT, MAX_WEIGHT)  # rounding may cross a limit
            found = mean_loss(own, ngrams, targets, ahead)
            if found[0] < loss:
                fallen = loss - found[0]
                weights, (loss, gradient, hessian) = ahead, found
                break
            step = step / 2
        if fallen < SMALLEST_FALL:
            break
    return MixtureWeights(*weights.tolist())


def _minimum(weights: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """Returns the minimum within the limits of the parabola that touches the loss at `weights`."""
    hessian = hessian + 1e-9 * torch.eye(2, dtype=torch.float64)
    free: Tensor = weights - torch.linalg.solve(hessian, gradient)
    if ((free >= MIN_WEIGHT) & (free <= MAX_WEIGHT)).all():
        return free
    edges = []
    for fixed in (0, 1):
        for limit in (MIN_WEIGHT, MAX_WEIGHT):
            step = torch.zeros(2, dtype=torch.float64)
            step[fixed] = limit - weights[fixed]
            step[1 - fixed] = -(gradient[1 - fixed] + hessian[0, 1] * step[fixed])
            step[1 - fixed] /= hessian[1 - fixed, 1 - fixed]
            edges.append((weights + step).clamp(MIN_WEIGHT, MAX_WEIGHT))
    heights = [
        gradient @ (edge - weights) + (edge - weights) @ hessian @ (edge - weights) / 2
        for edge in edges
    ]
    return edges[int(torch.stack(heights).argmin())]


@torch.inference_mode()
def mean_loss(
    own: Tensor, ngrams: Tensor, targets: Tensor, weights: Tensor | MixtureWeights
) -> tuple[float, Tensor, Tensor]:
    """Returns the mean loss of a mixture, its gradient (2,) and Hessian (2, 2) by the weights."""
    of_network, of_ngrams = (float(weight) for weight in weights)
    loss, gradient = 0.0, torch.zeros(2, dtype=torch.float64)
    hessian = torch.zeros(2, 2, dtype=torch.float64)
    rows = max(1, AT_ONCE // own.shape[1])
    parts = (torch.split(each, rows) for each in (own, ngrams, targets))
    for some, counted, wanted in zip(*parts, strict=True):
        mixed = (of_network * some + of_ngrams * counted).log_softmax(-1)
        loss -= float(mixed.gather(1, wanted[:, None]).double().sum())
        both = torch.stack([some, counted])
        p = mixed.exp()
        means = (p * both).sum(-1)
        gradient += (means - both[:, torch.arange(len(wanted)), wanted]).double().sum(1)
        apart = both - means[..., None]
        hessian += torch.einsum("nv,inv,jnv->ij", p, apart, apart).double()
    return loss / len(targets), gradient / len(targets), hessian / len(targets)


@torch.inference_mode()
def _log_probabilities(batches: Batches) -> tuple[Tensor, Tensor]:
    """Returns log-probabilities (N, V) and targets (N,), stream by stream in the order of the text.

    With a large vocabulary only every k-th target is used, so that N x V stays below `MAX_NUMBERS`.
    """
    rows, wanted, seen = [], [], 0
    for logits, targets, _, total in batches:
        every = -(-total * logits.shape[-1] // MAX_NUMBERS)
        ids = torch.from_numpy(targets.T.astype("int64"))
        real = ids != IGNORED
        chosen = torch.arange(int(real.sum()))[-seen % every :: every]
        rows.append(logits.cpu().transpose(0, 1)[real][chosen].log_softmax(-1))
        wanted.append(ids[real][chosen])
        seen += int(real.sum())
    return torch.cat(rows), torch.cat(wanted)
