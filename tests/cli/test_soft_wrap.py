from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.cli.soft_wrap import SoftWrap, folded, soft_wrapped

PROSE = "the stove is called Bishop because he is stout and black, and sits in the corner"


def test_lines_break_at_spaces() -> None:
    assert ["the stove is", "called Bishop"] == [
        line.rstrip() for line in soft_wrapped("the stove is called Bishop", 14)
    ]
    assert ["a\tb\t", "long"] == soft_wrapped("a\tb\tlong", 18)
    assert ["one", "", "two"] == soft_wrapped("one\n\ntwo", 5)


def test_a_word_longer_than_a_line_is_left_to_the_terminal() -> None:
    assert ["a ", "b" * 25 + " c ", "ddd"] == soft_wrapped(f"a {'b' * 25} c ddd", 10)


def test_wide_characters_take_two_columns_and_marks_none() -> None:
    assert ["渡口的", "老人"] == soft_wrapped("渡口的老人", 6)
    assert ["e\u0301e\u0301e\u0301 ", "a"] == soft_wrapped("e\u0301e\u0301e\u0301 a", 4)


@given(text=st.text("ab \n", max_size=60), sizes=st.lists(st.integers(1, 5)), columns=st.just(7))
def test_pieces_break_as_the_whole_text_does_and_lose_no_word(text, sizes, columns) -> None:
    wrap, shown, rest = SoftWrap(), "", text
    for size in [*sizes, len(text) or 1]:
        shown += "".join(part for part, _ in wrap.push(rest[:size], "", columns))
        rest = rest[size:]
    shown += "".join(part for part, _ in wrap.flush())
    assert "\n".join(soft_wrapped(text, columns)) == shown
    assert text.split() == shown.split()
    words = max(map(len, text.split()), default=0)
    assert all(len(line) <= max(columns, words) for line in shown.split("\n") if words < columns)


@pytest.mark.parametrize("columns", [0, 20, 80])
def test_a_terminal_gets_whole_words_and_no_carriage_return(columns: int) -> None:
    code = (
        "from charnn.cli.console import Output\n"
        f"output = Output()\nfor character in {PROSE + chr(13) + chr(10) + 'end' + chr(13)!r}:\n"
        "    output.write(character, '4')\noutput.end_line()\noutput.flush()"
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", code], stdout=slave, env=environment, check=True)
    os.close(slave)
    shown = b""
    while len(shown.split(b"end")) < 2 or not shown.endswith(b"\n"):
        shown += os.read(master, 4096)
    os.close(master)
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    assert f"{PROSE} end".split() == " ".join(lines).split()
    assert not columns or max(map(len, lines)) <= columns
    assert columns or lines == [PROSE, "end", ""]


@given(line=st.text("ab -渡", max_size=60), indent=st.integers(0, 4), columns=st.integers(20, 30))
def test_a_message_folds_at_spaces_with_a_margin(line: str, indent: int, columns: int) -> None:
    line = " " * indent + line
    rows = folded(line, columns).split("\n")
    assert "".join(line.split()) == "".join("".join(rows).split())
    assert len(rows) == 1 or all(len(row) - len(row.lstrip()) <= columns for row in rows)
    assert all(row.startswith(" " * 2) for row in rows[1:])


def test_a_message_that_fits_or_has_a_tab_stays_as_it_is() -> None:
    for line, columns in (("  exactly full", 14), ("a\tb c d e f g h", 5), (PROSE, 0)):
        assert line == folded(line, columns)
