"""Some cases of each probe of `make soak` hold."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
from probes import PROBES, SLOW
from stock import Skipped, Stock, make_stock

CASES = 3


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return make_stock(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (PROBES[n] in SLOW)) for n in PROBES]
)
def test_a_promise_holds_in_some_cases(name: str, stock: Stock, tmp_path: Path) -> None:
    try:
        cases = list(islice(PROBES[name](stock, tmp_path, random.Random(1)), CASES))
    except Skipped as reason:
        pytest.skip(str(reason))
    assert len(cases) == CASES
