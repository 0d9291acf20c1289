"""`charnn corpus`: which texts are known by name, and how to get them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import print_json, progress_lines, put, say
from charnn.cli.options import JsonOption, QuietOption
from charnn.cli.signals import OrderlyEnd
from charnn.errors import TextError

if TYPE_CHECKING:
    from charnn.text.corpora import Corpus


def corpus(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Which one to get; left out: list them.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List known corpora, or get one: built from this Python, or downloaded, into corpora/.

    \b
    charnn corpus
    charnn corpus tiny-shakespeare
    charnn train tiny-shakespeare
    """
    from charnn.text.corpora import CORPORA

    if name is None:
        rows = [_describe(each) for each in CORPORA.values()]
        if as_json:
            print_json({"corpora": rows})
        else:
            _list(rows)
        return
    if name not in CORPORA:
        import difflib

        near = difflib.get_close_matches(name, CORPORA, n=2)
        hint = f"did you mean {' or '.join(near)}" if near else f"known are {', '.join(CORPORA)}"
        raise TextError(f"no corpus {name!r}: {hint}")
    facts = _get(CORPORA[name], quiet)
    if as_json:
        print_json(facts)
    elif not quiet:
        say(f"{facts['path']}: {facts['bytes']:,} bytes; learn from it with:")
        say(f"  charnn train {name}")


def _get(corpus: Corpus, quiet: bool) -> dict[str, Any]:
    from charnn.text.corpora import get

    doing = "downloading" if corpus.kind == "download" else "building"
    with OrderlyEnd() as end:
        try:
            get(corpus, progress=None if quiet else progress_lines(f"{doing} {corpus.name}"))
        except KeyboardInterrupt:
            raise typer.Exit(end.code) from None
    return _describe(corpus)


def _describe(corpus: Corpus) -> dict[str, Any]:
    from charnn.text.corpora import find

    path: Path | None = find(corpus.name)
    return {
        "name": corpus.name,
        "kind": corpus.kind,
        "about": corpus.about,
        "path": str(path) if path else None,
        "bytes": path.stat().st_size if path else corpus.size,
        "url": corpus.url,
    }


def _list(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'name':<{width}}  {'kind':<8}  {'bytes':>10}  {'here':<4}  what it is"]
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes']:,}"
        here = "yes" if row["path"] else "no"
        lines.append(
            f"{row['name']:<{width}}  {row['kind']:<8}  {size:>10}  {here:<4}  {row['about']}"
        )
    for line in lines:
        put(line)
    say("get one with 'charnn corpus NAME', learn from it with 'charnn train NAME'")
