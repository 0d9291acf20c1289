"""`charnn write` in processes of its own: at a pseudo-terminal, and through pipes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from babbler import make_run
from random_model import random_model

from charnn.checkpoint import save
from charnn.text.tokenizers import CharTokenizer

COMMAND = [sys.executable, "-W", "error", "-c", "from charnn.cli import main; main()", "write"]
ALPHABET = "abcdefgh \n/\\\x1b"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])")
SECONDS = 20


def make_model(path: Path, seed: int) -> None:
    tokenizer = CharTokenizer.learn(ALPHABET)
    save(path, random_model(tokenizer, scale=0.3, seed=seed))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "m.safetensors", 0)
    make_model(folder / "other.safetensors", 1)
    return folder


ENVIRONMENT = {"PYTHONPATH": os.getcwd(), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


class Desk:
    """The program at a terminal of its own."""

    def __init__(
        self, models: Path, folder: Path, *words: str, columns: int, code: str, **env: str
    ) -> None:
        self.leader, follower = pty.openpty()
        self.resize(columns)
        self.shown = ""
        self.read_to = 0
        self.process = subprocess.Popen(
            [*COMMAND[:4], code + COMMAND[4], "write", *self.model(models), *words],
            cwd=folder,
            env={**os.environ, **ENVIRONMENT, **env},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # no threads
        )
        os.close(follower)

    @staticmethod
    def model(models: Path) -> list[str]:
        return ["-m", str(models / "m.safetensors"), "--seed", "1"]

    def hang_up(self) -> None:
        os.close(self.leader)
        self.leader = -1

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        if not select.select([self.leader], [], [], seconds)[0]:
            return True
        try:
            self.shown += os.read(self.leader, 1 << 16).decode("utf-8", "replace")
        except OSError:
            return False
        return True

    @property
    def plain(self) -> str:
        """Returns the output without escape sequences."""
        return ESCAPES.sub("", self.shown)

    def until(self, text: str) -> str:
        """Waits for a text after what was waited for last; gives all in between."""
        deadline = time.monotonic() + SECONDS
        while (place := self.plain.find(text, self.read_to)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.plain[self.read_to :]!r}"
            assert self._read(0.1), f"it ended: {self.plain!r}"
        between, self.read_to = self.plain[self.read_to : place], place + len(text)
        return between

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def say(self, line: str, prompt: str = "main>") -> str:
        """Types a line, and gives what is shown until the next prompt."""
        self.type(line + "\r")
        # The editor draws the line again when it is accepted, then leaves it.
        self.until("\n")
        return self.until(prompt)

    def end(self) -> int:
        """Waits for the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(0.05) and time.monotonic() < deadline:
            pass
        return self.process.wait(5)


@pytest.fixture
def open_desk(models: Path, tmp_path: Path) -> Iterator[object]:
    desks: list[Desk] = []

    def open_desk(*words: str, columns: int = 120, code: str = "", **env: str) -> Desk:
        desks.append(Desk(models, tmp_path, *words, columns=columns, code=code, **env))
        desks[-1].until(">")
        return desks[-1]

    yield open_desk
    for desk in desks:
        desk.process.kill()
        desk.process.wait()
        if desk.leader >= 0:
            desk.hang_up()


@pytest.fixture
def script(models: Path, tmp_path: Path):
    """Runs lines through a pipe: exit code, stdout, stderr."""

    def script(*lines: str, words: tuple[str, ...] = ("--seed", "1"), model: str = "m"):
        done = subprocess.run(
            [*COMMAND, "-m", str(models / f"{model}.safetensors"), *words],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT},
            input="".join(f"{line}\n" for line in lines).encode(),
            capture_output=True,
            timeout=60,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return script


# --- through a pipe


def test_a_note_names_the_unknown_characters_that_were_left_out(script):
    code, _, err = script("aÄz", "/more 1", words=("-n", "0", "--unknown", "skip", "--seed", "1"))
    assert (0, "--unknown skip: 2 unknown characters: 'Ä' left out, 'z' left out") == (
        code,
        err.splitlines()[0].removeprefix("note: "),
    )
    code, _, err = script("aÄz", words=("--seed", "1"))
    assert 1 == code
    assert "--unknown skip" in err


def test_piped_lines_give_the_text_of_charnn_sample(script, models):
    sampled = subprocess.run(
        [*COMMAND[:-1], "sample", "bad", "-n", "50", "--seed", "1", "-m", "m.safetensors"],
        cwd=models,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
    )
    code, out, err = script("bad", words=("--seed", "1", "-n", "50"))
    assert (0, sampled.stdout.decode()) == (code, out)
    assert [err] == [line for line in [err] if "not saved" in line]
    assert (0, out, "") == script("", words=("bad", "--seed", "1", "-n", "25", "-q"))


def test_every_command_runs(script, tmp_path):
    code, out, err = script(
        "bad",
        "/more 7",
        "/retry",
        "/undo 3",
        "/undo",
        "/redo",
        "/fork other",
        "/switch main",
        "/list",
        "/set temperature 0.6",
        "/set",
        "/show surprisal",
        "/show off",
        "/columns 0.5 0.8 1.1",
        "/take 2",
        "/text",
        "/save a.desk",
        "/load a.desk",
        "/export a.txt",
        "/help",
        "/quit",
        "this is not read any more",
        words=("--seed", "1", "-n", "20"),
    )
    assert (0, 0) == (code, err.count("error"))
    text = (tmp_path / "a.txt").read_bytes().decode()
    assert out.endswith(text)
    assert text.startswith("bad")
    assert "temperature         0.6" in err
    assert "* main" in err
    assert "2: temperature 0.8" in err
    assert "/columns [T ...]" in err


# Typed lines, and what the error names.
ERRORS = [
    ("/retri", "/retry"),
    ("/xyz", "/help"),
    ("/more! 3", "/more!"),
    ("/more x", "'x'.* /more \\[N\\]$"),
    ("/more 0", "1 .*'0'"),
    ("/undo", ""),
    ("/redo", ""),
    ("/redo 5", "'5'.* /redo$"),
    ("/retry", ""),
    ("/fork", "/fork NAME$"),
    ("/fork main", "'main'"),
    ("/switch b", "'b'.* main$"),
    ("/set temprature 1", "'temprature'.* temperature"),
    ("/set temperature x", "'x'.* /set temperature 0.8$"),
    ("/set top_k 1.5", "'1.5'.* /set top_k 0$"),
    ("/set temperature -1", "0 to 1000"),
    ("/set until x", "'x'"),
    ("/set bias e", "'e'"),
    ("/show colours", r"'colours'.*surprisal\|copied\|off"),
    ("/columns a", "'a'.* /columns"),
    ("/columns 0.5 -1", "0 to 1000"),
    ("/columns 1 1 1 1 1 1 1 1 1 1", "9"),
    ("/take 1", ""),
    ("/save", "/save FILE$"),
    ("/save none/a.desk", "none/a.desk"),
    ("/save ~nosuchuser/x", "~nosuchuser/x"),
    ("/export " + "x" * 300, "x" * 80),
    ("/load a\0b", "/load FILE$"),
    ("/load none.desk", "none.desk"),
    ("/export", "/export FILE$"),
    ("xyz", "'x'"),
]


def test_every_error_is_one_line_and_the_desk_continues(script):
    lines = [line for line, _ in ERRORS]
    code, out, err = script(*lines, "/more 9", words=("--seed", "1", "-q"))
    assert (1, 9) == (code, len(out))
    for (line, expected), said in zip(ERRORS, err.splitlines(), strict=True):
        assert re.search(f"^error: .*{expected}", said), line


def test_newlines_slashes_and_backslashes_can_be_typed(script):
    code, out, _ = script("/set max_tokens 0", "a\\", "\\", "//b", "c\\\\", "d")
    assert (0, "a\n\n/bc\\d") == (code, out)


def test_existing_files_are_overwritten_only_by_force(script, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "a.desk").write_text("mine")
    code, _, err = script("bad", "/export a.txt", "/save a.desk", "/load a.desk")
    assert 1 == code
    assert ["/export! a.txt overwrites it", "/save! a.desk overwrites it", "/load! a.desk"] == [
        words
        for line in err.splitlines()
        for words in re.findall(r"/\w+! \S+(?: overwrites it)?", line)
    ]
    assert "mine" == (tmp_path / "a.txt").read_text() == (tmp_path / "a.desk").read_text()
    code, _, err = script("bad", "/export! a.txt", "/save! a.desk", "/save", "/quit")
    assert (0, 0) == (code, err.count("not saved"))
    assert (tmp_path / "a.txt").read_text().startswith("bad")


def test_a_saved_desk_continues_in_another_process(script):
    _, whole, _ = script("bad", "/more 150", "/retry", "/text", words=("--seed", "1", "-q"))
    script("bad", "/save a.desk", words=("--seed", "1", "-q"))
    code, out, _ = script("/load a.desk", "/more 150", "/retry", "/text", words=("-q",))
    assert 0 == code
    size = 3 + 200 + 150
    assert whole[-size:] == out[-size:]


def test_a_file_of_another_model_and_a_damaged_file_are_one_line(script, tmp_path):
    script("bad", "/save a.desk")
    code, _, err = script("/load a.desk", model="other", words=("-q",))
    assert (1, 1) == (code, len(err.splitlines()))
    assert "another model" in err
    path = tmp_path / "a.desk"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = script("/load a.desk", words=("-q",))
    assert (1, 1) == (code, len(err.splitlines()))
    assert "damaged" in err


def test_a_setting_out_of_range_exits_with_2(script):
    code, out, err = script("bad", words=("-t", "-1"))
    assert (2, "") == (code, out)
    assert "temperature" in err


def test_help_and_a_pipe_import_no_heavy_packages(models):
    code = (
        "import sys; from charnn.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'prompt_toolkit', 'rich'} & set(sys.modules)))"
    )
    for words in (["--help"], ["-q", "-m", "m.safetensors"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "write", *words],
            cwd=models,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        assert "[]" == done.stdout.decode().splitlines()[-1]


# --- at a terminal


def test_a_text_is_typed_continued_and_undone(open_desk, tmp_path):
    desk = open_desk("-n", "30")
    first = desk.say("bad")
    assert "bad" in first
    desk.say("/undo 10")
    desk.say("/retry")
    desk.say("/export a.txt")
    assert (tmp_path / "a.txt").read_bytes().startswith(b"bad")
    assert 33 == len((tmp_path / "a.txt").read_bytes())
    assert "other" in desk.say("/fork other", "other>")
    assert "error: there is no command /frok" in desk.say("/frok", "other>")
    desk.type("/quit\r")
    desk.until("not saved")
    desk.until("other>")
    desk.type("\x04")
    assert 0 == desk.end()
    assert "Traceback" not in desk.shown


def test_ctrl_c_stops_the_model_and_not_the_desk(open_desk, tmp_path):
    desk = open_desk()
    desk.type("/more 100000000\r")
    desk.until("\n")
    time.sleep(0.5)
    desk.type("\x03")
    desk.until("main>")
    desk.say("/export a.txt")
    size = len((tmp_path / "a.txt").read_bytes())
    assert 0 < size < 100000000
    desk.say("/more 5")
    desk.say("/export b.txt")
    assert size + 5 == len((tmp_path / "b.txt").read_bytes())
    desk.type("\x03")
    desk.until("/quit leaves")
    desk.until("main>")
    desk.say("/save a.desk")
    desk.type("\x04")
    assert 0 == desk.end()


def test_tab_completes_a_command_and_arrow_up_repeats_it(open_desk):
    desk = open_desk("-n", "5")
    desk.type("/hel")
    desk.until("this")  # the menu
    desk.type("\t\r")
    desk.until("/columns [T ...]")
    desk.until("main>")
    desk.type("\x1b[A\r")
    desk.until("/columns [T ...]")


def test_columns_are_side_by_side_on_a_wide_terminal(open_desk):
    desk = open_desk("-n", "40")
    wide = desk.say("/columns 0.5 0.8 1.1")
    assert re.search(r"1: temperature 0.5 +2: temperature 0.8 +3: temperature 1.1", wide)
    desk.resize(40)
    desk.process.send_signal(signal.SIGWINCH)
    narrow = desk.say("/columns 0.5 0.8")
    assert re.search(r"-- 4: temperature 0.5\r?\n", narrow)
    assert all(len(line) <= 40 for line in narrow.splitlines() if line.startswith("--"))
    desk.say("/take 5")


def test_surprisal_is_coloured_unless_colours_are_off(open_desk):
    desk = open_desk("-n", "40")
    assert "[from 8]" in desk.say("/show surprisal")
    before = len(desk.shown)
    desk.say("bad")
    assert re.search(r"\x1b\[(1;)?38;5;\d+m", desk.shown[before:])
    plain = open_desk("-n", "40", NO_COLOR="1")
    assert "NO_COLOR" in plain.say("/show surprisal")
    before = len(plain.shown)
    plain.say("bad")
    assert not re.search(r"\x1b\[(1;)?38;5;\d+m", plain.shown[before:])


def test_show_copied_needs_the_training_text(open_desk):
    desk = open_desk("-n", "40")
    assert "models0/tokens" in desk.say("/show copied")


def test_a_copied_span_is_underlined_as_a_whole(open_desk, tmp_path):
    (tmp_path / "book.txt").write_text("the cat sat. The Mat ate and a rat slept on.\n" * 20)
    make_run(tmp_path, "r")
    desk = open_desk("-m", "r", "-n", "1")
    desk.say("/show copied")
    assert re.search(r"copied: \d+\.0% of 1 ", desk.say("nnnn cat sat. The Mat ate"))
    before = len(desk.shown)
    desk.say("/text")
    shown = re.sub(r"\x1b\[0m\x1b\[4m", "", desk.shown[before:])
    assert re.search(r"nnnn(\x1b\[0m)?\x1b\[4m cat sat. The Mat ate", shown)


def test_control_characters_are_escaped_on_a_terminal(open_desk):
    desk = open_desk("-n", "300", "-t", "2")
    shown = desk.say("bad")
    assert "\\x1b" in shown


@pytest.mark.parametrize(
    "env",
    [
        {"TERM": "dumb"},
        {"NO_COLOR": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_the_desk_works_on_poor_terminals_of_40_columns(open_desk, env):
    desk = open_desk("-n", "60", columns=40, **env)
    desk.say("bad")
    desk.say("/list")
    desk.say("/help")
    desk.say("/columns 1 2")
    assert "error" in desk.say("né")
    desk.say("/save a.desk")
    desk.type("/quit\r")
    assert 0 == desk.end()
    assert "Traceback" not in desk.shown


# --- a text is never lost


FAULT = "from charnn.desk.desk import Desk; Desk.redo = lambda desk: 1 / 0\n"
ENDS = {
    "TERM": (lambda desk: desk.process.terminate(), 143),
    "HUP": (lambda desk: desk.process.send_signal(signal.SIGHUP), 129),
    "hang up": (lambda desk: desk.hang_up(), 129),
    "Ctrl-D": (lambda desk: desk.type("\x04"), 0),
    "fault": (lambda desk: desk.type("/redo\r"), 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_but_quit_saves_the_text(open_desk, script, tmp_path, end):
    act, code = ENDS[end]
    (tmp_path / "charnn-write.saved").touch()  # of an earlier rescue
    desk = open_desk("-n", "5", code=FAULT)
    assert "/load charnn-write.saved " in " ".join(desk.plain.split())
    desk.say("bad")
    act(desk)
    if end == "hang up":
        assert code == desk.process.wait(SECONDS)
    else:
        assert code == desk.end()
        assert "/load charnn-write.saved-2 " in desk.plain
        assert "Traceback" not in desk.shown
        assert termios.tcgetattr(desk.leader)[3] & termios.ICANON
    assert script("/load charnn-write.saved-2", "/text")[1].startswith("bad")
    assert 0 == (tmp_path / "charnn-write.saved").stat().st_size


def test_a_loaded_text_is_rescued_into_its_own_file(open_desk, script, tmp_path):
    script("bad", "/save a.desk")
    desk = open_desk("-n", "5")
    desk.say("/load a.desk")
    desk.say("cab")
    desk.process.terminate()
    assert 143 == desk.end()
    assert "cab" in script("/load a.desk", "/text")[1]
    assert [tmp_path / "a.desk"] == list(tmp_path.iterdir())


def test_an_unfinished_line_is_rescued(open_desk, script):
    desk = open_desk("-n", "5")
    desk.type("bad cab")
    desk.until("bad cab")
    desk.process.terminate()
    assert 143 == desk.end()
    assert "bad cab" == script("/load charnn-write.saved", "/text")[1]


def test_a_text_is_rescued_into_a_temporary_folder_if_the_working_folder_is_gone(
    open_desk, script, tmp_path, tmp_path_factory
):
    other = tmp_path_factory.mktemp("other")
    desk = open_desk("-n", "5", TMPDIR=str(other))
    desk.say("bad")
    tmp_path.rmdir()
    desk.process.terminate()
    assert 143 == desk.end()
    (kept,) = other.glob("charnn-*/charnn-write.saved")
    assert 0o700 == kept.parent.stat().st_mode & 0o777
    assert f"/load {kept} " in " ".join(desk.plain.split())
    tmp_path.mkdir()
    assert script(f"/load {kept}", "/text")[1].startswith("bad")


def test_a_signal_during_a_continuation_keeps_its_beginning(open_desk, script):
    desk = open_desk("-n", "900000")
    desk.type("bad\r")
    for _ in range(20):
        desk.until("a")
    desk.process.terminate()
    assert 143 == desk.end()
    assert len(script("/load charnn-write.saved", "/text")[1]) > 20


def test_ctrl_c_held_down_stops_only_the_model(open_desk, tmp_path):
    desk = open_desk()
    for _ in range(3):
        desk.type("bad\r/more 100000000\r")
        for _ in range(60):
            desk.type("\x03")
            desk._read(0.005)
    for _ in range(200):  # the signal itself also comes while no key is read
        desk.type("\r")
        desk.process.send_signal(signal.SIGINT)
        desk._read(0.002)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "a.txt").exists() and time.monotonic() < deadline:
        desk.type("\x03/export! a.txt\r")  # a terminal forgets what was typed before Ctrl-C
        again = time.monotonic() + 0.5
        while time.monotonic() < again:
            desk._read(0.05)
    assert (tmp_path / "a.txt").read_bytes().startswith(b"bad")
    assert "Traceback" not in desk.shown
    assert "Press ENTER" not in desk.shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_piped_desk_saves_the_text(models, script, tmp_path, number):
    desk = subprocess.Popen(
        [*COMMAND, *Desk.model(models), "-n", "5"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    desk.stdin.write(b"bad\n")
    desk.stdin.flush()
    assert b"bad" == desk.stdout.read(3)
    desk.send_signal(number)
    _, err = desk.communicate(timeout=SECONDS)
    assert 128 + number == desk.returncode
    assert b"/load charnn-write.saved " in err
    assert script("/load charnn-write.saved", "/text")[1].startswith("bad")


def test_a_closed_pipe_ends_the_desk_quietly(models, tmp_path):
    command = " ".join([*map(repr, [*COMMAND, *Desk.model(models), "-n", "90000"]), "| head -c 9"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; echo bad | {command}"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
    )
    assert (0, 9, []) == (done.returncode, len(done.stdout), list(tmp_path.iterdir()))
