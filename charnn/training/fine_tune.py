"""Fine-tuning: a run on another text that starts from the weights of a trained model.

Learning rates are those of any run: halved or doubled, the loss after 30 seconds was higher
(NOTES.md).

Shapes: V symbols of the model, W of the run, E embedding size, H hidden units.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from charnn import checkpoint
from charnn.config import TrainOptions
from charnn.errors import ConfigError, TextError
from charnn.model import LanguageModel
from charnn.text.tokenizers import Ids, Tokenizer, tokenizer_from_dict

SHAPE = ("cell", "num_layers", "hidden_size", "embedding_size")
SHOWN_CHARACTERS = 20


class Base:
    """The model that a run starts from; it gives shape, tokenizer and weights."""

    def __init__(self, path: Path) -> None:
        """Raises FileError if `path` is not a readable model."""
        saved = checkpoint.load(path)
        self.path, self.config, self.digest = path, saved.config, saved.digest
        self.weights = {name: torch.from_numpy(array) for name, array in saved.weights.items()}
        self.tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)

    def with_shape(self, options: TrainOptions) -> TrainOptions:
        """Returns the options with the shape of the model.

        Raises:
            ConfigError: the options ask for another shape or tokenizer.
        """
        shape = {name: getattr(self.config, name) for name in SHAPE}
        has = {**shape, "tokenizer": self.tokenizer.kind, "vocab_size": self.tokenizer.vocab_size}
        for name, wanted in options.given(tuple(has)).items():
            if wanted != has[name]:
                raise ConfigError(
                    f"--{name.replace('_', '-')} {wanted} contradicts --from: {self.path} has "
                    f"{has[name]}; leave the flag out"
                )
        return replace(options, **shape)

    def describe(self, tokenizer: Tokenizer) -> list[str]:
        """Returns a note that names the symbols of the run that are new to the model.

        Raises:
            TextError: the tokenizer is of another kind, or lacks symbols of the model.
        """
        known = self._places(tokenizer)
        begins = f"starts from the network of {self.path}"
        new = np.delete(np.arange(tokenizer.vocab_size), known)
        if not len(new):
            return [begins]
        shown = tokenizer.decode(new[:SHOWN_CHARACTERS])
        more = " …" if len(new) > SHOWN_CHARACTERS else ""
        return [f"{begins}; {len(new):,} new characters: {shown}{more}"]

    @torch.no_grad()
    def initialise(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        """Copies the weights into a network fresh from `reset_parameters` with W symbols.

        Rows of known symbols are copied, so the network predicts as the model did. The embedding of
        a new symbol keeps its random direction and gets the median norm of the known ones, since
        the norm matters in the residual stream. Its head row is zero, and its bias is the lowest
        known bias less log V: about as rare as the rarest known symbol, whatever the context
        (measured).
        """
        places = torch.from_numpy(self._places(tokenizer))
        weights = dict(self.weights)
        embedding = network.embedding.weight.detach().cpu().clone()  # (W, E)
        log_v = math.log(self.config.vocab_size)
        typical = weights["embedding.weight"].norm(dim=1).median()
        embedding *= typical / embedding.norm(dim=1, keepdim=True)
        new_rows = {
            "embedding.weight": embedding,
            "head.weight": torch.zeros(tokenizer.vocab_size, self.config.hidden_size),
            "head.bias": (weights["head.bias"].min() - log_v).expand(tokenizer.vocab_size).clone(),
        }
        for name, rows in new_rows.items():
            rows[places] = weights[name]
            weights[name] = rows
        network.load_state_dict(weights)

    def _places(self, tokenizer: Tokenizer) -> Ids:
        """Returns the id in `tokenizer` of each symbol of the model: (V,) int64."""
        if tokenizer.token_bytes == self.tokenizer.token_bytes:
            return np.arange(tokenizer.vocab_size)
        if not (tokenizer.known and self.tokenizer.known):  # only known characters can be added to
            raise TextError(
                "these tokens were made with another tokenizer than that of the model to "
                "fine-tune: give the text itself"
            )
        id_of = {token: id_ for id_, token in enumerate(tokenizer.token_bytes)}
        lacking = [token for token in self.tokenizer.token_bytes if token not in id_of]
        if lacking:
            raise TextError(
                f"these tokens have no place for {len(lacking):,} characters of the model to "
                "fine-tune: give the text itself"
            )
        return np.array([id_of[token] for token in self.tokenizer.token_bytes], np.int64)
