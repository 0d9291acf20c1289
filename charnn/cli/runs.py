"""`charnn runs`: the list of runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from charnn.cli.console import print_json, put, tell, terminal_columns
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption
from charnn.errors import CharnnError


def runs(checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS, json: JsonOption = False) -> None:
    """List the runs, the newest first.

    \b
    charnn runs
    charnn runs --json
    """
    from charnn.runs import list_runs, no_run_yet

    found = [
        {**describe(run.name, run.last if run.last.exists() else run.best), "in_use": run.holder}
        for run in list_runs(checkpoints)
    ]
    if json:
        print_json({"runs": found})
        return
    if not found:
        tell(no_run_yet(checkpoints))
        return
    table: list[tuple[str, ...]] = [
        ("name", "saved", "text", "model", "weights", "steps", "validation loss", "status")
    ]
    table += [_cells(row) for row in found]
    for line in fitted(table, terminal_columns(sys.stdout)):
        put(line)


def fitted(table: list[tuple[str, ...]], columns: int) -> list[str]:
    """Returns the rows as lines; a narrow terminal gets them without the lesser columns."""
    hidden: list[str] = []
    for lesser in (None, "weights", "text", "saved", "model", "steps"):
        hidden += [lesser] if lesser else []
        rows = [
            [cell for cell, title in zip(row, table[0], strict=True) if title not in hidden]
            for row in table
        ]
        *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]
        if not columns or max(map(len, lines)) <= columns:
            break
    return lines


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    status = str(row.get("status", row.get("error")))
    if row.get("processes", 1) > 1:
        status = f"{status}, {row['processes']} processes"
    if row["in_use"]:
        status = f"{status}, in use by {row['in_use']}"
    if "error" in row:
        return (row["name"], *[""] * 6, status)
    steps = f"{row['step']:,}/{row['max_steps']:,}" if row["max_steps"] else f"{row['step']:,}"
    valid = "-" if row["valid_loss"] is None else f"{row['valid_loss']:.4f} {row['protocol']}"
    text = "-" if row["text_bytes"] is None else _short(row["text_bytes"], "B")
    saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["saved"]))
    weights = _short(row["parameters"], "")
    return row["name"], saved, text, row["model"], weights, steps, valid, status


def _short(count: int, unit: str) -> str:
    """Returns a count in thousands or millions, such as 144 kB or 3.6 M."""
    if count < 1_000_000:
        return f"{count / 1000:.0f} k{unit}" if count >= 1000 else f"{count} {unit}".rstrip()
    return f"{count / 1e6:,.1f} M{unit}"


def describe(name: str, path: Path) -> dict[str, Any]:
    """Returns the facts of a run, from the header of its file."""
    from charnn.checkpoint import peek
    from charnn.config import ModelConfig
    from charnn.tensor_file import number

    try:
        metadata = peek(path)
        shape, info = ModelConfig.from_dict(metadata["model"]), metadata["info"]
        training = metadata.get("training")
        best_loss = training["progress"]["best_loss"] if training else None
        environment = training["progress"].get("environment", {}) if training else {}
        # The results of a finished run are those of its best file, mixture included.
        protocol = "lines" if metadata.get("lines") else "cold_256"
        final = info["results"].get(protocol)
        valid_loss = final["nats_per_token"] if final else best_loss
        size = info.get("corpus", {}).get("bytes")
        size = None if size is None else number(size, int)
        return {
            "name": name,
            "model": f"{shape.cell} {shape.num_layers}x{shape.hidden_size}",
            "parameters": shape.parameters,
            "tokenizer": metadata["tokenizer"]["kind"],
            "text_bytes": size,
            "saved": path.stat().st_mtime,
            "step": number(info["step"], int),
            "max_steps": number(training["config"]["max_steps"], int) if training else None,
            "epoch": number(info["epoch"]),
            "seconds": number(info["seconds"]),
            "best_loss": None if best_loss is None else number(best_loss),
            "valid_loss": None if valid_loss is None else float(number(valid_loss)),
            "protocol": protocol.replace("_", "-"),
            "processes": int(environment.get("processes", 1)),
            "status": "finished" if training and training["progress"]["finished"] else "unfinished",
        }
    except CharnnError as error:
        return {"name": name, "error": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        return {"name": name, "error": f"the header of {path} is damaged"}
