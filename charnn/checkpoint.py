"""Model files: weights, tokenizer, configuration, history, and the state of training.

The safetensors library writes and parses the bytes. This module adds the checks that the format
lacks: exact names, types and shapes, a digest over everything, finite numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from charnn.config import ModelConfig, TrainConfig
from charnn.errors import ConfigError, FileError
from charnn.ngrams.section import NGRAM_ARRAYS, NGRAM_DTYPES, NGramSection
from charnn.tensor_file import (
    MAX_HEADER_BYTES,
    METADATA_KEY,
    Header,
    check_digest,
    check_kind,
    damaged,
    file_errors,
    parse_header,
    read_header,
    regular,
    replacing,
    seal,
    start_of,
    to_json,
)
from charnn.version import __version__

FORMAT = 1
WEIGHT_DTYPES = ("F32", "F16")
NO_DIGEST = "0" * 64
TOKENIZER_DTYPES = ("U8", "U32")


@dataclass
class TrainingState:
    """The state that continues a run exactly: hyper-parameters, counters and arrays.

    ``arrays`` holds the moments of the optimizer, shaped like the weights (``momentum.*`` for
    Muon, ``exp_avg.*`` and ``exp_avg_sq.*`` for AdamW), and the carried hidden state
    ``state.<layer>.<h|c>`` of shape (batch_size, hidden_size).
    """

    config: TrainConfig
    progress: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass
class Checkpoint:
    """The contents of a model file. ``info`` is JSON: corpus, recipe, history, results.

    ``tokenizer`` is the result of `Tokenizer.to_dict`: a kind and arrays of one dimension. The
    tokens of ``start`` are read before a text without a prompt; by default ``start_token``. A model
    of ``lines`` read each line from the initial state after the start token, a newline. ``ngrams``
    are those that the network is mixed with, if any.
    """

    config: ModelConfig
    tokenizer: dict[str, Any]
    weights: dict[str, np.ndarray]
    start_token: int
    info: dict[str, Any] = field(default_factory=dict)
    training: TrainingState | None = None
    digest: str = ""
    lines: bool = False
    ngrams: NGramSection | None = None
    start: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.start or [self.start_token]

    @property
    def mixture(self) -> str | None:
        """Description of what the network is mixed with, for people; None for a network alone."""
        return self.ngrams.describe() if self.ngrams else None

    @property
    def mixture_cautions(self) -> list[str]:
        """Warnings for people about what the network is mixed with."""
        return self.ngrams.cautions() if self.ngrams else []

    @property
    def mixture_contents(self) -> str | None:
        """Description of what the n-grams contain of the training text; None without n-grams."""
        return self.ngrams.contents() if self.ngrams else None

    def mixture_facts(self) -> dict[str, Any]:
        """Returns a JSON key for what the network can be mixed with, and its facts or None."""
        return {"ngrams": self.ngrams.facts() if self.ngrams else None}

    def size_facts(self) -> dict[str, Any]:
        """Returns the number of parameters and, where it has them, its base and mixture."""
        return {
            "parameters": self.config.parameters,
            **({"from": self.info["from"]} if "from" in self.info else {}),
            **(self.mixture_facts() if self.ngrams else {}),
        }


def save(path: Path, checkpoint: Checkpoint, dtype: str = "F32") -> None:
    """Replaces `path` durably: it holds either the old file or the whole new one.

    The weights are stored as `dtype`, F32 or F16; `load` returns float32 in both cases. F16 halves
    the file and rounds each weight to 11 significant bits.

    Raises:
        FileError: the file cannot be written, a number is not finite, or `load` would refuse the
            file for another reason; `path` is unchanged.
    """
    kind = {key: value for key, value in checkpoint.tokenizer.items() if not _is_array(value)}
    metadata: dict[str, Any] = {
        "kind": "model",
        "format": FORMAT,
        "charnn": __version__,
        "model": checkpoint.config.to_dict(),
        "tokenizer": kind,
        "start_token": checkpoint.start_token,
        "start": checkpoint.start,
        "info": checkpoint.info,
        "lines": checkpoint.lines,
    }
    arrays = dict(checkpoint.weights)
    if dtype == "F16":
        with np.errstate(over="ignore"):  # an overflow is reported below, by name
            arrays = {name: weight.astype(np.float16) for name, weight in arrays.items()}
    arrays |= {f"tokenizer.{k}": v for k, v in checkpoint.tokenizer.items() if _is_array(v)}
    if checkpoint.ngrams is not None:
        metadata["ngrams"] = checkpoint.ngrams.to_metadata()
        arrays |= {f"ngrams.{k}": v for k, v in checkpoint.ngrams.arrays.items()}
    if checkpoint.training:
        metadata["training"] = {
            "config": checkpoint.training.config.to_dict(),
            "progress": checkpoint.training.progress,
        }
        arrays |= {f"training.{k}": v for k, v in checkpoint.training.arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FileError(f"{path} is not written: {name} holds numbers that are not finite")
    try:
        text = to_json({**metadata, "digest": NO_DIGEST})
    except ValueError as error:
        raise FileError(f"{path} is not written: its metadata is not JSON: {error}") from None
    # The library writes strided arrays wrongly without an error.
    blob = bytearray(
        safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            {METADATA_KEY: text},
        )
    )
    start = 8 + int.from_bytes(blob[:8], "little")
    if start - 8 > MAX_HEADER_BYTES:
        raise FileError(
            f"{path} is not written: its header takes {start:,} bytes, more than the allowed "
            f"{MAX_HEADER_BYTES:,}; shorten the history in its info"
        )
    header = parse_header(bytes(blob[8:start]), len(blob), path)
    _check(header, path)
    digest = seal(hashlib.sha256(memoryview(blob)[start:]), header.tensors, metadata)
    at = blob.index(NO_DIGEST.encode(), 0, start)
    blob[at : at + len(digest)] = digest.encode()
    with replacing(path) as file:
        file.write(blob)


def load(path: Path) -> Checkpoint:
    """Reads and checks a checkpoint.

    The file is opened once, so a file that is replaced meanwhile is read as the old or the new one,
    never as a mixture.

    Raises:
        FileError: the file cannot be read.
        DamagedFile: the file is damaged, hostile, made by a newer charnn, or no model.
    """
    with _opened(path) as (file, header):
        config, train_config = _check(header, path)
        file.seek(0)
        blob = file.read(header.data_start + max(each.stop for each in header.tensors.values()))
    check_digest(header, hashlib.sha256(memoryview(blob)[header.data_start :]), path)
    try:
        arrays = safetensors.numpy.load(blob)
    except (SafetensorError, ValueError, TypeError) as error:
        raise damaged(path, error) from None
    del blob
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise damaged(path, f"{name} holds numbers that are not finite")
    metadata = header.metadata
    training = None
    if train_config:
        training = TrainingState(
            train_config, metadata["training"]["progress"], _under(arrays, "training.")
        )
    return Checkpoint(
        config,
        {**metadata["tokenizer"], **_under(arrays, "tokenizer.")},
        {name: arrays[name].astype(np.float32, copy=False) for name in config.tensor_shapes()},
        metadata["start_token"],
        metadata["info"],
        training,
        metadata["digest"],
        metadata["lines"],
        NGramSection.from_metadata(metadata["ngrams"], _under(arrays, "ngrams."))
        if "ngrams" in metadata
        else None,
        metadata.get("start", []),
    )


def peek(path: Path) -> dict[str, Any]:
    """Returns the metadata from the header of a checkpoint; does not check the digest.

    Raises:
        FileError: the file cannot be read.
        DamagedFile: the header is damaged, hostile, or of another kind.
    """
    with _opened(path) as (_, header):
        _check(header, path)
        return header.metadata


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Header]]:
    with file_errors("read", path), open(path, "rb", opener=regular) as file:
        yield file, read_header(file, path)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _check(header: Header, path: Path) -> tuple[ModelConfig, TrainConfig | None]:
    metadata = header.metadata
    check_kind(metadata, "model", FORMAT, path)
    try:
        config = ModelConfig.from_dict(_object(metadata, "model"))
        if not isinstance(_object(metadata, "tokenizer").get("kind"), str):
            raise ValueError("it names no tokenizer")
        _object(metadata, "info")
        start_of(metadata, config.vocab_size)
        lines = metadata.get("lines")
        if type(lines) is not bool:
            raise ValueError("'lines' is neither true nor false")
        if "ngrams" in metadata:
            NGramSection.from_metadata(_object(metadata, "ngrams"), {})
            for name in NGRAM_ARRAYS:
                if f"ngrams.{name}" not in header.tensors:
                    raise ValueError(f"its n-grams have no {name}")
        stored = header.tensors.get("head.bias")
        dtype = stored.dtype if stored and stored.dtype in WEIGHT_DTYPES else "F32"
        wanted = {name: (dtype, shape) for name, shape in config.tensor_shapes().items()}
        train_config = None
        if "training" in metadata:
            training = _object(metadata, "training")
            train_config = TrainConfig.from_dict(_object(training, "config"))
            if train_config.lines != lines:
                raise ValueError("'lines' differs between the model and its training state")
            _object(training, "progress")
            for name, shape in train_config.tensor_shapes(config).items():
                wanted[f"training.{name}"] = ("F32", shape)
    except (ConfigError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    # Arrays of one dimension and any length, with their types.
    lists: dict[str, tuple[str, ...]] = {
        name: TOKENIZER_DTYPES for name in header.tensors if name.startswith("tokenizer.")
    }
    if "ngrams" in metadata:
        lists |= {f"ngrams.{name}": NGRAM_DTYPES for name in NGRAM_ARRAYS}
    found = {
        name: tensor
        for name, tensor in header.tensors.items()
        if tensor.dtype not in lists.get(name, ()) or len(tensor.shape) != 1
    }
    for name in [*wanted, *found]:
        if name not in found:
            raise damaged(path, f"{name} is missing")
        if name not in wanted or found[name][:2] != wanted[name]:
            raise damaged(path, f"{name!r} does not fit its configuration")
    return config, train_config


def _object(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = metadata.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"its {key!r} is missing")
    return value
