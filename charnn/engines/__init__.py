"""The engines that run a trained network without torch, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from charnn.config import ModelConfig
from charnn.engines import compiled
from charnn.engines.clamps import Clamp, clamped_start, clamped_weights
from charnn.engines.float32 import Float32Predictor
from charnn.engines.int8 import Int8Predictor
from charnn.engines.native import CELLS as NATIVE_CELLS
from charnn.engines.native import NativePredictor
from charnn.engines.weights import Arrangement, arrange, quantise
from charnn.errors import ConfigError
from charnn.predictor import Predictor


def make_predictor(
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    engine: str = "auto",
    int8: bool = False,
    clamps: Sequence[Clamp] = (),
) -> Predictor:
    """Returns a network in one of `ENGINES`; auto is native if it can run here, else numpy.

    `int8` rounds the weights: then all engines give the same text for the same seed; without it
    their logits differ in the last bits. `clamps` hold units at their values.

    Raises:
        ConfigError: the engine is unknown, not installed or lacks the cell, or a clamp is
            impossible.
    """
    if engine == "auto":
        engine = "native" if compiled.kernels() and config.cell in NATIVE_CELLS else "numpy"
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; choose from auto, {', '.join(ENGINES)}")
    arrangement = arrange(config, clamped_weights(config, weights, clamps))
    made = ENGINES[engine](quantise(arrangement) if int8 else arrangement)
    made.start = clamped_start(config, clamps)
    return made


def _numpy(arrangement: Arrangement) -> Float32Predictor | Int8Predictor:
    if arrangement.head.scale is None:
        return Float32Predictor(arrangement)
    return Int8Predictor(arrangement)


ENGINES: dict[str, Callable[[Arrangement], Float32Predictor | Int8Predictor | NativePredictor]] = {
    "native": NativePredictor,
    "numpy": _numpy,
}
