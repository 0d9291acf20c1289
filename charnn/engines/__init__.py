"""The engines that run a trained network without torch, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charnn.config import ModelConfig
from charnn.errors import ConfigError

if TYPE_CHECKING:  # help texts list `ENGINES` without numpy
    from charnn.engines.clamps import Clamp
    from charnn.engines.weights import Arrangement
    from charnn.predictor import Predictor


def make_predictor(
    config: ModelConfig,
    weights: Mapping[str, Any],
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
    from charnn.engines import compiled, native
    from charnn.engines.clamps import clamped_start, clamped_weights
    from charnn.engines.weights import arrange, quantise

    if engine == "auto":
        engine = "native" if compiled.kernels() and config.cell in native.CELLS else "numpy"
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; choose from auto, {', '.join(ENGINES)}")
    arrangement = arrange(config, clamped_weights(config, weights, clamps))
    made = ENGINES[engine](quantise(arrangement) if int8 else arrangement)
    made.start = clamped_start(config, clamps)
    return made


def _native(arrangement: Arrangement) -> Predictor:
    from charnn.engines.native import NativePredictor

    return NativePredictor(arrangement)


def _numpy(arrangement: Arrangement) -> Predictor:
    from charnn.engines.float32 import Float32Predictor
    from charnn.engines.int8 import Int8Predictor

    kind = Float32Predictor if arrangement.head.scale is None else Int8Predictor
    return kind(arrangement)


ENGINES: dict[str, Callable[[Arrangement], Predictor]] = {
    "native": _native,
    "numpy": _numpy,
}
