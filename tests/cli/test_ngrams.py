"""Every command on a model with n-grams: the numbers are those of the mixture, or it says not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charnn
from charnn import checkpoint, evaluation
from charnn.cli.runs import describe
from charnn.text.token_file import TokenFile

TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(500))
ALONE = "of the network alone"


def run(folder: Path, words: str, given: str = "") -> tuple[str, str]:
    """stdout and stderr of a command that must succeed."""
    ran = subprocess.run(
        [sys.executable, "-c", "from charnn.cli import main; main()", *words.split()],
        input=given,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return ran.stdout, ran.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run, "counted", and what its training said."""
    folder = tmp_path_factory.mktemp("ngrams")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    small = "--num-layers 1 --hidden-size 16 --max-steps 4 --batch-size 8 --bptt 16 --seed 2"
    said = run(folder, f"train text.txt --name counted --ngram 5 {small} --json")
    (folder / "said.json").write_text(said[0], encoding="utf-8")
    (folder / "said.txt").write_text(said[1], encoding="utf-8")
    return folder


def saved(home: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(home / "checkpoints" / "counted" / "best.safetensors")


def values(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def losses(home: Path) -> tuple[float, float]:
    """Bits a character of the validation part, carried: of the mixture, and of the network."""
    ids = np.asarray(TokenFile.open(home / "checkpoints" / "counted" / "tokens").split("valid"))
    ones = evaluation.TextSizes(np.ones(99, int), np.ones(99, int))
    both = evaluation.predictor_of(saved(home)), evaluation.network_of(saved(home))
    mixed, alone = (
        ones.score(evaluation.carried_batches(each, ids)).bits_per_char for each in both
    )
    assert mixed is not None
    assert alone is not None
    assert mixed < 0.7 * alone
    return mixed, alone


def test_train_prints_what_was_mixed_in(home: Path) -> None:
    told = values((home / "said.json").read_text("utf-8"))
    facts = saved(home).mixture_facts()["ngrams"]
    gain = told["ngrams"].pop("gain")
    assert gain > 0.01
    assert facts == told["ngrams"]
    assert losses(home)[0] == pytest.approx(told["carried"]["bits_per_char"], rel=1e-4)
    said = (home / "said.txt").read_text("utf-8")
    loss = saved(home).ngrams.losses
    assert gain == pytest.approx(loss.network - loss.mixed)
    for each in loss[:3]:
        assert f"{each:.3f}" in said
    assert "warning" in said, "n-grams dominate, and few tokens decided"
    assert f"{loss.fitted_on}" in said
    assert "--network-only" in said
    lines = (home / "checkpoints" / "counted" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert {**facts, "gain": gain} == values(lines[-1])["ngrams"]


def test_eval_and_score_are_of_the_mixture_dynamic_or_not(home: Path) -> None:
    mixed, alone = losses(home)
    out, err = run(home, "eval -m counted --json --dynamic --classes")
    told = values(out)
    assert mixed == pytest.approx(told["carried"]["bits_per_char"], rel=1e-4)
    assert saved(home).mixture_facts()["ngrams"] == told["ngrams"]
    assert mixed == pytest.approx(told["dynamic"]["bits_per_char"], rel=0.1)
    assert told["dynamic"]["bits_per_char"] < 0.7 * alone
    assert ALONE not in err
    weighed = sum(row["bits"] for row in told["classes"])
    assert weighed == pytest.approx(mixed * told["carried"]["targets"], rel=1e-3)
    ids = TokenFile.open(home / "checkpoints" / "counted" / "tokens")
    text = ids.tokenizer.decode(ids.split("valid"))
    row = values(run(home, "score - -m counted --per document --json", text)[0])
    assert mixed == pytest.approx(row["bits_per_char"], rel=0.02)  # and the first character


def test_network_only_scores_and_samples_the_network(home: Path) -> None:
    alone = losses(home)[1]
    only = "-m counted --network-only"
    told = values(run(home, f"eval {only} --json")[0])
    assert told["network_only"] is True
    assert alone == pytest.approx(told["carried"]["bits_per_char"], rel=1e-4)
    ids = TokenFile.open(home / "checkpoints" / "counted" / "tokens")
    text = ids.tokenizer.decode(ids.split("valid"))
    row = values(run(home, f"score - {only} --per document --json", text)[0])
    assert alone == pytest.approx(row["bits_per_char"], rel=0.02)
    path = home / "checkpoints" / "counted" / "best.safetensors"
    network = charnn.load(path, network_only=True)
    expected = network.generate("7 t", max_tokens=60, seed=4, echo=True)
    assert expected != charnn.load(path).generate("7 t", max_tokens=60, seed=4, echo=True)
    assert expected == run(home, f"sample {only} --seed 4 -n 60 -", "7 t")[0]
    many = run(home, f"sample {only} --seed 4 -n 60 --num-samples 9 --json -", "7 t")[0]
    assert expected == "7 t" + values(many.splitlines()[0])["text"]
    desk = run(home, f"write {only} --seed 4 -n 60 -q", "7 t\n")[0]
    assert expected == desk.removesuffix("\n")


def test_network_only_changes_nothing_for_a_network_alone_and_says_so(home: Path) -> None:
    plain = run(home, "sample -m english -n 20 --seed 1")
    only = run(home, "sample -m english -n 20 --seed 1 --network-only")
    assert plain[0] == only[0]
    assert "--network-only" in only[1]
    assert "--network-only" not in plain[1]
    assert "--network-only" in run(home, "eval text.txt -m english --network-only")[1]


def test_the_desk_switches_between_the_network_and_the_mixture(home: Path) -> None:
    begin = "write -m counted --seed 4 -n 60 -q"
    mixed = run(home, begin, "7 t\n")[0]
    network = run(home, f"{begin} --network-only", "7 t\n")[0]
    there = run(home, begin, "/network on\n7 t\n/save alone.saved\n/more 20\n")[0]
    assert there.startswith(network.removesuffix("\n"))
    back = run(home, f"{begin} --network-only", "/network off\n7 t\n")[0]
    assert mixed == back
    again = run(home, "write -m counted -q", "/load alone.saved\n/more 20\n")[0]
    assert again.rstrip("\n")[-20:] == there.rstrip("\n")[-20:], "a file remembers the switch"


def test_samples_come_from_the_mixture(home: Path) -> None:
    cool = "-m counted --seed 4 -n 60 --temperature 0.5"
    text = run(home, f"sample {cool}")[0]
    assert " times " in text
    assert " is " in text
    first = run(home, f"sample {cool} --num-samples 9 --json")[0].splitlines()[0]
    assert values(first)["text"] == values(run(home, f"sample {cool} --json")[0])["text"]


def test_the_desk_continues_with_the_mixture(home: Path) -> None:
    whole = run(home, "write -m counted --seed 4 -n 60 -q", "7 t\n/more 20\n/more 20\n")[0]
    assert " is " in whole
    run(home, "write -m counted --seed 4 -n 60 -q", "7 t\n/more 20\n/save desk.saved\n")
    again = run(home, "write -m counted -q", "/load desk.saved\n/more 20\n")[0]
    assert again.rstrip("\n")[-20:] == whole.rstrip("\n")[-20:]


def test_compare_attributes_a_text_of_the_mixture_to_it(home: Path) -> None:
    (home / "other.txt").write_text(TEXT[::-1], encoding="utf-8")
    small = "--num-layers 1 --hidden-size 8 --max-steps 1 --seed 2 -q"
    run(home, f"train other.txt --name other {small}")
    found = values(run(home, "compare text.txt -m other -m counted --json")[0])
    assert "counted" == found["verdict"]
    assert found["bits"]["counted"] < 0.7 * found["bits"]["other"]
    only = values(run(home, "compare text.txt -m other -m counted --network-only --json")[0])
    assert found["bits"]["counted"] < 0.7 * only["bits"]["counted"]


@pytest.mark.parametrize(
    "words", ["horizon -m counted --samples 20", "inspect -m counted --find number"]
)
def test_a_command_that_ignores_the_n_grams_notes_it(home: Path, words: str) -> None:
    assert "network alone" in run(home, words)[1]


@pytest.mark.parametrize(("to", "path"), [("html", "page.html"), ("c", "program")])
def test_an_export_holds_the_n_grams(home: Path, to: str, path: str) -> None:
    said = run(home, f"export counted --to {to} -o {path} --force --json")
    assert saved(home).mixture_facts()["ngrams"] == values(said[0])["ngrams"]
    assert "network alone" not in run(home, f"export counted --to {to} -o {path} --force")[1]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_c_program_writes_the_text_of_sample(home: Path) -> None:
    run(home, "export counted --to c -o writer-c -q")
    sources = sorted((home / "writer-c").glob("*.c"))
    subprocess.run(["cc", "-std=c99", *sources, "-lm", "-o", home / "writer"], check=True)
    int8 = "-m counted --int8 -n 200"
    for seed, prompt in (1, "7 times"), (4294967295, "3"):
        words = ["--seed", str(seed), "-n", "200", "--prompt", prompt]
        written = subprocess.run([home / "writer", *words], capture_output=True, check=True).stdout
        assert written.decode() == run(home, f"sample - {int8} --seed {seed}", prompt)[0]


def test_runs_lists_the_loss_of_the_best_file_and_refuses_forged_results(home: Path) -> None:
    last = home / "checkpoints" / "counted" / "last.safetensors"
    row = describe("counted", last)
    told = values((home / "said.json").read_text("utf-8"))["cold_256"]["nats_per_token"]
    assert told == row["valid_loss"] < 0.8 * row["best_loss"]
    shown = run(home, "runs")[0].splitlines()
    assert any(line.startswith("counted") and f"{told:.4f}" in line for line in shown)
    wrong: list[Any] = [None, [], {"cold_256": 3}, {"cold_256": {"bits": 1}}]
    for results in (*wrong, {"cold_256": {"nats_per_token": "x"}}):
        forged = checkpoint.load(last)
        forged.info["results"] = results
        checkpoint.save(home / "forged.safetensors", forged)
        assert describe("x", home / "forged.safetensors")["error"]


@pytest.mark.slow
def test_show_and_the_report_name_the_n_grams(home: Path) -> None:
    facts = saved(home).mixture_facts()["ngrams"]
    assert facts is not None
    assert facts == values(run(home, "show counted --json")[0])["ngrams"]
    assert f"mixed with {facts['count']:,} n-grams, up to 5 long" in run(home, "show counted")[0]
    run(home, "report counted -o report.html -q")
    page = (home / "report.html").read_text("utf-8")
    assert "Mixed with" in page
    assert "--ngram 5" in page
