"""`charnn runs`: the list of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charnn.cli.console import print_json, put, tell
from charnn.cli.options import DEFAULT_CHECKPOINTS, CheckpointsOption, JsonOption
from charnn.errors import FileError


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
    width = max(len(row["name"]) for row in found)
    put(f"{'name':<{width}}  {'model':<12}{'steps':>16}  {'valid':>7}  status")
    for row in found:
        status = row.get("status", row.get("error"))
        if row["in_use"]:
            status = f"{status}, in use by {row['in_use']}"
        if "error" in row:
            put(f"{row['name']:<{width}}  {status}")
            continue
        steps = f"{row['step']:,}/{row['max_steps']:,}" if row["max_steps"] else f"{row['step']:,}"
        loss = "-" if row["valid_loss"] is None else f"{row['valid_loss']:.4f}"
        put(f"{row['name']:<{width}}  {row['model']:<12}{steps:>16}  {loss:>7}  {status}")


def describe(name: str, path: Path) -> dict[str, Any]:
    """Returns the facts of a run, from the header of its file."""
    from charnn.checkpoint import peek
    from charnn.tensor_file import number

    try:
        metadata = peek(path)
        model, info = metadata["model"], metadata["info"]
        training = metadata.get("training")
        best_loss = training["progress"]["best_loss"] if training else None
        # The results of a finished run are those of its best file, mixture included.
        final = info["results"].get("cold_256", info["results"].get("lines"))
        valid_loss = final["nats_per_token"] if final else best_loss
        return {
            "name": name,
            "model": f"{model['cell']} {model['num_layers']}x{model['hidden_size']}",
            "tokenizer": metadata["tokenizer"]["kind"],
            "step": number(info["step"], int),
            "max_steps": training["config"]["max_steps"] if training else None,
            "epoch": number(info["epoch"]),
            "seconds": number(info["seconds"]),
            "best_loss": None if best_loss is None else number(best_loss),
            "valid_loss": None if valid_loss is None else float(number(valid_loss)),
            "status": "finished" if training and training["progress"]["finished"] else "unfinished",
        }
    except FileError as error:
        return {"name": name, "error": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {"name": name, "error": f"the header of {path} is damaged"}
