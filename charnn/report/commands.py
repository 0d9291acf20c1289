"""The commands that repeat a report's samples, measurements and training."""

from __future__ import annotations

import shlex

from charnn.bases import BASES
from charnn.config.training import REPEATED
from charnn.pages import find_number, find_value, plain_name
from charnn.pages.records import PLAIN_WORD
from charnn.report.facts import SEED, Facts


def commands(facts: Facts) -> list[str]:
    """Returns the commands that repeat the report's samples, measurements and training."""
    name = shlex.quote(plain_name(facts.name_in_commands))
    amount = "--lines 20" if facts.model.lines else "-n 500"
    return [
        f"charnn sample -m {name} {amount} --seed {SEED}",
        f"charnn eval -m {name} --baselines --classes --positions",
        f"charnn inspect -m {name}",
        f"charnn horizon -m {name}",
        f"charnn report {name} -o report.html --force",
        _train_command(facts),
    ]


def _train_command(facts: Facts) -> str:
    config, recipe = facts.model.config, find_value(facts.model.info, "recipe")
    words = [f"charnn train TEXT --cell {config.cell} --num-layers {config.num_layers}"]
    words.append(f"--hidden-size {config.hidden_size} --embedding-size {config.embedding_size}")
    if (base := find_value(facts.model.info, "from", "name")) in list(BASES):
        words.append(f"--from {base}")
    words.append(f"--dropout {config.dropout:g} --tokenizer {facts.tokenizer.kind}")
    for key, missing in REPEATED.items() if recipe else ():
        value = find_value(recipe, key)
        if not (isinstance(value, str) and PLAIN_WORD.match(value)):
            value = missing if find_number(recipe, key) is None else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None:
            words.append(f"--{key.replace('_', '-')} {value}")
    return " ".join([*words, *(["--lines"] if facts.model.lines else [])])
