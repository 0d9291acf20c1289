"""How `charnn inspect` shows what it found, to people and to programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from charnn.cli.console import print_json, put
from charnn.cli.output import Output

if TYPE_CHECKING:
    from charnn.engines.clamps import Unit
    from charnn.inspection.effect import Effect, Written
    from charnn.inspection.labels import Labeller
    from charnn.inspection.units import Detector, GateShares, Ranking
    from charnn.text.tokenizers import Ids, Tokenizer

# Black on light grounds, which reads the same on a black and on a white terminal: from this |value|
# on, below and above zero.
GROUNDS = {0.2: ("30;48;5;195", "30;48;5;224"), 0.5: ("30;48;5;117", "30;48;5;217"),
           0.8: ("1;30;48;5;75", "1;30;48;5;209")}  # fmt: skip
UNIT_LEGEND = "blue below zero, red above; darker from 0.5 and 0.8 on"
GOOD_AUC = 0.9


class Report(NamedTuple):
    """A label, how all units tell it, and the first of them, which are shown, as detectors."""

    labeller: Labeller
    ranking: Ranking
    detectors: list[Detector]


def show_rankings(
    reports: Sequence[Report],
    measured: tuple[Effect, int] | None,
    head: dict[str, Any],
    as_json: bool,
) -> None:
    """The best units of each label, and the effect of holding those of the one."""
    if as_json:
        labels = {each.labeller.name: _report_json(each) for each in reports}
        together = {"effect": _effect_json(*measured)} if measured else {}
        print_json({**head, "labels": labels, **together})
        return
    put(f"{head['model']}: {head['tokens']:,} tokens; half chose the units, these are the other's")
    for report in reports:
        ranking = report.ranking
        put("")
        put(f"{report.labeller.name}: {report.labeller.says}, {ranking.share:.1%} of the text")
        put(f"  {'unit':<10}{'AUC':>6}{'right':>8}  says yes")
        rows = zip(ranking.units, ranking.auc, report.detectors, ranking.directions, strict=False)
        for unit, area, detector, direction in rows:
            side = "above" if direction > 0 else "below"
            put(
                f"  {unit!s:<10}{area:>6.3f}{detector.accuracy:>8.1%}  {side} "
                f"{detector.threshold:.3f}"
            )
    if measured:
        _show_effect(reports[0], *measured)


def _show_effect(report: Report, effect: Effect, seed: int) -> None:
    labeller = report.labeller
    units = ", ".join(str(clamp.unit) for clamp in effect.inside.clamps)
    put("")
    put(f"held while writing, at the same seeds ({seed}): {units}")
    put(f"  {'':<26}{'share':>8}{labeller.mark + ' per 1,000':>26}")
    for name, written in {
        "left alone": effect.alone,
        f"held as {_short(labeller, True)}": effect.inside,
        f"held as {_short(labeller, False)}": effect.outside,
    }.items():
        put(f"  {name:<26}{written.shares.mean():>8.1%}{written.marks.mean():>26.1f}")
    put(f"  difference {100 * effect.difference:.1f} points, give or take {100 * effect.error:.1f}")
    put(_sentence(report, effect))


def _short(labeller: Labeller, yes: bool) -> str:
    return f"{'in' if yes else 'not in'} {labeller.name}"


def _sentence(report: Report, effect: Effect) -> str:
    """Plainly whether the predictor was a cause."""
    best = float(report.ranking.auc[0])
    many = len(effect.inside.clamps) > 1
    it = "together they" if many else "it"
    was = f"the {'best is a ' if many else ''}{'good' if best >= GOOD_AUC else 'weak'} predictor"
    if not many:
        was = f"a {'good' if best >= GOOD_AUC else 'weak'} predictor"
    if effect.verdict == "cause":
        return f"{was} (AUC {best:.3f}), and {it} cause{'' if many else 's'} it too"
    if effect.verdict == "opposite":
        return f"{was} (AUC {best:.3f}), but held as inside, {it} wrote less of it"
    return f"{was} (AUC {best:.3f}), but no clear cause: held or not, about as much is written"


def show_gates(shares: GateShares, head: dict[str, Any], as_json: bool) -> None:
    """How often the gates of each layer are shut and open."""
    low, high = shares.low.mean(axis=2), shares.high.mean(axis=2)
    if as_json:
        layers = [
            {
                gate: {
                    "below": float(low[layer, number]),
                    "above": float(high[layer, number]),
                    "units_below": _rounded(shares.low[layer, number]),
                    "units_above": _rounded(shares.high[layer, number]),
                }
                for number, gate in enumerate(shares.gates)
            }
            for layer in range(len(low))
        ]
        print_json({**head, "gates": list(shares.gates), "layers": layers})
        return
    put(f"{head['model']}: share of the time over {head['tokens']:,} tokens, and of the units")
    columns = f"{'below 0.1':>10}{'above 0.9':>11}{'always below':>15}{'always above':>15}"
    put(f"{'layer  gate':<14}{columns}")
    for layer in range(len(low)):
        for number, gate in enumerate(shares.gates):
            always = [(part[layer, number] > 0.99).mean() for part in (shares.low, shares.high)]
            put(
                f"{layer:<7}{gate:<7}{low[layer, number]:>10.1%}{high[layer, number]:>11.1%}"
                f"{always[0]:>15.1%}{always[1]:>15.1%}"
            )


def show_unit(
    unit: Unit,
    tokenizer: Tokenizer,
    ids: Ids,
    values: Any,
    output: Output,
    head: dict[str, Any],
    as_json: bool,
) -> None:
    """One unit over a text: grounds of colour on a terminal, a number a line elsewhere."""
    pieces = _pieces(tokenizer, ids)
    if as_json:
        numbers = [float(value) for value in values]
        print_json({**head, "unit": str(unit), "pieces": pieces, "values": numbers})
        return
    if not output.colour:
        for piece, value in zip(pieces, values, strict=True):
            put(f"{float(value):.4f}\t{piece.encode('unicode_escape').decode()}")
        return
    squashed = values if unit.part == "h" else [math.tanh(value) for value in values]
    put(f"unit {unit} of {head['model']}: {UNIT_LEGEND}{', of tanh(c)' * (unit.part == 'c')}")
    pairs = zip(pieces, map(_ground, squashed), strict=True)
    for style, run in groupby(pairs, key=lambda pair: pair[1]):
        # A ground that runs on to the edge of the terminal would colour the rest of the line.
        for number, line in enumerate("".join(piece for piece, _ in run).split("\n")):
            if number:
                output.write("\n")
            if line:
                output.write(line, style)
    output.end_line()
    output.flush()


def _pieces(tokenizer: Tokenizer, ids: Ids) -> list[str]:
    """What each token completes; "" for one in the middle of a character."""
    decoder = tokenizer.stream_decoder()
    return [decoder.push(token) for token in ids.tolist()]


def _ground(value: float) -> str:
    style = ""
    for least, (below, above) in GROUNDS.items():
        if abs(value) >= least:
            style = above if value > 0 else below
    return style


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def _report_json(report: Report) -> dict[str, Any]:
    ranking = report.ranking
    return {
        "says": report.labeller.says,
        "share": ranking.share,
        "units": [
            {
                "unit": str(unit),
                "layer": unit.layer,
                "number": unit.number,
                "part": unit.part,
                "auc": float(area),
                "chosen_auc": float(chosen),
                "direction": int(direction),
                **detector._asdict(),
            }
            for unit, area, chosen, direction, detector in zip(
                ranking.units,
                ranking.auc,
                ranking.chosen_auc,
                ranking.directions,
                report.detectors,
                strict=False,
            )
        ],
    }


def _effect_json(effect: Effect, seed: int) -> dict[str, Any]:
    def one(written: Written) -> dict[str, Any]:
        return {
            "held": {str(unit): value for unit, value in written.clamps},
            "share": float(written.shares.mean()),
            "marks_per_1000": float(written.marks.mean()),
            "text": written.text,
        }

    return {
        "seed": seed,
        "alone": one(effect.alone),
        "inside": one(effect.inside),
        "outside": one(effect.outside),
        "difference": effect.difference,
        "error": effect.error,
        "verdict": effect.verdict,
    }
