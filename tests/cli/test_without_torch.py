"""Where PyTorch is missing, what only reads a model works, and the rest says how to install it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

import charnn
from charnn.errors import INSTALL, MissingPackage, needed

HIDDEN = "import sys\nsys.modules['torch'] = None\n"
CHARNN = f"{HIDDEN}from charnn.__main__ import main\nmain()"
TEXT = "The goat is not a sailor.\n" * 8
READERS = [
    ["demo", "--seed", "1"],
    ["sample", "It was ", "-m", "english", "-n", "20", "--seed", "1"],
    ["sample", "-m", "english", "--regex", "[a-z]{9}", "--seed", "1"],
    ["score", "book.txt", "-m", "english"],
    ["write", "-m", "english"],
    ["inspect", "book.txt", "-m", "english", "--json"],
    ["tokenize", "book.txt", "-o", "book.tokens"],
    ["show", "english"],
    ["runs", "--json"],
    ["corpus"],
    ["lab"],
    ["train", "--help"],
]
TRAINERS = [
    ["train", "book.txt"],
    ["train", "--resume"],
    ["plan", "book.txt"],
    ["eval", "book.txt", "-m", "english"],
    ["horizon", "book.txt", "-m", "english"],
    ["report", "english", "-o", "report.html"],
    ["lab", "recall"],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path


def run(folder: Path, *words: str, code: str = CHARNN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_a_command_that_reads_a_model_works_without_torch(words: list[str], folder: Path) -> None:
    done = run(folder, *words)
    assert 0 == done.returncode, done.stderr


def test_exports_and_comparisons_work_without_torch(folder: Path) -> None:
    outputs = {"c": "program", "html": "page.html", "model": "copy.safetensors"}
    outputs |= {"hub": "folder", "onnx": "graph.onnx"}
    for kind, output in outputs.items():
        done = run(folder, "export", "english", "--to", kind, "-o", output)
        assert 0 == done.returncode, done.stderr
        assert (folder / output).exists()
    models = ["-m", "english", "-m", outputs["model"]]
    done = run(folder, "compare", "book.txt", *models, "--json")
    assert 0 == done.returncode, done.stderr


def test_a_server_answers_without_torch(folder: Path) -> None:
    command = [sys.executable, "-c", CHARNN, "serve", "english", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            address = re.search(r"http://([\d.]+:\d+)", server.stderr.readline())
            assert address, server.stderr.read()
            client = HTTPConnection(address[1])
            body = json.dumps({"prompt": "It was ", "max_tokens": 9})
            client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = json.loads(client.getresponse().read())
            client.close()
        finally:
            server.terminate()
    assert 9 == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("words", TRAINERS, ids=" ".join)
def test_a_command_that_needs_torch_names_the_line_that_installs_it(
    words: list[str], folder: Path
) -> None:
    done = run(folder, *words)
    assert (1, "") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f": pip install {INSTALL['torch']}")
    assert ["book.txt"] == [path.name for path in folder.iterdir()]


def test_python_gets_an_error_of_charnn(folder: Path) -> None:
    code = (
        f"{HIDDEN}import charnn\n"
        "for call in (lambda: charnn.train('book.txt'), lambda: charnn.training.start):\n"
        "    try:\n"
        "        call()\n"
        "    except charnn.CharnnError as error:\n"
        "        assert 'pip install torch' in str(error)\n"
        "    else:\n"
        "        raise SystemExit('it trains without torch')\n"
        "print(len(charnn.load('english').generate(max_tokens=9, seed=1)))\n"
    )
    done = run(folder, code=code)
    assert 0 == done.returncode, done.stderr
    assert int(done.stdout)


@pytest.mark.parametrize("name", ["lacking", "lacking.room"])
def test_any_package_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(MissingPackage, match=r"--this.* lacking,.*: pip install lacking$"):
        with needed("--this"):
            __import__(name)


@pytest.mark.parametrize("name", ["charnn.lacking", "xml.lacking"])
def test_a_fault_of_the_installation_stays_one(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        with needed("--this"):
            __import__(name)


def test_charnn_train_keeps_its_help() -> None:
    assert charnn.train.__doc__
    assert charnn.train.__doc__.startswith("Trains on texts")
