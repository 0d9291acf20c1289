"""The help of the commands, and what a shell completes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from babbler import make_run
from typer.testing import CliRunner

from charnn.cli import COMMANDS, app, main
from charnn.training.plan import FINE_TUNING, FROM_SCRATCH

ROOT = Path(__file__).resolve().parents[2]


def help_of(name: str, columns: int) -> str:
    width = columns - 1 if columns < 52 else columns - 2
    return CliRunner().invoke(app, [name, "--help"], terminal_width=width).output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_breaks_no_word(name: str) -> None:
    narrow, wide = (help_of(name, columns=columns) for columns in (40, 120))
    assert max(map(len, narrow.splitlines())) <= 40
    parts = re.compile(r"[\s-]+")  # a line may end after a hyphen
    assert set(parts.split(narrow)) <= set(parts.split(wide))
    assert max(map(len, wide.splitlines())) <= 120
    assert f"\n  charnn {name}" in wide, "there is an example"


def test_help_is_as_wide_as_the_terminal() -> None:
    code = "from charnn.cli import main; main()"
    for columns in (60, 100):
        done = subprocess.run(
            [sys.executable, "-c", code, "train", "--help"],
            env={**os.environ, "COLUMNS": str(columns)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert columns - 10 < max(map(len, done.stdout.splitlines())) <= columns


def test_help_of_train_begins_with_ten_common_options() -> None:
    sections = help_of("train", columns=200).split("\n\n")
    titles = [part.split(":")[0] for part in sections]
    first = titles.index("Common")
    assert ["Arguments", "Common"] == titles[first - 1 : first + 1]
    assert 10 == sum(line.startswith("  --") for line in sections[first].splitlines())


def test_help_names_the_learning_rates_of_the_recipes() -> None:
    text = help_of("train", columns=200)
    rates = {FROM_SCRATCH.learning_rate, FROM_SCRATCH.muon_rate, FROM_SCRATCH.short_muon_rate}
    for rate in rates | {FINE_TUNING.learning_rate, FINE_TUNING.muon_rate}:
        assert f"{rate:g}" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("charnn sample -m ", {"mine", "english"}),
        ("charnn sample -m mi", {"mine"}),
        ("charnn show ", {"mine", "english"}),
        ("charnn compare -m ", {"mine", "english"}),
        ("charnn train --from ", {"mine", "english", "scratch"}),
        ("charnn train --resume --name ", {"mine"}),
        ("charnn train ", {"lighthouse", "villages", "book.txt"}),
        ("charnn eval bo", {"book.txt"}),
        ("charnn train --cell ", {"rnn", "gru", "lstm"}),
        ("charnn train --tokenizer ", {"char", "byte", "sentencepiece"}),
        ("charnn train --optimizer ", {"muon", "adamw"}),
        ("charnn train --precision ", {"auto", "float32", "bfloat16"}),
        ("charnn export --to ", {"c", "html", "model"}),
        ("charnn corpus light", {"lighthouse"}),
        ("charnn lab re", {"recall", "reber"}),
    ],
)
def test_a_shell_completes_names_and_values(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    expected: set[str],
) -> None:
    (tmp_path / "book.txt").write_text("the goat is not a sailor\n" * 9)
    make_run(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["charnn"])
    monkeypatch.setenv("_CHARNN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main()
    assert expected <= set(capsys.readouterr().out.split())


# Each script loads what the command gives for the shell, and completes "charnn sample -m ".
SHELLS = {
    "bash": """
        eval "$(_CHARNN_COMPLETE=source_bash charnn)"
        COMP_WORDS=(charnn sample -m ""); COMP_CWORD=3
        _charnn_completion charnn; echo "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() {}; _arguments() { print -- ${@//[()\\"]/ } }
        eval "$(_CHARNN_COMPLETE=source_zsh charnn)"
        words=(charnn sample -m ""); CURRENT=4
        _charnn_completion
    """,
    "fish": """
        env _CHARNN_COMPLETE=source_fish charnn | source
        complete -C "charnn sample -m "
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_runs_without_torch(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "book.txt").write_text("the goat is not a sailor\n" * 9)
    make_run(tmp_path, "mine")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/torch.py").write_text("raise SystemExit('torch was imported')")
    script = tmp_path / "bin/charnn"
    script.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m charnn\n")
    script.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{script.parent}",
    }
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert {"mine", "english"} <= set(done.stdout.split()), done.stderr
