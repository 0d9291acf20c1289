"""`charnn corpus`: lists the texts that have a name, and gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import print_json, progress_of, put, tell
from charnn.cli.options import JsonOption, argument, names_in
from charnn.cli.signals import OrderlyEnd
from charnn.errors import TextError, did_you_mean

if TYPE_CHECKING:
    from charnn.text.corpora import Corpus


def corpus(
    name: Annotated[
        str | None,
        argument(
            "[NAME]",
            "Corpus to get. [default: list all of them]",
            autocompletion=lambda: names_in("charnn.text.corpora", "CORPORA"),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known corpora, or copy, build or download one into corpora/.

    \b
    charnn corpus
    charnn corpus tiny-shakespeare
    charnn train tiny-shakespeare
    """
    from charnn.text.corpora import CORPORA, get

    if name is None:
        rows = [_describe(each) for each in CORPORA.values()]
        if as_json:
            print_json({"corpora": rows})
        else:
            _list(rows)
        return
    if name not in CORPORA:
        hint = did_you_mean(name, CORPORA, f"choose from {', '.join(CORPORA)}")
        raise TextError(f"unknown corpus {name!r}: {hint}")
    chosen = CORPORA[name]
    doing = {"download": "downloading", "built": "building", "shipped": "copying"}[chosen.kind]
    with OrderlyEnd() as end:
        try:
            get(chosen, progress=progress_of(f"{doing} {name}"))
        except KeyboardInterrupt:
            raise typer.Exit(end.code) from None
    facts = _describe(chosen)
    if as_json:
        print_json(facts)
    else:
        tell(f"{facts['path']}: {facts['bytes']:,} bytes; train on it with:")
        tell(f"  charnn train {name}")


def _describe(corpus: Corpus) -> dict[str, Any]:
    from charnn.text.corpora import find

    path = find(corpus.name)
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
    put(f"{'name':<{width}}  {'kind':<8}  {'bytes':>10}  {'here':<4}  description")
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes']:,}"
        here = "yes" if row["path"] else "no"
        put(f"{row['name']:<{width}}  {row['kind']:<8}  {size:>10}  {here:<4}  {row['about']}")
    tell("get one with 'charnn corpus NAME', train on it with 'charnn train NAME'")
