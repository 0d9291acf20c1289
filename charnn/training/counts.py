"""What a training adds at its end: the n-grams of its text, in the share that suits it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from charnn.checkpoint import Checkpoint
from charnn.evaluation import IGNORED, Batches, network_of
from charnn.model.mixture import MixedLanguageModel
from charnn.text.ngram_tree import NGramTree, fit_share
from charnn.text.token_file import TokenFile
from charnn.training.scoring import Scorer

# Longer n-grams are kept if they occur twice: the others are half of the file and hardly change the
# loss (NOTES.md), and what a text says once is then there in short pieces only.
ONCE, ONCE_PIECES = 5, 2
WORTH = 0.005  # nats a token by which the loss must fall


def count(best: Checkpoint, tokens: TokenFile, scorer: Scorer) -> dict[str, Any] | None:
    """The n-grams of a run's training text, as a checkpoint holds them, for its best network.

    Their share is the one with the lowest loss on the part of the validation split that `best` is
    chosen by. None where they lower it by less than `WORTH`.
    """
    network = network_of(best, scorer.config.device)
    once = ONCE_PIECES if tokens.tokenizer.kind == "sentencepiece" else ONCE
    tree = NGramTree.of(tokens.split("train"), best.config.vocab_size, scorer.config.ngram, once)
    valid = tokens.split("valid")
    model = _of_targets(scorer.batches(network, valid))
    counted = _of_targets(scorer.batches(MixedLanguageModel(network, tree, 1.0), valid))
    share = fit_share(model, counted)
    with np.errstate(divide="ignore"):
        gain = float(np.mean(np.log((1 - share) * model + share * counted) - np.log(model)))
    return {"order": tree.order, "share": share, **tree.to_arrays()} if gain >= WORTH else None


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
