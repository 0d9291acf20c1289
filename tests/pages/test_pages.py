"""Shared parts of pages: hostile text stays text, untrusted JSON gives numbers or nothing."""

from __future__ import annotations

import html
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.pages import MAX_NAME, find_number, plain_name, render, visible


@given(st.text())
def test_any_inserted_text_is_escaped_and_printable(text: str) -> None:
    filled = render(
        "{% macro m(x) %}{{ x }}{% endmacro %}<p a='{{ t }}'>{{ m(t) }}</p>", {"t": text}
    )
    inserted = filled.removeprefix("<p a='").removesuffix("</p>")
    assert not set(inserted.replace("'>", "", 1)) & set("<>'\"")
    assert html.unescape(inserted) == f"{visible(text)}'>{visible(text)}"
    filled.encode()


@given(st.text())
def test_visible_text_keeps_printable_characters_only(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() or character in "\n\t\xa0" for character in shown)
    if text.isprintable():
        assert text == shown


def test_unprintable_characters_are_shown_as_escapes() -> None:
    assert "\\x07 \\u202e \\xff\n" == visible("\x07 \u202e \udcff\n")


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("{{ missing }}", {})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("book", "book"),
        ("a\nb", "a\ufffdb"),
        ("\udcff", "\ufffd"),
        ("  ", "charnn"),
        ("", "charnn"),
        ("x" * 999, "x" * MAX_NAME),
    ],
)
def test_a_name_is_one_printable_line(name: str, shown: str) -> None:
    assert shown == plain_name(name)


@pytest.mark.parametrize("value", [None, True, "9", [], {}, float("nan"), -1, 10**40, float("inf")])
def test_a_value_that_is_no_plain_number_is_none(value: Any) -> None:
    assert find_number({"a": {"b": value}}, "a", "b") is None
    assert find_number(value, "a") is None


def test_numbers_are_found_at_nested_keys() -> None:
    assert 2.5 == find_number({"a": {"b": 2.5}}, "a", "b")
    assert 0.0 == find_number({"a": 0}, "a")
    assert find_number({"a": 1}, "a", "b") is None
