"""A desk in a file: the tree, the settings, and as many states as make going on quick.

The bytes are those of `charnn/tensor_file.py`. A file belongs to one model, named by its digest.
Of the states, those at the ends of the branches are kept, and one now and then in between; the
others are found again from the ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from charnn.config import MAX_SEED, SamplingConfig
from charnn.desk.desk import Branch, Desk, check_name
from charnn.desk.points import DRAWN, START, TYPED, Point
from charnn.errors import ConfigError, FileError
from charnn.generation.filters import RECENT
from charnn.generation.model import Model
from charnn.tensor_file import (
    DTYPE_NAMES,
    DTYPES,
    Header,
    check_digest,
    check_kind,
    damaged,
    layout,
    os_error_line,
    pack_header,
    read_header,
    replacing,
    seal,
)
from charnn.version import __version__

KIND = "desk"
FORMAT = 1
KINDS = (START, TYPED, DRAWN)
# Every how many tokens a state goes into the file.
SAVE_EVERY = 512
TENSORS = {
    "points": "I64",  # (P, 5): parent, counted from 1, 0 for none; kind; ids; asked; index or -1
    "ids": "U32",  # of all points, one after another
    "nats": "F32",  # of each id, in single precision; -1 for unknown
    "states": "I64",  # (S, 3): point, counted from 1; how many of its ids; drawn tokens
    "generator": "U32",  # (S, 4)
    "logits": "F32",  # (S, V)
    "state": "F32",  # (S, and the shape of a state)
}


def save_desk(desk: Desk, path: Path, model_name: str = "") -> None:
    """Writes a desk in place of `path`, durably; `model_name` is for people.

    Raises:
        FileError: the file cannot be written; the old one is untouched.
    """
    heads = [desk.base, *desk.columns]
    for branch in desk.branches.values():
        heads += [branch.point, *branch.undone]
    number = _numbered(heads)
    points = list(number)
    kept = []
    for point in points:
        for at in sorted(point.states):
            ends = at == len(point.ids) and point in heads
            if ends or (point.begin + at) % SAVE_EVERY == 0:
                kept.append((point, at, point.states[at]))
    shape = desk.model.predictor.initial_state().shape
    arrays: dict[str, Any] = {
        "points": [
            (
                number[p.parent] if p.parent else 0,
                KINDS.index(p.kind),
                len(p.ids),
                p.asked,
                -1 if p.index is None else p.index,
            )
            for p in points
        ],
        "ids": [i for p in points for i in p.ids],
        "nats": np.nan_to_num(np.array([n for p in points for n in p.nats]), nan=-1.0),
        "states": [(number[p], at, s["tokens"]) for p, at, s in kept],
        "generator": [s["generator"] for *_, s in kept],
        "logits": [s["logits"] for *_, s in kept],
        "state": [s["state"] for *_, s in kept],
    }
    ends_in = {"points": (5,), "states": (3,), "generator": (4,), "state": shape}
    ends_in["logits"] = (desk.model.config.vocab_size,)
    typed = {
        name: np.array(arrays[name], DTYPES[dtype]).reshape((-1, *ends_in.get(name, ())))
        if len(arrays[name])
        else np.zeros((0, *ends_in.get(name, ())), DTYPES[dtype])
        for name, dtype in TENSORS.items()
    }
    metadata = {
        "kind": KIND,
        "format": FORMAT,
        "charnn": __version__,
        "model": {"digest": desk.model.digest, "name": model_name},
        "seed": desk.seed,
        "index": desk.index,
        "settings": {**asdict(desk.settings), "stop": list(desk.settings.stop)},
        "branch": desk.name,
        "branches": [
            [name, *(number[p] if p else 0 for p in (branch.point, *branch.undone))]
            for name, branch in desk.branches.items()
        ],
        "columns": [number[p] if p else 0 for p in (desk.base, *desk.columns)],
        "nats": [float(s["nats"]) for *_, s in kept],
    }
    tensors = layout({n: (DTYPE_NAMES[a.dtype], a.shape) for n, a in typed.items()})
    data = b"".join(array.tobytes() for array in typed.values())
    digest = seal(hashlib.sha256(data), tensors, metadata)
    with replacing(path) as file:
        file.write(pack_header(tensors, metadata, digest))
        file.write(data)


def load_desk(path: Path, model: Model, unknown: str = "error") -> Desk:
    """Reads a desk, which goes on as if it had never been closed.

    Raises:
        FileError: it cannot be read, or belongs to another model.
        DamagedFile: it is damaged, made by a newer charnn, or no desk at all.
    """
    try:
        with open(path, "rb") as file:
            header = read_header(file, path)
            check_kind(header.metadata, KIND, FORMAT, path)
            file.seek(header.data_start)
            data = file.read()
    except OSError as error:
        raise FileError(os_error_line(error, path, "read")) from error
    check_digest(header, hashlib.sha256(data), path)
    try:
        wanted = dict(header.metadata["model"])
        if wanted["digest"] != model.digest:
            name, digest = (str(wanted[key]).strip()[:100] for key in ("name", "digest"))
            raise FileError(
                f"{path} was written with another model, {name or 'without a name'} (digest "
                f"{digest[:12]}), and not with this one (digest {model.digest[:12]}): "
                "start 'charnn write -m' with that one"
            )
        return _parse(header, data, model, unknown)
    except (ConfigError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise damaged(path, error) from None


def _numbered(heads: Iterable[Point | None]) -> dict[Point, int]:
    """All points that lead to `heads`, parents first, counted from 1."""
    number: dict[Point, int] = {}
    for head in heads:
        for point in head.path() if head else []:
            number.setdefault(point, len(number) + 1)
    return number


def _parse(header: Header, data: bytes, model: Model, unknown: str) -> Desk:
    metadata = header.metadata
    arrays = _arrays(header, data, model)
    settings = {**metadata["settings"], "stop": tuple(map(str, metadata["settings"]["stop"]))}
    desk = Desk(model, metadata["seed"], SamplingConfig.from_dict(settings), unknown)
    desk.index = metadata["index"]
    if type(desk.index) is not int or not 0 <= desk.index <= MAX_SEED:
        raise ValueError("the number of samples is not one")
    points = _points(arrays, model.config.vocab_size)
    _add_states(points, arrays, metadata["nats"])
    places: list[Point | None] = [None, *points]

    def place(number: Any) -> Point | None:
        if type(number) is not int or not 0 <= number < len(places):
            raise ValueError("a text ends nowhere")
        return places[number]

    desk.branches = {}
    for name, *ends in metadata["branches"]:
        check_name(name)
        point, *undone = map(place, ends)
        desk.branches[name] = Branch(point, [p for p in undone if p])
    desk.name = metadata["branch"]
    if desk.name not in desk.branches or len(desk.branches) != len(metadata["branches"]):
        raise ValueError("its branches are not those it names")
    desk.base, *columns = (place(number) for number in metadata["columns"])
    desk.columns = [p for p in columns if p]
    return desk


def _arrays(header: Header, data: bytes, model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors, each of its type and of shapes that fit together; all numbers finite."""
    if set(header.tensors) != set(TENSORS):
        raise ValueError("its tensors are not those of a desk")
    arrays = {}
    for name, dtype in TENSORS.items():
        tensor = header.tensors[name]
        if tensor.dtype != dtype:
            raise ValueError(f"tensor {name!r} is of another type")
        flat = np.frombuffer(data[tensor.start : tensor.stop], DTYPES[dtype])
        arrays[name] = flat.reshape(tensor.shape)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    count, ids, states = (len(arrays[name]) for name in ("points", "ids", "states"))
    shapes = {
        "points": (count, 5),
        "ids": (ids,),
        "nats": (ids,),
        "states": (states, 3),
        "generator": (states, 4),
        "logits": (states, model.config.vocab_size),
        "state": (states, *model.predictor.initial_state().shape),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"tensor {name!r} has another shape")
    return arrays


def _points(arrays: dict[str, np.ndarray[Any, Any]], vocab_size: int) -> list[Point]:
    points: list[Point] = []
    ids = arrays["ids"].tolist()
    nats = [float("nan") if n < 0 else n for n in arrays["nats"].tolist()]
    if ids and max(ids) >= vocab_size:
        raise ValueError("it holds ids outside the vocabulary")
    start = 0
    for number, (parent, kind, size, asked, index) in enumerate(arrays["points"].tolist()):
        if not 0 <= parent <= number or not 0 <= kind < len(KINDS):
            raise ValueError("its points do not follow each other")
        if not 0 < size <= len(ids) - start or not 0 <= asked < 2**41:
            raise ValueError("a point has no length")
        fits = {START: parent == 0, TYPED: True, DRAWN: parent > 0}[KINDS[kind]]
        if not fits or not -1 <= index <= MAX_SEED:
            raise ValueError("a point does not fit the one before")
        stop = start + size
        points.append(
            Point(
                points[parent - 1] if parent else None,
                KINDS[kind],
                ids[start:stop],
                nats[start:stop],
                None if index < 0 else index,
                asked,
            )
        )
        start = stop
    if start != len(ids):
        raise ValueError("it holds ids of no point")
    return points


def _add_states(points: list[Point], arrays: dict[str, Any], nats: list[Any]) -> None:
    rows = arrays["states"].tolist()
    if len(nats) != len(rows) or not all(type(n) is float and n >= 0 for n in nats):
        raise ValueError("its states have no surprisal")
    for row, (number, at, tokens) in enumerate(rows):
        if not 1 <= number <= len(points) or not 0 < at <= len(points[number - 1].ids):
            raise ValueError("a state belongs nowhere")
        point = points[number - 1]
        recent = point.latest(at, RECENT)
        point.states[at] = {
            "generator": arrays["generator"][row].copy(),
            "recent": np.array(recent, np.int64),
            "logits": arrays["logits"][row].copy(),
            "nats": nats[row],
            "tokens": tokens,
            "state": arrays["state"][row].copy(),
            "guides": [],
        }
