"""What a training adds at its end when it is asked to: the n-grams of its text, and their share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from charnn.evaluation import IGNORED, Batches, Ids
from charnn.model import LanguageModel
from charnn.model.mixture import Mixture
from charnn.text.ngram_tree import NGramTree, fit_share
from charnn.training.scoring import Scorer


def count(
    network: LanguageModel, order: int, train: Ids, valid: Ids, scorer: Scorer
) -> dict[str, Any]:
    """The n-grams of a training text, as a checkpoint holds them, with the share that suits best.

    The share is one number, the one with the lowest loss on the part of the validation split that
    `best` is chosen by.
    """
    tree = NGramTree.of(train, network.config.vocab_size, order)
    alone = Mixture(network, tree, 1.0)
    model = _of_targets(scorer.batches(network, valid))
    counted = _of_targets(scorer.batches(alone, valid))
    return {"order": tree.order, "share": fit_share(model, counted), **tree.to_arrays()}


@torch.inference_mode()
def _of_targets(batches: Batches) -> Any:
    """The probabilities of all targets, (T,)."""
    found = []
    for logits, targets, _ in batches:
        real = targets != IGNORED
        wanted = torch.from_numpy(np.where(real, targets, 0).astype(np.int64))[..., None]
        chosen = logits.cpu().log_softmax(-1).gather(-1, wanted)[..., 0].exp()
        found.append(chosen.double().numpy()[real])
    return np.concatenate(found)
