r"""How well charnn has learnt a text after so many minutes, scored on its last tenth.

    python benchmarks/quality.py tinyshakespeare.txt
    python benchmarks/quality.py tinyshakespeare.txt quijote.txt --cells lstm,gru,rnn \
        --minutes 0.3,1,2,10 --float32 --alone --char-rnn 2 --nanogpt ../nanoGPT --ngram \
        --members 3 --results campaign.jsonl --curve curve.svg

Every training is the whole command, `charnn train TEXT --cell C --minutes M --seed S`, and the wall
time around it. The arms take turns, seed by seed, and one scorer, which is not charnn's own, scores
them all; peers train on the first TEXT only. The defaults take about half an hour, the second
command about six; leave the machine alone meanwhile. With --results, what is finished is kept, and
the same command goes on with a campaign that was cut short. A table in markdown goes to stdout,
talk to stderr.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import curve
import harness
import trainings
from harness import say
from results import Result, Results, median_of, row
from trainings import COLD, SHORT, Charnn, Text

from charnn.config import GATES

PUBLISHED = {"nanoGPT's GPU recipe": 1.4697}  # on tiny Shakespeare, says its README; cold-256
NANOGPT_STEPS = 2000
TINY_SHAKESPEARE = ("tinyshakespeare", "tiny-shakespeare")


class Job(NamedTuple):
    """One training to run: what it is called, and what runs it."""

    text: Text
    arm: str
    seed: int
    run: Callable[[], Result]


def budgets(text: str) -> list[float]:
    """The numbers of a list such as 1,2,5."""
    return [float(part) for part in text.split(",")]


def cells(text: str) -> list[str]:
    """The cells of a list such as lstm,gru."""
    names = text.split(",")
    if not GATES.keys() >= set(names):
        raise argparse.ArgumentTypeError(f"cells are {', '.join(GATES)}, not {text!r}")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("texts", type=Path, nargs="+", metavar="TEXT", help="text files in UTF-8")
    made.add_argument(
        "--cells", type=cells, default="lstm", help="some of lstm,gru,rnn [default: lstm]"
    )
    made.add_argument(
        "--minutes", type=budgets, default="1,2,5", help="budgets to try [default: 1,2,5]"
    )
    made.add_argument("--seeds", type=int, default=3, help="trainings of each [default: 3]")
    made.add_argument("--float32", action="store_true", help="the first cell also without bfloat16")
    made.add_argument(
        "--members", type=int, metavar="K", help="the first K of the first cell, longest, averaged"
    )
    made.add_argument(
        "--alone", action="store_true", help="the first cell also without n-grams mixed in"
    )
    made.add_argument("--ngram", action="store_true", help="an n-gram of characters beside them")
    made.add_argument(
        "--char-rnn", type=float, metavar="MINUTES", help="the classic recipe in plain torch, too"
    )
    made.add_argument(
        "--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT, also trained"
    )
    made.add_argument(
        "--nanogpt-steps",
        type=int,
        default=NANOGPT_STEPS,
        help=f"of its recipe [default: {NANOGPT_STEPS}, as it has]",
    )
    made.add_argument(
        "--results", type=Path, metavar="FILE", help="keep what is finished here, as JSON Lines"
    )
    made.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="keep the models here [default: nowhere]"
    )
    made.add_argument(
        "--curve", type=Path, metavar="FILE.svg", help="draw loss against time, of the first TEXT"
    )
    return made


def read_texts(made: argparse.ArgumentParser, paths: list[Path]) -> list[Text]:
    """Reads the texts; ends with a usage error where one cannot serve."""
    for path in paths:
        if not path.is_file():
            made.error(f"there is no file {path}")
    if len({path.name for path in paths}) < len(paths):
        made.error("results tell texts apart by their file names: two are the same")
    texts = [Text(path, *harness.read_split(path)) for path in paths]
    for text in texts:
        if len(text.valid) <= COLD:
            made.error(f"the last tenth of {text.name} must have more than {COLD} characters")
    return texts


def check(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a usage error for what would else come to light hours later."""
    if options.seeds < 1:
        made.error("--seeds must be 1 or more")
    if options.members is not None and not 2 <= options.members <= options.seeds:
        made.error("--members must be 2 or more, and at most --seeds")
    if options.members and options.results and not options.checkpoints:
        made.error("--members with --results needs --checkpoints DIR: it reads the models again")
    if options.nanogpt and not (options.nanogpt / "train.py").is_file():
        made.error(f"{options.nanogpt} is no checkout of nanoGPT: it has no train.py")
    if options.curve and not options.curve.parent.is_dir():
        made.error(f"there is no folder {options.curve.parent}")


def plan(options: argparse.Namespace, texts: list[Text], root: Path, results: Results) -> list[Job]:
    """All trainings in the order in which they run, seed by seed."""
    keep = bool(options.checkpoints or options.members)
    arms = [
        Charnn(cell, minutes, "auto", root, keep)
        for cell in options.cells
        for minutes in options.minutes
    ]
    first = [a for a in arms if a.cell == options.cells[0]]
    if options.alone:
        arms += [replace(a, ngram=0) for a in first]
    if options.float32:
        arms += [replace(a, precision="float32") for a in first]
    steps = options.nanogpt_steps
    nano = "nanoGPT, CPU recipe" + ("" if steps == NANOGPT_STEPS else f", {steps:,} steps")
    jobs = []
    for seed in range(options.seeds):
        for text in texts:
            jobs += [Job(text, arm.name, seed, partial(arm, text, seed)) for arm in arms]
            if options.char_rnn and text is texts[0]:
                run = partial(trainings.char_rnn, text, options.char_rnn, seed)
                jobs.append(Job(text, f"char-rnn recipe, {options.char_rnn:g} min", seed, run))
            if options.nanogpt and text is texts[0]:
                run = partial(trainings.nano_gpt, text, options.nanogpt, steps, seed)
                jobs.append(Job(text, nano, seed, run))
            if options.ngram and seed == 0:  # no chance in it
                jobs.append(Job(text, "n-gram", seed, partial(trainings.n_gram, text)))
    if options.members:
        name = arm_of(options.cells[0], max(options.minutes))
        for text in texts:
            run = partial(mean_of, options.members, name, text, root, results)
            jobs.append(Job(text, f"{name}, mean of {options.members}", 0, run))
    return jobs


def arm_of(cell: str, minutes: float) -> str:
    """The name of the arm that trains a cell so long."""
    return Charnn(cell, minutes, "auto", Path(), False).name


def mean_of(count: int, name: str, text: Text, root: Path, results: Results) -> Result:
    """Averages what the first `count` trainings of an arm have learnt."""
    return trainings.members(text, root, results.of(text.name, name, range(count)))


def work(jobs: list[Job], results: Results) -> bool:
    """Runs what has no result yet; whether it came to the end before an interrupt."""
    for number, job in enumerate(jobs, 1):
        key = (job.text.name, job.arm, job.seed)
        known = key in results.found
        if not known:
            try:
                results.add(key, job.run())
            except KeyboardInterrupt:
                say("interrupted: the table has what was finished")
                return False
        result = results.found[key]
        loss = result.cold_short if result.cold is None else result.cold
        say(
            f"{number}/{len(jobs)} {job.text.name}, {job.arm}, seed {job.seed}: "
            f"{result.seconds:.1f} s, {loss:.4f} nats/char{' (known)' if known else ''}"
        )
    return True


def rows(jobs: list[Job], texts: list[Text], results: Results, short: bool) -> list[list[str]]:
    """The rows of the table, text by text; with several, each begins with its name."""
    made = []
    for text in texts:
        for arm in dict.fromkeys(job.arm for job in jobs if job.text is text):
            seeds = [job.seed for job in jobs if job.text is text and job.arm == arm]
            found = results.of(text.name, arm, seeds)
            if found:
                made.append([text.name] * (len(texts) > 1) + row(arm, found, short))
    return made


def drawing(options: argparse.Namespace, text: Text, results: Results) -> str | None:
    """The quality curve of each cell as SVG, or None where none has trained to the end."""
    seeds = range(options.seeds)
    traces = {}
    for cell in options.cells:
        trained = results.of(text.name, arm_of(cell, max(options.minutes)), seeds)
        line = median_of(trained).history if trained else []
        if line:
            dots = []
            for minutes in sorted(options.minutes):
                found = results.of(text.name, arm_of(cell, minutes), seeds)
                if found:
                    whole = [(result.seconds, result.cold) for result in found]
                    dots.append(tuple(statistics.median(each) for each in zip(*whole, strict=True)))
            traces[cell] = curve.Trace(line, dots)
    if not traces:
        return None
    title = f"{text.name}: loss against time, the median of {options.seeds} trainings"
    return curve.draw(title, traces, PUBLISHED if text.path.stem in TINY_SHAKESPEARE else {})


def main() -> None:
    """Runs the arms and prints the table."""
    made = parser()
    options = made.parse_args()
    check(made, options)
    texts = read_texts(made, options.texts)
    results = Results(options.results)
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        jobs = plan(options, texts, options.checkpoints or Path(temporary), results)
        finished = work(jobs, results)
    short = bool(options.nanogpt)
    heads = ["text"] * (len(texts) > 1)
    heads += ["training", "wall s", "steps", "passes", "cold-256", "bits", "carried", "bits"]
    heads += [f"cold-{SHORT}", "bits"] * short + ["parameters", "precision"]
    print(harness.table(heads, rows(jobs, texts, results, short)))
    tenths = ", ".join(f"{text.name} ({len(text.valid):,} characters)" for text in texts)
    print(
        f"\nLast tenth of {tenths}: nats a character, median (lowest..highest) of up to "
        f"{options.seeds} seeds, then the median in bits a character. cold-256: windows of 256 "
        "that each start knowing nothing; carried: one pass that remembers."
    )
    if short:
        print(
            f"nanoGPT sees {SHORT} characters at most, so it is compared under cold-{SHORT}: the "
            f"same in windows of {SHORT}. Its steps are those of its best checkpoint, its wall "
            "time that of its whole training."
        )
    if options.ngram:
        print("n-gram: interpolated modified Kneser-Ney; its parameters are the n-grams it counts.")
    print(f"\n{harness.machine()}.")
    drawn = drawing(options, texts[0], results) if options.curve else None
    if drawn:
        options.curve.write_text(drawn, encoding="utf-8")
    if not finished:
        sys.exit(130)


if __name__ == "__main__":
    main()
