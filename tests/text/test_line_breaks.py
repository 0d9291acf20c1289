from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.text import sources
from charnn.text.line_breaks import Layout, Reading, wrap_width
from charnn.text.sources import TextSource, open_source

PROSE = [
    "The keeper of the ferry had three dogs and no bell, so that whoever stood on the far bank had "
    "to bark. Strangers learned it in a day; the bishop took a week, and was the better for it.",
    "In March the river came up to the third step. He moved the oil to the fourth, the hens to the "
    "loft, and himself, with some reluctance, to a chair beside them. They laid in his hat.",
    "“You might have built further up,” said the surveyor, who had wet feet and a clean map. “I "
    "might,” said the keeper, “but then I should have had to walk to work, and I dislike walking.”",
    "What the far bank thought of all this is not known. It has a self-evident sort of face, well-"
    "meaning and flat, and it keeps its opinions to itself until the water goes down again.",
]
VERSE = """\
Come down, come down, thou lazy rain,
And wash the miller's door,
He cannot see to count his grain
That rolls along the floor:
The mice have had the better share,
The cat has had the mice,
And nobody is anywhere
That anyone calls nice.

"""
LIST = """\
- flour, two sacks, and the third one promised for the end of the week
- a lamp without its glass, and the glass of another lamp altogether
- rope, forty fathoms, of which thirty may be trusted by daylight
"""
CODE = """\
def total(rows):
    result = 0
    for row in rows:
        result += row.price * row.count
    return result


if __name__ == '__main__':
    print(total(read('rows.csv')))

"""
TABLE = "".join(
    f"item-{n:03}   {n * 7919 % 97:>8.3f}   {n * 31 % 53:>8.3f}   kept in the eastern shed\n"
    for n in range(40)
)
CSV = "".join(
    f"alice,{n:04},blue,{n * 7919 % 9000 + 1000},lisbon,{n % 10},harbour\n" for n in range(40)
)
RUSSIAN = (
    "Старый паромщик держал трёх собак и не держал колокола, так что всякому, кто стоял на том "
    "берегу, приходилось лаять. Чужие выучивались за день; почтмейстеру понадобилась неделя."
)
HEBREW = (
    "לזקן שעל הנהר היו שלושה כלבים ולא היה לו פעמון, ולכן כל מי שעמד בגדה הרחוקה היה צריך לנבוח "
    "כדי שיבואו לקחת אותו, והזרים למדו זאת ביום אחד והדוור רק אחרי שבוע שלם."
)
CHINESE = (
    "渡口的老人养了三条狗，却没有钟，所以站在对岸的人只好学狗叫。"
    "外乡人一天就学会了，邮差却花了整整一个星期。"
) * 3
CHAT = "".join(f"ann: {'so ' * (n * 7 % 11)}what\nbob: no\n" for n in range(30))


def wrapped(paragraphs: list[str], width: int = 66, indent: str = "") -> str:
    """Paragraphs wrapped as an editor does it, with a blank line between them."""
    fill = textwrap.TextWrapper(width, initial_indent=indent, break_on_hyphens=True)
    return "\n\n".join(fill.fill(each) for each in paragraphs) + "\n"


def by_characters(text: str, width: int) -> str:
    return "".join(text[at : at + width] + "\n" for at in range(0, len(text), width))


def opened(text: str | bytes, tmp_path: Path, reading: Reading) -> TextSource:
    path = tmp_path / "book.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source([path], reading=reading)


def read(text: str | bytes, tmp_path: Path, unwrap: bool = False, keep_crlf: bool = False) -> str:
    with opened(text, tmp_path, Reading(keep_crlf, unwrap)) as source:
        return b"".join(source.chunks()).decode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("one\r\ntwo\nthree", "one\ntwo\nthree"),
        ("one\rtwo\rthree\r", "one\ntwo\nthree\n"),
        ("100 %\r" + "line\n" * 3, "100 %\r" + "line\n" * 3),
        ("\r\n\r\n", "\n\n"),
        ("data\0\r\n", "data\0\r\n"),
    ],
    ids=["CRLF", "mixed", "CR", "a stray CR", "empty lines", "binary"],
)
def test_line_ends_become_newlines_unless_they_are_kept(given, expected, tmp_path):
    assert expected == read(given, tmp_path)
    assert given == read(given, tmp_path, keep_crlf=True)


@given(text=st.text("ab\r\n\té", max_size=40), size=st.integers(1, 7))
def test_the_chunk_size_changes_neither_line_ends_nor_their_number(text, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    results = []
    for chunk in (size, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "CHUNK_BYTES", chunk)
            with opened(text, folder, Reading()) as source:
                results.append((b"".join(source.chunks()), source.changes()))
    assert results[0] == results[1]


def test_changed_line_ends_are_counted_once(tmp_path):
    with opened("a\r\nb\r\n" * 3, tmp_path, Reading()) as source:
        for _ in range(2):
            list(source.chunks())
            (note,) = source.changes()
            assert note.startswith("6 CRLF")


@pytest.mark.parametrize("width", [40, 60, 66, 72, 79, 100])
def test_hard_wrapped_prose_is_recognised_with_its_width(width):
    found = wrap_width(wrapped(PROSE * 3, width).encode())
    assert found is not None
    assert width - 3 <= found <= width


@pytest.mark.parametrize(
    "text",
    [
        *("\n\n".join(PROSE * 9), "\n".join(PROSE * 9), VERSE * 9, LIST * 9, CODE * 9, TABLE, CSV),
        *(CHAT, "flour\nlamp\nrope\n" * 40, "", "\n" * 50, "one line", "word " * 500 + "\n"),
    ],
    ids=[
        *("paragraphs", "paragraphs without blank lines", "verse", "list", "code", "table", "CSV"),
        *("chat", "names", "empty", "blank", "one line", "one long line"),
    ],
)
def test_text_that_is_not_wrapped_is_not_taken_for_wrapped_prose(text, tmp_path):
    assert wrap_width(text.encode()) is None
    assert text == read(text, tmp_path, unwrap=True)


@pytest.mark.parametrize("indent", ["", "    "], ids=["block", "first-line indent"])
@pytest.mark.parametrize("width", [50, 72])
def test_unwrapping_gives_back_the_paragraphs(width, indent, tmp_path):
    paragraphs = "\n\n".join(indent + each for each in PROSE * 3) + "\n"
    assert paragraphs == read(wrapped(PROSE * 3, width, indent), tmp_path, unwrap=True)


@pytest.mark.parametrize("paragraph", [RUSSIAN, HEBREW], ids=["Russian", "Hebrew"])
def test_scripts_with_and_without_case_are_unwrapped(paragraph, tmp_path):
    paragraphs = f"{paragraph}\n\n" * 9
    assert paragraphs == read(wrapped([paragraph] * 9) + "\n", tmp_path, unwrap=True)


def test_chinese_is_joined_without_spaces(tmp_path):
    text = (by_characters(CHINESE, 36) + "\n") * 3
    assert f"{CHINESE}\n\n" * 3 == read(text, tmp_path, unwrap=True)


def test_verse_lists_headings_and_dialogue_among_wrapped_prose_keep_their_lines(tmp_path):
    speeches = (
        "KEEPER: There is a barque that they talk of in the Rest, I believe.\nSURVEYOR: I do not "
        "collect barques.\nKEEPER: Nobody does, at first.\n"
    )
    inventory = (
        "Item, one brig, or perhaps two brigs; they were very close by.\nItem, the bishop, diving, "
        "eleven times, nine to the purpose.\n"
    )
    code = "    total = 0\n    for each in rows: total += each\n"
    kept = [VERSE.strip("\n") + "\n", LIST, speeches, inventory, code, "# A heading\n"]
    prose, joined = wrapped(PROSE), "\n\n".join(PROSE) + "\n"
    text = "\n".join(f"{prose}\n{each}" for each in kept)
    assert "\n".join(f"{joined}\n{each}" for each in kept) == read(text, tmp_path, unwrap=True)


@pytest.mark.parametrize("size", [100, 1000])
def test_the_chunk_size_changes_no_joined_line(size, tmp_path, monkeypatch):
    text = wrapped(PROSE * 3)
    expected = read(text, tmp_path, unwrap=True)
    monkeypatch.setattr(sources, "CHUNK_BYTES", size)
    assert expected == read(text, tmp_path, unwrap=True)


def test_wrapped_lines_with_crlf_are_joined_whether_or_not_crlf_is_kept(tmp_path):
    text, joined = wrapped(PROSE * 3).replace("\n", "\r\n"), "\n\n".join(PROSE * 3) + "\n"
    assert joined == read(text, tmp_path, unwrap=True)
    kept = read(text, tmp_path, unwrap=True, keep_crlf=True)
    assert joined.replace("\n", "\r\n") == kept


def test_each_file_is_measured_by_itself(tmp_path):
    (tmp_path / "a.txt").write_text(wrapped(PROSE * 3), "utf-8")
    (tmp_path / "b.txt").write_text(VERSE * 5, "utf-8")
    with open_source([tmp_path], reading=Reading(unwrap=True)) as source:
        text = "".join(source.texts())
        assert "\n\n".join(PROSE * 3) + "\n" + VERSE * 5 == text
        assert any("joined" in note for note in source.changes())
    with open_source([tmp_path]) as source:
        (advice,) = source.advice()
    assert "--unwrap" in advice
    assert "a.txt" in advice
    assert "b.txt" not in advice


def test_unwrapping_nothing_is_noted(tmp_path):
    with opened(VERSE, tmp_path, Reading(unwrap=True)) as source:
        list(source.chunks())
        (note,) = source.changes()
        assert "--unwrap" in note


def test_how_a_text_was_read_is_known_from_a_model():
    corpus = {"sha256": "0", "keep_crlf": True, "unwrap": True}
    assert Reading(True, True) == Reading.of_model({"corpus": corpus}, False)
    assert Reading(False, False) == Reading.of_model({"corpus": {"keep_crlf": False}}, True)
    for unknown in ({}, {"corpus": {}}, {"corpus": 7}, {"corpus": {"unwrap": "yes"}}):
        assert Reading(keep_crlf=True) == Reading.of_model(unknown, knows_returns=True)
        assert Reading() == Reading.of_model(unknown, knows_returns=False)


def test_the_start_of_a_binary_file_decides_that_nothing_is_changed():
    assert Layout() == Layout.of(b"\0\r\n", Reading(unwrap=True))
