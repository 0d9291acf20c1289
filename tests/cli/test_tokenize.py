from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import charnn.cli
from charnn.cli import console
from charnn.text.token_file import TokenFile

TEXT = "A line of text.\r\nÄnother one.\n" * 20


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_bytes(TEXT.encode())


def tokenize(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(charnn.cli.app, ["tokenize", *words], input=stdin)


def test_it_writes_a_token_file_and_reports_on_stderr() -> None:
    result = tokenize("book.txt", "-o", "book.tokens")
    assert 0 == result.exit_code, result.output
    assert "" == result.stdout
    assert "note: 20 CRLF line ends" in result.stderr
    assert "text: 580 characters, 600 bytes" in result.stderr
    assert "tokens: 522 train, 58 valid; 15 different (char)" in result.stderr
    assert "wrote book.tokens" in result.stderr
    TokenFile.open("book.tokens").verify()


def test_json_is_all_that_stdout_holds() -> None:
    words = ["-o", "b.tokens", "--tokenizer", "byte", "--json", "--split=100", "--keep-crlf"]
    result = tokenize("book.txt", *words)
    assert 0 == result.exit_code
    facts = json.loads(result.stdout)
    assert ("byte", 256, 620, 620) == tuple(
        facts[key] for key in ("tokenizer", "vocab_size", "tokens", "bytes")
    )
    assert {"train": {"start": 0, "stop": 620, "chars": 600, "bytes": 620}} == facts["splits"]
    assert (True, False) == (facts["source"]["keep_crlf"], facts["source"]["unwrap"])
    assert TokenFile.open("b.tokens").digest == facts["digest"]


def test_a_file_that_was_there_is_said_to_be_replaced() -> None:
    for replaced in (False, True):
        told = tokenize("book.txt", "-o", "book.tokens")
        assert replaced == ("replaced book.tokens" in told.stderr)
        facts = json.loads(tokenize("book.txt", "-o", f"{replaced}.tokens", "--json").stdout)
        assert facts["replaced"] is False
    assert json.loads(tokenize("book.txt", "-o", "book.tokens", "--json").stdout)["replaced"]


def test_unwrap_joins_the_lines_of_wrapped_prose_which_a_note_advises() -> None:
    lines = "the goat had eaten the log-book from October to January and found it\n" * 8
    Path("wrapped.txt").write_text(f"{lines}heavy going.\n\n" * 3)
    assert "--unwrap" in tokenize("wrapped.txt", "-o", "plain.tokens").stderr
    result = tokenize("wrapped.txt", "-o", "joined.tokens", "--unwrap")
    assert "note: 24 lines" in result.stderr
    assert "--unwrap" not in result.stderr
    file = TokenFile.open("joined.tokens")
    assert lines.replace("\n", " ") + "heavy going.\n\n" in file.tokenizer.decode(file.tokens)
    assert file.source["unwrap"]


def test_quiet_says_nothing() -> None:
    result = tokenize("book.txt", "-o", "book.tokens", "-q")
    assert (0, "") == (result.exit_code, result.output)


def test_stdin_is_a_text_and_another_one_validates() -> None:
    settings = ["--tokenizer", "sentencepiece", "--vocab-size", "300", "--valid", "book.txt"]
    result = tokenize("-", "-o", "p.tokens", *settings, stdin="typed in\n" * 30)
    assert 0 == result.exit_code, result.output
    file = TokenFile.open("p.tokens")
    assert "stdin" == file.source["name"]
    assert TEXT.replace("\r", "") == file.tokenizer.decode(file.split("valid"))


def test_another_encoding_is_read() -> None:
    Path("old.txt").write_bytes("déjà vu\n".encode("cp1252") * 9)
    assert 1 == tokenize("old.txt", "-o", "old.tokens").exit_code
    assert 0 == tokenize("old.txt", "-o", "old.tokens", "--encoding", "cp1252").exit_code
    file = TokenFile.open("old.tokens")
    assert "déjà vu\n" * 9 == file.tokenizer.decode(file.tokens)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["book.txt", "-o", "book.out"], 2, "book.out.tokens"),
        (["book.txt", "-o", "a.tokens", "--split", "90,20"], 2, "90,20"),
        (["book.txt", "-o", "a.tokens", "--split", "most"], 2, "'most'"),
        (["book.txt", "-o", "a.tokens", "--tokenizer", "words"], 2, "char, byte, sentencepiece"),
        (["book.txt", "-o", "a.tokens", "--vocab-size", "9"], 2, "--vocab-size 9"),
        (["book.txt", "-o", "a.tokens", "--encoding", "utf-9"], 2, "--encoding 'utf-9'"),
        (["boook.txt", "-o", "a.tokens"], 1, "book.txt?"),
        (["a.tokens", "-o", "b.tokens"], 1, "a.tokens"),
        (["book.txt", "-o", "nowhere/a.tokens"], 1, "nowhere"),
    ],
)
def test_a_refusal_names_the_value(words: list[str], code: int, named: str) -> None:
    result = tokenize(*words)
    assert code == result.exit_code
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert ["book.txt"] == os.listdir()


def test_a_pipe_gets_one_line_for_a_stage_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = console.progress_of("reading")
    progress(1, 4)
    assert "" == capsys.readouterr().err
    monkeypatch.setattr(console, "MOMENT", 0.0)
    progress(2, 4)
    progress(2_000_000, 0)
    assert "reading\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_during_the_wait_for_stdin_leaves_no_file(number: int, code: int) -> None:
    root = Path(charnn.cli.__file__).parents[2]
    start = "import charnn.cli as cli; cli.main()"
    with subprocess.Popen(
        [sys.executable, "-c", start, "tokenize", "-", "-o", "a.tokens"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(b"x" * (1 << 20))  # more than a pipe holds: the command reads it
        child.stdin.flush()
        time.sleep(0.5)  # a signal just before the system call that waits would wait, too
        child.send_signal(number)
        assert code == child.wait(20), child.stderr.read()
        assert b"" == child.stderr.read()
    assert ["book.txt"] == os.listdir()
