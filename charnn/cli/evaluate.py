"""`charnn eval`: held-out loss under named protocols, and reports on where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from charnn.cli.console import note, note_unknown, print_json, progress_of, put, show_live
from charnn.cli.model import load_model, note_needless_network_only, read_text_for
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    DeviceOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    NetworkOnlyOption,
    ReadTextsArgument,
    SkipUnknownOption,
    ThreadsOption,
)
from charnn.config import DYNAMIC_RATES, DynamicConfig
from charnn.config.settings import Config, choice, number, require, setting, switch
from charnn.errors import CharnnError, TextError

if TYPE_CHECKING:
    from charnn.evaluation import Batches, Predictor, TextSizes, TokenLosses
    from charnn.text.tokenizers import Ids, Tokenizer

EXTRA = "Extra reports"  # a section of the help
STREAM_PROTOCOLS = ("carried", "cold-256")  # for a text in one piece
PROTOCOLS = (*STREAM_PROTOCOLS, "lines")


@dataclass(frozen=True)
class EvalOptions(Config):
    """Options of `charnn eval` alone: the protocols, the split and extra reports."""

    protocol: tuple[str, ...] | None = choice(
        None,
        PROTOCOLS,
        f"Protocols, separated by commas: {', '.join(PROTOCOLS)}.",
        listed=True,
        metavar="NAME,NAME",
        shown=f"{','.join(STREAM_PROTOCOLS)}; lines for a model trained with --lines",
    )
    split: str | None = setting(
        None, "Split of the run's text or of a .tokens file.", metavar="NAME", shown="valid"
    )
    dynamic: bool = switch(
        "Also score with weights that adapt to the text while it is read (Krause et al. 2018); "
        "the model file is not changed.",
        section=EXTRA,
    )
    dynamic_rule: str | None = choice(
        None,
        tuple(DYNAMIC_RATES),
        "Update rule of --dynamic; rms needs the run's training text.",
        shown="rms if that text is there, else sgd",
        section=EXTRA,
    )
    dynamic_rate: float | None = number(
        None,
        0,
        10,
        "Learning rate of --dynamic.",
        shown=", ".join(f"{rate:g} with {rule}" for rule, rate in DYNAMIC_RATES.items()),
        section=EXTRA,
    )
    baselines: bool = switch(
        "Also score the text with Kneser-Ney counts of the training text, gzip, xz and zstd.",
        section=EXTRA,
    )
    positions: bool = switch(
        "Loss at positions 1, 2, 4 ... 256 of a window; with a model of lines, of a line.",
        section=EXTRA,
    )
    classes: bool = switch(
        "Loss by class of character: letters, spaces, digits and so on.", section=EXTRA
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.dynamic or (self.dynamic_rule is None and self.dynamic_rate is None),
            "--dynamic-rule and --dynamic-rate need --dynamic: add it",
        )


def evaluate(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    options: EvalOptions = EvalOptions(),
    unknown: SkipUnknownOption = "error",
    encoding: EncodingOption = "utf-8",
    network_only: NetworkOnlyOption = False,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    json: JsonOption = False,
) -> None:
    """Score a text: loss, bits per character, bits per byte.

    \b
    charnn eval                        the newest run on its validation split
    charnn eval chapter.txt -m book    a run on another text
    charnn eval --protocol lines       each line from the initial state
    charnn eval --baselines            also Kneser-Ney, gzip, xz and zstd
    """
    show_live("loading PyTorch")
    from charnn import evaluation
    from charnn.training import machine

    path, saved, tokenizer = load_model(model, checkpoints)
    how = {"split": options.split, "encoding": encoding, "unknown": unknown}
    text = read_text_for(saved, tokenizer, path, texts, **how)
    note_unknown(text.unknown, tokenizer.known, unknown)
    chosen = options.protocol or (("lines",) if saved.lines else STREAM_PROTOCOLS)
    newline = tokenizer.newline
    if newline is None and (saved.lines or "lines" in chosen):
        raise TextError(
            "the model has no token for a newline, so it cannot score lines: give --protocol "
            f"{','.join(STREAM_PROTOCOLS)}"
        )
    sizes = evaluation.TextSizes(
        tokenizer.chars_per_token, tokenizer.bytes_per_token, text.chars is not None
    )
    if network_only and not saved.mixture:
        note_needless_network_only()
    of = evaluation.network_of if network_only else evaluation.predictor_of
    predictor = of(saved, machine.choose_device(device))
    task = Task(predictor, tokenizer, text.ids, sizes, newline or 0, saved.lines, path.parent)
    with machine.prepared(threads or machine.default_threads()):
        found = {
            name.replace("-", "_"): sizes.score(
                task.batches(name), progress_of(f"scoring, {name}")
            ).to_dict()
            for name in chosen
        }
        found |= compute_extras(options, task)
    if json:
        print_json(
            {
                "model": str(path),
                "tokenizer": tokenizer.kind,
                "vocab_size": tokenizer.vocab_size,
                **saved.size_facts(),
                **({"network_only": True} if network_only else {}),
                "split": text.split,
                "tokens": len(text.ids),
                "chars": text.chars,
                "bytes": text.bytes,
                "unknown": text.unknown.total(),
                **found,
            }
        )
        return
    part = f"the {text.split} split" if text.split else "the text"
    alone = ", the network alone" if network_only and saved.mixture else ""
    put(f"{path}{alone}: {len(text.ids):,} tokens of {part}")
    put(f"{'protocol':<10}{'nats/token':>12}{'bits/char':>12}{'bits/byte':>12}{'targets':>12}")
    for name in chosen:
        _put_score(name, found[name.replace("-", "_")])
    _put_extras(found)


class Task(NamedTuple):
    """A model and the text that it is scored on; `run` is the folder of the model."""

    predictor: Predictor
    tokenizer: Tokenizer
    tokens: Ids
    sizes: TextSizes
    newline: int
    of_lines: bool
    run: Path

    def batches(self, protocol: str) -> Batches:
        """Returns the pass of the model over the text under a protocol."""
        from charnn import evaluation

        if protocol == "lines":
            return evaluation.line_batches(self.predictor, self.tokens, self.newline)
        if protocol == "carried":
            return evaluation.carried_batches(self.predictor, self.tokens)
        return evaluation.cold_batches(self.predictor, self.tokens)

    def losses(self, protocol: str, report: str) -> TokenLosses:
        """Returns the loss of each token under a protocol, or under lines for a model of lines."""
        from charnn.evaluation import token_losses

        batches = self.batches("lines" if self.of_lines else protocol)
        return token_losses(batches, progress_of(f"scoring, {report}"))


def compute_extras(options: EvalOptions, task: Task) -> dict[str, Any]:
    """Returns the extra reports as JSON values."""
    found: dict[str, Any] = {}
    train = _training_tokens(task) if options.dynamic or options.baselines else None
    if options.dynamic:
        found["dynamic"] = _dynamic(options, task, train)
    if options.baselines:
        from charnn.scoring.baselines import MAX_TRAIN_TOKENS, baseline_rows, zstd

        if not zstd():
            note("no zstd baseline: it needs Python 3.14, or the package zstandard")
        found["baselines"] = {
            "trained_on": None if train is None else min(len(train), MAX_TRAIN_TOKENS),
            "rows": baseline_rows(task.tokenizer, task.tokens, task.sizes, train),
        }
    if options.positions:
        from charnn.scoring.breakdown import by_position

        losses = task.losses("cold-256", "positions")
        newline = task.newline if task.of_lines else None
        found["positions"] = by_position(losses, newline)._asdict()
    if options.classes:
        from charnn.scoring.breakdown import bits_of_characters, class_rows

        before = "\n" if task.of_lines else task.tokenizer.decode(task.tokens[:1])
        text, bits = bits_of_characters(task.tokenizer, task.losses("carried", "classes"))
        found["classes"] = class_rows(text, bits, before)
    return found


def _dynamic(options: EvalOptions, task: Task, train: Ids | None) -> dict[str, Any]:
    from charnn.evaluation import NOTHING
    from charnn.scoring.dynamic_evaluation import dynamic_losses

    rule = options.dynamic_rule or ("sgd" if train is None else "rms")
    rate = DYNAMIC_RATES[rule] if options.dynamic_rate is None else options.dynamic_rate
    config = DynamicConfig(rule, rate)
    newline = task.newline if task.of_lines else None
    losses = dynamic_losses(
        task.predictor, task.tokens, config, train, progress_of("scoring, dynamic"), newline
    )
    return {
        **task.sizes.add(NOTHING, float(losses.nats.sum()), losses.targets).to_dict(),
        "protocol": "lines" if task.of_lines else "carried",
        **config.to_dict(),
    }


def _training_tokens(task: Task) -> Ids | None:
    """Returns the training split of the run; None, with a note, if it cannot be read."""
    from charnn.text.token_file import TokenFile

    try:
        return TokenFile.open(task.run / "tokens", task.tokenizer).split("train")
    except CharnnError as error:
        note(f"the run's training text is not used: {error}")
        return None


def _put_score(name: str, score: dict[str, Any]) -> None:
    """Prints a row of the table of protocols."""
    keys = ("nats_per_token", "bits_per_char", "bits_per_byte", "targets")
    cells = [_cell(score[key]) if key in score else "" for key in keys]
    put((f"{name:<10}" + "".join(f"{cell:>12}" for cell in cells)).rstrip())


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _put_extras(found: dict[str, Any]) -> None:
    """Prints the extra reports for people."""
    if score := found.get("dynamic"):
        _put_score("dynamic", score)
        put(
            f"dynamic: {score['protocol']} with weights that adapt to the text ({score['rule']}, "
            f"rate {score['rate']:g}, every {score['segment']} tokens); not comparable with fixed "
            "weights"
        )
    for row in found.get("baselines", {}).get("rows", []):
        _put_score(row["name"], row)
    if table := found.get("positions"):
        put("")
        put(f"{'position':<10}{'bits/token':>12}{'mean of':>12}   of {table['windows']:,} starts")
        for place, bits, count in zip(
            table["positions"], table["bits"], table["counts"], strict=True
        ):
            put(f"{place:<10}{bits:>12.4f}{count:>12,}")
    if rows := found.get("classes"):
        put("")
        put(f"{'characters':<22}{'of text':>9}{'of bits':>9}{'bits/char':>12}{'count':>12}")
        for row in rows:
            if row["chars"]:
                put(
                    f"{row['class']:<22}{row['share_of_chars']:>9.1%}{row['share_of_bits']:>9.1%}"
                    f"{row['bits_per_char']:>12.4f}{row['chars']:>12,}"
                )
