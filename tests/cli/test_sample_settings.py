"""The settings of `charnn sample`, in processes of its own, on a run with its tokens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from babbler import make_run, run_command

TEXT = "the cat sat. The mat ate!\n\nA rat sat on the hat.\n" * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, "r"."""
    folder = tmp_path_factory.mktemp("control")
    (folder / "book.txt").write_text(TEXT)
    make_run(folder, "r")
    return folder


@pytest.fixture
def sample(folder):
    """Runs `charnn sample`, with a seed, to its end: exit code, stdout, stderr."""
    return partial(run_command, folder, "sample", "--seed", "1")


def test_bias_ban_and_penalties_change_the_text(sample):
    plain = sample("-n", "200", "-q")[1]
    assert "a" in plain
    assert "a" not in sample("-n", "200", "-q", "--bias", "a=-50")[1]
    assert "a" in sample("-n", "5", "-q", "--bias", "a=50")[1]
    banned = sample("th", "-n", "300", "-q", "--ban", "the", "--ban", "a")[1]
    assert not re.search("the|a", banned)
    for name in ("--frequency-penalty", "--presence-penalty"):
        assert plain != sample("-n", "200", "-q", name, "1")[1]
    assert plain != sample("-n", "200", "-q", "--typical-p", "0.5")[1]


def test_max_copy_limits_and_reports_copying(sample):
    _, out, err = sample("-n", "300", "--max-copy", "2", "--bias", "t=2", "--bias", "th=9")
    assert [] == [out[i : i + 3] for i in range(len(out) - 2) if out[i : i + 3] in TEXT]
    assert re.fullmatch(r"copied: [\d.]+% of 300 .*\n", err)
    value = json.loads(sample("-n", "300", "--max-copy", "2", "--json", "-q")[1])
    assert 0 == value["copied"]  # spans of 20, as without --max-copy
    assert "copied" not in json.loads(sample("-n", "3", "--json", "-q")[1])


def test_max_copy_needs_the_tokens_of_the_run(sample, folder):
    (folder / "alone.safetensors").write_bytes(
        (folder / "checkpoints/r/best.safetensors").read_bytes()
    )
    code, out, err = sample("-m", "alone.safetensors", "--max-copy", "5")
    assert (1, "", 1) == (code, out, len(err.splitlines()))


def test_every_sample_matches_the_pattern(sample):
    words = ("--regex", "[a-c]{2,4} (cat|rat)", "--num-samples", "3", "--json", "-n", "9", "-q")
    texts = [json.loads(line)["text"] for line in sample(*words)[1].splitlines()]
    assert 3 == len([text for text in texts if re.fullmatch("[a-c]{2,4} (cat|rat)", text)])


def test_until_ends_the_text(sample):
    value = json.loads(sample("-n", "2000", "--until", "sentence", "--json", "-q")[1])
    assert "stop" == value["finish_reason"]
    assert re.search(r"[.!]$", value["text"])
    assert "\n" not in sample("x", "-n", "900", "--until", "line", "-q", "--unknown", "skip")[1][1:]


def test_best_of_shows_the_likeliest_of_its_samples(sample):
    def bits(*words):
        lines = sample("-n", "20", "--json", "-q", *words)[1].splitlines()
        return [json.loads(line)["bits_per_char"] for line in lines]

    all_of_them = bits("--num-samples", "6")
    assert [min(all_of_them[:3]), min(all_of_them[3:])] == bits(
        "--best-of", "3", "--num-samples", "2"
    )


def test_surprisal_is_coloured_only_on_a_terminal(sample):
    plain = sample("th", "-n", "30", "-q")[1]
    shown = sample("th", "-n", "30", "-q", "--show", "surprisal", terminal=True)[1]
    assert "\x1b[38;5;" in shown
    bare = re.sub(r"\x1b\[[\d;]*m", "", shown).replace("\r\n", "\n")
    assert plain == bare.removesuffix("\n") + ("\n" if plain.endswith("\n") else "")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        words = ("-n", "9", "--show", "surprisal")
        _, out, err = sample(*words, terminal=True, **environment)
        assert "\x1b" not in out
        assert "--show" in err
    assert "\x1b" not in sample("-n", "9", "--show", "surprisal")[1]
    assert "\x1b" in sample("-n", "9", "--show", "surprisal", FORCE_COLOR="1")[1]


def test_copied_spans_are_underlined_whole(sample):
    # What goes on as the training text does is copied from its 20th character on, prompt included.
    begun = "the cat sat. The m"
    words = (begun, "--regex", "at ate!\nx?", "--show", "copied")
    _, out, err = sample(*words, "-n", "20", terminal=True)
    assert out.startswith(f"{begun}\x1b[4mat\x1b[0m\x1b[4m \x1b[0m")
    assert "100.0% of 8 " in err


@pytest.mark.parametrize(
    "words",
    [
        "-t 0 --top-p 0.5",
        "-t 0 --top-k 3",
        "-t 0 --typical-p 0.5",
        "-t 0 --min-p 0.5",
        "-t 0 --best-of 2",
        "-t 0 --num-samples 9",
        "--top-p 0 --num-samples 2",
        "--top-k 1 --best-of 2",
        "--show copied --json",
        "--copied --quiet",
        "--regex a --until line",
        "--regex a --stop b",
        "--regex a --ban b",
        "--regex a --max-copy 9",
        "--regex (a",
        "--regex Z",
        "--regex a{9} -n 3",
        "--bias a",
        "--bias a=nan",
        "--bias a=1 --ban a",
        "--bias a=1 --bias a=2",
        "--max-copy 201",
        "--typical-p 2",
        "--frequency-penalty 11",
        "--until page",
        "--show all",
        "--best-of 0",
    ],
)
def test_contradictions_and_values_out_of_range_are_usage_errors_in_one_line(sample, words):
    code, out, err = sample(*words.split())
    assert (2, "") == (code, out)
    assert "rror: " in err.splitlines()[-1]


def test_bans_of_all_characters_are_refused_in_one_line(sample):
    bans = [word for character in sorted(set(TEXT)) for word in ("--ban", character)]
    code, out, err = sample(*bans)
    assert (2, "", 1) == (code, out, len(err.splitlines()))


def test_help_is_in_sections_and_leaves_torch_out():
    code = (
        "import sys; from charnn.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'outlines_core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, "sample", "--help"], capture_output=True)
    assert done.stdout.endswith(b"[]\n")
    sections = re.findall(r"^(\w[\w ]+):$", done.stdout.decode(), re.MULTILINE)
    assert ("Arguments", "Options") == (sections[0], sections[-1])
    assert {"Choice of tokens", "Content", "Length", "Lines"} < set(sections)
