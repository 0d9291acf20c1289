"""What `charnn eval` reports beside its protocols, where it is asked to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from charnn.cli.console import progress_lines, put, say
from charnn.config import DYNAMIC_RATES, DynamicConfig
from charnn.errors import CharnnError, ConfigError

if TYPE_CHECKING:
    from charnn.evaluation import Predictor, Score, TextSizes
    from charnn.text.tokenizers import Ids, Tokenizer

MORE = "More about it"
DynamicOption = Annotated[
    bool,
    typer.Option(
        "--dynamic",
        help="Also score with weights that adapt while the text is read (Krause et al. 2018), from "
        "line to line in a model of lines; the model's file stays as it is.",
        rich_help_panel=MORE,
    ),
]
DynamicRuleOption = Annotated[
    Literal["rms", "sgd"] | None,
    typer.Option(
        "--dynamic-rule",
        help="How they adapt: sgd, or rms, which needs the training text. [default: rms where the "
        "run's training text is there, else sgd]",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
DynamicRateOption = Annotated[
    float | None,
    typer.Option(
        "--dynamic-rate",
        metavar="X",
        help="How far a step goes. "
        f"[default: {DYNAMIC_RATES['rms']:g} with rms, {DYNAMIC_RATES['sgd']:g} with sgd]",
        show_default=False,
        rich_help_panel=MORE,
    ),
]
BaselinesOption = Annotated[
    bool,
    typer.Option(
        "--baselines",
        help="Beside it on the same text: n-grams of the run's training text, gzip, xz, zstd.",
        rich_help_panel=MORE,
    ),
]
PositionsOption = Annotated[
    bool,
    typer.Option(
        "--positions",
        help="The loss at places 1, 2, 4 ... 256 after a fresh start; of a line, in a model of "
        "lines.",
        rich_help_panel=MORE,
    ),
]
ClassesOption = Annotated[
    bool,
    typer.Option(
        "--classes",
        help="Where the bits go: letters, spaces, digits and so on.",
        rich_help_panel=MORE,
    ),
]


class Wishes(NamedTuple):
    """What is asked for besides."""

    dynamic: bool
    rule: Literal["rms", "sgd"] | None
    rate: float | None
    baselines: bool
    positions: bool
    classes: bool

    def check(self) -> None:
        """Raises ConfigError for what does not go together or is out of range."""
        if not self.dynamic and (self.rule or self.rate is not None):
            raise ConfigError("--dynamic-rule and --dynamic-rate say how --dynamic works: add it")
        if self.dynamic and self.rate is not None:
            DynamicConfig(rate=self.rate)


class Evaluated(NamedTuple):
    """A model and the text that it is scored on."""

    predictor: Predictor
    path: Path
    tokenizer: Tokenizer
    tokens: Ids
    sizes: TextSizes
    of_lines: bool
    newline: int
    quiet: bool

    def score(self, nats: float) -> Score:
        """A loss over all tokens but the first, or over all of whole lines."""
        import numpy as np

        from charnn.evaluation import NOTHING
        from charnn.scoring.losses import whole_lines

        lines = whole_lines(self.tokens, self.newline) if self.of_lines else [self.tokens[1:]]
        return self.sizes.add(NOTHING, nats, np.concatenate(lines))

    def progress(self, doing: str) -> Callable[[int, int], None] | None:
        """How far something is, for people."""
        return None if self.quiet else progress_lines(doing)


def more(wishes: Wishes, it: Evaluated) -> dict[str, Any]:
    """All that is asked for, as JSON values."""
    found: dict[str, Any] = {}
    train = _training_tokens(it) if wishes.dynamic or wishes.baselines else None
    if wishes.dynamic:
        found["dynamic"] = _dynamic(wishes, it, train)
    if wishes.baselines:
        found["baselines"] = _baselines(it, train)
    if wishes.positions:
        from charnn.scoring import losses

        if it.of_lines:
            scored = losses.line_losses(it.predictor, it.tokens, it.newline)
            places = losses.by_place_in_line(*scored, it.newline)
        else:
            cold = losses.cold_losses(it.predictor, it.tokens, it.progress("positions"))
            places = losses.by_position(cold)
        found["positions"] = {
            "windows": places.windows,
            "counts": places.counts.tolist(),
            "positions": places.positions.tolist(),
            "bits": places.bits.tolist(),
        }
    if wishes.classes:
        found["classes"] = _classes(it)
    return found


def put_more(found: dict[str, Any]) -> None:
    """Shows it to people."""
    if "dynamic" in found:
        it = found["dynamic"]
        cells = [_number(it["bits_per_char"]), _number(it["bits_per_byte"])]
        put(
            f"{'dynamic':<10}{it['nats_per_token']:>12.4f}{cells[0]:>12}{cells[1]:>12}"
            f"{it['targets']:>12,}"
        )
        put(
            f"dynamic: {it['protocol']}, the weights adapting to the text ({it['rule']}, rate "
            f"{it['rate']:g}, every {it['segment']} tokens); not comparable with fixed weights"
        )
    for row in found.get("baselines", {}).get("rows", []):
        cells = [_number(row["bits_per_char"]), _number(row["bits_per_byte"])]
        put(f"{row['name']:<10}{'':>12}{cells[0]:>12}{cells[1]:>12}")
    if "positions" in found:
        it = found["positions"]
        put("")
        put(
            f"{'position':<10}{'bits/token':>12}{'mean of':>12}   of {it['windows']:,} fresh starts"
        )
        rows = zip(it["positions"], it["bits"], it["counts"], strict=True)
        for place, bits, count in rows:
            put(f"{place:<10}{bits:>12.4f}{count:>12,}")
    if "classes" in found:
        put("")
        put(f"{'characters':<22}{'of text':>9}{'of bits':>9}{'bits/char':>12}{'count':>12}")
        for row in found["classes"]:
            if row["chars"]:
                put(
                    f"{row['class']:<22}{row['share_of_chars']:>9.1%}{row['share_of_bits']:>9.1%}"
                    f"{row['bits_per_char']:>12.4f}{row['chars']:>12,}"
                )


def _dynamic(wishes: Wishes, it: Evaluated, train: Ids | None) -> dict[str, Any]:
    from charnn.scoring.dynamic import dynamic_losses

    rule = wishes.rule or ("sgd" if train is None else "rms")
    rate = DYNAMIC_RATES[rule] if wishes.rate is None else wishes.rate
    config = DynamicConfig(rule, rate)
    newline = it.newline if it.of_lines else None
    nats = dynamic_losses(it.predictor, it.tokens, config, train, it.progress("dynamic"), newline)
    protocol = "lines" if it.of_lines else "carried"
    settings = {
        "protocol": protocol,
        "rule": rule,
        "rate": rate,
        "segment": config.segment,
        "decay": config.decay,
    }
    return {**it.score(float(nats.sum())).to_dict(), **settings}


def _baselines(it: Evaluated, train: Ids | None) -> dict[str, Any]:
    from charnn.scoring import baselines
    from charnn.scoring.held_out import baseline_rows

    rows = baseline_rows(it.tokenizer, it.tokens, it.sizes, train)
    if not it.quiet and not baselines.zstd():
        say("note: no zstd here: Python has it from 3.14 on, or the package zstandard")
    return {
        "trained_on": None if train is None else min(len(train), baselines.MAX_TRAIN_TOKENS),
        "rows": rows,
    }


def _classes(it: Evaluated) -> list[dict[str, Any]]:
    from charnn.scoring.held_out import class_rows
    from charnn.scoring.losses import carried_losses, line_losses

    if it.of_lines:
        targets, nats = line_losses(it.predictor, it.tokens, it.newline)
        before = "\n"
    else:
        targets = it.tokens[1:]
        nats = carried_losses(it.predictor, it.tokens, it.progress("classes"))
        before = it.tokenizer.decode(it.tokens[:1])
    return class_rows(it.tokenizer, targets, nats, before)


def _training_tokens(it: Evaluated) -> Ids | None:
    """The training split of the run, where it is at hand; says so where it is not."""
    from charnn.text.token_file import TokenFile

    path = it.path.parent / "tokens"
    try:
        tokens = TokenFile.open(path)
        if tokens.tokenizer.token_bytes == it.tokenizer.token_bytes:
            return tokens.split("train")
        reason = "was made with another tokenizer"
    except CharnnError:
        reason = "is not there or cannot be read"
    if not it.quiet:
        say(f"note: {path} {reason}: nothing is learnt from the run's training text")
    return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
