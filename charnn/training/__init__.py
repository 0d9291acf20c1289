"""Training: from token ids to a checkpoint."""

from __future__ import annotations

import importlib
from typing import Any

from charnn.errors import needed

_HOMES = {"Trainer": "trainer", "start": "launch", "resume": "launch"}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that importing the room does not load torch."""
    if name in _HOMES:
        with needed(f"charnn.training.{name}"):
            return getattr(importlib.import_module(f"charnn.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'charnn.training' has no attribute {name!r}")
