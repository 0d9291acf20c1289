"""Fine-tuning: a run on another text that starts from the weights of a trained model.

The method is that of ULMFiT (Howard and Ruder 2018): a network trained on much text learns a small
text with lower learning rates than a network from scratch (`charnn.training.plan.FINE_TUNING`).
A text unlike all that the model has read needs more steps, and is told by its loss.

Shapes: V symbols of the model, W of the run, E embedding size, H hidden units.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charnn import checkpoint
from charnn.config import TrainOptions
from charnn.errors import ConfigError, TextError
from charnn.evaluation import Score, TextSizes, cold_batches
from charnn.model import LanguageModel
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import Ids, Tokenizer, tokenizer_from_dict
from charnn.text.unknown_characters import nearest

SHAPE = ("cell", "num_layers", "hidden_size", "embedding_size")
SHOWN_CHARACTERS = 20
SAMPLE_TOKENS = 4096  # of the training split; a network is scored on them before training
# Bits per character before training: from here on a text is unlike those that a model has read.
# With the English base, English texts have up to 2.7, names and other languages 3.9 and more.
UNLIKE = 3.2
NEW = -1  # stands for the id of a symbol that the model lacks
RARER = 1.0  # nats by which a new symbol starts less probable than the symbol it is copied from


class Base:
    """The model that a run starts from; it gives the shape, the kind of tokenizer and weights."""

    def __init__(self, path: Path, name: str = "") -> None:
        """Loads a model; `name` is that of a base that ships.

        Raises:
            FileError: `path` is not a readable model.
        """
        saved = checkpoint.load(path)
        self.path, self.name = path, name
        self.config, self.digest = saved.config, saved.digest
        self.weights = {name: torch.from_numpy(array) for name, array in saved.weights.items()}
        self.tokenizer = tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)

    @property
    def origin(self) -> dict[str, Any]:
        """The facts that a fine-tuned model's file records about its base."""
        return {"digest": self.digest, **({"name": self.name} if self.name else {})}

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

    def knows(self, tokenizer: Tokenizer) -> NDArray[np.bool_]:
        """Returns for each symbol of the run whether the model has it: (W,)."""
        return np.not_equal(self._sources(tokenizer), NEW)

    def describe_new(self, tokenizer: Tokenizer) -> str:
        """Returns a note that names the symbols of the run that are new to the base, or "".

        Raises:
            TextError: the tokenizer is of another kind.
        """
        new = np.flatnonzero(~self.knows(tokenizer))
        shown = tokenizer.decode(new[:SHOWN_CHARACTERS])
        more = " …" if len(new) > SHOWN_CHARACTERS else ""
        count = "1 character is" if len(new) == 1 else f"{len(new):,} characters are"
        return f"{count} new to the network: {shown}{more}" if shown else ""

    @torch.no_grad()
    def initialise(self, network: LanguageModel, tokenizer: Tokenizer) -> None:
        """Copies the weights into a network fresh from `reset_parameters` with W symbols.

        Rows of known symbols are copied. A new symbol gets the rows of its nearest known character
        (e for é), a little less probable. Without one, its embedding keeps its random direction and
        gets the median norm of the known ones, since the norm matters in the residual stream; its
        head row is zero, and its bias is the lowest known bias less log V: about as rare as the
        rarest known symbol, whatever the context (measured).
        """
        sources = self._sources(tokenizer)
        known = np.flatnonzero(sources != NEW)
        weights = dict(self.weights)
        embedding = network.embedding.weight.detach().cpu().clone()  # (W, E)
        typical = weights["embedding.weight"].norm(dim=1).median()
        embedding *= typical / embedding.norm(dim=1, keepdim=True)
        rare = weights["head.bias"].min() - math.log(self.config.vocab_size)
        rows = {
            "embedding.weight": embedding,
            "head.weight": torch.zeros(tokenizer.vocab_size, self.config.hidden_size),
            "head.bias": rare.expand(tokenizer.vocab_size).clone(),
        }
        near = self._nearest(tokenizer, np.flatnonzero(sources == NEW))
        for name, new_rows in rows.items():
            new_rows[known] = weights[name][sources[known]]
            for symbol, source in near.items():
                new_rows[symbol] = weights[name][source]
            weights[name] = new_rows
        for symbol in near:
            weights["head.bias"][symbol] -= RARER
        network.load_state_dict(weights)

    def is_like(self, tokens: TokenFile) -> bool:
        """Tells whether a text is like those that the model has read."""
        network = LanguageModel(replace(self.config, vocab_size=tokens.tokenizer.vocab_size))
        self.initialise(network, tokens.tokenizer)
        bits = loss_before(network, tokens).bits_per_char
        return bits is not None and bits < UNLIKE

    def _sources(self, tokenizer: Tokenizer) -> Ids:
        """Returns the model's id of each symbol of the run, or `NEW`: (W,) int64."""
        if tokenizer.token_bytes == self.tokenizer.token_bytes:
            return np.arange(tokenizer.vocab_size)
        if not (tokenizer.known and self.tokenizer.known):  # cannot be matched by character
            raise TextError(
                f"the tokens are of a {tokenizer.kind} tokenizer, and {self.path} has another, of "
                f"the kind {self.tokenizer.kind}: give the text itself, or leave --from out"
            )
        id_of = {token: id_ for id_, token in enumerate(self.tokenizer.token_bytes)}
        return np.array([id_of.get(token, NEW) for token in tokenizer.token_bytes], np.int64)

    def _nearest(self, tokenizer: Tokenizer, symbols: Ids) -> dict[int, int]:
        """Returns the model's id of the nearest known character of each of `symbols`."""
        found = {}
        for symbol in symbols.tolist():
            character = tokenizer.token_bytes[symbol].decode()
            for near in nearest(character, self.tokenizer.known, 1):
                found[symbol] = int(self.tokenizer.encode(near)[0])
        return found


def loss_before(network: LanguageModel, tokens: TokenFile) -> Score:
    """Scores a network before training on a sample of the training split, under cold-256."""
    sizes = TextSizes(tokens.tokenizer.chars_per_token, tokens.tokenizer.bytes_per_token)
    return sizes.score(cold_batches(network, np.asarray(tokens.split("train")), SAMPLE_TOKENS))
