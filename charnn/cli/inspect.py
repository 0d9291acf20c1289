"""`charnn inspect`: which units of a network do what. numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from charnn.cli.console import note, note_alone, progress_lines, say
from charnn.cli.inspect_shown import Report, show_gates, show_rankings, show_unit
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
from charnn.cli.output import Output
from charnn.cli.sample import set_threads
from charnn.config import EFFECT_CHARS, INSPECT_CHARS, LABELS, SHOWN_UNITS, UNIT_CHARS
from charnn.errors import ConfigError, TextError

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.engines.clamps import Unit
    from charnn.inspection.effect import Effect
    from charnn.inspection.labels import Labeller
    from charnn.inspection.units import Detector

MOST_CHARS = 1_000_000


def inspect(
    texts: ReadTextsArgument = None,
    model: ModelOption = None,
    find: Annotated[
        str | None,
        typer.Option(
            "--find",
            metavar="LABEL",
            help=f"Rank all units by how well they tell a label: {', '.join(LABELS)}, several "
            "with commas, or all. [default: all]",
            show_default=False,
        ),
    ] = None,
    label_regex: Annotated[
        str | None,
        typer.Option(
            "--label-regex",
            metavar="PATTERN",
            help="Rank by a label of your own: inside a match of this regular expression of "
            "Python; ^ and $ are those of lines.",
            show_default=False,
        ),
    ] = None,
    effect: Annotated[
        bool,
        typer.Option(
            "--effect",
            help="With one label: hold the best unit where it says yes, then where it says no, "
            "and see whether what is written has more of the label.",
        ),
    ] = False,
    together: Annotated[
        int,
        typer.Option(
            "--together", metavar="N", min=1, help="With --effect: hold the N best units at once."
        ),
    ] = 1,
    effect_chars: Annotated[
        int,
        typer.Option(
            "--effect-chars",
            metavar="N",
            min=100,
            max=MOST_CHARS,
            help="With --effect: tokens written with each of the three settings.",
        ),
    ] = EFFECT_CHARS,
    unit: Annotated[
        str | None,
        typer.Option(
            "--unit",
            metavar="LAYER:UNIT",
            help="Show what one unit does over the text, such as 0:37, or 0:37:h for the h of an "
            "LSTM, whose c is shown otherwise; both count from 0.",
            show_default=False,
        ),
    ] = None,
    gates: Annotated[
        bool, typer.Option("--gates", help="Show how often gates are below 0.1 and above 0.9.")
    ] = False,
    chars: Annotated[
        int | None,
        typer.Option(
            "--chars",
            metavar="N",
            min=2,
            max=MOST_CHARS,
            help=f"Read the first N tokens only. [default: {INSPECT_CHARS:,}; {UNIT_CHARS:,} with "
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
    """Find out what the units of a network do.

    \b
    charnn inspect                          the best units for each label
    charnn inspect --find quotes --effect   and whether they bring it about
    charnn inspect --unit 1:37              one unit over the text, in colour
    charnn inspect --gates                  how often gates are shut and open
    """
    finding = find is not None or label_regex is not None
    modes = {"--find": finding, "--unit": unit is not None, "--gates": gates}
    if len(given := [name for name, there in modes.items() if there]) > 1:
        raise ConfigError(f"{' and '.join(given)} are reports of their own: ask for one of them")
    names = _label_names(find, label_regex)
    if effect and (not finding or len(names) != 1):
        raise ConfigError("--effect is for one label: add --find quotes, or another one")
    if together != 1 and not effect:
        raise ConfigError("--together says how many units --effect holds: add --effect")
    set_threads(threads)
    # From here on numpy is loaded, with the threads just set.
    from charnn.checkpoint import load
    from charnn.cli.reading import read_ids
    from charnn.engines import make_predictor
    from charnn.engines.clamps import parse_unit
    from charnn.inspection import units as core
    from charnn.inspection.labels import make_labeller
    from charnn.runs import find_model
    from charnn.text.tokenizers import tokenizer_from_dict

    path = find_model(model, checkpoints)
    saved = load(path)
    if not quiet:
        note_alone(saved, "what is looked into")
    config = saved.config
    tokenizer = tokenizer_from_dict(saved.tokenizer, config.vocab_size)
    shown = parse_unit(unit, config) if unit is not None else None
    if effect:
        make_labeller(names[0], "", label_regex)  # what is wrong with it is said at once
    wanted = chars or (UNIT_CHARS if shown else INSPECT_CHARS)
    if wanted > (most := core.most_tokens(config)):
        if not quiet:
            note(f"a network of this size is looked at over {most:,} tokens, not {wanted:,}")
        wanted = most
    ids = read_ids(texts or [], path, tokenizer, encoding, saved.lines, wanted)
    newline = saved.start_token if saved.lines else None
    progress = None if quiet else progress_lines("reading")
    activity = core.record(make_predictor(config, saved.weights), ids, newline, progress)
    head = {"model": str(path), "tokens": len(ids)}
    if gates:
        shares = core.gate_shares(activity, config, saved.weights, newline)
        show_gates(shares, head, as_json)
    elif shown:
        values = core.values_of(activity, config, shown)
        show_unit(shown, tokenizer, ids, values, Output(), head, as_json)
    else:
        text = tokenizer.decode(ids)
        labellers = [make_labeller(name, text, label_regex) for name in names]
        table = {each.name: core.per_token(tokenizer, ids, each.read) for each in labellers}
        rankings = core.rank(activity, config, table, None if quiet else progress_lines("ranking"))
        rare = [each for each in labellers if each.name not in rankings]
        if rare and not (quiet and rankings):
            says = ", ".join(each.name for each in rare)
            message = f"too rare in these {len(ids):,} tokens, or nearly everywhere: {says}"
            if not rankings:
                raise TextError(f"{message}; give another TEXT or more --chars")
            note(message)
        reports = []
        for each in labellers:
            if each.name in rankings:
                ranking, flags = rankings[each.name], table[each.name]
                best = ranking.units[:top]
                detectors = [core.detector(activity, config, one, flags) for one in best]
                reports.append(Report(each, ranking, detectors))
        measured = None
        if effect:
            flags = table[names[0]]
            held = core.first_apart(reports[0].ranking.units, together)
            found = [(one, core.detector(activity, config, one, flags)) for one in held]
            measured = _effect(saved, reports[0].labeller, found, effect_chars, seed, quiet)
        show_rankings(reports, measured, head, as_json)


def _effect(
    saved: Checkpoint,
    labeller: Labeller,
    found: list[tuple[Unit, Detector]],
    chars: int,
    seed: int | None,
    quiet: bool,
) -> tuple[Effect, int]:
    """The effect of holding units, and the seed it was measured with."""
    from charnn.generation.sampler import draw_seed
    from charnn.inspection.effect import measure_effect

    drawn = draw_seed() if seed is None else seed
    if seed is None and not quiet:
        say(f"seed {drawn}")
    progress = None if quiet else progress_lines("writing")
    return measure_effect(saved, labeller, found, drawn, chars, progress=progress), drawn


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
