"""The command line as a person types it, in processes of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import charnn as api
from charnn import checkpoint
from charnn.bases import BASES
from charnn.cli import main
from charnn.cli.console import clock
from charnn.cli.runs import fitted
from charnn.runs import Run

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from charnn.cli import main; main()"
QUICK = [
    *("--max-steps", "6", "--hidden-size", "12", "--num-layers", "1"),
    *("--batch-size", "2", "--bptt", "8", "--threads", "1", "--seed", "1"),
]
TEXT = "the goat is not a sailor, and knows it.\n" * 40


class Done(NamedTuple):
    """The result of a command, with the names of a finished process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def charnn(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in a folder of its own that holds "my book.txt"."""
    (tmp_path / "my book.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)

    def run(*words: str, env: dict[str, str] | None = None) -> Done:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", ["charnn", *words])
            patched.setenv("CHARNN_DEBUG", "0")  # --debug sets it, and it is put back after
            for name, value in (env or {}).items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
        code = end.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def process(tmp_path):
    """Runs a command in a process of its own, where its streams are what the environment says."""
    (tmp_path / "my book.txt").write_text(TEXT)

    def run(
        *words: str, env: dict[str, str], stdout: Any = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        command = [sys.executable, "-c", MAIN, *words]
        streams = {"stdout": stdout, "stderr": subprocess.PIPE}
        return subprocess.run(command, cwd=tmp_path, text=True, env=environment, **streams)

    return run


def one_line(done: Done, code: int = 1) -> str:
    assert code == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert 1 == len(lines), done.stderr
    return lines[0]


def test_train_sample_resume_eval_show_and_runs_work_one_after_another(charnn):
    done = charnn("train", "my book.txt", *QUICK)
    assert 0 == done.returncode, done.stderr
    assert "" == done.stdout
    assert "charnn sample -m my-book" in done.stderr
    written = charnn("sample", "the ", "-n", "30", "--seed", "5", "-t", "0.9")
    assert 0 == written.returncode, written.stderr
    assert written.stdout.startswith("the ")
    again = charnn("sample", "the ", "-n", "30", "--seed", "5", "-t", "0.9")
    assert written.stdout == again.stdout
    more = charnn("train", "--resume", "--name", "my-book", "--max-steps", "4")
    assert 0 == more.returncode, more.stderr
    scored = json.loads(charnn("eval", "--json").stdout)
    keys = {"model", "tokenizer", "vocab_size", "parameters", "split", "tokens", "chars", "bytes"}
    assert keys | {"unknown", "carried", "cold_256", "ngrams"} == set(scored)
    inner = {"nats_per_token", "bits_per_char", "bits_per_byte", "targets"}
    assert inner == set(scored["carried"]) == set(scored["cold_256"])
    assert scored["carried"]["targets"] == scored["tokens"] - 1
    shown = charnn("show", "my-book")
    assert "lstm 1x12" in shown.stdout
    assert json.loads(charnn("show", "my-book", "--json").stdout)["digest"]
    listed = json.loads(charnn("runs", "--json").stdout)["runs"]
    assert ["my-book"] == [row["name"] for row in listed]
    assert 10 == listed[0]["step"]
    assert "my-book" in charnn("runs").stdout


def test_train_names_the_run_and_each_stage_and_ends_with_a_text(charnn):
    lines = charnn("train", "my book.txt", *QUICK, "--from", "scratch").stderr.splitlines()
    [run] = [line for line in lines if line.startswith("run: my-book")]
    assert "checkpoints/my-book/" in run
    assert "scratch" in run
    stages = ["reading the text", "measuring this machine", "training", "counting n-grams"]
    stages += ["fitting the mixture weights", "scoring, cold-256", "scoring, carried"]
    assert stages == [line for line in lines if line in stages]
    written = charnn("sample", "-n", "300", "--seed", "1").stdout.split()
    ruled = [number for number, line in enumerate(lines) if line.startswith("---")]
    assert written == " ".join(lines[ruled[-2] + 1 : ruled[-1]]).split()
    assert "starts from" in charnn("train", "my book.txt", *QUICK, "--from", "my-book").stderr
    assert "" == charnn("train", "my book.txt", *QUICK, "-q", "--ngram", "0").stderr


def test_train_write_opens_the_desk_with_the_finished_model(charnn, monkeypatch):
    class Typed:
        buffer = io.BytesIO(b"the goat\n/export kept.txt\n")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Typed())
    done = charnn("train", "my book.txt", *QUICK, "--write")
    assert 0 == done.returncode, done.stderr
    assert Path("kept.txt").read_text().startswith("the goat")
    assert "--dry-run" in one_line(charnn("train", "my book.txt", "--write", "--dry-run"), 2)


def test_a_run_that_hides_a_base_is_noted(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK, "--name", "english")
    base = str(BASES["english"].path)
    for words in (["sample", "-m", "english", "-n", "1"], ["show", "english"]):
        done = charnn(*words)
        assert 0 == done.returncode
        assert base in done.stderr
    assert base not in charnn("show", "checkpoints/english").stderr
    assert base in charnn("train", "my book.txt", "--from", "english", "--max-steps", "1").stderr


def test_a_run_called_scratch_is_not_what_from_scratch_means(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK, "--name", "scratch")
    for command in ("train", "plan"):
        done = charnn(command, "my book.txt", *QUICK, "--from", "scratch")
        assert 0 == done.returncode, done.stderr
        assert "checkpoints/scratch/best.safetensors" in done.stderr
    assert "from" not in json.loads(charnn("show", "my-book", "--json").stdout)


def test_a_file_cannot_replace_the_facts_that_show_reads(charnn, tmp_path):
    saved = checkpoint.load(BASES["english"].path)
    for key in ("digest", "base", "model"):
        saved.info[key] = "forged"
    checkpoint.save(tmp_path / "m.safetensors", saved)
    facts = json.loads(charnn("show", "m.safetensors", "--json").stdout)
    assert checkpoint.load(tmp_path / "m.safetensors").digest == facts["digest"]
    assert facts["base"] is None
    assert "m.safetensors" == facts["model"]


def test_eval_scores_another_text_and_names_unknown_characters(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK)
    (tmp_path / "other.txt").write_text("the goat knows £5 it.\n" * 3)
    line = one_line(charnn("eval", "other.txt", "-m", "my-book"))
    assert "£" in line
    assert "U+00A3" in line
    assert "--unknown skip" in line
    assert "replace" not in line  # eval replaces nothing
    done = charnn("eval", "other.txt", "--unknown", "skip", "--json")
    assert "--unknown skip" in done.stderr
    assert "'£'" in done.stderr
    scored = json.loads(done.stdout)
    assert 6 == scored["unknown"]
    assert scored["split"] is None


def test_sample_reports_what_it_did_with_unknown_characters(charnn):
    charnn("train", "my book.txt", *QUICK)
    line = one_line(charnn("sample", "THE £"))
    assert "--unknown skip" in line
    assert "--unknown replace" in line
    words = ["sample", "THE £", "-n", "1", "--seed", "1", "--unknown", "replace"]
    done = charnn(*words)
    assert 1 == done.stderr.count("\n")
    assert all(each in done.stderr for each in ("--unknown replace", "'T'", "'t'", "'£'"))
    assert "" == charnn(*words, "-q").stderr
    assert "" == charnn("sample", "the", *words[2:]).stderr
    assert "'T'" in charnn("sample", "--lines", "1", "--prefix", "T", *words[4:]).stderr
    Path("the.txt").write_text("THE GOAT")
    assert "--unknown" not in one_line(charnn("inspect", "the.txt"))


def test_a_second_run_gets_a_new_name_and_a_name_that_exists_is_refused(charnn, tmp_path):
    for _ in range(2):
        charnn("train", "my book.txt", *QUICK)
    assert {"my-book", "my-book-2"} == {path.name for path in (tmp_path / "checkpoints").iterdir()}
    line = one_line(charnn("train", "my book.txt", "--name", "my-book", *QUICK))
    assert "--resume --name my-book" in line


def test_json_is_all_that_stdout_holds_and_quiet_leaves_stderr_empty(charnn):
    done = charnn("train", "my book.txt", "--json", "-q", *QUICK, "--ngram", "0")
    result = json.loads(done.stdout)
    assert "finished" == result["reason"]
    assert "cold_256" in result
    assert "" == done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--learning-rate", "nan"],
        ["--learning-rate", "-1"],
        ["--minutes", "inf"],
        ["--minutes", "0"],
        ["--seed", str(2**70)],
        ["--dropout", "1"],
        ["--split", "90"],
        ["--split", "ninety"],
        ["--cell", "elman"],
        ["--tokenizer", "words"],
        ["--precision", "float16"],
        ["--minutes", "1", "--epochs", "2"],
        ["--batch-size", "0"],
        ["--no-such-flag"],
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_a_usage_error_before_any_work(charnn, tmp_path, words):
    done = charnn("train", "my book.txt", *words)
    assert 2 == done.returncode
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], "charnn train TEXT"),
        (["train", "--resume", "my book.txt"], "TEXT"),
        (["train", "--resume", "--hidden-size", "9"], "--hidden-size"),
        (["train", "--resume", "--cell", "lstm"], "--cell"),
        (["train", "--resume", "--from", "my-book"], "--from"),
        (["train", "my book.txt", "--valid", "my book.txt", "--split", "80,20"], "--split"),
        (["train", "a.tokens", "--tokenizer", "byte"], "--tokenizer"),
        (["train", "a.tokens", "b.txt"], ".tokens"),
        (["eval", "--protocol", "warm"], "cold-256"),
        (["train", "my book.txt", "--name", "../out"], "'../out'"),
        (["train", "my book.txt", "--encoding", "utf-9"], "'utf-9'"),
    ],
)
def test_a_contradiction_is_a_usage_error_that_names_its_cause(charnn, words, expected):
    assert expected in one_line(charnn(*words), 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian", "my book.txt"], "'train'"),
        (["--nope"], "--nope"),
        (["sample", "--temprature", "1"], "--temperature"),
        (["sample", "-t", "abc"], "'abc'"),
        (["sample", "--unknown", "x"], "'x'"),
        (["sample", "--num-samples", "0"], "'--num-samples'"),
        (["sample", "a", "b"], "(b)"),
        (["sample", "-n"], "'-n'"),
        (["runs", "--json=1"], "'--json'"),
        (["tokenize", "my book.txt"], "'--output'"),
        (["tokenize"], "'TEXT...'"),
        (["score", "--per", "a\x1b[31m\nb", "x"], "'--per'"),
    ],
)
def test_a_wrong_word_of_the_command_line_is_one_line(charnn, words, expected):
    done = charnn(*words)
    line = one_line(done, 2)
    assert expected in line
    assert "--help'" in line
    assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "nowhere.txt"], "nowhere.txt"),
        (["train", "--resume"], "charnn train TEXT"),
        (["sample"], "charnn train TEXT"),
        (["show", "nothing"], "nothing"),
        (["eval", "-m", "my book.txt"], "my book.txt"),
        (["train", "my book.txt", "--from", "nothing"], "'nothing'"),
        (["train", "my book.txt", "--from", ""], "''"),
    ],
)
def test_an_error_is_one_line_that_names_its_cause(charnn, words, expected):
    assert expected in one_line(charnn(*words))


def test_a_refused_resume_does_not_change_which_run_is_the_newest(charnn):
    for name in ("older", "newer"):
        assert 0 == charnn("train", "my book.txt", *QUICK, "--name", name).returncode
    assert "'older'" in one_line(charnn("train", "--resume", "--name", "older"))
    names = [run["name"] for run in json.loads(charnn("runs", "--json").stdout)["runs"]]
    assert ["newer", "older"] == names
    assert 0 == charnn("train", "--resume", "--name", "older", "--max-steps", "2").returncode
    assert charnn("show").stdout.startswith("checkpoints/older/best")


def test_runs_shows_which_run_is_in_use(charnn, tmp_path):
    assert 0 == charnn("train", "my book.txt", *QUICK).returncode
    assert "in use" not in charnn("runs").stdout
    with Run(tmp_path / "checkpoints", "my-book").lock():
        assert f"{os.getpid()}" in charnn("runs").stdout
        [run] = json.loads(charnn("runs", "--json").stdout)["runs"]
        assert str(os.getpid()) in run["in_use"]
    assert [None] == [run["in_use"] for run in json.loads(charnn("runs", "--json").stdout)["runs"]]


def test_an_untrained_run_is_passed_over_and_named_as_untrained(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK, "--from", "scratch", "--name", "trained")
    saved = checkpoint.load(tmp_path / "checkpoints/trained/best.safetensors")
    step, saved.info["step"] = saved.info["step"], 0
    raw = Run(tmp_path / "checkpoints", "raw")
    with raw.lock():
        checkpoint.save(raw.last, saved)
        chosen = charnn("sample", "-n", "3", "--seed", "1")
        assert f"model trained (step {step})" in chosen.stderr
        assert "untrained" in charnn("sample", "-m", "raw", "-n", "3", "-q").stderr
        saved.info["from"] = {"digest": "0" * 64}  # the weights of another model
        checkpoint.save(raw.last, saved)
        assert "model raw (step 0, still training)" in charnn("show").stderr
        assert "untrained" not in charnn("show", "raw").stderr
    del saved.info["from"]
    checkpoint.save(raw.last, saved)
    shutil.rmtree(tmp_path / "checkpoints/trained")
    assert "'raw'" in one_line(charnn("sample"))


def test_runs_shows_text_date_size_and_the_score_with_its_protocol(charnn):
    charnn("train", "my book.txt", *QUICK)
    head, row = charnn("runs").stdout.splitlines()
    assert {"saved", "text", "weights"} <= set(head.split())
    [facts] = json.loads(charnn("runs", "--json").stdout)["runs"]
    assert 1600 == facts["text_bytes"]
    assert facts["parameters"] > 0
    for cell in (
        "2 kB",
        "6/6",
        f"{facts['valid_loss']:.4f} cold-256",
        str(time.localtime().tm_year),
    ):
        assert cell in row


def test_replace_is_offered_only_where_a_known_character_is_near(charnn):
    charnn("train", "my book.txt", *QUICK)
    assert "--unknown replace" not in one_line(charnn("sample", "Ω"))
    assert "--unknown replace" in one_line(charnn("sample", "é"))


def test_runs_that_a_folder_hides_are_named(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK)
    folder = "checkpoints/my-book"
    assert f"-m {folder}" in one_line(charnn("sample", "--checkpoints", folder))
    (tmp_path / folder).rename(tmp_path / "checkpoints/my book")
    assert "my book" in charnn("runs").stderr


def test_a_validation_text_that_is_the_training_text_is_noted(charnn, tmp_path):
    shutil.copy(tmp_path / "my book.txt", tmp_path / "same.txt")
    done = charnn("train", "my book.txt", *QUICK, "--valid", "same.txt")
    assert "note: --valid" in done.stderr
    (tmp_path / "same.txt").write_text(TEXT[:500])
    assert (
        "note: --valid" not in charnn("train", "my book.txt", *QUICK, "--valid", "same.txt").stderr
    )


def test_an_error_of_a_damaged_last_file_names_the_best_model(charnn, tmp_path):
    assert 0 == charnn("train", "my book.txt", *QUICK).returncode
    last = tmp_path / "checkpoints" / "my-book" / "last.safetensors"
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    line = one_line(charnn("train", "--resume", "--name", "my-book"))
    model = "checkpoints/my-book"
    assert f"-m {model}" in line
    assert f"--from {model}" in line
    assert 0 == charnn("sample", "-m", model, "-n", "3").returncode


def test_a_model_is_fine_tuned_on_another_text_and_show_names_its_origin(charnn, tmp_path):
    assert 0 == charnn("train", "my book.txt", *QUICK, "--cell", "gru").returncode
    (tmp_path / "other.txt").write_text("the goat: 12 £\n" * 60)
    sizes = QUICK[6:]  # no shape: it is the model's
    wanted = ["train", "other.txt", "--from", "my-book", "--max-steps", "6", *sizes]
    planned = json.loads(charnn(*wanted, "--dry-run", "--json").stdout)
    assert ("gru", 12) == (planned["model"]["cell"], planned["model"]["hidden_size"])
    done = charnn(*wanted)
    assert 0 == done.returncode, done.stderr
    assert "£" in done.stderr
    assert "the goat" == charnn("sample", "the goat", "-n", "0", "-m", "other").stdout
    digest = json.loads(charnn("show", "my-book", "--json").stdout)["digest"]
    assert digest == json.loads(charnn("show", "other", "--json").stdout)["from"]["digest"]
    assert digest[:16] in charnn("show", "other").stdout
    line = one_line(charnn(*wanted, "--cell", "lstm"), 2)
    assert "--cell lstm" in line
    assert "gru" in line
    assert "my-book" in one_line(charnn("train", "other.txt", "--from", "my-bok"))


def test_charnn_alone_says_what_it_is_and_names_two_commands(charnn):
    done = charnn()
    assert 0 == done.returncode
    starts = ["charnn ", "charnn demo ", "charnn train "]
    for line, start in zip(done.stdout.splitlines(), starts, strict=True):
        assert line.startswith(start)


def test_demo_writes_with_a_base_and_names_the_next_command(charnn):
    done = charnn("demo", "--seed", "6")
    assert 0 == done.returncode, done.stderr
    written = charnn("sample", "It was ", "-m", "english", "-t", "0.5", "--seed", "6", "-n", "600")
    assert written.stdout.startswith(done.stdout.rstrip())
    assert len(done.stdout) > 300
    assert "charnn train" in done.stderr


def test_ctrl_c_during_the_start_leaves_no_traceback():
    for place in ("charnn.cli", "numpy"):
        interrupt = (
            "import os, signal, sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, *_):\n"
            f"        if name == {place!r}: os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
            "from charnn.__main__ import main; main()"
        )
        command = [sys.executable, "-c", interrupt, "demo"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (130, "") == (done.returncode, done.stderr)


def test_the_package_runs_as_a_module(process):
    done = subprocess.run(
        [sys.executable, "-m", "charnn", "--version"], cwd=ROOT, text=True, capture_output=True
    )
    assert done.stdout.startswith("charnn ")


def test_version_and_help_need_no_command(charnn):
    assert charnn("--version").stdout.startswith("charnn ")
    assert "train" in charnn("-h").stdout


def test_debug_brings_the_traceback_back(charnn):
    for words, env in ((["sample", "--debug"], {}), (["sample"], {"CHARNN_DEBUG": "1"})):
        done = charnn(*words, env=env)
        assert 1 == done.returncode
        assert "Traceback" in done.stderr


@pytest.mark.slow  # processes of their own, one after another
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_a_terminal_without_utf_8_is_survived(process, tmp_path, environment):
    (tmp_path / "vögel.txt").write_text("Vögel fliegen — weit.\n" * 60)
    done = process("train", "vögel.txt", *QUICK, "--sample-every", "3", env=environment)
    assert 0 == done.returncode, done.stderr
    shown = process("show", env=environment)
    assert 0 == shown.returncode, shown.stderr
    assert 0 == process("eval", env=environment).returncode


def test_colour_obeys_the_environment(charnn):
    plain = charnn("sample")
    assert "\x1b" not in plain.stderr
    assert "\x1b[31m" in charnn("sample", env={"FORCE_COLOR": "1"}).stderr
    assert "\x1b" not in charnn("sample", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr


def test_control_characters_of_a_text_never_reach_stderr(charnn, tmp_path):
    (tmp_path / "wild.txt").write_text("\x1b]52;c;aGk=\x07 \x9b31m [/red] \u202e\n" * 60)
    done = charnn("train", "wild.txt", *QUICK, "--sample-every", "2")
    assert 0 == done.returncode, done.stderr
    shown = charnn("show")
    for control in ("\x1b", "\x07", "\x9b", "\u202e"):
        assert control not in done.stderr
        assert control not in shown.stdout
    assert "\\x1b" in shown.stdout


def test_time_left_reads_like_a_clock():
    assert ["0:00", "0:09", "1:30", "2:05:00"] == [clock(s) for s in (-3, 9, 90, 7500)]


def test_tokens_are_scored_as_they_are(charnn):
    charnn("train", "my book.txt", *QUICK)
    charnn("tokenize", "my book.txt", "-o", "book.tokens", "--split", "60,20,20")
    assert "--unknown" in one_line(charnn("eval", "book.tokens", "--unknown", "skip"), 2)
    scored = json.loads(charnn("eval", "book.tokens", "--split", "test", "--json").stdout)
    assert ("test", 320) == (scored["split"], scored["tokens"])


def test_control_characters_of_a_model_never_reach_the_terminal(charnn, tmp_path):
    charnn("train", "my book.txt", *QUICK)
    best = tmp_path / "checkpoints/my-book/best.safetensors"
    saved = checkpoint.load(best)
    saved.info["recipe"]["\x1b]52;c;aGk=\x07"] = "\x9b31m"
    checkpoint.save(best, saved)
    shown = charnn("show", "my-book")
    assert 0 == shown.returncode
    assert not {"\x1b", "\x07", "\x9b"} & set(shown.stdout)
    saved.info = {"history": "nonsense"}
    checkpoint.save(best, saved)
    assert "best.safetensors" in one_line(charnn("show", "my-book"))
    (tmp_path / "checkpoints/my-book/last.safetensors").unlink()
    assert "my-book" in charnn("runs").stdout


def test_the_command_printed_at_the_end_names_the_folder_of_the_runs(charnn):
    done = charnn("train", "my book.txt", *QUICK, "--checkpoints", "my runs")
    assert "charnn sample -m my-book --checkpoints 'my runs'" in done.stderr


def test_the_python_interface_trains_samples_and_restores_torch_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(TEXT)
    threads = torch.get_num_threads()
    run = api.train("book.txt", max_steps=3, hidden_size=8, num_layers=1, threads=1)
    assert threads == torch.get_num_threads()
    assert 1e-310 * torch.ones(1, dtype=torch.float64) > 0, "denormals are there again"
    model = api.load(run.folder)
    pieces = list(model.stream("the ", max_tokens=20, seed=1))
    assert "".join(pieces) == model.generate("the ", max_tokens=20, seed=1)
    assert api.training.Trainer.__name__ == "Trainer"
    with pytest.raises(api.CharnnError, match="text"):
        api.train()
    with pytest.raises(api.CharnnError, match="hidden_siz"):
        api.train("book.txt", hidden_siz=3)


@pytest.mark.slow  # processes of their own, one after another
def test_help_and_reports_that_cannot_be_written_are_one_line(process, tmp_path):
    if not Path("/dev/full").exists():
        return
    process("train", "my book.txt", *QUICK, "-q", env={})
    for words in (["--help"], ["train", "--help"], ["--version"], ["runs"], ["eval", "--json"]):
        with open("/dev/full", "w") as full:
            done = process(*words, env={}, stdout=full)
        assert 1 == done.returncode
        assert "Traceback" not in done.stderr
        assert "stdout" in done.stderr


def test_bits_of_a_validation_count_its_own_characters(charnn):
    words = ["--tokenizer", "sentencepiece", "--vocab-size", "300", "--max-steps", "2"]
    done = charnn(
        "train",
        "my book.txt",
        *QUICK[2:],
        *words,
        "--ngram",
        "0",
        "--bptt",
        "4",
        "--split",
        "60,40",
    )
    lines = [line for line in done.stderr.splitlines() if "bits/char" in line]
    on_the_way = next(line for line in lines if line.startswith("step 2: validation"))
    at_the_end = next(line for line in lines if line.startswith("validation, cold-256"))
    assert on_the_way.split(", ")[1].split()[0] == at_the_end.split(", ")[2].split()[0]


@pytest.mark.slow  # processes of their own, one after another
def test_a_prompt_is_utf_8_in_any_locale(process, tmp_path):
    (tmp_path / "my book.txt").write_text("h\u00e9 the goat\n" * 60)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = tmp_path / "e.txt"
    text.write_text("h\u00e9 the goat\n" * 60)
    process("train", "e.txt", *QUICK, "-q", env={})
    done = process("sample", "h\u00e9", "-n", "3", "-q", env=locale)
    assert 0 == done.returncode, done.stderr


def test_an_empty_text_argument_is_not_the_working_folder(charnn):
    one_line(charnn("train", ""))
    assert not Path("checkpoints").exists()


def test_runs_leaves_columns_out_where_a_terminal_is_narrow():
    rows = [("name", "saved", "weights", "status"), ("book", "2026-11-28 18:50", "3.6 M", "done")]
    assert fitted(rows, 0) == fitted(rows, 80)
    for columns, shown in ((80, 4), (32, 3), (16, 2), (5, 2)):
        lines = fitted(rows, columns)
        assert shown == len(lines[0].split())
        assert "name" in lines[0]
        assert lines[1].endswith("done")


@pytest.mark.parametrize(
    ("words", "advice"), [(["sample", "It", "was"], "quotes"), (["show", "-m", "a"], "name")]
)
def test_a_usage_error_says_what_to_type_instead(charnn, words, advice):
    assert advice in one_line(charnn(*words), 2)
