"""Lists of lines: cleaning, shuffling and splitting."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import TextError
from charnn.text.list_of_lines import clean_lines, line_sources
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file


@pytest.fixture
def lines_of(tmp_path):
    def lines_of(data: bytes, any_bytes=False):
        path = tmp_path / "list.txt"
        path.write_bytes(data)
        with open_source([path]) as source:
            return clean_lines(source, any_bytes)

    return lines_of


@pytest.fixture
def split_up(tmp_path):
    """The splits of a list, each as text."""

    def split_up(data: bytes, seed=1, split=(90, 10), valid=None):
        (tmp_path / "list.txt").write_bytes(data)
        with ExitStack() as opened:
            source = opened.enter_context(open_source([tmp_path / "list.txt"]))
            other = None
            if valid is not None:
                (tmp_path / "other.txt").write_bytes(valid)
                other = opened.enter_context(open_source([tmp_path / "other.txt"]))
            parts = line_sources(source, seed, split, tmp_path, False, other)
            return ["".join(part.texts()) for part in parts], [part.notes for part in parts]

    return split_up


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"Ann\nBob\n", [b"Ann", b"Bob"]),
        (b"Ann\nBob", [b"Ann", b"Bob"]),
        (b"Ann\r\nBob\r\n", [b"Ann", b"Bob"]),
        (b"Ann\r\nBob\r", [b"Ann", b"Bob"]),
        (b"\n\nAnn\n\r\n\nBob\n\n", [b"Ann", b"Bob"]),
        (b"\xef\xbb\xbfAnn\nBob\rCid\nDee\r\n", [b"Ann", b"Bob", b"Cid", b"Dee"]),
        (b"Ann\rBob\rCid\r", [b"Ann", b"Bob", b"Cid"]),
        (b" \n\t\nAnn ", [b"Ann "]),
        (b"x" * 100_000, [b"x" * 100_000]),
    ],
)
def test_a_line_is_not_empty_and_has_no_line_end(lines_of, data, lines):
    assert lines == lines_of(data)[0]
    assert lines == lines_of(data, any_bytes=True)[0]


def test_lines_and_characters_that_are_left_out_are_counted(lines_of):
    folded, empty, trailing = lines_of(b"Ann\r\n\r\n\t\nBob \r\n")[1]
    assert ["3", "2", "1"] == [note.split()[0] for note in (folded, empty, trailing)]
    assert [] == lines_of(b"Ann\nBob\n")[1]
    assert [] == lines_of(b"Ann\nBob")[1]


@pytest.mark.parametrize("data", [b"\n", b"\n\r\n\n"])
def test_a_text_without_a_line_is_refused(lines_of, data):
    with pytest.raises(TextError, match="list"):
        lines_of(data)


def test_bytes_that_are_not_utf8_are_named_or_taken(lines_of):
    with pytest.raises(TextError, match="offset 5"):
        lines_of(b"Ann\nB\xff\n")
    assert [b"Ann", b"B\xff"] == lines_of(b"Ann\nB\xff\n", any_bytes=True)[0]


NAMES = [f"{letter}{number}" for letter in "abcdefghij" for number in range(20)]


def test_a_sorted_list_is_shuffled_before_it_is_split(split_up):
    data = "\n".join(NAMES).encode()
    (train, valid), _ = split_up(data)
    assert sorted(NAMES) == sorted((train + valid).split())
    assert 20 == len(valid.split())
    assert len({name[0] for name in valid.split()}) > 4
    assert train.split() != sorted(train.split())


def test_the_order_depends_on_the_seed_and_the_lines_only(split_up):
    data = "\n".join(NAMES).encode()
    turned = "\n".join(reversed(NAMES)).encode()
    assert split_up(data)[0] == split_up(turned)[0] == split_up(data)[0]
    assert split_up(data)[0] != split_up(data, seed=2)[0]


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), min_size=1, max_size=30))
def test_all_copies_of_a_line_go_to_one_split_and_none_is_lost(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("list")
    (folder / "list.txt").write_text("\n".join(lines))
    with open_source([folder / "list.txt"]) as source:
        parts = line_sources(source, 3, (50, 30, 20), folder, False)
        groups = ["".join(part.texts()).split() for part in parts]
    assert sorted(lines) == sorted(line for group in groups for line in group)
    assert sum(len(set(group)) for group in groups) == len(set(lines))
    assert min(3, len(set(lines))) == len(groups)


@pytest.mark.parametrize("data", [b"Ann", b"Ann\nAnn\n"])
def test_one_different_line_goes_to_the_training_split_with_a_note(split_up, data):
    (train,), (notes,) = split_up(data)
    assert {"Ann"} == set(train.split())
    assert notes[-1:]
    assert "Ann" not in notes[-1]


def test_repeated_lines_and_lines_of_both_texts_are_noted(split_up):
    _, (notes, _) = split_up(b"Ann\nAnn\nBob\nCid\n")
    (note,) = notes
    assert note.startswith("4 lines, 1 ")
    (train, valid), (_, notes) = split_up(b"Ann\nBob\n", valid=b"Bob\r\nEve")
    assert (["Ann", "Bob"], ["Bob", "Eve"]) == (sorted(train.split()), sorted(valid.split()))
    assert any(note.startswith("1 of its lines ") for note in notes)


def test_a_token_file_takes_a_text_for_each_of_three_splits(split_up, tmp_path):
    for name in ("one", "two", "six"):
        (tmp_path / name).write_text(f"{name}\n")
    with ExitStack() as opened:
        train, valid, test = (
            opened.enter_context(open_source([tmp_path / name])) for name in ("one", "two", "six")
        )
        tokens = write_token_file(tmp_path / "t.tokens", train, valid=valid, test=test)
    texts = [tokens.tokenizer.decode(tokens.split(name)) for name in ("train", "valid", "test")]
    assert ["one\n", "two\n", "six\n"] == texts
