"""Plain data that checks itself: the shape of a model, how it is trained, how text is sampled.

This package imports neither torch nor numpy: the command line takes its options from it.
"""

from charnn.config.analysis import EFFECT_CHARS, HORIZON_SAMPLES, LABELS, LAGS, SHOWN_UNITS
from charnn.config.dynamic import DYNAMIC_RATES, DynamicConfig
from charnn.config.lab import LAB_SIZES, LAB_STEPS, LabOptions
from charnn.config.lines import LineConfig
from charnn.config.model import (
    EXTRA_BIASES,
    GATE_ROLES,
    GATES,
    MAX_VOCAB_SIZE,
    STATES,
    GateRoles,
    ModelConfig,
    for_cell,
    is_gate_matrix,
)
from charnn.config.sampling import MAX_COPY, RECENT, SamplingConfig
from charnn.config.settings import MAX_SEED
from charnn.config.training import (
    ADAMW_MOMENTS,
    BATCH_SIZES,
    DEFAULT_MINUTES,
    DEFAULT_NGRAM,
    DEFAULT_TOKENIZER,
    MUON_MOMENTUM,
    TRAIN_OPTIONS,
    TextOptions,
    TrainConfig,
    TrainOptions,
)

TOKENS_SUFFIX = ".tokens"

__all__ = [
    "ADAMW_MOMENTS",
    "BATCH_SIZES",
    "DEFAULT_MINUTES",
    "DEFAULT_NGRAM",
    "DEFAULT_TOKENIZER",
    "DYNAMIC_RATES",
    "EFFECT_CHARS",
    "EXTRA_BIASES",
    "GATES",
    "GATE_ROLES",
    "HORIZON_SAMPLES",
    "LABELS",
    "LAB_SIZES",
    "LAB_STEPS",
    "LAGS",
    "MAX_COPY",
    "MAX_SEED",
    "MAX_VOCAB_SIZE",
    "MUON_MOMENTUM",
    "RECENT",
    "SHOWN_UNITS",
    "STATES",
    "TOKENS_SUFFIX",
    "TRAIN_OPTIONS",
    "DynamicConfig",
    "GateRoles",
    "LabOptions",
    "LineConfig",
    "ModelConfig",
    "SamplingConfig",
    "TextOptions",
    "TrainConfig",
    "TrainOptions",
    "for_cell",
    "is_gate_matrix",
]
