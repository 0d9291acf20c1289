"""A model file to share: half the size, without the state of its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from charnn.checkpoint import Checkpoint, save


def write_model_file(checkpoint: Checkpoint, name: str, output: Path) -> None:
    """Writes the model with F16 weights, and everything else that samples or describes it.

    Raises:
        FileError: the file cannot be written, or a weight does not fit into F16.
    """
    save(output, replace(checkpoint, training=None), dtype="F16")
