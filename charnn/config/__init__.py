"""Settings of a model, of its training and of sampling: dataclasses that check their values.

This package imports neither torch nor numpy: the command line takes its options from it.
"""

from charnn.config.analysis import (
    ACTIVITY_STEPS,
    DYNAMIC_RATES,
    EFFECT_CHARS,
    GOOD_AUC,
    HORIZON_SAMPLES,
    LAB_SIZES,
    LAB_STEPS,
    LABELS,
    LAGS,
    SHOWN_UNITS,
    SURPRISAL_BITS,
    DynamicConfig,
    LabOptions,
)
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
from charnn.config.sampling import MAX_COPY, RECENT, LineConfig, SamplingConfig
from charnn.config.server import ServerConfig
from charnn.config.settings import MAX_SEED
from charnn.config.training import (
    ADAMW_MOMENTS,
    BATCH_SIZES,
    DEFAULT_MINUTES,
    DEFAULT_TOKENIZER,
    MUON_MOMENTUM,
    TRAIN_OPTIONS,
    TextOptions,
    TrainConfig,
    TrainOptions,
)

TOKENS_SUFFIX = ".tokens"
