"""Plain data that checks itself: what a model is, how it is trained, how text is drawn from it.

No torch and no numpy here: the command line borrows its defaults from this package.
"""

from charnn.config.analysis import (
    CELLS_MINUTES,
    EFFECT_CHARS,
    FEWEST_PLACES,
    HORIZON_SAMPLES,
    INSPECT_CHARS,
    LABELS,
    LAGS,
    MOST_OF_A_LINE,
    SHOWN_UNITS,
    UNIT_CHARS,
)
from charnn.config.checks import MAX_SEED
from charnn.config.lab import LAB_SIZES, LAB_STEPS, LabOptions
from charnn.config.lines import LINE_TOKENS, LINE_TRIES, LineConfig
from charnn.config.model import (
    EXTRA_BIASES,
    GATE_ROLES,
    GATES,
    MAX_HIDDEN_SIZE,
    MAX_LAYERS,
    MAX_VOCAB_SIZE,
    STATES,
    GateRoles,
    ModelConfig,
    for_cell,
    is_gate_matrix,
)
from charnn.config.sampling import COPIED_SPAN, DESK_TOKENS, MAX_COPY, UNTIL, SamplingConfig
from charnn.config.scores import (
    DYNAMIC_RATES,
    DYNAMIC_RULES,
    HELD_OUT_CHARS,
    MAX_TOP,
    RESETS,
    SCORE_UNITS,
    DynamicConfig,
)
from charnn.config.training import (
    ADAMW_MOMENTS,
    BATCH_SIZES,
    DEFAULT_MINUTES,
    DEFAULT_NGRAM,
    DEFAULT_TOKENIZER,
    DEVICES,
    MUON_MOMENTUM,
    OPTIMIZERS,
    PRECISIONS,
    TRAIN_OPTIONS,
    TrainConfig,
    TrainOptions,
)

STREAM_PROTOCOLS = ("carried", "cold-256")  # of a text in which what came before matters
PROTOCOLS = (*STREAM_PROTOCOLS, "lines")
TOKENS_SUFFIX = ".tokens"

__all__ = [
    "ADAMW_MOMENTS",
    "BATCH_SIZES",
    "CELLS_MINUTES",
    "COPIED_SPAN",
    "DEFAULT_MINUTES",
    "DEFAULT_NGRAM",
    "DEFAULT_TOKENIZER",
    "DESK_TOKENS",
    "DEVICES",
    "DYNAMIC_RATES",
    "DYNAMIC_RULES",
    "EFFECT_CHARS",
    "EXTRA_BIASES",
    "FEWEST_PLACES",
    "GATES",
    "GATE_ROLES",
    "HELD_OUT_CHARS",
    "HORIZON_SAMPLES",
    "INSPECT_CHARS",
    "LABELS",
    "LAB_SIZES",
    "LAB_STEPS",
    "LAGS",
    "LINE_TOKENS",
    "LINE_TRIES",
    "MAX_COPY",
    "MAX_HIDDEN_SIZE",
    "MAX_LAYERS",
    "MAX_SEED",
    "MAX_TOP",
    "MAX_VOCAB_SIZE",
    "MOST_OF_A_LINE",
    "MUON_MOMENTUM",
    "OPTIMIZERS",
    "PRECISIONS",
    "PROTOCOLS",
    "RESETS",
    "SCORE_UNITS",
    "SHOWN_UNITS",
    "STATES",
    "STREAM_PROTOCOLS",
    "TOKENS_SUFFIX",
    "TRAIN_OPTIONS",
    "UNIT_CHARS",
    "UNTIL",
    "DynamicConfig",
    "GateRoles",
    "LabOptions",
    "LineConfig",
    "ModelConfig",
    "SamplingConfig",
    "TrainConfig",
    "TrainOptions",
    "for_cell",
    "is_gate_matrix",
]
