import errno
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import DamagedFile
from charnn.text import text_index
from charnn.text.sources import open_source
from charnn.text.text_index import TextIndex, open_index, order_of_suffixes
from charnn.text.token_writer import write_token_file

BYTES = st.lists(st.sampled_from([0, 97, 98, 195]), max_size=60).map(bytes)


@given(BYTES)
def test_positions_are_sorted_by_the_text_that_begins_there(data):
    expected = sorted(range(len(data)), key=lambda place: data[place:])
    assert expected == order_of_suffixes(np.frombuffer(data, np.uint8)).tolist()


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_long_repetitions_are_sorted(monkeypatch, block):
    monkeypatch.setattr(text_index, "BLOCK", block)
    data = b"abc" * 200 + b"abd" + b"abc" * 100
    expected = sorted(range(len(data)), key=lambda place: data[place:])
    assert expected == order_of_suffixes(np.frombuffer(data, np.uint8)).tolist()


@given(BYTES, BYTES.map(lambda data: data[:5]))
def test_a_string_is_found_wherever_it_occurs(data, query):
    low, high = TextIndex.of(data).interval(query)
    places = [p for p in range(len(data)) if data.startswith(query, p)]
    assert len(places) == high - low
    assert bool(places) == (query in TextIndex.of(data))


@pytest.fixture
def tokens(tmp_path):
    (tmp_path / "book.txt").write_text("a goat is not a sailor; the é sea\n" * 9)
    with open_source([tmp_path / "book.txt"]) as source:
        return write_token_file(tmp_path / "tokens", source)


@pytest.fixture
def made(monkeypatch):
    calls = []
    order = text_index.order_of_suffixes
    monkeypatch.setattr(
        text_index, "order_of_suffixes", lambda text: calls.append(len(text)) or order(text)
    )
    return calls


def test_the_index_holds_only_the_training_text_and_is_made_once(tokens, made, tmp_path):
    training = tokens.tokenizer.decode(tokens.split("train")).encode()
    for _ in range(2):
        index = open_index(tmp_path / "index", tokens)
        assert "not a sailor; the é".encode() in index
        assert training in index
        assert b"captain" not in index
    assert [len(training)] == made


@pytest.mark.parametrize("damage", ["empty", "flip", "cut", "text"])
def test_a_damaged_file_is_replaced(tokens, made, tmp_path, damage):
    path = tmp_path / "index"
    open_index(path, tokens)
    good = path.read_bytes()
    bad = {
        "empty": b"",
        "flip": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "cut": good[:-1],
        "text": b"not an index",
    }[damage]
    path.write_bytes(bad)
    assert b"sailor" in open_index(path, tokens)
    assert good == path.read_bytes()
    assert 2 == len(made)


def test_an_index_of_other_tokens_is_replaced(tokens, made, tmp_path):
    open_index(tmp_path / "index", tokens)
    (tmp_path / "other.txt").write_text("something else entirely\n" * 9)
    with open_source([tmp_path / "other.txt"]) as source:
        other = write_token_file(tmp_path / "others", source)
    assert b"sailor" not in open_index(tmp_path / "index", other)
    assert 2 == len(made)


def test_a_file_with_positions_outside_its_text_is_replaced(tokens, made, tmp_path):
    path = tmp_path / "index"
    text = np.frombuffer(b"sailor", np.uint8)
    text_index.write_index(path, text, np.full(6, 99, np.uint32), tokens.digest)
    assert b"goat" in open_index(path, tokens)


def test_an_index_is_made_where_its_folder_cannot_be_written(tokens, tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir(mode=0o500)
    plain = os.open

    def as_no_root(path, flags, *how, **more):  # root may write anywhere
        if "shut" in os.fspath(path) and flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return plain(path, flags, *how, **more)

    monkeypatch.setattr(os, "open", as_no_root)
    assert b"goat" in open_index(tmp_path / "shut/index", tokens)
    assert not list((tmp_path / "shut").iterdir())


def test_damaged_tokens_are_refused(tokens, tmp_path):
    data = bytearray(tokens.path.read_bytes())
    data[-1] ^= 1
    tokens.path.write_bytes(bytes(data))
    with pytest.raises(DamagedFile):
        open_index(tmp_path / "index", tokens)
