"""Servers that stop at the end of a test."""

from __future__ import annotations

import pytest
from serving import Serving, model_of


@pytest.fixture
def serve():
    """Returns a function that starts a server."""
    begun = []

    def start(model=None, **options):
        begun.append(Serving(model or model_of(), **options))
        return begun[-1]

    yield start
    for each in begun:
        each.close()


@pytest.fixture(scope="module")
def served():
    """A server that the tests of a module share."""
    serving = Serving(model_of())
    yield serving
    serving.close()
    assert [] == serving.faults
