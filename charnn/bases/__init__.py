"""Base models that ship with charnn, by name.

A base is a model file; docs/base.md describes each, and how to make another. To add
one, add its file and a line in `BASES`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SCRATCH = "scratch"  # in place of a base: a network with random weights


class ShippedBase(NamedTuple):
    """A model file of the package, and the facts that people need in order to use it.

    Attributes:
        read: the texts that the model was trained on.
        licence: that of the texts; the weights ship under charnn's own.
    """

    path: Path
    language: str
    read: str
    licence: str


BASES = {
    "english": ShippedBase(
        Path(__file__).with_name("english.safetensors"),
        "English",
        "119 public-domain works by 100 authors, in the editions of Standard Ebooks",
        "CC0-1.0",
    )
}


def base_of(path: Path) -> tuple[str, ShippedBase] | None:
    """Returns name and facts of the base whose file this is; None for any other file."""
    return next(((name, base) for name, base in BASES.items() if base.path == path), None)
