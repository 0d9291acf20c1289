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
    GATES,
    MAX_HIDDEN_SIZE,
    MAX_LAYERS,
    MAX_VOCAB_SIZE,
    STATES,
    ModelConfig,
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
    LEAST_POWER,
    MAX_NGRAM,
    MAX_POWER,
    MUON_MOMENTUM,
    NGRAM_ARRAYS,
    OPTIMIZERS,
    PRECISIONS,
    TRAIN_OPTIONS,
    Powers,
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
    "FEWEST_PLACES",
    "GATES",
    "HELD_OUT_CHARS",
    "HORIZON_SAMPLES",
    "INSPECT_CHARS",
    "LABELS",
    "LAB_SIZES",
    "LAB_STEPS",
    "LAGS",
    "LEAST_POWER",
    "LINE_TOKENS",
    "LINE_TRIES",
    "MAX_COPY",
    "MAX_HIDDEN_SIZE",
    "MAX_LAYERS",
    "MAX_NGRAM",
    "MAX_POWER",
    "MAX_SEED",
    "MAX_TOP",
    "MAX_VOCAB_SIZE",
    "MOST_OF_A_LINE",
    "MUON_MOMENTUM",
    "NGRAM_ARRAYS",
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
    "LabOptions",
    "LineConfig",
    "ModelConfig",
    "Powers",
    "SamplingConfig",
    "TrainConfig",
    "TrainOptions",
    "is_gate_matrix",
]
