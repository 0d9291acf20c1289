"""`charnn inspect`: the hidden units of a network, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charnn.cli.console import (
    Output,
    note,
    note_alone,
    print_json,
    progress_lines,
    put,
    say,
    set_threads,
)
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EncodingOption,
    JsonOption,
    ModelOption,
    OneThreadOption,
    QuietOption,
    ReadTextsArgument,
    SeedOption,
)
from charnn.config import EFFECT_CHARS, LABELS, SHOWN_UNITS
from charnn.errors import ConfigError, TextError

if TYPE_CHECKING:
    import numpy as np

    from charnn.checkpoint import Checkpoint
    from charnn.engines.clamps import Unit
    from charnn.inspection.effect import ClampedSamples, Effect
    from charnn.inspection.labels import Labeller
    from charnn.inspection.units import Detector, Finding, GateShares

MOST_CHARS = 1_000_000
# ANSI colours, black on a light ground: from this |value| on, below and above zero.
GROUNDS = {0.2: ("30;48;5;195", "30;48;5;224"), 0.5: ("30;48;5;117", "30;48;5;217"),
           0.8: ("1;30;48;5;75", "1;30;48;5;209")}  # fmt: skip
UNIT_LEGEND = "blue below zero, red above; darker from 0.5 and 0.8 on"
GOOD_AUC = 0.9
INSPECT_CHARS = 20_000  # characters of the text that units are ranked on
UNIT_CHARS = 2_000  # characters over which one unit is shown


def inspect(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    find: Annotated[
        str | None,
        typer.Option(
            "--find",
            metavar="LABEL",
            help=f"Rank all units by how well they predict a label: {', '.join(LABELS)}, several "
            "with commas, or all. [default: all]",
            show_default=False,
        ),
    ] = None,
    label_regex: Annotated[
        str | None,
        typer.Option(
            "--label-regex",
            metavar="PATTERN",
            help="Rank by a label of your own: inside a match of this Python regular expression; "
            "^ and $ match at lines.",
            show_default=False,
        ),
    ] = None,
    effect: Annotated[
        bool,
        typer.Option(
            "--effect",
            help="With one label: clamp the best unit to its value inside the label, then outside, "
            "and compare how much of the label samples have.",
        ),
    ] = False,
    together: Annotated[
        int,
        typer.Option(
            "--together", metavar="N", min=1, help="With --effect: clamp the N best units at once."
        ),
    ] = 1,
    effect_chars: Annotated[
        int,
        typer.Option(
            "--effect-chars",
            metavar="N",
            min=100,
            max=MOST_CHARS,
            help="With --effect: tokens sampled with each of the three settings.",
        ),
    ] = EFFECT_CHARS,
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            metavar="LAYER:UNIT",
            help="Show one unit over the text, such as 0:37, counted from 0; of an LSTM this is c, "
            "and 0:37:h is h.",
            show_default=False,
        ),
    ] = None,
    gates: Annotated[
        bool, typer.Option("--gates", help="Show how often each gate is below 0.1 and above 0.9.")
    ] = False,
    chars: Annotated[
        int | None,
        typer.Option(
            "--chars",
            metavar="N",
            min=2,
            max=MOST_CHARS,
            help=f"Read the first N tokens. [default: {INSPECT_CHARS:,}; {UNIT_CHARS:,} with "
            "--unit]",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", metavar="N", min=1, help="Units shown for each label.")
    ] = SHOWN_UNITS,
    seed: SeedOption = None,
    encoding: EncodingOption = "utf-8",
    threads: OneThreadOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the hidden units that track quotes, brackets, numbers and other labels.

    \b
    charnn inspect                          the best units for each label
    charnn inspect --find quotes --effect   the effect of clamping the best unit
    charnn inspect --unit 1:37              one unit over the text, in colour
    charnn inspect --gates                  how often gates are shut and open
    """
    finding = find is not None or label_regex is not None
    modes = {"--find": finding, "--unit": unit is not None, "--gates": gates}
    if len(given := [name for name, there in modes.items() if there]) > 1:
        raise ConfigError(f"{' and '.join(given)} are different reports: give one of them")
    names = _label_names(find, label_regex)
    if effect and (not finding or len(names) != 1):
        raise ConfigError("--effect needs one label: add --find quotes, or another one")
    if together != 1 and not effect:
        raise ConfigError("--together is the number of units that --effect clamps: add --effect")
    set_threads(threads)
    # numpy is loaded from here on, with the threads just set.
    from charnn.checkpoint import load
    from charnn.engines import make_predictor
    from charnn.engines.clamps import parse_unit
    from charnn.inspection import units as core
    from charnn.inspection.labels import make_labeller
    from charnn.runs import find_model
    from charnn.text.text_reader import read_text
    from charnn.text.tokenizers import tokenizer_from_dict

    def progress(doing: str) -> Callable[[int, int], None] | None:
        return None if quiet else progress_lines(doing)

    path = find_model(model, checkpoints)
    saved = load(path)
    if not quiet:
        note_alone(saved, "the analysis")
    config = saved.config
    tokenizer = tokenizer_from_dict(saved.tokenizer, config.vocab_size)
    shown = parse_unit(unit, config) if unit is not None else None
    if label_regex is not None:
        make_labeller("regex", "", label_regex)  # refuses a bad pattern before anything is read
    wanted = chars or (UNIT_CHARS if shown else INSPECT_CHARS)
    if wanted > (most := core.most_tokens(config)):
        if not quiet:
            note(f"reads {most:,} tokens instead of {wanted:,}: the network is large")
        wanted = most
    ids = read_text(
        texts or [],
        tokenizer,
        path.parent / "tokens",
        encoding=encoding,
        of_lines=saved.lines,
        most=wanted,
    ).ids
    newline = saved.start_token if saved.lines else None
    predictor = make_predictor(config, saved.weights)
    activity = core.record(predictor, ids, newline, progress("reading"))
    head = {"model": str(path), "tokens": len(ids)}
    if gates:
        _show_gates(core.gate_shares(activity, config, saved.weights, newline), head, as_json)
        return
    if shown:
        pieces = core.pieces_of(tokenizer, ids)
        _show_unit(shown, pieces, core.values_of(activity, config, shown), head, as_json)
        return
    text = tokenizer.decode(ids)
    labellers = [make_labeller(name, text, label_regex) for name in names]
    found = core.find_units(activity, config, tokenizer, labellers, top, progress("ranking"))
    _note_missing(names, found, len(ids), quiet)
    measured = None
    if effect:
        labeller, flags, ranking, _ = found[0]
        held = core.distinct(ranking.units, together)
        fitted = [(each, core.detector(activity, config, each, flags)) for each in held]
        measured = _measure_effect(saved, labeller, fitted, effect_chars, seed, quiet)
    if as_json:
        labels = {each.labeller.name: _finding_json(each) for each in found}
        clamped = {"effect": _effect_json(*measured)} if measured else {}
        print_json({**head, "labels": labels, **clamped})
        return
    put(f"{path}: {len(ids):,} tokens; units are chosen on one half, measured on the other")
    for each in found:
        _show_finding(each)
    if measured:
        _show_effect(found[0], *measured)


def _note_missing(names: list[str], found: list[Finding], tokens: int, quiet: bool) -> None:
    """Notes the labels that no unit can be ranked by.

    Raises:
        TextError: that is all of them.
    """
    missing = [name for name in names if name not in {each.labeller.name for each in found}]
    message = f"too rare or too common in these {tokens:,} tokens: {', '.join(missing)}"
    if not found:
        raise TextError(f"{message}; give another TEXT or more --chars")
    if missing and not quiet:
        note(message)


def _measure_effect(
    saved: Checkpoint,
    labeller: Labeller,
    fitted: list[tuple[Unit, Detector]],
    chars: int,
    seed: int | None,
    quiet: bool,
) -> tuple[Effect, int]:
    """Measures the effect of clamping units; returns it with the seed of the samples."""
    from charnn.generation.sampler import draw_seed
    from charnn.inspection.effect import measure_effect

    drawn = draw_seed() if seed is None else seed
    if seed is None and not quiet:
        say(f"seed {drawn}")
    progress = None if quiet else progress_lines("sampling")
    return measure_effect(saved, labeller, fitted, drawn, chars, progress=progress), drawn


def _label_names(find: str | None, pattern: str | None) -> list[str]:
    own = ["regex"] if pattern is not None else []
    if find is None:
        return own or list(LABELS)
    names = [name.strip() for name in find.split(",")]
    if names == ["all"]:
        names = list(LABELS)
    if bad := [name for name in names if name not in LABELS]:
        raise ConfigError(f"unknown label {bad[0]!r}: choose from all, {', '.join(LABELS)}")
    return list(dict.fromkeys([*names, *own]))


def _show_finding(found: Finding) -> None:
    labeller, _, ranking, detectors = found
    put("")
    put(f"{labeller.name}: {labeller.phrase}, {ranking.share:.1%} of the text")
    put(f"  {'unit':<10}{'AUC':>6}{'right':>8}  inside if")
    rows = zip(ranking.units, ranking.auc, ranking.directions, detectors, strict=False)
    for unit, area, direction, each in rows:
        side = "above" if direction > 0 else "below"
        put(f"  {unit!s:<10}{area:>6.3f}{each.accuracy:>8.1%}  {side} {each.threshold:.3f}")


def _finding_json(found: Finding) -> dict[str, Any]:
    labeller, _, ranking, detectors = found
    return {
        "says": labeller.phrase,
        "share": ranking.share,
        "units": [
            {
                "unit": str(unit),
                **unit._asdict(),
                "auc": float(ranking.auc[row]),
                "chosen_auc": float(ranking.chosen_auc[row]),
                "direction": int(ranking.directions[row]),
                **detector._asdict(),
            }
            for row, (unit, detector) in enumerate(zip(ranking.units, detectors, strict=False))
        ],
    }


def _show_effect(found: Finding, effect: Effect, seed: int) -> None:
    labeller, best = found.labeller, float(found.ranking.auc[0])
    units = [str(clamp.unit) for clamp in effect.inside.clamps]
    put("")
    put(f"samples from the same seed ({seed}) with {', '.join(units)} clamped:")
    put(f"  {'':<26}{'share':>8}{labeller.mark + ' per 1,000':>26}")
    for name, samples in {
        "not clamped": effect.alone,
        f"as inside {labeller.name}": effect.inside,
        f"as outside {labeller.name}": effect.outside,
    }.items():
        put(f"  {name:<26}{samples.shares.mean():>8.1%}{samples.marks.mean():>26.1f}")
    points, error = 100 * effect.difference, 100 * effect.error
    put(f"  difference {points:.1f} points, standard error {error:.1f}")
    meaning = {
        "cause": "clear effect: a cause of the label",
        "opposite": "clear effect the other way: less of the label inside",
        "none": "no clear effect on the label",
    }[effect.verdict]
    predictor = f"{'good' if best >= GOOD_AUC else 'weak'} predictor (AUC {best:.3f})"
    put(f"{predictor}, {meaning}")


def _effect_json(effect: Effect, seed: int) -> dict[str, Any]:
    def one(samples: ClampedSamples) -> dict[str, Any]:
        return {
            "held": {str(unit): value for unit, value in samples.clamps},
            "share": float(samples.shares.mean()),
            "marks_per_1000": float(samples.marks.mean()),
            "text": samples.text,
        }

    settings = {name: one(samples) for name, samples in effect._asdict().items()}
    return {
        "seed": seed,
        **settings,
        "difference": effect.difference,
        "error": effect.error,
        "verdict": effect.verdict,
    }


def _show_gates(shares: GateShares, head: dict[str, Any], as_json: bool) -> None:
    """Shows how often the gates of each layer are shut and open, and of how many units always."""
    low, high = shares.low.mean(axis=2), shares.high.mean(axis=2)
    if as_json:
        layers = [
            {
                gate: {
                    "below": float(low[layer, number]),
                    "above": float(high[layer, number]),
                    "units_below": shares.low[layer, number].round(4).tolist(),
                    "units_above": shares.high[layer, number].round(4).tolist(),
                }
                for number, gate in enumerate(shares.gates)
            }
            for layer in range(len(low))
        ]
        print_json({**head, "gates": list(shares.gates), "layers": layers})
        return
    put(f"{head['model']}: share of {head['tokens']:,} tokens, and of the units over all of them")
    columns = f"{'below 0.1':>10}{'above 0.9':>11}{'always below':>15}{'always above':>15}"
    put(f"{'layer  gate':<14}{columns}")
    for layer in range(len(low)):
        for number, gate in enumerate(shares.gates):
            always = [(part[layer, number] > 0.99).mean() for part in (shares.low, shares.high)]
            put(
                f"{layer:<7}{gate:<7}{low[layer, number]:>10.1%}{high[layer, number]:>11.1%}"
                f"{always[0]:>15.1%}{always[1]:>15.1%}"
            )


def _show_unit(
    unit: Unit,
    pieces: Sequence[str],
    values: np.ndarray,
    head: dict[str, Any],
    as_json: bool,
) -> None:
    """Shows a unit over a text: coloured on a terminal, a line for each token elsewhere."""
    if as_json:
        print_json({**head, "unit": str(unit), "pieces": pieces, "values": values.tolist()})
        return
    output = Output()
    if not output.colour:
        for piece, value in zip(pieces, values, strict=True):
            put(f"{float(value):.4f}\t{piece.encode('unicode_escape').decode()}")
        return
    squashed = values if unit.part == "h" else [math.tanh(value) for value in values]
    put(f"unit {unit} of {head['model']}: {UNIT_LEGEND}{', of tanh(c)' * (unit.part == 'c')}")
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
    style = ""
    for least, (below, above) in GROUNDS.items():
        if abs(value) >= least:
            style = above if value > 0 else below
    return style
