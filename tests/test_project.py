"""The files around the package agree with it and with each other."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from charnn.errors import INSTALL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
RANGES = [
    Requirement(line) for lines in [PROJECT["dependencies"], *EXTRAS.values()] for line in lines
]
# What the tests run with.
INSTALLED = [Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["dev"]]]


def pins_for(python: str) -> dict[str, str]:
    """Package -> version that constraints.txt gives to one version of Python."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (version,) = pin.specifier
            assert "==" == version.operator, line
            assert pin.name not in pins, f"{pin.name} is pinned twice for Python {python}"
            pins[canonicalize_name(pin.name)] = version.version
    return pins


def needed_by(requirements: list[Requirement], seen: set[str]) -> Iterator[str]:
    """Names of the installed packages that requirements lead to, in this environment."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        yield name
        yield from needed_by([Requirement(line) for line in metadata.requires(name) or []], seen)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_pin_inside_its_range(python: str) -> None:
    pins = pins_for(python)
    assert set() == {range_.name for range_ in RANGES} - set(pins)
    assert [] == [str(range_) for range_ in RANGES if pins[range_.name] not in range_.specifier]


def test_what_the_dependencies_need_is_pinned_too() -> None:
    needed = set(needed_by(INSTALLED, set()))
    # What only the CUDA build of PyTorch needs follows from torch's own exact pins.
    needed = {name for name in needed if not name.startswith(("cuda-", "nvidia-", "triton"))}
    assert set() == needed - set(pins_for("{}.{}".format(*sys.version_info)))


def test_every_version_of_python_is_declared_and_tested() -> None:
    declared = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " :: 3." in line]
    workflow = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
    tested = next(line for line in workflow.splitlines() if "python: [" in line)
    assert PYTHONS == declared == re.findall(r'"(3\.\d+)"', tested)


def test_the_line_for_a_missing_package_names_an_extra_with_that_package() -> None:
    for package, line in INSTALL.items():
        if extra := re.fullmatch(r"'charnn\[(\w+)\]'", line):
            assert package in [
                Requirement(each).name.replace("-", "_") for each in EXTRAS[extra[1]]
            ]


def test_the_page_on_installing_names_every_extra_and_dependency() -> None:
    page = (ROOT / "docs/install.md").read_text("utf-8")
    assert set(EXTRAS) - {"dev"} == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    line = next(line for line in page.splitlines() if line.startswith("pip install charset"))
    named = {re.split("[<>=]", word.strip('"'))[0] for word in line.split()[2:]}
    assert {Requirement(each).name for each in PROJECT["dependencies"]} - {"torch"} == named


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 charnn contributors\n")
    assert "MIT" == PROJECT["license"]
