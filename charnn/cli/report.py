"""`charnn report`: one page about a model, to read and to print."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from charnn.cli.console import Stages, note, print_json, show_live, tell
from charnn.cli.export import check_output
from charnn.cli.model import load_model
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    ForceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    output_option,
)


def report(
    output: Annotated[Path, output_option("FILE.html", "Output page.")],
    model: ModelArgument = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
) -> None:
    """Write a page about a model: losses, samples, hidden units.

    \b
    charnn report -o report.html             the newest run
    charnn report lighthouse -o report.html  a run by its name
    """
    check_output(output, ".html", force)

    show_live("loading PyTorch")
    from charnn.report.facts import find_facts
    from charnn.report.page import write_report
    from charnn.runs import model_name
    from charnn.training import machine

    began = time.monotonic()
    path, saved, _ = load_model(model, checkpoints)
    with machine.prepared(threads or machine.default_threads()):
        facts = find_facts(saved, path, model_name(path), Stages())
    write_report(facts, output)
    size = output.stat().st_size
    if as_json:
        scores = facts.scores.protocols if facts.scores else {}
        print_json(
            {
                "path": str(output),
                "bytes": size,
                "model": str(path),
                "digest": saved.digest,
                "parameters": saved.config.parameters,
                "seconds": round(time.monotonic() - began, 3),
                **{key.replace("-", "_"): each.to_dict() for key, each in scores.items()},
                "chars_per_second": facts.chars_per_second,
                "left_out": facts.left_out,
            }
        )
    for why in dict.fromkeys(facts.left_out.values()):
        sections = ", ".join(key for key, each in facts.left_out.items() if each == why)
        note(f"{sections}: {why}")
    tell(f"wrote {output}, {size:,} bytes, from {path}")
    if not as_json:
        tell(f"open {output} in a browser; it needs no network")
