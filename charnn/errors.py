"""All errors that a person can cause; each is one line that says what to do next."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Package -> the arguments with which pip installs it, if they are not the name of the package. On
# Linux the package index serves PyTorch as a CUDA build of several GB.
INSTALL = {
    "huggingface_hub": '"charnn[hub]"',
    "onnx": '"charnn[onnx]"',
    "outlines_core": '"charnn[regex]"',
    "starlette": '"charnn[serve]"',
    "tensorboard": '"charnn[tensorboard]"',
    "torch": "torch"
    + " --index-url https://download.pytorch.org/whl/cpu" * (sys.platform == "linux"),
    "uvicorn": '"charnn[serve]"',
}


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a guess at what `name` should be for an error, or `otherwise` without a guess."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class CharnnError(Exception):
    """Base of all errors that the command line shows as one line with exit code 1."""


class ConfigError(CharnnError):
    """A setting out of its range, or two settings that contradict each other."""


class TextError(CharnnError):
    """A text, corpus or prompt that cannot be used."""


class UnknownCharacter(TextError):
    """A character outside the vocabulary, named with its place and neighbours."""

    replaceable = True  # False if no known character is near it


class FileError(CharnnError):
    """A file or folder that cannot be read or written."""


class DamagedFile(FileError):
    """A file that is damaged, hostile, or of another kind than expected."""


class NewerFile(DamagedFile):
    """An intact file of a newer format than this version reads."""


class BusyError(CharnnError):
    """A run that another process holds."""


class TrainingError(CharnnError):
    """Training that cannot start or cannot go on."""


class MissingPackage(CharnnError):
    """A package that is not installed, optional or left out of the installation."""


@contextmanager
def needed(by: str) -> Iterator[None]:
    """Turns the failed import of a package into an error with the line that installs it.

    Raises:
        MissingPackage: an import in the block found no such package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "charnn", *sys.stdlib_module_names}:
            raise
        raise MissingPackage(
            f"{by} needs the package {package}, which is not installed: "
            f"pip install {INSTALL.get(package, package)}"
        ) from None
