"""Labels, on regular texts and on broken ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.config import LABELS
from charnn.errors import ConfigError
from charnn.inspection.labels import make_labeller


def marked(name, text, pattern=None):
    """Returns the text with dots for characters without the label."""
    flags = make_labeller(name, text, pattern).read(text)
    assert len(text) == len(flags)
    return "".join(c if flag else "." for c, flag in zip(text, flags, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a "bc" d', '.."bc....'[:8]),
        ("a “b” «c» d", "..“b..«c..."),
        ("it's 'so' don't", ".....'so......."),
        ("'Tis said\nit is", "'Tis said......"),
        ('"open\n\nnew', '"open.....'),
        ('"two\nlines" x', '"two\nlines...'),
        (r'"a\"b" c', r'"a\"b...'),
        ('"""a\n\nb""" c', '"""a\n\nb.....'),
        ("x = '\"' + 1", "....'\"....."),
        ("don't 'don't' x", "......'don't..."),
        ('"', '"'),
        ("", ""),
    ],
)
def test_quotes(text, expected):
    assert expected == marked("quotes", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (b [c] d) e", "..(b [c] d..."),
        (":( never\n\nclosed", ".( never........"),
        ("a) b] (c", "......(c"),
        ("([) x", "([..."),
        ("((a)) b", "((a)..."),
    ],
)
def test_brackets(text, expected):
    assert expected == marked("brackets", text)


def test_indentation_numbers_and_names():
    assert ".....  c d...\te" == marked("indent", "a  b\n  c d\nf\n\te")
    assert "..12.5..1,000..3..7" == marked("number", "a 12.5, 1,000. 3, 7")
    assert ".............Mary........" == marked("name", "The cat saw, Mary ran. He")
    assert "............" == marked("name", "Anna\nBert I ")


def test_line_is_past_the_median_column():
    text = "abcdefghij\n" * 4
    labeller = make_labeller("line", text)
    assert "past column 5 of its line" == labeller.phrase
    assert (".....fghij." * 4).replace("\n", ".") == marked("line", text)
    assert ["f"] == [c for c, flag in zip("abcdef", labeller.read("abcdef"), strict=True) if flag]


def test_a_label_from_a_regular_expression():
    assert "..the....the" == marked("regex", "a the, a the", r"\bthe\b")
    assert "ab..c" == marked("regex", "ab\n\nc", "^.*$").replace("\n", ".")
    for bad in ("(", "*", ""):
        with pytest.raises(ConfigError, match="--label-regex"):
            make_labeller("regex", "", bad)


def test_an_unknown_label_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"rhymes.*quotes"):
        make_labeller("rhymes")


@pytest.mark.parametrize("name", LABELS)
@given(text=st.text(st.sampled_from("\"'“”‘’«»([{}])\\ \n\t.,1aA\ud800é")))
def test_every_text_can_be_labelled(name, text):
    labeller = make_labeller(name, text)
    assert len(text) == len(labeller.read(text))
    assert 0 <= sum(1 for _ in labeller.marks.finditer(text)) <= len(text)
