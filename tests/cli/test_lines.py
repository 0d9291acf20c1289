"""Line mode as a person types it: train, plan, eval, show and sample with --lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from charnn import checkpoint
from charnn.cli import main

NAMES = [f"{a}{b}{c}" for a in ("Al", "Ber", "Cun") for b in ("i", "ga", "") for c in ("na", "x")]
QUICK = [
    *("--max-steps", "8", "--hidden-size", "12", "--num-layers", "1", "--batch-size", "6"),
    *("--threads", "1", "--seed", "1", "--precision", "float32"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a list, and a run of lines and one of prose on it."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "names.txt").write_text("\r\n".join(NAMES))
    return folder


@pytest.fixture
def charnn(folder, monkeypatch, capsys):
    """Runs a command in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)

    def run(*words):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["charnn", *words])
            with pytest.raises(SystemExit) as end:
                main()
        code = end.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    if not (folder / "checkpoints").exists():
        assert 0 == run("train", "names.txt", "--name", "prose", *QUICK)[0]
        assert 0 == run("train", "names.txt", "--lines", "--name", "names", *QUICK)[0]
    return run


def test_a_run_of_lines_is_validated_by_the_protocol_lines(charnn):
    code, out, err = charnn("train", "names.txt", "--lines", "--json", *QUICK)
    assert 0 == code
    result = json.loads(out)
    assert "lines" in result
    assert not {"cold_256", "carried"} & result.keys()
    assert "validation, lines: " in err
    assert f"charnn sample --lines 20 -m {result['run']}" in err


@pytest.mark.slow
def test_a_dry_run_and_a_plan_count_the_lines_and_leave_nothing(charnn, folder):
    before = sorted((folder / "checkpoints").iterdir())
    code, out, _ = charnn("train", "names.txt", "--lines", "--dry-run", *QUICK)
    assert (0, True) == (code, "16 lines" in out)
    code, out, _ = charnn("plan", "names.txt", "--lines", "--minutes", "0.1", "--json")
    assert 0 == code
    planned = json.loads(out)
    assert planned["recipe"]["lines"]
    assert planned["expected"]["lines"] is None
    assert before == sorted((folder / "checkpoints").iterdir())


def test_lines_is_the_default_protocol_of_a_model_of_lines_alone(charnn):
    found = json.loads(charnn("eval", "-m", "names", "--json")[1])
    assert {"nats_per_token", "bits_per_char", "bits_per_byte", "targets"} == found["lines"].keys()
    assert found["lines"]["targets"] == found["tokens"]
    assert not {"cold_256", "carried"} & found.keys()
    both = json.loads(charnn("eval", "-m", "names", "--protocol", "lines,carried", "--json")[1])
    assert found["lines"] == both["lines"]
    assert "carried" in both
    assert "lines" not in json.loads(charnn("eval", "-m", "prose", "--json")[1])
    other = json.loads(charnn("eval", "-m", "prose", "--protocol", "lines", "--json")[1])
    assert other["lines"]["targets"] > 0


def test_a_text_is_scored_as_lines_whatever_its_line_ends(charnn, folder):
    scores = []
    for name, data in (("a", b"Alina\nBerx\n"), ("b", b"\r\nAlina\r\n\r\nBerx")):
        (folder / name).write_bytes(data)
        scores.append(json.loads(charnn("eval", name, "-m", "names", "--json")[1]))
    assert scores[0] == scores[1]
    assert 11 == scores[0]["lines"]["targets"] == scores[0]["chars"]


def test_show_names_a_model_of_lines(charnn):
    code, out, _ = charnn("show", "names")
    assert (0, True, True) == (code, "lines" in out, "validation, lines" in out)
    assert json.loads(charnn("show", "names", "--json")[1])["lines"]
    assert not json.loads(charnn("show", "prose", "--json")[1])["lines"]


def test_stdout_holds_the_given_number_of_lines_and_nothing_else(charnn):
    code, out, err = charnn("sample", "-m", "names", "--lines", "12", "-t", "1")
    word, seed = err.split()
    assert (0, 12, "seed") == (code, len(out.splitlines()), word)
    assert all(out.splitlines())
    again = charnn("sample", "-m", "names", "--lines", "12", "-t", "1", "--seed", seed)
    assert (0, out, "") == again


def test_json_has_one_object_for_each_line(charnn):
    words = ("sample", "-m", "names", "--lines", "5", "--seed", "2", "--prefix", "A")
    _, plain, _ = charnn(*words)
    objects = [json.loads(line) for line in charnn(*words, "--json")[1].splitlines()]
    assert plain.splitlines() == [each["text"] for each in objects]
    keys = {"prefix", "text", "seed", "index", "tries", "tokens", "bits_per_char"}
    assert all(keys == each.keys() for each in objects)
    assert list(range(5)) == [each["index"] for each in objects]


def test_new_lines_do_not_occur_in_the_text_whatever_its_line_ends(charnn):
    common = ("--lines", "200", "--max-length", "3", "-t", "1", "--seed", "1", "-q")
    for run in ("names", "prose"):
        code, out, _ = charnn("sample", "-m", run, *common, "--new", "--prefix", "Al")
        assert 0 == code
        assert not set(NAMES) & set(out.split("\n"))


def test_too_few_lines_are_printed_and_the_exit_code_is_1(charnn):
    code, out, err = charnn(
        *("sample", "-m", "names", "--lines", "99", "--unique", "--max-length", "1", "-t", "2"),
        *("--seed", "1"),
    )
    assert 1 == code
    assert 1 < len(out.splitlines()) < 99
    assert len(set(out.splitlines())) == len(out.splitlines())
    assert f"{len(out.splitlines())} of 99" in err


def test_a_ban_and_a_bias_change_the_lines(charnn):
    words = ("sample", "-m", "names", "--lines", "30", "--seed", "2", "-q")
    plain = charnn(*words)[1]
    assert "a" in plain
    banned = charnn(*words, "--ban", "a")[1]
    assert 30 == len(banned.splitlines())
    assert "a" not in banned
    assert banned == charnn(*words, "--ban", "a")[1]
    liked = charnn(*words, "--bias", "a=3")[1]
    assert liked.count("a") > 2 * plain.count("a")
    first = charnn(*words[:3], "--lines", "1", *words[5:], "--ban", "a")[1]
    assert first == banned.splitlines(keepends=True)[0]


def test_max_copy_limits_copying_in_lines(charnn):
    words = ("sample", "-m", "names", "--lines", "9", "--seed", "2", "-q", "--max-copy", "2")
    code, out, _ = charnn(*words)
    assert 0 == code
    text = Path("names.txt").read_text("utf-8")
    for line in out.splitlines():
        assert not any(line[i : i + 3] in text for i in range(len(line) - 2))


def test_new_needs_the_text_of_the_run(charnn, folder):
    best = folder / "checkpoints/names/best.safetensors"
    (folder / "alone").mkdir()
    (folder / "alone/m.safetensors").write_bytes(best.read_bytes())
    code, out, err = charnn("sample", "-m", "alone/m.safetensors", "--lines", "2", "--new")
    assert (1, "", 1) == (code, out, err.count("error: "))
    assert "--new" in err
    assert "tokens" in err
    tokens = folder / "checkpoints/prose/tokens"
    (folder / "alone/tokens").write_bytes(tokens.read_bytes())
    code, _, err = charnn("sample", "-m", "alone/m.safetensors", "--lines", "2", "--new")
    assert (1, True) == (code, "--new" in err)


def test_a_model_of_prose_writes_lines_with_a_note(charnn):
    code, out, err = charnn("sample", "-m", "prose", "--lines", "3", "--seed", "1")
    assert (0, 3) == (code, out.count("\n"))
    assert "--lines" in err
    _, _, err = charnn("sample", "-m", "names", "-n", "5", "--seed", "1")
    assert "charnn sample --lines 20" in err
    assert "" == charnn("sample", "-m", "names", "-n", "5", "--seed", "1", "-q")[2]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("Al", "--lines", "2"), "PROMPT"),
        (("--lines", "2", "--num-samples", "2"), "--num-samples"),
        (("--lines", "2", "--stop", "x"), "--stop"),
        (("--lines", "2", "-n", "9"), "--max-tokens"),
        (("--lines", "2", "--no-echo"), "--no-echo"),
        (("--lines", "2", "--regex", "[A-Z]+"), "--regex"),
        (("--lines", "2", "--best-of", "3"), "--best-of"),
        (("--lines", "2", "--until", "line"), "--until"),
        (("--lines", "2", "--copied"), "--copied"),
        (("--lines", "2", "--show", "surprisal"), "--show"),
        (("--prefix", "A"), "--prefix"),
        (("--min-length", "3"), "--min-length"),
        (("--unique", "--new"), "--unique, --new"),
        (("--lines", "2", "--min-length", "9", "--max-length", "3"), "min_length 9"),
    ],
)
def test_options_that_contradict_each_other_are_refused(charnn, words, named):
    code, out, err = charnn("sample", "-m", "names", *words)
    assert (2, "") == (code, out)
    assert named in err


def test_a_resumed_run_stays_a_run_of_lines(charnn, folder):
    code, _, err = charnn("train", "--resume", "--name", "names", "--max-steps", "3")
    assert (0, True) == (code, "validation, lines" in err)
    assert checkpoint.load(folder / "checkpoints/names/last.safetensors").lines
    code, _, err = charnn("train", "--resume", "--name", "names", "--lines")
    assert (2, True) == (code, "--lines" in err)
