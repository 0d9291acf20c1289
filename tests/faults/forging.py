"""Files of charnn with a change in them, and a digest that fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from charnn.tensor_file import DTYPE_NAMES, DTYPES, layout, pack_header, read_header, seal

Arrays = dict[str, np.ndarray[Any, Any]]


def contents(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Metadata without the digest, and arrays in their order, of a good file."""
    with path.open("rb") as file:
        header = read_header(file, path)
        data = file.read()
    arrays = {
        name: np.frombuffer(data[t.start : t.stop], DTYPES[t.dtype]).reshape(t.shape).copy()
        for name, t in header.tensors.items()
    }
    return {key: value for key, value in header.metadata.items() if key != "digest"}, arrays


def packed(metadata: dict[str, Any], arrays: Arrays) -> bytes:
    tensors = layout({name: (DTYPE_NAMES[a.dtype], a.shape) for name, a in arrays.items()})
    data = b"".join(array.tobytes() for array in arrays.values())
    return pack_header(tensors, metadata, seal(hashlib.sha256(data), tensors, metadata)) + data


def same_arrays(one: Path, other: Path) -> bool:
    """Tells whether two files hold the same arrays, bit for bit."""
    (_, a), (_, b) = contents(one), contents(other)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def forged(path: Path, change: Callable[[dict[str, Any], Arrays], Any]) -> bytes:
    """The bytes of a good file after a change of its metadata and arrays."""
    metadata, arrays = contents(path)
    change(metadata, arrays)
    return packed(metadata, arrays)
