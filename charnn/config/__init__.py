"""Plain data that checks itself: what a model is, how it is trained, how text is drawn from it.

No torch and no numpy here: the command line borrows its defaults from this package.
"""

from charnn.config.checks import MAX_SEED
from charnn.config.model import (
    GATES,
    MAX_HIDDEN_SIZE,
    MAX_LAYERS,
    MAX_VOCAB_SIZE,
    STATES,
    ModelConfig,
    is_gate_matrix,
)
from charnn.config.sampling import DESK_TOKENS, SamplingConfig
from charnn.config.training import (
    ADAMW_MOMENTS,
    BATCH_SIZES,
    DEFAULT_MINUTES,
    DEFAULT_TOKENIZER,
    DEVICES,
    MUON_MOMENTUM,
    OPTIMIZERS,
    PRECISIONS,
    TRAIN_OPTIONS,
    TrainConfig,
    TrainOptions,
)

PROTOCOLS = ("carried", "cold-256")
TOKENS_SUFFIX = ".tokens"

__all__ = [
    "ADAMW_MOMENTS",
    "BATCH_SIZES",
    "DEFAULT_MINUTES",
    "DEFAULT_TOKENIZER",
    "DESK_TOKENS",
    "DEVICES",
    "GATES",
    "MAX_HIDDEN_SIZE",
    "MAX_LAYERS",
    "MAX_SEED",
    "MAX_VOCAB_SIZE",
    "MUON_MOMENTUM",
    "OPTIMIZERS",
    "PRECISIONS",
    "PROTOCOLS",
    "STATES",
    "TOKENS_SUFFIX",
    "TRAIN_OPTIONS",
    "ModelConfig",
    "SamplingConfig",
    "TrainConfig",
    "TrainOptions",
    "is_gate_matrix",
]
