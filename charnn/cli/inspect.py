"""`charnn inspect`: the hidden units of a network, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from charnn.cli.console import Output, listed, note, print_json, progress_of, put, show_live
from charnn.cli.model import load_model, note_network_alone, read_text_for, seed_or_drawn
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    OneThreadOption,
    ReadTextsArgument,
    SeedOption,
)
from charnn.config import ACTIVITY_STEPS, EFFECT_CHARS, GOOD_AUC, LABELS, SHOWN_UNITS
from charnn.config.settings import Config, choice, require, setting, switch, whole
from charnn.errors import TextError
from charnn.threads import set_numpy_threads

if TYPE_CHECKING:
    import numpy as np

    from charnn.engines.clamps import Unit
    from charnn.inspection.effect import Effect
    from charnn.inspection.units import Finding, GateShares

MOST_CHARS, MANY_UNITS = 1_000_000, 1 << 24
# ANSI styles by the number of `ACTIVITY_STEPS` that a value reaches: below zero, and above.
GROUNDS = (("", ""), ("30;48;5;195", "30;48;5;224"), ("30;48;5;117", "30;48;5;217"),
           ("1;30;48;5;75", "1;30;48;5;209"))  # fmt: skip
UNIT_LEGEND = "blue negative, red positive; stronger from {}, {} and {} on".format(*ACTIVITY_STEPS)
INSPECT_CHARS = 20_000  # characters of the text that units are ranked on
UNIT_CHARS = 2_000  # characters over which one unit is shown


@dataclass(frozen=True)
class InspectOptions(Config):
    """Options of `charnn inspect` alone: the report, and how much is read and shown."""

    find: tuple[str, ...] | None = choice(
        None,
        ("all", *LABELS),
        f"Rank all units by how well they predict labels, separated by commas: {', '.join(LABELS)}"
        " or all.",
        listed=True,
        metavar="LABEL,LABEL",
        shown="all",
    )
    label_regex: str | None = setting(
        None,
        "Rank by a label of your own: inside a match of this Python regular expression; "
        "^ and $ match at lines.",
        metavar="PATTERN",
    )
    effect: bool = switch(
        "With one label: clamp the best unit to its value inside the label, then outside, and "
        "compare how much of the label samples have."
    )
    together: int = whole(1, 1, MANY_UNITS, "With --effect: clamp the N best units at once.")
    effect_chars: int = whole(
        EFFECT_CHARS,
        100,
        MOST_CHARS,
        "With --effect: tokens sampled with each of the three settings.",
    )
    unit: str | None = setting(
        None,
        "Show one unit over the text: 0:37 is unit 37 of layer 0, both counted from 0. Of an LSTM "
        "that is c; 0:37:h is h.",
        metavar="LAYER:UNIT",
    )
    gates: bool = switch("Show how often each gate is below 0.1 and above 0.9.")
    chars: int | None = whole(
        None,
        2,
        MOST_CHARS,
        "Read the first N tokens of the text.",
        shown=f"{INSPECT_CHARS:,}; {UNIT_CHARS:,} with --unit",
    )
    top: int = whole(SHOWN_UNITS, 1, MANY_UNITS, "With --table or --json: units for each label.")
    table: bool = switch("List the best units for each label, with their thresholds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        finding = self.find is not None or self.label_regex is not None
        modes = {"--find": finding, "--unit": self.unit is not None, "--gates": self.gates}
        given = [name for name, there in modes.items() if there]
        require(len(given) < 2, f"{' and '.join(given)} are different reports: give one of them")
        require(
            not self.effect or (finding and len(self.labels) == 1),
            "--effect needs one label: add --find quotes, or another one",
        )
        require(
            not (self.table and (self.unit is not None or self.gates)),
            "--table lists the units of labels: leave out --unit and --gates",
        )
        require(
            self.effect or self.together == 1,
            "--together is the number of units that --effect clamps: add --effect",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to rank by."""
        own = ("regex",) * (self.label_regex is not None)
        named = self.find or (() if own else ("all",))
        every = (label for name in named for label in (LABELS if name == "all" else (name,)))
        return tuple(dict.fromkeys([*every, *own]))


def inspect(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    options: InspectOptions = InspectOptions(),
    seed: SeedOption = None,
    encoding: EncodingOption = "utf-8",
    threads: OneThreadOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
) -> None:
    """Find the hidden units that track quotes, brackets or digits.

    \b
    charnn inspect                          the best units for each label
    charnn inspect --find quotes --effect   what clamping the best unit does
    charnn inspect --unit 1:37              one unit over the text, in colour
    charnn inspect --gates                  how often gates are shut and open
    """
    set_numpy_threads(threads)
    # numpy is loaded from here on, with these threads.
    from charnn.engines import make_predictor
    from charnn.engines.clamps import parse_unit
    from charnn.inspection import units as core
    from charnn.inspection.effect import measure_effect
    from charnn.inspection.labels import make_labeller

    show_live("reading")
    path, saved, tokenizer = load_model(model, checkpoints)
    note_network_alone(saved, "the analysis")
    config = saved.config
    shown = parse_unit(options.unit, config) if options.unit is not None else None
    if options.label_regex is not None:
        # Raises here, before anything is read, for a bad pattern.
        make_labeller("regex", "", options.label_regex)
    wanted = options.chars or (UNIT_CHARS if shown else INSPECT_CHARS)
    if wanted > (most := core.most_tokens(config)):
        note(f"reads {most:,} tokens instead of {wanted:,}: the network is large")
        wanted = most
    ids = read_text_for(saved, tokenizer, path, texts, encoding=encoding, most=wanted).ids
    newline = saved.start_token if saved.lines else None
    predictor = make_predictor(config, saved.weights)
    activity = core.record(predictor, ids, newline, progress_of("reading"))
    head = {"model": str(path), "tokens": len(ids)}
    if options.gates:
        _show_gates(core.gate_shares(activity, config, saved.weights, newline), head, as_json)
        return
    if shown:
        pieces = core.pieces_of(tokenizer, ids)
        _show_unit(shown, pieces, core.values_of(activity, config, shown), head, as_json)
        return
    text = tokenizer.decode(ids)
    labellers = [make_labeller(name, text, options.label_regex) for name in options.labels]
    found = core.find_units(
        activity, config, tokenizer, labellers, options.top, progress_of("ranking")
    )
    _note_missing(options.labels, found, len(ids))
    measured = None
    if options.effect:
        labeller, flags, ranking, _ = found[0]
        clamped = core.distinct(ranking.units, options.together)
        fitted = [(each, core.detector(activity, config, each, flags)) for each in clamped]
        drawn, chars, progress = seed_or_drawn(seed), options.effect_chars, progress_of("sampling")
        effect = measure_effect(saved, labeller, fitted, drawn, chars, progress=progress)
        measured = effect, drawn
    if as_json:
        labels = {each.labeller.name: _finding_json(each) for each in found}
        effects = {"effect": _effect_json(*measured)} if measured else {}
        print_json({**head, "labels": labels, **effects})
        return
    if measured:
        _show_effect(found[0], *measured)
        put("")
    _show_findings(found, options.table)
    put(f"of {len(ids):,} tokens, one half chose the units, the other half gives the numbers")


def _note_missing(names: Sequence[str], found: list[Finding], tokens: int) -> None:
    """Notes the labels that no unit can be ranked by.

    Raises:
        TextError: no unit can be ranked by any of the labels.
    """
    missing = [name for name in names if name not in {each.labeller.name for each in found}]
    message = f"too rare or too common in these {tokens:,} tokens: {', '.join(missing)}"
    if not found:
        raise TextError(f"{message}; give another TEXT or more --chars")
    if missing:
        note(message)


def _show_findings(found: list[Finding], table: bool) -> None:
    """Shows which labels single units track, in a sentence, and the best units, the best first."""
    from charnn.inspection.units import best_first

    tracked = best_first(found)
    untracked = [each.labeller.name for each in found if not each.good]
    names = [each.labeller.name for each in tracked]
    if not names:
        put(f"No single unit tracks {listed(untracked, 'or')}.")
    else:
        but = f", but not {listed(untracked, 'or')}" if untracked else ""
        put(f"Single units track {listed(names, 'and')}{but}.")
        put(f"{'label':<10}{'unit':<10}{'AUC':>6}{'right':>8}  inside if")
    for each in tracked:
        ranking = each.ranking
        for row in each.good if table else each.good[:1]:
            detector, above = each.detectors[row], ranking.directions[row] > 0
            put(
                f"{each.labeller.name:<10}{ranking.units[row]!s:<10}{ranking.auc[row]:>6.3f}"
                f"{detector.accuracy:>8.1%}  {'above' if above else 'below'} "
                f"{detector.threshold:.3f}"
            )
    if hidden := sum(len(each.detectors) - len(each.good) for each in found):
        put(f"hidden: {hidden} units with an AUC below {GOOD_AUC}")


def _finding_json(found: Finding) -> dict[str, Any]:
    labeller, _, ranking, detectors = found
    return {
        "says": labeller.phrase,
        "share": ranking.share,
        "units": [
            {
                "unit": str(unit),
                **unit._asdict(),
                "auc": ranking.auc[row],
                "chosen_auc": ranking.chosen_auc[row],
                "direction": ranking.directions[row],
                **detector._asdict(),
            }
            for row, (unit, detector) in enumerate(zip(ranking.units, detectors, strict=False))
        ],
    }


def _show_effect(found: Finding, effect: Effect, seed: int) -> None:
    labeller, best = found.labeller, float(found.ranking.auc[0])
    units = ", ".join(str(clamp.unit) for clamp in effect.inside.clamps)
    meaning = {
        "cause": f"changes how much of a text is {labeller.phrase}: it is a cause",
        "opposite": f"makes less of a text {labeller.phrase}, where more was expected",
        "none": f"has no clear effect on how much of a text is {labeller.phrase}",
    }[effect.verdict]
    put(f"Clamping {units}, {'a good' if best >= GOOD_AUC else 'a weak'} predictor (AUC "
        f"{best:.3f}), {meaning}.")  # fmt: skip
    put(f"samples with seed {seed}:")
    put(f"  {'':<26}{'share':>8}{labeller.mark + ' per 1,000':>26}")
    for name, samples in {
        "not clamped": effect.alone,
        f"as inside {labeller.name}": effect.inside,
        f"as outside {labeller.name}": effect.outside,
    }.items():
        put(f"  {name:<26}{samples.shares.mean():>8.1%}{samples.marks.mean():>26.1f}")
    points, error = 100 * effect.difference, 100 * effect.error
    put(f"  difference {points:.1f} points, standard error {error:.1f}")


def _effect_json(effect: Effect, seed: int) -> dict[str, Any]:
    samples = {
        name: {
            "held": {str(unit): value for unit, value in each.clamps},
            "share": each.shares.mean(),
            "marks_per_1000": each.marks.mean(),
            "text": each.text,
        }
        for name, each in effect._asdict().items()
    }
    measured = {"difference": effect.difference, "error": effect.error, "verdict": effect.verdict}
    return {"seed": seed, **samples, **measured}


def _show_gates(shares: GateShares, head: dict[str, Any], as_json: bool) -> None:
    """Shows how often the gates of each layer are shut and open, and the share that always are."""
    low, high = shares.low.mean(axis=2), shares.high.mean(axis=2)
    if as_json:
        layers = [
            {
                gate: {
                    "below": low[layer, number],
                    "above": high[layer, number],
                    "units_below": shares.low[layer, number].round(4),
                    "units_above": shares.high[layer, number].round(4),
                }
                for number, gate in enumerate(shares.gates)
            }
            for layer in range(len(low))
        ]
        print_json({**head, "gates": list(shares.gates), "layers": layers})
        return
    put(f"Open most often: {_most(shares, high)}.", f"Shut most often: {_most(shares, low)}.")
    put(f"share of {head['tokens']:,} tokens, and of the units over all of them:")
    columns = f"{'below 0.1':>10}{'above 0.9':>11}{'always below':>15}{'always above':>15}"
    put(f"{'layer  gate':<14}{columns}")
    for layer in range(len(low)):
        for number, gate in enumerate(shares.gates):
            always = [(part[layer, number] > 0.99).mean() for part in (shares.low, shares.high)]
            put(
                f"{layer:<7}{gate:<7}{low[layer, number]:>10.1%}{high[layer, number]:>11.1%}"
                f"{always[0]:>15.1%}{always[1]:>15.1%}"
            )


def _most(shares: GateShares, part: np.ndarray) -> str:
    """Names the gate with the highest of shares (L, G)."""
    from charnn.inspection.units import GATE_NAMES

    layer, gate = divmod(int(part.argmax()), len(shares.gates))
    return f"the {GATE_NAMES[shares.gates[gate]]} gate of layer {layer} ({part.max():.0%})"


def _show_unit(
    unit: Unit, pieces: Sequence[str], values: np.ndarray, head: dict[str, Any], as_json: bool
) -> None:
    """Shows a unit over a text: coloured on a terminal, a line for each token elsewhere."""
    if as_json:
        print_json({**head, "unit": str(unit), "pieces": pieces, "values": values})
        return
    output = Output()
    if not output.colour:
        for piece, value in zip(pieces, values, strict=True):
            put(f"{float(value):.4f}\t{piece.encode('unicode_escape').decode()}")
        return
    squashed = values if unit.part == "h" else [math.tanh(value) for value in values]
    what = "cell state as tanh(c)" if unit.part == "c" else "state h"
    put(f"layer {unit.layer}, unit {unit.number}, {what}: {UNIT_LEGEND}")
    pairs = zip(pieces, map(_ground, squashed), strict=True)
    for style, run in groupby(pairs, key=lambda pair: pair[1]):
        # A newline in a coloured run would colour the rest of the terminal's line.
        for number, line in enumerate("".join(piece for piece, _ in run).split("\n")):
            if number:
                output.write("\n")
            if line:
                output.write(line, style)
    output.end_line()
    output.flush()


def _ground(value: float) -> str:
    """Returns the ANSI style of a value from -1 to 1."""
    return GROUNDS[sum(abs(value) >= step for step in ACTIVITY_STEPS)][value > 0]
