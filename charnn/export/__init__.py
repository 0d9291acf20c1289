"""A trained model as something that runs without charnn.

An exporter is a module, and a line in `EXPORTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from charnn.checkpoint import Checkpoint
from charnn.errors import ConfigError
from charnn.export.c_program import write_program
from charnn.export.page import write_page


class Exporter(NamedTuple):
    """One way out.

    Attributes:
        suffix: how the output's name ends; none for a folder.
        write: makes the output from a model and its name: whole, in place of what is there, or
            not at all.
        then: what to do with it, for people; ``{path}`` stands for it.
    """

    suffix: str
    write: Callable[[Checkpoint, str, Path], None]
    then: str


EXPORTERS: dict[str, Exporter] = {
    "c": Exporter("", write_program, "compile it: cc -std=c99 -O2 {path}/*.c -lm -o writer"),
    "html": Exporter(".html", write_page, "open {path} in a browser; it needs no network"),
}


def exporter(name: str) -> Exporter:
    """The exporter of that name.

    Raises:
        ConfigError: there is none; the message lists what there is.
    """
    if name not in EXPORTERS:
        raise ConfigError(f"--to is what to make: {', '.join(EXPORTERS)}; got {name!r}")
    return EXPORTERS[name]


__all__ = ["EXPORTERS", "Exporter", "exporter"]
