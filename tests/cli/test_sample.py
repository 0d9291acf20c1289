"""`charnn sample` in processes of its own: what lands on stdout, stderr, and as exit code."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from random_model import random_model

from charnn.checkpoint import Checkpoint, save
from charnn.config import ModelConfig
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

COMMAND = [sys.executable, "-c", "from charnn.cli import main; main()", "sample"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one small model of bytes that writes nearly at random."""
    folder = tmp_path_factory.mktemp("sample")
    save(folder / "m.safetensors", random_model(ByteTokenizer(), scale=0.3, start_token=10))
    letters = CharTokenizer.learn("\ncafé sn")
    config = ModelConfig(letters.vocab_size, "gru", 8, 8, 1)
    weights = {n: np.zeros(s, np.float32) for n, s in config.tensor_shapes().items()}
    save(folder / "letters.safetensors", Checkpoint(config, letters.to_dict(), weights, 0))
    return folder


@pytest.fixture
def start(folder):
    started = []

    def start(*words, env=None, **options):
        process = subprocess.Popen(
            [*COMMAND, "-m", "m.safetensors", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **(env or {})},
            stderr=subprocess.PIPE,
            **{"stdout": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sample(start):
    """Runs to the end: exit code, stdout, stderr, the latter two as bytes."""

    def sample(*words, given=None, **options):
        process = start(*words, stdin=subprocess.PIPE, **options)
        out, err = process.communicate(given)
        return process.returncode, out, err

    return sample


def read_terminal(process, leader, interrupt_at=None):
    """Reads a terminal until the process ends: exit code, output, stderr."""
    shown = b""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                shown += os.read(leader, 1 << 16)
            except OSError:
                break
        if interrupt_at is not None and len(shown) > interrupt_at:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    return process.wait(), shown, process.stderr.read()


@pytest.fixture
def terminal(start):
    """Runs with a terminal as stdout: exit code, what it shows, stderr."""

    def terminal(*words, interrupt_at=None, **options):
        leader, follower = pty.openpty()
        process = start(*words, stdout=follower, **options)
        os.close(follower)
        try:
            return read_terminal(process, leader, interrupt_at)
        finally:
            os.close(leader)

    return terminal


def test_stdout_holds_the_text_exactly_and_stderr_the_drawn_seed(sample):
    code, out, err = sample("a\x1b\rz", "-n", "9")
    assert (0, b"a\x1b\rz", 13) == (code, out[:4], len(out))
    word, seed = err.decode().split()
    assert "seed" == word
    assert (0, out, b"") == sample("a\x1b\rz", "-n", "9", "--seed", seed)


def test_quiet_and_no_echo_leave_only_the_new_text(sample):
    code, out, err = sample("prompt", "-n", "7", "-q", "--no-echo")
    assert (0, 7, b"") == (code, len(out), err)


def test_a_prompt_from_stdin_is_taken_byte_for_byte(sample):
    given = b"\xff\xfe caf\xc3\xa9 \r\n"
    _, out, _ = sample("-", "-n", "3", "--seed", "1", given=given)
    assert given == out[: len(given)]
    assert len(given) + 3 == len(out)


LETTERS = ("-m", "letters.safetensors", "-n", "3", "--seed", "1")


def test_a_prompt_is_spelled_as_the_training_text_is(sample):
    code, out, err = sample("cafe\u0301", *LETTERS)
    assert (0, "café".encode()) == (code, out[:5])
    assert err.startswith(b"note: ")
    assert (0, out, b"") == sample("café", *LETTERS)


def test_crlf_of_a_prompt_from_stdin_becomes_lf_for_a_model_without_cr(sample):
    code, out, err = sample("-", *LETTERS, given=b"cafe\xcc\x81\r\n")
    assert (0, "café\n".encode()) == (code, out[:6])
    assert 2 == err.count(b"note: ")


def test_stop_strings_and_bans_that_cannot_come_are_noted(sample):
    words = ("--stop", "\\n", "--stop", "s", "--ban", "Ω", "--bias", "Q=1")
    code, _, err = sample(*words, *LETTERS)
    notes = err.decode().splitlines()
    assert (0, 3) == (code, len(notes))
    assert "$'\\n'" in notes[0]
    assert all(
        flag in note for flag, note in zip(("--stop", "--ban", "--bias"), notes, strict=True)
    )
    code, _, err = sample("one\\ntwo", *LETTERS)
    assert (1, True) == (code, b"$'\\n'" in err)


def test_several_samples_of_one_seed_have_a_rule_between_them(sample):
    three = sample("x", "-n", "6", "--seed", "4", "--num-samples", "3")[1]
    assert 2 == three.count(b"-" * 20 + b"\n")
    assert three.startswith(sample("x", "-n", "6", "--seed", "4")[1])


def test_many_samples_written_at_the_same_time_are_the_same_texts(sample):
    words = ("x", "-n", "6", "--seed", "4", "--num-samples")
    rows = [json.loads(line) for line in sample(*words, "9", "--json")[1].splitlines()]
    rows.sort(key=lambda row: row["index"])
    assert list(range(9)) == [row["index"] for row in rows]
    alone = [json.loads(line) for line in sample(*words, "3", "--json")[1].splitlines()]
    assert alone == rows[:3]
    assert 8 == sample(*words, "9")[1].count(b"-" * 20 + b"\n")


def test_json_is_one_object_a_sample_with_the_promised_keys(sample):
    _, out, _ = sample("x\xe9", "-n", "6", "--seed", "4", "--num-samples", "2", "--json")
    first, second = map(json.loads, out.splitlines())
    keys = ["prompt", "text", "seed", "tokens", "finish_reason", "bits_per_char", "index"]
    assert keys == list(first) == list(second)
    assert ("x\xe9", 4, 6, "length") == tuple(
        first[key] for key in ("prompt", "seed", "tokens", "finish_reason")
    )
    assert first["text"] != second["text"]
    assert first["bits_per_char"] > 0
    assert (
        first["text"].encode("utf-8", "surrogateescape")
        == sample("x\xe9", "-n", "6", "--seed", "4", "--no-echo")[1]
    )


def test_json_of_no_token_has_no_bits(sample):
    value = json.loads(sample("-n", "0", "--json", "-q")[1])
    assert ("", 0, None) == (value["text"], value["tokens"], value["bits_per_char"])


def test_a_stop_string_ends_the_text(sample):
    whole = sample("-n", "400", "--seed", "1", "-q")[1]
    stop = whole[50:52].decode("latin-1")
    if not stop.isascii():
        stop = next(chr(b) for b in whole if b < 128)
    value = json.loads(sample("-n", "400", "--seed", "1", "--stop", stop, "--json")[1])
    assert "stop" == value["finish_reason"]
    assert whole.split(stop.encode())[0] == value["text"].encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "words",
    [
        ("-t", "nan"),
        ("-t", "inf"),
        ("-t", "-1"),
        ("--top-k", "-1"),
        ("--top-p", "1.5"),
        ("--min-p", "nan"),
        ("--repetition-penalty", "0"),
        ("-n", "-1"),
        ("--seed", "-1"),
        ("--seed", str(2**70)),
        ("--num-samples", "0"),
        ("--stop", ""),
        ("--unknown", "perhaps"),
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_a_usage_error(sample, words):
    code, out, err = sample(*words)
    assert (2, b"") == (code, out)
    assert b"rror: " in err.splitlines()[-1]


def test_sampling_stops_quietly_when_its_reader_goes_away(start):
    process = start("-n", "1000000", "-q")
    process.stdout.read(5)
    process.stdout.close()
    assert (0, b"") == (process.wait(), process.stderr.read())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [(), ("--json",)], ids=str)
def test_a_full_disk_is_one_line_and_exit_1(sample, words):
    with open("/dev/full", "wb") as full:
        code, _, err = sample("-n", "5", "-q", *words, stdout=full)
    assert 1 == code
    assert 1 == len(err.splitlines())
    assert b"No space left" in err


def test_a_closed_stdout_is_one_line_and_exit_1(folder):
    script = 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "-m", "m.safetensors"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
    )
    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines())


def test_a_terminal_gets_control_characters_as_escapes(terminal):
    code, shown, _ = terminal("a\x1b]52;c\x07\u202e\tb\xe9", "-n", "300", "--seed", "1")
    assert 0 == code
    assert shown.startswith(b"a\\x1b]52;c\\x07\\u202e")
    assert b"\xc3\xa9" in shown
    assert not [byte for byte in shown if byte < 32 and byte not in b"\t\r\n"]
    assert shown.endswith(b"\r\n")


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"\\xe9"), ("latin-1", b"\xe9")])
def test_a_terminal_without_the_character_gets_its_escape(terminal, encoding, expected):
    environment = {"PYTHONIOENCODING": encoding}
    code, shown, _ = terminal("\xe9\u20ac", "-n", "1", "--seed", "1", env=environment)
    assert (0, expected + b"\\u20ac") == (code, shown[: len(expected) + 6])


def test_ctrl_c_leaves_the_text_so_far_and_a_whole_line_on_a_terminal(terminal):
    code, shown, err = terminal("abc", "-n", "10000000", "--seed", "1", interrupt_at=100)
    assert (130, b"abc", b"\r\n", b"") == (code, shown[:3], shown[-2:], err)


def test_ctrl_c_prints_the_interrupted_sample_as_json(start):
    process = start("abc", "-n", "10000000", "--json")
    process.stderr.readline()  # the seed: writing begins
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (130, b"") == (process.returncode, err)
    assert "interrupt" == json.loads(out)["finish_reason"]


def test_sampling_imports_neither_torch_nor_rich(folder):
    code = (
        "import sys; from charnn.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sample", "-m", "m.safetensors", "-n", "0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
    )
    assert b"[]\n" == done.stdout


def test_json_of_a_byte_model_restores_every_byte(start):
    plain, as_json = (start("-n", "60", "--seed", "3", "-q", *words) for words in ((), ("--json",)))
    data, line = plain.communicate()[0], as_json.communicate()[0]
    text = json.loads(line)["text"]
    with pytest.raises(UnicodeDecodeError):
        data.decode()
    assert data == text.encode("utf-8", "surrogateescape")
