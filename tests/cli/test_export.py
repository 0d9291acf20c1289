from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_model import random_model
from typer.testing import CliRunner, Result

import charnn.cli
from charnn.checkpoint import Checkpoint, save
from charnn.export.page import make_page
from charnn.text.tokenizers import CharTokenizer


@pytest.fixture(autouse=True)
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A run called book in a folder of runs, in which the command stands."""
    monkeypatch.chdir(tmp_path)
    tokenizer = CharTokenizer.learn("\nabc")
    checkpoint = random_model(tokenizer, "rnn", 4, scale=1.0)
    Path("checkpoints/book").mkdir(parents=True)
    save(Path("checkpoints/book/best.safetensors"), checkpoint)
    return checkpoint


def export(*words: str) -> Result:
    return CliRunner().invoke(charnn.cli.app, ["export", *words])


def test_a_page_is_named_by_its_run(saved: Checkpoint) -> None:
    result = export("--to", "html")
    assert (0, "") == (result.exit_code, result.stdout), result.output
    assert make_page(saved, "book") == Path("book.html").read_text("utf-8")
    assert f"{Path('book.html').stat().st_size:,} bytes" in result.stderr


def test_json_is_all_that_stdout_holds() -> None:
    result = export("book", "--to", "html", "-o", "sub.html", "--json")
    assert (0, "") == (result.exit_code, result.stderr)
    facts = json.loads(result.stdout)
    assert ("html", "sub.html") == (facts["format"], facts["path"])
    assert Path("sub.html").stat().st_size == facts["bytes"]


def test_open_shows_the_page_in_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or len(opened) == 1)
    assert 0 == export("--to", "html", "--open").exit_code
    assert [Path("book.html").absolute().as_uri()] == opened
    result = export("--to", "html", "--open", "-o", "b.html", "-q")
    assert 0 == result.exit_code
    assert str(Path("b.html").absolute()) in result.stderr  # no browser was found
    assert 2 == export("--to", "c", "--open").exit_code


def test_quiet_prints_nothing() -> None:
    result = export("--to", "html", "-q")
    assert (0, "") == (result.exit_code, result.output)


def test_runs_of_another_folder_are_found_there() -> None:
    Path("checkpoints").rename("elsewhere")
    assert 1 == export("--to", "html").exit_code
    assert 0 == export("--to", "html", "--checkpoints", "elsewhere").exit_code


def test_a_model_file_by_itself_gives_the_page_its_name() -> None:
    Path("checkpoints/book/best.safetensors").rename("odd name.safetensors")
    assert 0 == export("odd name.safetensors", "--to", "html").exit_code
    assert "<h1>odd name</h1>" in Path("odd-name.html").read_text("utf-8")


def test_an_existing_file_stays_without_force() -> None:
    Path("book.html").write_text("mine")
    result = export("--to", "html")
    assert 1 == result.exit_code
    assert "--force" in result.stderr
    assert "mine" == Path("book.html").read_text()
    assert 0 == export("--to", "html", "--force").exit_code
    assert "mine" != Path("book.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "pdf"], 2, "--to pdf"),
        (["--to", "html", "-o", "page.txt"], 2, "page.txt.html"),
        (["--to", "html", "-o", "no/such/page.html"], 1, "no/such/page.html"),
        (["bok", "--to", "html"], 1, "book"),
        ([], 2, "--to"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(words: list[str], code: int, message: str) -> None:
    result = export(*words)
    assert code == result.exit_code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [Path("checkpoints")] == list(Path().iterdir())


def test_a_damaged_model_is_named() -> None:
    path = Path("checkpoints/book/best.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    result = export("--to", "html")
    assert 1 == result.exit_code
    assert "best.safetensors" in result.stderr


def test_a_model_never_replaces_a_training(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc\n" * 300)
    start = ["train", "text.txt", "--name", "begun", "--max-steps", "2", "--from", "scratch"]
    sizes = ["--hidden-size", "4", "--num-layers", "1", "--ngram", "0"]
    assert 0 == CliRunner().invoke(charnn.cli.app, start + sizes).exit_code
    last = Path("checkpoints/begun/last.safetensors")
    before = last.read_bytes()
    assert 1 == export("book", "--to", "model", "--force", "-o", str(last)).exit_code
    assert before == last.read_bytes()


def test_a_model_never_replaces_itself() -> None:
    path = Path("checkpoints/book/best.safetensors")
    before = path.read_bytes()
    result = export("--to", "model", "--force", "-o", str(path))
    assert 1 == result.exit_code
    assert str(path) in result.output.replace("\n", "")
    assert before == path.read_bytes()
