"""Learning curves in plain characters, and where they are shown."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from charnn.cli import main
from charnn.cli.plot import columns_of, learning_curves, over_lags, over_steps

HISTORY = [
    {"step": 10 * i, "train_loss": 4 / i, "cold_256": 1 + 3 / i, "targets": 5} for i in range(1, 9)
]
TEXT = "the goat is not a sailor, and knows it.\n" * 40
QUICK = [
    *("--hidden-size", "12", "--num-layers", "1", "--batch-size", "2", "--bptt", "8"),
    *("--threads", "1", "--seed", "1"),
]


@pytest.mark.parametrize("columns", [1, 38, 40, 78, 80, 200])
def test_both_curves_fit_the_width(columns: int) -> None:
    lines = list(learning_curves({"history": HISTORY}, columns))
    assert all(line.isascii() for line in lines)
    assert max(map(len, lines)) <= max(columns, 40)
    assert {"o", "*"} <= {character for line in lines[1:11] for character in line[11:]}
    assert "cold-256" in lines[0]
    assert ("10", "80") == tuple(lines[-2].split())


def test_a_point_is_drawn_at_its_step_and_value() -> None:
    curves = {"validation": [(0, 3.0), (100, 1.0)], "training": [(0, 2.0), (100, 1.0)]}
    lines = over_steps(curves, 31)
    assert "   3.0000 |*" == lines[0]
    assert "   1.0000 |" + " " * 19 + "@" == lines[9]
    assert "o" == lines[round(9 / 2 - 0.1)][11]  # half way down, at the first step
    assert "* validation  o training  @ several" == lines[-1]


def test_a_flat_curve_and_a_single_point_are_drawn() -> None:
    for points in ([(5, 1.5)], [(5, 1.5), (6, 1.5)]):
        assert "*" in "".join(over_steps({"validation": points}, 80)[:10])


def test_lags_are_drawn_at_equal_distances_and_by_powers_of_ten() -> None:
    lines = over_lags([1, 8, 64], {"a": [1.0, 0.1, 0.01]}, logarithmic=True)
    marks = [(row, line.index("*")) for row, line in enumerate(lines[:10]) if "*" in line[11:]]
    (row, _), _, (last, _) = marks
    assert (0, 9) == (row, last)
    assert marks[1][0] in (4, 5)
    assert 7 == marks[1][1] - marks[0][1] == marks[2][1] - marks[1][1]
    assert ["1", "8", "64"] == lines[11].split()


def test_values_that_are_not_finite_are_left_out() -> None:
    lines = over_lags([1, 2], {"a": [math.nan, 1.0], "b": [math.inf, 2.0]})
    assert 1 == "".join(lines[:10]).count("*")
    assert 1 == len(over_lags([1], {"a": [math.nan]}))
    bad = {"step": 90, "train_loss": None, "cold_256": None, "targets": 5}
    assert list(learning_curves({"history": HISTORY})) == list(
        learning_curves({"history": [*HISTORY, bad]})
    )


def test_a_short_history_gives_no_plot() -> None:
    assert [] == list(learning_curves({"history": HISTORY[:1]}, 80))
    assert [] == list(learning_curves({}))


def test_the_training_loss_is_drawn_from_every_step(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"event": "step", "step": step, "loss": 4.0 - step} for step in (1, 2, 3)]
    rows += [{"event": "step", "step": 4, "loss": None}, {"event": "eval", "step": 3}]
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    info = {"history": [{"step": 3, "train_loss": 2.0, "cold_256": 1.5}]}
    assert [] == list(learning_curves(info))
    drawn = "".join(list(learning_curves(info, 80, metrics))[1:11])
    assert (1, 3) == (drawn.count("*"), drawn.count("o"))


def test_a_column_shows_the_mean_of_its_values() -> None:
    lines = over_steps({"training": [(0, 3.0), (1, 1.0), (1000, 2.0)]}, 31)
    assert "   2.0000 |o" + " " * 18 + "o" == lines[0].replace("*", "o")


def test_a_model_of_lines_is_plotted_by_its_own_protocol() -> None:
    history = [{"step": h["step"], "train_loss": 1.0, "lines": h["cold_256"]} for h in HISTORY]
    shown = list(learning_curves({"history": history, "recipe": {"lines": True}}))
    assert "loss over the steps (lines, network):" == shown[0]


def test_the_width_is_columns_or_eighty(monkeypatch) -> None:
    stream = SimpleNamespace(fileno=lambda: -1)
    assert 80 == columns_of(stream)
    for columns, expected in (("33", 33), ("0", 80), ("wide", 80)):
        monkeypatch.setenv("COLUMNS", columns)
        assert expected == columns_of(stream)


@pytest.fixture
def charnn(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in a folder that holds book.txt; gives the streams."""
    (tmp_path / "book.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("charnn.training.machine.MEASURE_SECONDS", 0.0)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["charnn", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def test_train_ends_with_the_plot_that_show_prints(charnn, monkeypatch) -> None:
    train = ("train", "book.txt", *QUICK, "--max-steps", "8")
    monkeypatch.setenv("COLUMNS", "60")
    _, _, talk = charnn(*train, "--eval-every", "2")
    assert re.search(r"^loss over the steps \(cold-256, network\):$", talk, re.MULTILINE)
    assert "* validation  o training" in talk
    monkeypatch.setenv("COLUMNS", "62")  # show moves it two to the right
    _, shown, _ = charnn("show")
    curve = talk[talk.index("loss over") :].splitlines()[:14]
    best_only = shown[shown.index("loss over") :].splitlines()[:14]
    assert [line.strip() for line in curve] == [line.strip() for line in best_only]
    for more in ("-q", "--json"):
        _, _, talk = charnn(*train, more)
        assert "loss over" not in talk


def test_missing_tensorboard_is_refused_before_anything_is_written(
    charnn, tmp_path, monkeypatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, out, talk = charnn("train", "book.txt", *QUICK, "--max-steps", "4", "--tensorboard")
    assert (1, "", 1) == (code, out, len(talk.splitlines()))
    assert 'pip install "charnn[tensorboard]"' in talk
    assert not (tmp_path / "checkpoints").exists()
    code, _, talk = charnn("train", "book.txt", "--dry-run", "--tensorboard")
    assert 2 == code
    assert "--dry-run" in talk


def test_tensorboard_is_written_only_with_its_flag(charnn, monkeypatch) -> None:
    made = []

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            made.append((log_dir, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            made.append((name, step))

        def close(self) -> None:
            made.append("closed")

    module = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    assert 0 == charnn("train", "book.txt", *QUICK, "--max-steps", "4", "-q", "--tensorboard")[0]
    assert ("checkpoints/book/tensorboard", 1) == made[0]
    assert "closed" == made[-1]
    assert ("loss/train", 4) in made
    made.clear()
    assert 0 == charnn("train", "--resume", "--max-steps", "2", "-q", "--tensorboard")[0]
    assert ("checkpoints/book/tensorboard", 5) == made[0]
    made.clear()
    assert 0 == charnn("train", "--resume", "--max-steps", "2", "-q")[0]
    assert [] == made


@pytest.mark.parametrize("columns", [24, 40, 80])
def test_a_plot_over_lags_fits_the_terminal(columns: int) -> None:
    lags = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    lines = over_lags(lags, {"a": lags}, columns=columns)
    assert max(map(len, lines)) <= columns
    assert len(lags) == "".join(lines[:-1]).count("*")
