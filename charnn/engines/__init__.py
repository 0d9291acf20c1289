"""The engines that run a trained network, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from charnn.config import ModelConfig
from charnn.engines import compiled
from charnn.engines.float32 import NumpyModel
from charnn.engines.int8 import Int8Model
from charnn.engines.native import NativeModel
from charnn.engines.weights import arrange, quantise
from charnn.errors import ConfigError

Network = NumpyModel | Int8Model | NativeModel


def make_network(
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    engine: str = "auto",
    int8: bool = False,
) -> Network:
    """A network in one of `ENGINES`; auto is native where it was built. `int8` rounds the weights.

    With `int8`, all engines give the same text for the same seed; without, the last bits differ.

    Raises:
        ConfigError: there is no such engine, or not here.
    """
    if engine == "auto":
        engine = "native" if compiled.kernels() else "numpy"
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; choose from auto, {', '.join(ENGINES)}")
    return ENGINES[engine](config, weights, int8)


def _native(
    config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], int8: bool
) -> NativeModel:
    if not compiled.kernels():
        raise ConfigError(
            "the native engine was not built: install charnn again where there is a C compiler, "
            "or leave --engine out, and numpy does the work"
        )
    arrangement = arrange(config, weights)
    return NativeModel(quantise(arrangement) if int8 else arrangement)


def _numpy(
    config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], int8: bool
) -> NumpyModel | Int8Model:
    if int8:
        return Int8Model(quantise(arrange(config, weights)))
    return NumpyModel(config, weights)


ENGINES = {"native": _native, "numpy": _numpy}
