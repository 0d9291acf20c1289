from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import charnn.cli
from charnn.text import corpora


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def corpus(*words: str) -> Result:
    return CliRunner().invoke(charnn.cli.app, ["corpus", *words])


def test_without_a_name_every_corpus_is_listed() -> None:
    Path("corpora").mkdir()
    Path("corpora/names.txt").write_text("anna\n")
    result = corpus()
    assert 0 == result.exit_code
    rows = {line.split()[0]: line.split()[1:4] for line in result.stdout.splitlines()[1:]}
    assert set(corpora.CORPORA) == set(rows)
    assert ["download", "5", "yes"] == rows["names"]
    assert ["download", "1,115,394", "no"] == rows["tiny-shakespeare"]
    assert "charnn corpus NAME" in result.stderr


def test_the_list_as_json_is_one_object() -> None:
    rows = {row["name"]: row for row in json.loads(corpus("--json").stdout)["corpora"]}
    assert set(corpora.CORPORA) == set(rows)
    assert rows["tiny-shakespeare"]["path"] is None
    assert rows["lighthouse"]["path"].endswith("lighthouse.txt")


def test_a_name_gets_the_corpus_and_names_the_next_command() -> None:
    result = corpus("manual")
    assert 0 == result.exit_code, result.output
    assert "" == result.stdout
    assert "charnn train manual" in result.stderr
    size = Path("corpora/manual.txt").stat().st_size
    facts = json.loads(corpus("manual", "--json").stdout)
    assert ("corpora/manual.txt", size, "built") == (facts["path"], facts["bytes"], facts["kind"])
    assert (0, "") == (corpus("manual", "-q").exit_code, corpus("manual", "-q").output)


def test_a_wrong_name_lists_near_or_known_names() -> None:
    result = corpus("tinyshakespeare")
    assert 1 == result.exit_code
    assert "tiny-shakespeare" in result.stderr
    assert "lighthouse" in corpus("xyzzy").stderr
    assert not Path("corpora").exists()
