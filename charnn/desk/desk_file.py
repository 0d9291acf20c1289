"""A desk in a file: the tree of passages, the settings, and some sampler states.

The bytes are those of `charnn/tensor_file.py`; docs/file-format.md describes the contents. A file
belongs to one model, named by its digest. States are stored at the ends of the branches and every
`SAVE_EVERY` tokens; others are recomputed from the ids.
Shapes: P passages, N ids, S states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from charnn.config import MAX_SEED, RECENT, SamplingConfig
from charnn.desk.desk import Branch, Desk, check_name
from charnn.desk.passages import DRAWN, START, TYPED, Passage, Tree
from charnn.errors import ConfigError, FileError
from charnn.generation.model import Model
from charnn.tensor_file import (
    DTYPES,
    Header,
    check_digest,
    check_kind,
    damaged,
    file_errors,
    read_header,
    regular,
    write_arrays,
)
from charnn.version import __version__

KIND = "desk"
FORMAT = 1
KINDS = (START, TYPED, DRAWN)
SAVE_EVERY = 512  # tokens between stored states
Arrays = dict[str, np.ndarray[Any, Any]]


def row_shapes(tree: Tree) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the type of each tensor and the shape of its rows, in the order of the file."""
    return {
        "points": ("I64", (5,)),  # P: number of the parent, kind, number of ids, asked, index or -1
        "ids": ("U32", ()),  # N: of all passages, one after another
        "nats": ("F32", ()),  # N: -1 for NaN
        "states": ("I64", (3,)),  # S: passage, its ids that were read, tokens drawn
        "generator": ("U32", (4,)),
        "logits": ("F32", (tree.model.tokenizer.vocab_size,)),
        "state": ("F32", tree.writer.predictor.start.shape),
    }


def save_desk(desk: Desk, path: Path, model_name: str = "") -> None:
    """Writes a desk in place of `path`, durably; `model_name` is for people.

    Raises:
        FileError: the file cannot be written; the old one is untouched.
    """
    branches = [(name, [b.passage, *b.undone]) for name, b in desk.branches.items()]
    columns, ends = [desk.base, *desk.columns], desk.ends()
    number, at_ends = _numbered(ends), set(ends)
    passages = [passage for passage in number if passage]
    kept = [
        (passage, read, state)
        for passage in passages
        for read, state in sorted(passage.states.items())
        if (passage in at_ends and read == len(passage.ids))
        or (passage.begin + read) % SAVE_EVERY == 0
    ]
    rows: dict[str, list[Any]] = {
        "points": [
            (
                number[p.parent],
                KINDS.index(p.kind),
                len(p.ids),
                p.asked,
                -1 if p.index is None else p.index,
            )
            for p in passages
        ],
        "ids": [i for p in passages for i in p.ids],
        "nats": [-1.0 if np.isnan(nats) else nats for p in passages for nats in p.nats],
        "states": [(number[p], read, state["tokens"]) for p, read, state in kept],
        **{name: [s[name] for *_, s in kept] for name in ("generator", "logits", "state")},
    }
    metadata = {
        "kind": KIND,
        "format": FORMAT,
        "charnn": __version__,
        "model": {"digest": desk.model.digest, "name": model_name},
        "network_only": desk.tree.network_only,
        "seed": desk.seed,
        "index": desk.index,
        "settings": asdict(desk.settings),
        "branch": desk.name,
        "branches": [[name, *(number[p] for p in group)] for name, group in branches],
        "columns": [number[p] for p in columns],
        "nats": [float(s["nats"]) for *_, s in kept],
    }
    shapes = row_shapes(desk.tree)
    arrays = {n: np.array(rows[n], DTYPES[t]).reshape((-1, *row)) for n, (t, row) in shapes.items()}
    write_arrays(path, arrays, metadata)


def _numbered(ends: Iterable[Passage]) -> dict[Passage | None, int]:
    """Numbers all passages that lead to `ends` from 1, parents first; the empty text is 0."""
    number: dict[Passage | None, int] = {None: 0}
    for end in ends:
        for passage in end.path():
            number.setdefault(passage, len(number))
    return number


def load_desk(path: Path, model: Model, unknown: str = "error") -> Desk:
    """Reads a desk; it then draws the same texts as the desk that was saved.

    Raises:
        FileError: the file cannot be read, or belongs to another model.
        DamagedFile: the file is damaged, of a newer format, or of another kind.
    """
    with file_errors("read", path), open(path, "rb", opener=regular) as file:
        header = read_header(file, path)
        check_kind(header.metadata, KIND, FORMAT, path)
        file.seek(header.data_start)
        data = file.read()
    check_digest(header, hashlib.sha256(data), path)
    try:
        expected = dict(header.metadata["model"])
        if expected["digest"] != model.digest:
            name, digest = (str(expected[key]).strip()[:100] for key in ("name", "digest"))
            raise FileError(
                f"{path} was written with another model, {name or 'without a name'} (digest "
                f"{digest[:12]}), and not with this one (digest {model.digest[:12]}): "
                "name that model with 'charnn write -m'"
            )
        return _parse(header, data, model, unknown)
    except (ConfigError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise damaged(path, error) from None


def _parse(header: Header, data: bytes, model: Model, unknown: str) -> Desk:
    metadata = header.metadata
    desk = Desk(model, metadata["seed"], SamplingConfig.from_dict(metadata["settings"]), unknown)
    desk.index = metadata["index"]
    _require(type(desk.index) is int and 0 <= desk.index <= MAX_SEED, "the sample counter is wrong")
    desk.tree.network_only = metadata.get("network_only") is True
    passages = _passages(
        _arrays(header, data, desk.tree), metadata["nats"], model.tokenizer.vocab_size
    )

    def numbered(numbers: list[Any]) -> tuple[Passage | None, list[Passage]]:
        fit = all(type(number) is int and 0 <= number < len(passages) for number in numbers)
        _require(fit, "it names a passage that it does not hold")
        first, *others = (passages[number] for number in numbers)
        return first, [passage for passage in others if passage]

    for name, *_ in metadata["branches"]:
        check_name(name)
    desk.branches = {name: Branch(*numbered(ends)) for name, *ends in metadata["branches"]}
    desk.name = metadata["branch"]
    _require(len(desk.branches) == len(metadata["branches"]), "two branches have the same name")
    _require(desk.name in desk.branches, "its current branch is missing")
    desk.base, desk.columns = numbered(metadata["columns"])
    return desk


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _arrays(header: Header, data: bytes, tree: Tree) -> Arrays:
    """Reads the tensors; checks types and shapes, and that all numbers are finite."""
    arrays: Arrays = {}
    shapes = row_shapes(tree)
    _require(set(header.tensors) == set(shapes), "its tensors are not those of a desk")
    for name, (dtype, row) in shapes.items():
        tensor = header.tensors[name]
        fits = tensor.dtype == dtype and tensor.shape and tensor.shape[1:] == row
        _require(fits, f"tensor {name!r} has another type or shape")
        flat = np.frombuffer(data[tensor.start : tensor.stop], DTYPES[dtype])
        _require(np.isfinite(flat).all(), f"{name} holds numbers that are not finite")
        arrays[name] = flat.reshape(tensor.shape)
    for group in (("ids", "nats"), ("states", "generator", "logits", "state")):
        alike = len({len(arrays[name]) for name in group}) == 1
        _require(alike, f"{', '.join(group)} do not have the same number of rows")
    return arrays


def _passages(arrays: Arrays, nats: list[Any], vocab_size: int) -> list[Passage | None]:
    """Returns all passages by number, with their states; the empty text is number 0."""
    passages: list[Passage | None] = [None]
    ids = arrays["ids"].tolist()
    surprisals = [float("nan") if n < 0 else n for n in arrays["nats"].tolist()]
    _require(max(ids, default=0) < vocab_size, "it holds ids outside the vocabulary")
    start = 0
    for parent, kind, size, asked, index in arrays["points"].tolist():
        _require(
            0 <= parent < len(passages) and 0 <= kind < len(KINDS),
            "a parent or kind is unknown",
        )
        _require(0 < size <= len(ids) - start, "a passage has no ids")
        _require(0 <= asked < 2**41 and -1 <= index <= MAX_SEED, "a passage is out of range")
        follows = {START: parent == 0, TYPED: True, DRAWN: parent > 0}[KINDS[kind]]
        _require(follows, "a passage does not fit the one before")
        own, start = slice(start, start + size), start + size
        number = None if index < 0 else index
        passage = Passage(passages[parent], KINDS[kind], ids[own], surprisals[own], number, asked)
        passages.append(passage)
    _require(start == len(ids), "its passages have fewer ids than it holds")
    rows = arrays["states"].tolist()
    fit = len(nats) == len(rows) and all(type(n) is float and n >= 0 for n in nats)
    _require(fit, "its states have no surprisal")
    for row, (number, read, tokens) in enumerate(rows):
        holder = passages[number] if 0 < number < len(passages) else None
        if holder is None or not 0 < read <= len(holder.ids):
            raise ValueError("a state belongs to no passage")
        holder.states[read] = {
            **{name: arrays[name][row].copy() for name in ("generator", "logits", "state")},
            "recent": np.array(holder.latest(read, RECENT), np.int64),
            "nats": nats[row],
            "tokens": tokens,
            "guides": [],
        }
    return passages
