r"""Measures the held-out loss of charnn after so many minutes of training, beside peers.

    python benchmarks/quality.py tinyshakespeare.txt
    python benchmarks/quality.py tinyshakespeare.txt quijote.txt --cells lstm,gru,rnn \
        --minutes 0.3,1,2,10 --float32 --alone --char-rnn 2 --nanogpt ../nanoGPT --ngram \
        --members 3 --results campaign.jsonl --curve curve.svg

A run is the whole command `charnn train TEXT --cell C --minutes M --seed S`, timed from outside. It
learns the first nine tenths of a text; a scorer that is independent of charnn's own scores the last
tenth. Arms take turns, seed by seed; peers train on the first TEXT only. The defaults take about
half an hour, the second command six hours; leave the machine idle meanwhile. --results keeps
finished runs, so that the same command continues an interrupted campaign. A table in markdown goes
to stdout, talk to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import charrnn
import curve
import harness
import nanogpt
import scorer
import torch
from harness import say, spread
from torch import Tensor

from charnn.config import GATES
from charnn.ngrams.kneser_ney import NGram, choose_order

PUBLISHED = {"nanoGPT's GPU recipe": 1.4697}  # tiny Shakespeare, cold-256, from its README
NANOGPT_STEPS = 2000
MAX_ORDER = 10  # of the n-grams
COLD, SHORT = 256, nanogpt.CONTEXT  # window sizes
TINY_SHAKESPEARE = ("tinyshakespeare", "tiny-shakespeare")


Key = tuple[str, str, int]  # text, arm, seed


@dataclass(frozen=True)
class Result:
    """A scored run: losses in nats per character, None for a protocol that the model cannot do.

    Attributes:
        history: charnn's own validation while training: seconds, cold-256.
        model: the file of the model under the folder of checkpoints, if it was kept.
        detail: what the table adds to the name of the arm.
    """

    seconds: float
    steps: int
    passes: float
    parameters: int
    precision: str
    cold: float | None
    carried: float | None
    cold_short: float | None
    history: list[tuple[float, float]] = field(default_factory=list)
    model: str = ""
    detail: str = ""


class Results:
    """The finished runs; with a file, each is appended to it when it ends.

    A run that the file already has is not repeated.
    """

    def __init__(self, path: Path | None) -> None:
        """Reads or creates the file; exits with an error if that fails."""
        self.path = path
        self.found: dict[Key, Result] = {}
        if path is None:
            return
        try:
            with path.open("a+", encoding="utf-8") as file:  # fails now if it cannot be written
                file.seek(0)
                lines = file.read().splitlines()
        except OSError as error:
            sys.exit(f"error: cannot keep results in {path}: {error.strerror}")
        for number, line in enumerate(lines, 1):
            entry = _entry(line)
            if entry is None:
                sys.exit(
                    f"error: line {number} of {path} is no result of this benchmark: remove it"
                )
            self.found[entry[0]] = entry[1]

    def add(self, key: Key, result: Result) -> None:
        """Adds a result, durably if there is a file."""
        self.found[key] = result
        if self.path is None:
            return
        names = dict(zip(("text", "arm", "seed"), key, strict=True))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**names, **asdict(result)}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, text: str, arm: str, seeds: Sequence[int]) -> list[Result]:
        """Returns the finished results of an arm."""
        keys = [(text, arm, seed) for seed in seeds]
        return [self.found[key] for key in keys if key in self.found]


def _entry(line: str) -> tuple[Key, Result] | None:
    try:
        entry = json.loads(line)
        key = (entry.pop("text"), entry.pop("arm"), entry.pop("seed"))
        return key, Result(**entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def median_of(results: Sequence[Result]) -> Result:
    """Returns the result with the median cold-256; of an even number, the lower one."""
    return sorted(results, key=lambda r: r.cold or math.inf)[(len(results) - 1) // 2]


def row(name: str, results: Sequence[Result], short: bool) -> list[str]:
    """Returns the row of an arm: medians, and the range of the losses."""

    def loss(values: list[float | None]) -> list[str]:
        known = [value for value in values if value is not None]
        if not known:
            return ["–", "–"]
        return [spread(known, 3), f"{statistics.median(known) / math.log(2):.3f}"]

    details = sorted({r.detail for r in results if r.detail})
    return [
        ", ".join([name, *details]),
        f"{statistics.median(r.seconds for r in results):.1f}",
        f"{statistics.median(r.steps for r in results):,.0f}",
        f"{statistics.median(r.passes for r in results):.2f}",
        *loss([r.cold for r in results]),
        *loss([r.carried for r in results]),
        *(loss([r.cold_short for r in results]) if short else []),
        f"{results[0].parameters:,}",
        " or ".join(sorted({r.precision for r in results})),
    ]


@dataclass(frozen=True)
class Text:
    """A text file, split into a training part and a held-out part."""

    path: Path
    train: str
    valid: str

    @property
    def name(self) -> str:
        """The name in results and tables."""
        return self.path.name


def scores(network: scorer.Network, ids: Tensor) -> tuple[float, float, float]:
    """Returns the losses cold-256, carried and cold-64."""
    return (
        scorer.cold(network, ids, COLD),
        scorer.carried(network, ids),
        scorer.cold(network, ids, SHORT),
    )


@dataclass(frozen=True)
class Charnn:
    """A run of `charnn train`, by default but for these flags.

    Models go into `root` and are deleted unless `keep`.
    """

    cell: str
    minutes: float
    precision: str
    root: Path
    keep: bool
    ngram: int | None = None

    @property
    def name(self) -> str:
        """The name in results and tables."""
        known = f"charnn {self.cell}, {self.minutes:g} min"
        if self.precision != "auto":
            known += f", {self.precision}"
        return known if self.ngram is None else f"{known}, --ngram {self.ngram}"

    def __call__(self, text: Text, seed: int) -> Result:
        """Trains in another process, and scores the best model."""
        from charnn import checkpoint
        from charnn.runs import free_name  # an interrupted run has left its folder

        precision = "" if self.precision == "auto" else f"-{self.precision}"
        wanted = f"{text.path.stem[:24]}-{self.cell}-{self.minutes:g}min{precision}-seed{seed}"
        ran = harness.run(
            harness.charnn_command(
                "train",
                str(text.path),
                *("--minutes", f"{self.minutes:g}", "--seed", str(seed)),
                *("--cell", self.cell),
                *(() if self.precision == "auto" else ("--precision", self.precision)),
                *(() if self.ngram is None else ("--ngram", str(self.ngram))),
                *("--name", free_name(self.root, wanted)),
                *("--checkpoints", str(self.root), "--json"),
            )
        )
        report = json.loads(ran.stdout)
        best, last = Path(report["best"]), Path(report["last"])
        loaded = scorer.load_charnn(best)
        history = checkpoint.load(last).info["history"]
        result = Result(
            ran.seconds,
            report["step"],
            report["tokens"] / loaded.info["corpus"]["tokens"]["train"],
            loaded.parameters,
            loaded.info["recipe"]["precision"],
            *scores(loaded.network, loaded.encode(text.valid)),
            [(entry["seconds"], entry["cold_256"]) for entry in history if entry["cold_256"]],
            str(best.relative_to(self.root)) if self.keep else "",
        )
        if not self.keep:
            shutil.rmtree(best.parent)
        return result


def members(text: Text, root: Path, results: Sequence[Result]) -> Result:
    """Scores the mean of the probabilities of several models; costs are summed."""
    missing = [result.model for result in results if not (root / result.model).is_file()]
    if missing:
        sys.exit(
            f"error: --members needs {root / missing[0]}, which is gone: remove its line from the "
            "--results and run again"
        )
    loaded = [scorer.load_charnn(root / result.model) for result in results]
    network = scorer.average([each.network for each in loaded])
    return Result(
        sum(result.seconds for result in results),
        sum(result.steps for result in results),
        sum(result.passes for result in results),
        sum(result.parameters for result in results),
        " or ".join(sorted({result.precision for result in results})),
        *scores(network, loaded[0].encode(text.valid)),
    )


def char_rnn(text: Text, minutes: float, seed: int) -> Result:
    """Trains the recipe of char-rnn in another process, and scores the last weights."""
    train, valid, vocab_size = harness.split_ids((text.train, text.valid))
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        file = Path(temporary) / "char-rnn.pt"
        options = ["--seconds", f"{60 * minutes:g}", "--seed", str(seed), "--output", str(file)]
        ran = harness.run([sys.executable, charrnn.__file__, str(text.path), *options])
        loaded = charrnn.load(file, vocab_size)
    passes = loaded.steps * charrnn.STREAMS * charrnn.WINDOW / len(train)
    losses = scores(loaded.network, torch.from_numpy(valid))
    return Result(ran.seconds, loaded.steps, passes, loaded.parameters, "float32", *losses)


def nano_gpt(text: Text, checkout: Path, steps: int, seed: int) -> Result:
    """Trains nanoGPT in a copy of its checkout, and scores it in windows of its context."""
    with tempfile.TemporaryDirectory(prefix="charnn-bench-") as temporary:
        folder = Path(temporary)
        nanogpt.copy(checkout, folder, seed)
        encode = nanogpt.prepare(folder, text.train, text.valid)
        ran = nanogpt.train(folder, steps)
        network, parameters, step = nanogpt.load(folder)
        passes = step * nanogpt.BATCH * nanogpt.CONTEXT / len(text.train)
        short = scorer.cold(network, encode(text.valid), SHORT)
        return Result(ran.seconds, step, passes, parameters, "float32", None, None, short)


def n_gram(text: Text) -> Result:
    """Counts n-grams; their order is chosen on a part of the training text."""
    train, valid, vocab_size = harness.split_ids((text.train, text.valid))
    begin = time.perf_counter()
    order, _ = choose_order(train, vocab_size, MAX_ORDER)
    model = NGram(train, vocab_size, order)
    seconds = time.perf_counter() - begin
    losses = (model.cold(valid, COLD), model.carried(valid), model.cold(valid, SHORT))
    return Result(
        seconds,
        1,
        1.0,
        sum(len(level.keys) for level in model.levels),
        "float64",
        *(float(by_order[-1]) for by_order in losses),
        detail=f"order {order}",
    )


class Job(NamedTuple):
    """A run to make: its name in results, and the function that makes it."""

    text: Text
    arm: str
    seed: int
    run: Callable[[], Result]


def budgets(text: str) -> list[float]:
    """Parses a list of numbers such as 1,2,5."""
    return [float(part) for part in text.split(",")]


def cells(text: str) -> list[str]:
    """Parses a list of cells such as lstm,gru."""
    names = text.split(",")
    if not GATES.keys() >= set(names):
        raise argparse.ArgumentTypeError(f"cells are {', '.join(GATES)}, not {text!r}")
    return names


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
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
    made.add_argument("--seeds", type=int, default=3, help="runs of each arm [default: 3]")
    made.add_argument("--float32", action="store_true", help="also train the first cell in float32")
    made.add_argument(
        "--members", type=int, metavar="K", help="also average K models of the first cell"
    )
    made.add_argument(
        "--alone", action="store_true", help="also train the first cell without n-grams"
    )
    made.add_argument("--ngram", action="store_true", help="also count n-grams alone")
    made.add_argument(
        "--char-rnn", type=float, metavar="MINUTES", help="also train the classic recipe in torch"
    )
    made.add_argument(
        "--nanogpt", type=Path, metavar="DIR", help="also train nanoGPT, from its checkout"
    )
    made.add_argument(
        "--nanogpt-steps",
        type=int,
        default=NANOGPT_STEPS,
        help=f"steps of nanoGPT [default: {NANOGPT_STEPS}]",
    )
    made.add_argument(
        "--results", type=Path, metavar="FILE", help="keep finished runs here, as JSON Lines"
    )
    made.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="keep the models here [default: delete]"
    )
    made.add_argument(
        "--curve", type=Path, metavar="FILE.svg", help="draw loss over time for the first TEXT"
    )
    return made


def read_texts(made: argparse.ArgumentParser, paths: list[Path]) -> list[Text]:
    """Reads the texts; exits with a usage error if one is missing or too short."""
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
    """Exits with a usage error for flags that would fail only hours later."""
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
    """Returns all runs in their order, seed by seed."""
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
                run = partial(char_rnn, text, options.char_rnn, seed)
                jobs.append(Job(text, f"char-rnn recipe, {options.char_rnn:g} min", seed, run))
            if options.nanogpt and text is texts[0]:
                run = partial(nano_gpt, text, options.nanogpt, steps, seed)
                jobs.append(Job(text, nano, seed, run))
            if options.ngram and seed == 0:  # counting is deterministic
                jobs.append(Job(text, "n-gram", seed, partial(n_gram, text)))
    if options.members:
        name = arm_of(options.cells[0], max(options.minutes))
        for text in texts:
            run = partial(mean_of, options.members, name, text, root, results)
            jobs.append(Job(text, f"{name}, mean of {options.members}", 0, run))
    return jobs


def arm_of(cell: str, minutes: float) -> str:
    """Returns the name of the arm of a cell and a budget."""
    return Charnn(cell, minutes, "auto", Path(), False).name


def mean_of(count: int, name: str, text: Text, root: Path, results: Results) -> Result:
    """Averages what the first `count` trainings of an arm have learnt."""
    return members(text, root, results.of(text.name, name, range(count)))


def work(jobs: list[Job], results: Results) -> bool:
    """Makes the runs that have no result; returns whether all have one, not interrupted."""
    for number, job in enumerate(jobs, 1):
        key = (job.text.name, job.arm, job.seed)
        known = key in results.found
        if not known:
            try:
                results.add(key, job.run())
            except KeyboardInterrupt:
                say("interrupted: the table has the finished runs")
                return False
        result = results.found[key]
        loss = result.cold_short if result.cold is None else result.cold
        say(
            f"{number}/{len(jobs)} {job.text.name}, {job.arm}, seed {job.seed}: "
            f"{result.seconds:.1f} s, {loss:.4f} nats/char{' (known)' if known else ''}"
        )
    return True


def rows(jobs: list[Job], texts: list[Text], results: Results, short: bool) -> list[list[str]]:
    """Returns the rows of the table, text by text; with several texts, with their names."""
    made = []
    for text in texts:
        for arm in dict.fromkeys(job.arm for job in jobs if job.text is text):
            seeds = [job.seed for job in jobs if job.text is text and job.arm == arm]
            found = results.of(text.name, arm, seeds)
            if found:
                made.append([text.name] * (len(texts) > 1) + row(arm, found, short))
    return made


def drawing(options: argparse.Namespace, text: Text, results: Results) -> str | None:
    """Returns the loss over time of each cell as SVG; None without a finished run."""
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
    title = f"{text.name}: loss over time, the median of {options.seeds} runs"
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
    heads += ["run", "wall s", "steps", "passes", "cold-256", "bits", "carried", "bits"]
    heads += [f"cold-{SHORT}", "bits"] * short + ["parameters", "precision"]
    print(harness.table(heads, rows(jobs, texts, results, short)))
    tenths = ", ".join(f"{text.name} ({len(text.valid):,} characters)" for text in texts)
    print(
        f"\nLast tenth of {tenths}: nats a character, median (lowest..highest) of up to "
        f"{options.seeds} seeds, then the median in bits a character. cold-256: windows of 256 "
        "each from the initial state; carried: one pass that carries the state."
    )
    if short:
        print(
            f"nanoGPT has a context of {SHORT} characters, so it is compared under cold-{SHORT}, "
            f"in windows of {SHORT}. Its steps are those of its best checkpoint, its wall time is "
            "that of the whole run."
        )
    if options.ngram:
        print("n-gram: interpolated modified Kneser-Ney; parameters are the counted n-grams.")
    print(f"\n{harness.machine()}.")
    drawn = drawing(options, texts[0], results) if options.curve else None
    if drawn:
        options.curve.write_text(drawn, encoding="utf-8")
    if not finished:
        sys.exit(130)


if __name__ == "__main__":
    main()
