"""`charnn lab`: synthetic tasks with known answers, and which cell learns them."""

from __future__ import annotations

import os
import signal
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import flush_stdout, print_json, put, show_live, tell, warn
from charnn.cli.options import JsonOption, argument, threads_option
from charnn.cli.plot import columns_of
from charnn.cli.signals import OrderlyEnd
from charnn.config import LAB_SIZES, LabOptions
from charnn.errors import CharnnError

if TYPE_CHECKING:
    from charnn.inspection.lab.experiment import LabReport, Row, Trial
    from charnn.inspection.lab.tasks import LabTask

WIDE = 72  # columns that the whole table needs


def lab(
    task: Annotated[
        str | None,
        argument(
            "[TASK]",
            f"{', '.join(LAB_SIZES)}. [default: describe all of them]",
            autocompletion=lambda: list(LAB_SIZES),
        ),
    ] = None,
    options: LabOptions = LabOptions(),
    threads: Annotated[
        int | None,
        threads_option("Trials that run at the same time, one thread each.", "one for each core"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the longest delay that each cell learns to bridge.

    \b
    charnn lab
    charnn lab recall
    charnn lab adding --cells rnn,lstm --delays 20,100 --no-chrono
    """
    if task is None:
        _list_tasks(json)
        return
    options = replace(options, task=task)
    with OrderlyEnd() as end:
        report = _run(options, threads or os.cpu_count() or 1, json, end)
    if json:
        print_json(as_json(report))
    else:
        put(*describe(report, columns_of(sys.stdout)))


def _list_tasks(json: bool) -> None:
    from charnn.inspection.lab.tasks import TASKS

    tasks = {
        name: {
            "about": task.about,
            "source": task.source,
            "size": LAB_SIZES[name][0],
            "sizes": LAB_SIZES[name][1],
            "solved": task.rule,
            "baseline": task.baseline,
            "baseline_is": task.baseline_is,
        }
        for name, task in TASKS.items()
    }
    if json:
        print_json({"tasks": tasks})
        return
    for name, task in TASKS.items():
        put(f"{name}: {task.about}", f"  {_rule(task)}")
    put("try one with: charnn lab recall")


def _rule(task: LabTask) -> str:
    """Returns when a task counts as solved, and its baseline, in words."""
    from charnn.inspection.lab.tasks import SOLVED_SHARE

    baseline = f"{task.baseline:.4f}" if task.is_error else f"{100 * task.baseline:.3g}%"
    rule = task.rule if task.is_error else f"{100 * SOLVED_SHARE:g}% {task.measure[6:]}"
    return f"solved: {rule}; {task.baseline_is} gets {baseline}"


def _run(options: LabOptions, threads: int, json: bool, end: OrderlyEnd) -> LabReport:
    """Runs the experiment, with a line on stderr for each trial.

    If the experiment is interrupted or fails, people get the table of the trials so far.
    """
    show_live("loading PyTorch")
    from charnn.training import machine

    with machine.prepared(1):
        from charnn.inspection.lab.experiment import LabReport, rows_of, run_trials

        report = LabReport(options)
        total = len(rows_of(options)) * len(options.all_sizes) * options.seeds
        try:
            for trial in run_trials(options, threads):
                report.trials.append(trial)
                tell(f"{len(report.trials)}/{total} {_progress(report, trial)}")
        except (KeyboardInterrupt, CharnnError) as error:
            if report.trials and not json:
                warn(f"the table is partial: {len(report.trials)} of {total} trials are done")
                put(*_table(report, columns_of(sys.stdout)))
                flush_stdout()
            if isinstance(error, CharnnError):
                raise
            raise typer.Exit(end.code or 128 + signal.SIGINT) from None
        return report


def _progress(report: LabReport, trial: Trial) -> str:
    score = "not finite" if trial.score is None else f"{trial.score:.{report.task.digits}f}"
    return (
        f"{trial.row.name}, {report.options.size_name} {trial.size}, seed {trial.seed}: {score}, "
        f"{'solved' if trial.solved else 'not solved'}, {trial.steps:,} steps, "
        f"{trial.seconds:.1f} s"
    )


def describe(report: LabReport, columns: int) -> Iterator[str]:
    """Yields the lines of a report: what each row solves, a table, and the experiment."""
    from charnn.inspection.lab.experiment import rows_of

    options, task = report.options, report.task
    yield f"{options.task}: {task.about}"
    yield _rule(task)
    for row in rows_of(options):
        reach = report.reach(row)
        middle = statistics.median_low(reach)
        largest = ", the largest tried" if middle == options.all_sizes[-1] else ""
        solves = f"solves {options.size_name} {middle}{largest}" if middle else "solves none"
        spread = f" ({min(reach)}..{max(reach)} by seed)" if min(reach) < max(reach) else ""
        yield f"  {row.name} {solves}{spread}"
    yield ""
    yield from _table(report, columns)
    yield ""
    yield (
        f"{options.seeds} seeds; {options.hidden_size} units, batches of {options.batch_size}, "
        f"Adam at {options.learning_rate:g}, "
        f"{'orthogonal' if options.orthogonal else 'normal'} recurrent matrices, "
        + (f"gradients clipped at {options.clip:g}" if options.clip else "gradients not clipped")
    )


def _table(report: LabReport, columns: int) -> Iterator[str]:
    """Yields the table, a line for each row and size; narrow terminals get its first columns."""
    from charnn.inspection.lab.experiment import rows_of

    options, shown = report.options, 7 if columns >= WIDE else 5
    rows: list[tuple[str, ...]] = [
        ("cell", options.size_name[:5], "mid", "range", "won", "steps", "gradient: mid, max")
    ]
    rows += [
        _cells(row, size, trials, report.task.digits)
        for row in rows_of(options)
        for size in options.all_sizes
        if (trials := report.of(row, size))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = [
            cell.ljust(width) if number in (0, 3) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield " ".join(padded[:shown]).rstrip()


def _cells(row: Row, size: int, trials: list[Trial], digits: int) -> tuple[str, ...]:
    scores = sorted(trial.score for trial in trials if trial.score is not None)
    mid, span = "-", f"{len(trials) - len(scores)} not finite"
    if len(scores) == len(trials):
        mid = f"{statistics.median(scores):.{digits}f}"
        span = f"{scores[0]:.{digits}f}..{scores[-1]:.{digits}f}"
    won = f"{sum(trial.solved for trial in trials)}/{len(trials)}"
    steps = statistics.median_high(trial.steps for trial in trials)
    norms = [trial.median_norm for trial in trials if trial.median_norm is not None]
    largest = [trial.largest_norm for trial in trials if trial.largest_norm is not None]
    norm = f"{statistics.median(norms):.2g}, {max(largest):.2g}" if norms else "-"
    return row.name, str(size), mid, span, won, str(steps), norm


def as_json(report: LabReport) -> dict[str, Any]:
    """Returns a report as JSON values."""
    from charnn.inspection.lab.experiment import rows_of

    options, task = report.options, report.task
    settings = ("seeds", "orthogonal", "clip", "minutes", "hidden_size", "batch_size")
    return {
        "task": options.task,
        "source": task.source,
        "size": options.size_name,
        "sizes": options.all_sizes,
        "measure": task.measure,
        "solved": task.rule,
        "baseline": task.baseline,
        "baseline_is": task.baseline_is,
        **{name: getattr(options, name) for name in (*settings, "learning_rate", "seed")},
        "rows": [{**row._asdict(), "reach": report.reach(row)} for row in rows_of(options)],
        "trials": [vars(trial) for trial in report.trials],
    }
