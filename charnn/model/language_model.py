"""The language model: embedding, residual stack of recurrent layers, head.

Shapes: B streams, T steps, V symbols, E embedding size, H hidden units.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from charnn.config import ModelConfig
from charnn.model.cells import CELLS
from charnn.model.state import State

EMBEDDING_SCALE = 0.1
ALIGNMENT = 32  # torch has fast kernels for inputs of these widths


class Masks(NamedTuple):
    """Dropout masks of B streams, of which only some are computed here.

    All B masks are drawn, so that those of a stream do not depend on where it is computed.

    Attributes:
        kept: indices of the streams that are computed.
    """

    generator: torch.Generator
    streams: int
    kept: Tensor


class Block(nn.Module):
    """Layer norm (Ba et al. 2016), recurrent layer and dropout.

    A residual path (He et al. 2016) goes around them if input and output have the same width.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        size = config.input_size(layer)
        self.norm = nn.LayerNorm(size)
        self.cell = CELLS[config.cell](size, config.hidden_size)
        self.residual = size == config.hidden_size
        self.dropout = config.dropout

    def forward(
        self,
        x: Tensor,
        state: Any,
        dtype: torch.dtype,
        masks: Masks | None,
        symbols: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """Reads x (T, B, D) from `state`; returns (T, B, H) and the state after.

        If x are rows of a table (V, D), `symbols` may hold their one-hot numbers (T, B, V) and the
        table. Norm and input product are then computed once a row instead of once a position.
        """
        if symbols:
            one_hot, table = symbols
            product = self.cell.weight_ih @ self.norm(table).T
            outputs, state = self.cell(one_hot.to(dtype), state, product)
        else:
            outputs, state = self.cell(self.norm(x).to(dtype), state)
        y = outputs.float()
        if self.training:
            y = locked_dropout(y, self.dropout, masks)
        return (x + y if self.residual else y), state


class LanguageModel(nn.Module):
    """Predicts the next symbol of B texts at once.

    In training mode the recurrent layers compute in ``recurrent_dtype`` (float32 or bfloat16; the
    weights stay float32). In evaluation mode everything is float32, so a score does not depend on
    the training precision.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recurrent_dtype = torch.float32
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.reset_parameters(torch.Generator())

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draws new weights from a generator; a small head favours no symbol."""
        with torch.no_grad():
            # Layer norm makes the input of layer 0 independent of this scale; in the residual
            # stream, a small scale lets the layers' outputs matter from the start.
            self.embedding.weight.normal_(0.0, EMBEDDING_SCALE, generator=generator)
            for block in self.blocks():
                block.norm.reset_parameters()
                block.cell.reset_parameters(generator)
            self.norm.reset_parameters()
            self.head.weight.normal_(0.0, 0.01, generator=generator)
            self.head.bias.zero_()

    def blocks(self) -> list[Block]:
        """Returns the recurrent layers with their norms, from input to output."""
        return [cast(Block, block) for block in self.layers]

    def initial_state(self, batch_size: int) -> State:
        """Returns the state at the start of a text: zeros."""
        return tuple(block.cell.initial_state(batch_size) for block in self.blocks())

    def forward(
        self, tokens: Tensor, state: State, masks: Masks | None = None
    ) -> tuple[Tensor, State]:
        """Reads tokens (T, B) from `state`; returns logits (T, B, V) and the state after.

        `masks` are those of dropout in training mode; None draws them from torch's generator.
        """
        dtype = self.recurrent_dtype if self.training else torch.float32
        x = self.embedding(tokens)
        symbols = self._symbols(tokens)
        after = []
        for block, layer_state in zip(self.blocks(), state, strict=True):
            x, layer_state = block(x, layer_state, dtype, masks, symbols)
            after.append(layer_state)
            symbols = None
        features = self.norm(x)
        if self.training:
            features = locked_dropout(features, self.config.dropout / 2, masks)
        return self.head(features), tuple(after)

    def skip_masks(self, masks: Masks) -> None:
        """Draws the masks of a forward pass without computing it."""
        nothing = self.head.weight.new_zeros(1, 0, self.config.hidden_size)
        for dropout in [self.config.dropout] * len(self.layers) + [self.config.dropout / 2]:
            locked_dropout(nothing, dropout, masks)

    def _symbols(self, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
        """Returns tokens as one-hot rows and the embedding, both padded; None unless V is small.

        A one-hot product over V features is less work than one over E, and torch's fused layers
        accept one-hot rows, but no gather.
        """
        vocab_size, size = self.embedding.weight.shape
        padding = -vocab_size % ALIGNMENT
        if vocab_size + padding >= size:
            return None
        table = nn.functional.pad(self.embedding.weight, (0, 0, 0, padding))
        return nn.functional.one_hot(tokens, len(table)), table


def locked_dropout(x: Tensor, dropout: float, masks: Masks | None) -> Tensor:
    """Zeros a share of the features of x (T, B, H) and scales up the others.

    Each stream has one mask for the whole window (Gal and Ghahramani 2016).
    """
    if not dropout:
        return x
    generator = masks.generator if masks else None
    streams = masks.streams if masks else x.shape[1]
    mask = x.new_empty(1, streams, x.shape[2]).bernoulli_(1 - dropout, generator=generator)
    if masks:
        mask = mask[:, masks.kept]
    return x * mask.div_(1 - dropout)
