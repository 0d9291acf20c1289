"""`charnn export`: a program or a page that samples without charnn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from charnn.cli.console import print_json, tell
from charnn.cli.model import model_path
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    ForceOption,
    JsonOption,
    ModelArgument,
)
from charnn.errors import ConfigError, FileError


def export(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Format: {charnn.export:EXPORTERS}. c is a folder with a program for a C "
            "compiler, html one page that samples in a browser, offline, model a model file of "
            "half the size, to share.",
            show_default=False,
        ),
    ],
    model: ModelArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="File or folder to write. [default: the run's name]",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Export a model as a program or page that samples without charnn, or to share.

    \b
    charnn export --to html
    charnn export lighthouse --to html -o lighthouse.html
    charnn export lighthouse --to c -o lighthouse-c
    """
    from charnn.checkpoint import load
    from charnn.export import exporter

    chosen = exporter(to)
    path = model_path(model, checkpoints)
    name = name_of(path)
    target = output or Path((re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model") + chosen.suffix)
    if not target.name:
        raise ConfigError(f"-o {target} is a folder: add the name of the file or folder to write")
    if not target.name.endswith(chosen.suffix):
        raise ConfigError(
            f"-o {target} does not end in {chosen.suffix}, as --to {to} needs: "
            f"try {target}{chosen.suffix}"
        )
    if target.exists() and not force:
        raise FileError(f"{target} exists: replace it with --force, or give another -o")
    saved = load(path)
    chosen.write(saved, name, target)
    facts: dict[str, Any] = {
        "format": to,
        "path": str(target),
        "bytes": size_of(target),
        "model": str(path),
        "digest": saved.digest,
        **saved.size_facts(),
    }
    if as_json:
        print_json(facts)
    else:
        tell(f"wrote {target}, {facts['bytes']:,} bytes, from {path}")
        tell(chosen.then.format(path=target))


def name_of(path: Path) -> str:
    """Returns the name of a model: its run's, or of a file outside a run its own."""
    absolute = path.absolute()
    return absolute.parent.name if path.stem in ("best", "last") else path.stem


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
