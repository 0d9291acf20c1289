"""What a training adds at its end: the n-grams of its text, with the power that suits them.

Shapes: N targets, V symbols.
"""

from __future__ import annotations

import torch
from torch import Tensor

from charnn.checkpoint import Checkpoint
from charnn.evaluation import IGNORED, Batches, network_of
from charnn.ngrams.mixture_torch import MixedLanguageModel
from charnn.ngrams.section import MAX_WEIGHT, MIN_WEIGHT, MixtureWeights, NGramSection
from charnn.ngrams.tree import NGramTree
from charnn.text.token_file import TokenFile
from charnn.training.scoring import Scorer

# Longer n-grams are kept if they occur twice: the others are half of the file and hardly change the
# loss (NOTES.md), and what a text says once is then there in short pieces only.
ONCE, ONCE_PIECES = 5, 2
WORTH = 0.005  # nats a token by which the loss must fall
MOST_NUMBERS, AT_ONCE = 1 << 23, 1 << 20  # of N x V: what the weights are fitted to
LEAST_FALL = 1e-6  # of the loss: float32 tells no less
ALONE, COUNTS_ALONE = MixtureWeights(1.0, 0.0), MixtureWeights(0.0, 1.0)  # of no file


def count(best: Checkpoint, tokens: TokenFile, scorer: Scorer) -> NGramSection | None:
    """The n-grams of a run's training text, as a checkpoint holds them, for its best network.

    Their weights are those with the lowest loss on the part of the validation split that `best` is
    chosen by, or on every so many targets of it where there are many symbols. None where they lower
    it by less than `WORTH`.
    """
    network = network_of(best, scorer.config.device)
    once = ONCE_PIECES if tokens.tokenizer.chars_per_id > 1 else ONCE
    tree = NGramTree.of(tokens.split("train"), best.config.vocab_size, scorer.config.ngram, once)
    valid = tokens.split("valid")
    counts_alone = MixedLanguageModel(network, tree, COUNTS_ALONE)
    model, targets = _said(scorer.batches(network, valid))
    counted, _ = _said(scorer.batches(counts_alone, valid))
    weights = fit_weights(model, counted, targets)
    loss_alone, loss = (_loss(model, counted, targets, each)[0] for each in (ALONE, weights))
    if not loss_alone - loss >= WORTH:  # also of a network that has overflowed
        return None
    return tree.section(weights)


def fit_weights(model: Tensor, counted: Tensor, targets: Tensor) -> MixtureWeights:
    """The weights that make targets (N,) likeliest, of logarithms (N, V) from either.

    Log-linear interpolation (Klakow 1998): the loss is convex in both weights, so Newton's method,
    kept within their limits, finds the lowest; its steps are halved until the loss falls.
    """
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    loss, slope, bend = _loss(model, counted, targets, weights)
    for _ in range(20):
        step, fallen = _lowest(weights, slope, bend) - weights, 0.0
        for _ in range(20):
            ahead = (weights + step).clamp(MIN_WEIGHT, MAX_WEIGHT)  # rounding steps over them
            found = _loss(model, counted, targets, ahead)
            if found[0] < loss:
                fallen = loss - found[0]
                weights, (loss, slope, bend) = ahead, found
                break
            step = step / 2
        if fallen < LEAST_FALL:
            break
    return MixtureWeights(*weights.tolist())


def _lowest(weights: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Where a parabola with this slope and bend at `weights` is lowest within their limits."""
    bend = bend + 1e-9 * torch.eye(2, dtype=torch.float64)
    free: Tensor = weights - torch.linalg.solve(bend, slope)
    if ((free >= MIN_WEIGHT) & (free <= MAX_WEIGHT)).all():
        return free
    edges = []
    for fixed in (0, 1):
        for limit in (MIN_WEIGHT, MAX_WEIGHT):
            step = torch.zeros(2, dtype=torch.float64)
            step[fixed] = limit - weights[fixed]
            step[1 - fixed] = -(slope[1 - fixed] + bend[0, 1] * step[fixed])
            step[1 - fixed] /= bend[1 - fixed, 1 - fixed]
            edges.append((weights + step).clamp(MIN_WEIGHT, MAX_WEIGHT))
    heights = [
        slope @ (edge - weights) + (edge - weights) @ bend @ (edge - weights) / 2 for edge in edges
    ]
    return edges[int(torch.stack(heights).argmin())]


@torch.inference_mode()
def _loss(
    model: Tensor, counted: Tensor, targets: Tensor, weights: Tensor | MixtureWeights
) -> tuple[float, Tensor, Tensor]:
    """The mean loss of a mixture, its slope (2,) and the bend of that (2, 2), along the weights."""
    network, ngrams = (float(power) for power in weights)
    loss, slope = 0.0, torch.zeros(2, dtype=torch.float64)
    bend = torch.zeros(2, 2, dtype=torch.float64)
    rows = max(1, AT_ONCE // model.shape[1])
    parts = (torch.split(each, rows) for each in (model, counted, targets))
    for own, theirs, wanted in zip(*parts, strict=True):
        logs = (network * own + ngrams * theirs).log_softmax(-1)
        said = torch.stack([own, theirs])
        loss -= float(logs.gather(1, wanted[:, None]).double().sum())
        p = logs.exp()
        means = (p * said).sum(-1)
        slope += (means - said[:, torch.arange(len(wanted)), wanted]).double().sum(1)
        apart = said - means[..., None]
        bend += torch.einsum("nv,inv,jnv->ij", p, apart, apart).double()
    return loss / len(targets), slope / len(targets), bend / len(targets)


@torch.inference_mode()
def _said(batches: Batches) -> tuple[Tensor, Tensor]:
    """What was said of every so many targets, as logarithms (N, V), and which they were (N,)."""
    said, wanted, seen = [], [], 0
    for logits, targets, _, total in batches:
        every = -(-total * logits.shape[-1] // MOST_NUMBERS)
        real = torch.from_numpy(targets != IGNORED)
        chosen = torch.arange(int(real.sum()))[-seen % every :: every]
        said.append(logits.cpu()[real][chosen].log_softmax(-1))
        wanted.append(torch.from_numpy(targets.astype("int64"))[real][chosen])
        seen += int(real.sum())
    return torch.cat(said), torch.cat(wanted)
