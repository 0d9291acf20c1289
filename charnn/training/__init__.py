"""From ids to a checkpoint: batches, recipe, trainer."""

from __future__ import annotations

import importlib
import os
from typing import Any

# Between the small parallel pieces of a recurrent step, OpenMP's threads wait for each other by
# spinning. On a machine that does anything else besides, the thread waited for does not run
# meanwhile: measured, training fell to a tenth. A short spin costs little on a quiet machine. The
# setting is read when torch is loaded, so it stands here, before anything imports it.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# The same holds for numpy's products, which the samples of a training are made with.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_HOMES = {"Trainer": "trainer", "start": "launch", "resume": "launch"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: the command line reads only settings."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"charnn.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'charnn.training' has no attribute {name!r}")
