"""Exports of a trained model that run without charnn.

To add an exporter, add a module and its line in `EXPORTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from charnn.errors import ConfigError
from charnn.export.c_program import write_program
from charnn.export.hub_folder import write_hub_folder
from charnn.export.model_file import write_model_file
from charnn.export.onnx_graph import OPSET, write_onnx
from charnn.export.page import write_page


class Exporter(NamedTuple):
    """A format of export.

    Attributes:
        suffix: the suffix of the output's name; "" for a folder.
        write: writes the output from a model, its name and the path, whole or not at all.
        then: what a person does with the output, which is ``{path}``.
        content: what the output is, in a few words.
        network_only: whether the output leaves out what the network is mixed with.
        options: keyword arguments of `write` that the command has as options.
    """

    suffix: str
    write: Callable[..., None]
    then: str
    content: str = ""
    network_only: bool = False
    options: tuple[str, ...] = ()


EXPORTERS: dict[str, Exporter] = {
    "c": Exporter(
        "",
        write_program,
        "compile it: cc -std=c99 -O2 {path}/*.c -lm -o writer",
        "a C program",
    ),
    "model": Exporter(
        ".safetensors",
        write_model_file,
        "share it; start from it with: charnn train --from {path}",
        "a model file of half the size",
    ),
    "html": Exporter(
        ".html",
        write_page,
        "open {path} in a browser; it needs no network",
        "an offline page that samples",
    ),
    "hub": Exporter(
        "",
        write_hub_folder,
        "upload it: hf upload OWNER/NAME {path}; then: charnn sample -m hf:OWNER/NAME",
        "a folder for the Hugging Face Hub",
        options=("license",),
    ),
    "onnx": Exporter(
        ".onnx",
        write_onnx,
        "run it with ONNX Runtime: token and state in, logits and next_state out",
        f"one step of the network for ONNX opset {OPSET}",
        network_only=True,
    ),
}
# For the help.
FORMATS = [f"{name} ({each.content})" if each.content else name for name, each in EXPORTERS.items()]


def exporter(name: str) -> Exporter:
    """Returns the exporter of a format.

    Raises:
        ConfigError: the format is unknown.
    """
    if name not in EXPORTERS:
        raise ConfigError(f"--to {name}: unknown format; choose {' or '.join(EXPORTERS)}")
    return EXPORTERS[name]


__all__ = ["EXPORTERS", "FORMATS", "Exporter", "exporter"]
