"""The fine-tuning benchmark compares like with like, and prints its table."""

from __future__ import annotations

import sys
from pathlib import Path

import finetune
import pytest


def test_a_row_shows_medians_and_the_range_of_the_losses() -> None:
    found = [
        finetune.Result(seconds, 100, 4.0, cold, 1.2)
        for seconds, cold in ((30.0, 1.5), (31.0, 1.4), (32.0, 1.6))
    ]
    expected = ["x", "31.0", "100", "4.0", "1.500 (1.400..1.600)", "2.164"]
    assert [*expected, "1.200 (1.200..1.200)", "1.731"] == finetune.row("x", found)


@pytest.mark.slow
def test_both_arms_train_with_the_whole_command_and_are_scored_on_the_same_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.txt").write_text("To be, or not to be.\n" * 300)
    (tmp_path / "new.txt").write_text("Très bien, & not a goat.\n" * 300, "utf-8")
    texts = [str(tmp_path / "old.txt"), str(tmp_path / "new.txt")]
    minutes = ["--pretrain", "0.02", "--tune", "0.02", "--anew", "0.02", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *texts, *minutes])
    finetune.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| training | wall s | steps | passes | cold-256 | bits | carried")
    assert lines[2].startswith("| fine-tuned, 0.02 min | ")
    assert lines[3].startswith("| from scratch, 0.02 min | ")
    assert "0.02 min of old.txt. New text: 7,500 characters of new.txt, scored" in lines[5]
