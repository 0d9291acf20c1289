"""`charnn export`: a program or a page that samples without charnn."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from charnn.cli.console import print_json, tell, warn
from charnn.cli.model import model_path, note_network_alone
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    ForceOption,
    JsonOption,
    ModelArgument,
    names_in,
    output_option,
)
from charnn.errors import ConfigError, FileError


def export(
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Format: {charnn.export:FORMATS}.",
            show_default=False,
            autocompletion=lambda: names_in("charnn.export", "EXPORTERS"),
        ),
    ],
    model: ModelArgument = None,
    output: Annotated[
        Path | None,
        output_option("PATH", "File or folder to write. [default: the run's name]"),
    ] = None,
    force: ForceOption = False,
    browse: Annotated[
        bool, typer.Option("--open", help="With --to html: open the page in the browser.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="With --to hub: licence of the model, such as mit or cc0-1.0. [default: other]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Export a model as a program, a web page, or a file to share.

    \b
    charnn export --to html --open
    charnn export lighthouse --to html -o lighthouse.html
    charnn export lighthouse --to c -o lighthouse-c
    """
    from charnn.checkpoint import load
    from charnn.export import exporter
    from charnn.runs import model_name

    chosen = exporter(to)
    options = {} if license is None else {"license": license}
    if options.keys() - set(chosen.options):
        raise ConfigError(f"--license is for the card of a model: use --to hub, got --to {to}")
    if browse and chosen.suffix != ".html":
        raise ConfigError(f"--open shows a page in the browser: use --to html, got --to {to}")
    path = model_path(model, checkpoints)
    name = model_name(path)
    target = output or Path((re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model") + chosen.suffix)
    check_output(target, chosen.suffix, force)
    if target.exists() and target.samefile(path):
        raise FileError(f"-o {target} is the model itself: name another file")
    if holds_training(target):
        raise FileError(f"-o {target} holds the state of a training: name another file")
    saved = load(path)
    if chosen.network_only:
        note_network_alone(saved, str(target))
    chosen.write(saved, name, target, **options)
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
        if not browse:
            tell(chosen.then.format(path=target))
    if browse:
        import webbrowser

        if not webbrowser.open(target.absolute().as_uri()):
            warn(f"no browser was found: open {target.absolute()} yourself")


def check_output(path: Path, suffix: str, force: bool) -> None:
    """Checks that a command may write `path`; a folder has the suffix "".

    Raises:
        ConfigError: `path` has another suffix, or is a folder instead of a file.
        FileError: `path` exists and may not be replaced, or its parent is missing.
    """
    if not path.name or (suffix and path.is_dir()):
        name = path / f"model{suffix}"
        raise ConfigError(f"-o {path} is a folder: add the name to write, such as -o {name}")
    if not path.name.endswith(suffix):
        raise ConfigError(f"-o {path} must end in {suffix}: try -o {path}{suffix}")
    if path.exists() and not force:
        raise FileError(f"{path} exists: replace it with --force, or give another -o")
    if suffix and not path.absolute().parent.is_dir():
        raise FileError(
            f"cannot write {path}: make the folder {path.parent} first, or give another -o"
        )


def holds_training(path: Path) -> bool:
    """Tells whether a file is a model whose training can be resumed."""
    from charnn.checkpoint import peek

    with suppress(FileError):
        return path.is_file() and bool(peek(path).get("training"))
    return False


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
