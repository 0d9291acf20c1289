"""`charnn lab`: toy tasks with known answers, and which cell learns them."""

from __future__ import annotations

import os
import signal
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import flush_stdout, note, print_json, put, say
from charnn.cli.options import JsonOption, QuietOption, option
from charnn.cli.plot import columns_of
from charnn.cli.signals import OrderlyEnd
from charnn.config import LAB_SIZES, LAB_STEPS, MAX_SEED, LabOptions
from charnn.config.checks import require_int
from charnn.errors import CharnnError, ConfigError

if TYPE_CHECKING:
    from charnn.inspection.lab.experiment import Report, Row, Trial

WIDE = 72  # columns that the whole table needs


def lab(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]",
            help=f"{', '.join(LAB_SIZES)}; without it they are described.",
            show_default=False,
        ),
    ] = None,
    cells: Annotated[
        str, typer.Option(metavar="LIST", help="Cells to try, a row of the table each.")
    ] = ",".join(LabOptions.cells),
    delays: Annotated[
        str | None,
        typer.Option(
            "--delays",
            "--sizes",
            metavar="LIST",
            help="How hard, rising: delays of recall, lengths of adding, depths of brackets, "
            "strings of reber. [default: the task's own]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Trainings of each row and delay.")
    ] = LabOptions.seeds,
    chrono: Annotated[
        bool | None,
        typer.Option(
            "--chrono/--no-chrono",
            help="Gate biases spread over the times to bridge, or those that charnn trains with. "
            "[default: both, a row each]",
            show_default=False,
        ),
    ] = None,
    orthogonal: Annotated[
        bool,
        typer.Option(
            "--orthogonal/--no-orthogonal",
            help="Recurrent matrices that are orthogonal at first, or normal numbers.",
        ),
    ] = LabOptions.orthogonal,
    clip: Annotated[
        float, typer.Option(metavar="X", help="Largest norm of a gradient; 0: any.")
    ] = LabOptions.clip,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Longest time for one row, in minutes, instead of a number of steps.",
            show_default=False,
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Longest training, in steps; solved ones end early. [default: {LAB_STEPS}]",
            show_default=False,
        ),
    ] = None,
    hidden_size: Annotated[
        int, typer.Option("--hidden-size", metavar="N", help="Units.")
    ] = LabOptions.hidden_size,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Sequences a step.")
    ] = LabOptions.batch_size,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", metavar="X", help="Of Adam, constant.")
    ] = LabOptions.learning_rate,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="The first of the seeds.")
    ] = LabOptions.seed,
    threads: Annotated[
        int | None,
        option("--threads", text="Trainings at a time, a thread each."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let each cell learn a toy task, and see at which delay it stops solving it.

    \b
    charnn lab
    charnn lab recall
    charnn lab adding --cells rnn,lstm --delays 20,100 --no-chrono
    """
    if task is None:
        _list_tasks(json)
        return
    options = LabOptions(
        task,
        tuple(word.strip() for word in cells.split(",") if word.strip()),
        parse_sizes(delays),
        seeds=seeds,
        chrono=chrono,
        orthogonal=orthogonal,
        clip=clip,
        minutes=minutes,
        max_steps=max_steps,
        hidden_size=hidden_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    if threads is not None:
        require_int("threads", threads, 1, 4096)
    with OrderlyEnd() as end:
        report = _watched(options, threads, quiet, end, json)
    if json:
        print_json(as_json(report))
        return
    for line in describe(report, columns_of(sys.stdout)):
        put(line)


def parse_sizes(text: str | None) -> tuple[int, ...] | None:
    """A list such as "10,20,50" as numbers; None stays None.

    Raises:
        ConfigError: it is not a list of whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--delays takes whole numbers such as 10,20,50; got {text!r}") from None


def _list_tasks(json: bool) -> None:
    from charnn.inspection.lab.tasks import TASKS

    if json:
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
        print_json({"tasks": tasks})
        return
    for name, task in TASKS.items():
        put(f"{name}: {task.about}")
        put(f"  source: {task.source}")
        put(f"  {LAB_SIZES[name][0]}: {', '.join(map(str, LAB_SIZES[name][1]))}")
        put(f"  solved: {task.rule}; {task.baseline_is} gives {task.baseline:.3f}")
    put("try one with: charnn lab recall")


def _watched(
    options: LabOptions, threads: int | None, quiet: bool, end: OrderlyEnd, json: bool
) -> Report:
    """Runs the experiment; each training is a line on stderr when it has ended.

    Where it is broken off, people get the table of what has ended.
    """
    from charnn.training import machine  # first: it sets up what torch reads when it is loaded

    with machine.prepared(1):
        from charnn.inspection.lab.experiment import Report, rows_of, run

        of = len(rows_of(options)) * len(options.all_sizes) * options.seeds
        done = Report(options)
        try:
            for event in run(options, threads or os.cpu_count() or 1):
                if isinstance(event, Report):
                    return event
                done.trials.append(event)
                if not quiet:
                    score = _score(event.score, report_digits(options))
                    say(
                        f"{len(done.trials)}/{of} {event.row.name}, {options.size_name} "
                        f"{event.size}, seed {event.seed}: {score}, "
                        f"{'solved' if event.solved else 'not solved'}, "
                        f"{event.steps:,} steps, {event.seconds:.1f} s"
                    )
        except (KeyboardInterrupt, CharnnError) as error:
            if done.trials and not json:
                note(f"the table is partial: {len(done.trials)} of {of} trainings have ended")
                for line in _table(done, columns_of(sys.stdout)):
                    put(line)
                flush_stdout()
            if isinstance(error, CharnnError):
                raise
            raise typer.Exit(end.code or 128 + signal.SIGINT) from None
    raise AssertionError("the events of an experiment end with Report")


def report_digits(options: LabOptions) -> int:
    """Digits behind the point of a score: squared errors are small."""
    return 4 if options.task == "adding" else 3


def describe(report: Report, columns: int) -> Iterator[str]:
    """The report as lines: what was done, a table, and how far each row goes."""
    from charnn.inspection.lab.experiment import rows_of

    yield from _head(report)
    yield ""
    yield from _table(report, columns)
    yield ""
    yield f"the largest {report.options.size_name} solved together with all smaller ones,"
    yield "median of the seeds (lowest..highest):"
    yield from _reaches(report, rows_of(report.options))


def _head(report: Report) -> Iterator[str]:
    options, task = report.options, report.task
    digits = report_digits(options)
    yield f"{options.task}: {task.about}"
    yield f"source: {task.source}"
    yield f"solved: {task.rule}, on new sequences"
    yield f"baseline: {task.baseline:.{digits}f}, by {task.baseline_is}"
    yield (
        f"{options.seeds} seeds; {options.hidden_size} units, batches of {options.batch_size}, "
        f"Adam at {options.learning_rate:g}, "
        f"{'orthogonal' if options.orthogonal else 'normal'} recurrent matrices, "
        + (f"gradients clipped at {options.clip:g}" if options.clip else "gradients not clipped")
    )


def _table(report: Report, columns: int) -> Iterator[str]:
    """A line for each row and size that was trained."""
    from charnn.inspection.lab.experiment import rows_of

    options, wide = report.options, columns >= WIDE
    digits = report_digits(options)
    yield _table_head(options.size_name, digits, wide)
    for row in rows_of(options):
        for size in options.all_sizes:
            if trials := report.of(row, size):
                yield _table_line(row, size, trials, digits, wide)


def _table_head(size_name: str, digits: int, wide: bool) -> str:
    score = digits + 2
    head = f"{'cell':<11} {size_name[:5]:>5} {'mid':>{score}} {'range':<{2 * score + 2}} won"
    return head + f" {'steps':>6} {'gradient: mid, max':>20}" * wide


def _table_line(row: Row, size: int, trials: list[Trial], digits: int, wide: bool) -> str:
    scores = sorted(t.score for t in trials if t.score is not None)
    score = digits + 2
    lost = len(trials) - len(scores)
    if scores and not lost:
        mid = f"{statistics.median(scores):.{digits}f}"
        span = f"{scores[0]:.{digits}f}..{scores[-1]:.{digits}f}"
    else:
        mid, span = "-", f"{lost} not finite"
    won = f"{sum(t.solved for t in trials)}/{len(trials)}"
    line = f"{row.name:<11} {size:>5} {mid:>{score}} {span:<{2 * score + 2}} {won:<3}"
    if not wide:
        return line.rstrip()
    steps = statistics.median_high([t.steps for t in trials])
    norms = [t.median_norm for t in trials if t.median_norm is not None]
    largest = [t.largest_norm for t in trials if t.largest_norm is not None]
    norm = f"{statistics.median(norms):.2g}, {max(largest):.2g}" if norms else "-"
    return f"{line} {steps:>6} {norm:>20}"


def _reaches(report: Report, rows: list[Row]) -> Iterator[str]:
    sizes = report.options.all_sizes
    plain = next((row for row in rows if row.cell == "rnn"), None)
    for row in rows:
        reach = report.reach(row)
        middle = statistics.median_low(reach)
        line = f"  {row.name:<11} {middle or 'none'} ({min(reach)}..{max(reach)})"
        if middle == sizes[-1]:
            line += ", all tried"
        other = statistics.median_low(report.reach(plain)) if plain else 0
        if plain and row != plain and other and middle:
            if middle == sizes[-1] != other:
                line += f"; at least {middle / other:g} x rnn"
            elif middle != sizes[-1] and other != sizes[-1]:
                line += f"; {middle / other:.2g} x rnn" if middle != other else "; as far as rnn"
        yield line


def _score(score: float | None, digits: int) -> str:
    return "not finite" if score is None else f"{score:.{digits}f}"


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
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
        **{name: getattr(options, name) for name in settings},
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "rows": [
            {"cell": row.cell, "chrono": row.chrono, "reach": report.reach(row)}
            for row in rows_of(options)
        ],
        "trials": [
            {
                "cell": t.row.cell,
                "chrono": t.row.chrono,
                **{name: value for name, value in vars(t).items() if name != "row"},
            }
            for t in report.trials
        ],
    }
