"""The compiled engine, engine/engine.c, as ctypes sees it.

The structures are those of engine/engine.h.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from charnn.errors import ConfigError

# Numbers as in kernels.h, the fastest first.
KERNELS = {"avx512-vnni": 2, "avx2": 1, "neon": 3, "plain": 0}

Pointer = ctypes.c_void_p


class CMatrix(ctypes.Structure):
    """charnn_matrix."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "columns", "stride")),
        *((name, Pointer) for name in ("weights", "scale", "row_sum", "bias")),
    )


class CLayer(ctypes.Structure):
    """charnn_layer."""

    _fields_ = (
        ("input", CMatrix),
        ("recurrent", CMatrix),
        ("bias_hn", Pointer),
        ("residual", ctypes.c_int32),
    )


class CNumbers(ctypes.Structure):
    """charnn_numbers."""

    _fields_ = (("at", Pointer), ("bytes", ctypes.c_int32))


class CNGrams(ctypes.Structure):
    """charnn_ngrams."""

    _fields_ = (
        ("order", ctypes.c_int32),
        ("contexts", ctypes.c_int32),
        ("network_weight", ctypes.c_double),
        ("ngram_weight", ctypes.c_double),
        *((name, CNumbers) for name in ("symbols", "counts", "dropped")),
        *((name, Pointer) for name in ("first", "discounts")),
    )


class CModel(ctypes.Structure):
    """charnn_model."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("cell", "vocab_size", "embedding_size", "hidden_size", "num_layers")
        ),
        *((name, Pointer) for name in ("embedding", "table")),
        ("layers", ctypes.POINTER(CLayer)),
        ("head", CMatrix),
        ("ngrams", ctypes.POINTER(CNGrams)),
    )


@cache
def load() -> ctypes.CDLL | None:
    """Returns the compiled engine; None if it was not built or cannot be loaded."""
    # First _engine.so or _engine.dll, then files that an older version built in this clone.
    for path in sorted(Path(__file__).parent.glob("_engine.*"), reverse=True):
        # Built for another system, or from an older source.
        with suppress(OSError, AttributeError):
            return open_engine(path)
    return None


def open_engine(path: Path) -> ctypes.CDLL:
    """Loads the library at `path` and declares its functions.

    Raises:
        OSError: it cannot be loaded.
        AttributeError: it lacks a function.
    """
    found = ctypes.CDLL(str(path))
    whole, real, model = ctypes.c_int32, ctypes.c_double, ctypes.POINTER(CModel)
    function: Any
    for function, result, arguments in (
        (found.charnn_use, ctypes.c_int, (ctypes.c_int,)),
        (found.charnn_scratch_bytes, ctypes.c_size_t, (model, whole)),
        (found.charnn_begin, None, (model, Pointer)),
        (found.charnn_make_table, None, (model, Pointer, Pointer)),
        (found.charnn_step, None, (model, whole, *[Pointer] * 5)),
        (found.charnn_choose, whole, (Pointer, whole, real, real, Pointer)),
        (found.charnn_surprisal, real, (Pointer, whole, whole)),
    ):
        function.restype, function.argtypes = result, arguments
    return found


@cache
def kernels() -> tuple[str, ...]:
    """Returns the kernels that this processor can run, the fastest first."""
    found = load()
    if found is None:
        return ()
    return tuple(name for name, number in KERNELS.items() if found.charnn_use(number))


def use(kernel: str | None = None) -> None:
    """Chooses the kernel for all models of this process; None is the fastest one.

    Raises:
        ConfigError: this processor lacks the kernel, or the engine was not built.
    """
    found, known = load(), kernels()
    if kernel is not None and kernel not in known:
        raise ConfigError(
            f"unknown kernel {kernel!r}; choose from {', '.join(known) or 'none: not built'}"
        )
    if found is not None:
        found.charnn_use(KERNELS[kernel or known[0]])
