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
from charnn.engines.weights import arrange, quantise
from charnn.errors import ConfigError
from charnn.predictor import Predictor

Weights = Mapping[str, NDArray[np.float32]]
AnyPredictor = Float32Predictor | Int8Predictor | NativePredictor


def make_predictor(
    config: ModelConfig,
    weights: Weights,
    engine: str = "auto",
    int8: bool = False,
    clamps: Sequence[Clamp] = (),
) -> Predictor:
    """Returns a network in one of `ENGINES`; auto is native if it can run here, else numpy.

    `int8` rounds the weights: then all engines give the same text for the same seed; without it
    their logits differ in the last bits. `clamps` hold units at their values.

    Raises:
        ConfigError: the engine is unknown or not installed, or a clamp is impossible.
    """
    if engine == "auto":
        engine = "native" if compiled.kernels() and config.cell in NATIVE_CELLS else "numpy"
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; choose from auto, {', '.join(ENGINES)}")
    made = ENGINES[engine](config, clamped_weights(config, weights, clamps), int8)
    made.start = clamped_start(config, clamps)
    return made


def _native(config: ModelConfig, weights: Weights, int8: bool) -> NativePredictor:
    if not compiled.kernels():
        raise ConfigError(
            "the native engine was not built: install charnn again where there is a C compiler, "
            "or leave --engine out to use numpy"
        )
    arrangement = arrange(config, weights)
    return NativePredictor(quantise(arrangement) if int8 else arrangement)


def _numpy(config: ModelConfig, weights: Weights, int8: bool) -> Float32Predictor | Int8Predictor:
    if int8:
        return Int8Predictor(quantise(arrange(config, weights)))
    return Float32Predictor(config, weights)


ENGINES: dict[str, Callable[[ModelConfig, Weights, bool], AnyPredictor]] = {
    "native": _native,
    "numpy": _numpy,
}
