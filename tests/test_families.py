"""A new member of each family, added to a copy of the package where CONTRIBUTING says.

The tests edit exactly those files and run the commands that the member must work with. A place too
many or too few on the page fails. `tests/test_new_cell.py` adds a cell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charnn.checkpoint import Checkpoint, save
from charnn.config import ModelConfig
from charnn.text.tokenizers import CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-W", "error", "-c", "from charnn.cli import main; main()"]
NEW_MODULE = ""  # instead of a place in an existing file

# Family -> file -> (what stands there, what is inserted after it).
FAMILIES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "filter": {
        "charnn/generation/filters.py": [
            (
                "    return _only(logits, np.flatnonzero(logits >= logits.max() + math.log(p)))\n",
                "def even(logits: Logits, value: float, recent: Collection[int] = ()) -> Logits:\n"
                "    return _only(logits, np.arange(0, logits.size, 2))\n",
            ),
            ('    "min_p": (min_p, 0.0),\n', '    "even": (even, 0),\n'),
        ],
        "charnn/config/sampling.py": [
            (
                'tokens less likely; 1: off.",\n        section=CHOICE,\n    )\n',
                '    even: int = whole(0, 0, 1, "1: even ids only.", section=CHOICE)\n',
            )
        ],
    },
    "engine": {
        "charnn/engines/next_id.py": [
            (
                NEW_MODULE,
                "import numpy as np\n"
                "from charnn.predictor import Predictor\n"
                "class NextId(Predictor):\n"
                "    exact = True\n"
                "    def __init__(self, arrangement):\n"
                "        self.config = arrangement.config\n"
                "    def initial_state(self):\n"
                "        return np.zeros(1, np.float32)\n"
                "    def step(self, token, state):\n"
                "        logits = np.zeros(self.config.vocab_size, np.float32)\n"
                "        logits[(token + 1) % logits.size] = 9\n"
                "        return logits, state\n",
            )
        ],
        "charnn/engines/__init__.py": [
            ("from __future__ import annotations\n", "from charnn.engines.next_id import NextId\n"),
            ('    "numpy": _numpy,\n', '    "next-id": NextId,\n'),
        ],
    },
    "exporter": {
        "charnn/export/size.py": [
            (
                NEW_MODULE,
                "def write_size(model, name, path):\n"
                '    path.write_text(f"{name}: {model.config.parameters}")\n',
            )
        ],
        "charnn/export/__init__.py": [
            ("from __future__ import annotations\n", "from charnn.export.size import write_size\n"),
            (
                "EXPORTERS: dict[str, Exporter] = {\n",
                '    "size": Exporter(".txt", write_size, "read {path}"),\n',
            ),
        ],
    },
    "corpus": {
        "charnn/text/corpora.py": [
            (
                "CORPORA = {\n    corpus.name: corpus\n    for corpus in (\n",
                '        Corpus("ten-goats", "a goat", lambda: iter([b"The goat.\\n"] * 10)),\n',
            )
        ],
    },
    "command": {
        "charnn/cli/count.py": [
            (
                NEW_MODULE,
                "from pathlib import Path\n"
                "from charnn.cli.console import put\n"
                "def count(text: Path) -> None:\n"
                '    """Count the bytes of a text."""\n'
                "    put(str(text.stat().st_size))\n",
            )
        ],
        "charnn/cli/__init__.py": [
            ("from charnn.cli.corpus import corpus\n", "from charnn.cli.count import count\n"),
            ("COMMANDS: dict[str, Callable[..., None]] = {\n", '    "count": count,\n'),
        ],
    },
}


def bullets(family: str) -> list[str]:
    """The places that CONTRIBUTING lists for a family."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = page.partition(f"### A{'n' * (family[0] in 'aeiou')} {family}\n")[2].partition("\n#")[
        0
    ]
    found = re.findall(r"^- (.*(?:\n  .*)*)", section, re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no list for a {family}"
    return found


@pytest.mark.parametrize("family", [*FAMILIES, "cell", "tokenizer"])
def test_the_page_names_the_files_and_tables_of_each_family(family: str) -> None:
    for bullet in bullets(family):
        head = bullet.partition(":")[0]
        paths = re.findall(r"`([\w/.-]+)`", head)
        assert paths, f"{bullet!r} begins with no file"
        assert [] == [path for path in paths if not (ROOT / path).exists()]
        source = "".join((ROOT / p).read_text("utf-8") for p in paths if p.endswith(".py"))
        for table in re.findall(r"`([A-Z_]{3,})`", bullet):
            assert re.search(rf"^{table}\b.*=", source, re.MULTILINE), f"no {table} in {paths}"


@pytest.fixture
def add(tmp_path: Path):
    """Adds a member to a copy of the package; returns a function that runs charnn there."""

    def add(family: str):
        places = FAMILIES[family]
        listed = {bullet.partition("`")[2].partition("`")[0] for bullet in bullets(family)}
        edited = {p if (ROOT / p).exists() else p[: p.rindex("/") + 1] for p in places}
        assert edited == {path for path in listed if path.startswith("charnn/")}
        shutil.copytree(ROOT / "charnn", tmp_path / "charnn")
        for path, edits in places.items():
            file = tmp_path / path
            text = file.read_text("utf-8") if file.exists() else ""
            for line, new in edits:
                assert line == NEW_MODULE or text.count(line) == 1, f"{path} lacks {line!r}"
                text = text.replace(line, line + new) if line else new
            file.write_text(text, "utf-8")
        return charnn

    def charnn(*words: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    tokenizer = CharTokenizer.learn("abcdef")
    config = ModelConfig(tokenizer.vocab_size, "gru", 4, 4, 1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensor_shapes().items()}
    save(tmp_path / "m.safetensors", Checkpoint(config, tokenizer.to_dict(), weights, 0))
    return add


MODEL = ("-m", "m.safetensors", "--seed", "1", "-n", "60", "-q")


def test_a_new_filter_works_for_samples_at_the_desk_and_from_python(add, tmp_path: Path) -> None:
    charnn = add("filter")
    assert set("abcdef") == set(charnn("sample", *MODEL))
    assert set("ace") == set(charnn("sample", "--even", "1", *MODEL))
    assert set("ace") == set(charnn("write", *MODEL, stdin="/set even 1\n/more\n"))
    code = "import charnn; print(charnn.load('m.safetensors').generate(even=1), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert set(b"ace") == set(done.stdout)
    assert "--even" in charnn("sample", "--help")


def test_a_new_engine_writes_and_scores(add, tmp_path: Path) -> None:
    charnn = add("engine")
    words = ("--engine", "next-id", "-t", "0")
    assert ("abcdef" * 10)[1:] + "a" == charnn("sample", "a", "--no-echo", *words, *MODEL)
    assert charnn("write", *words, *MODEL, stdin="ab\n").startswith("abcdefab")
    assert "next-id" in charnn("sample", "--help")


def test_a_new_exporter_is_offered_and_used(add, tmp_path: Path) -> None:
    charnn = add("exporter")
    assert "size" in charnn("export", "--help")
    charnn("export", "m.safetensors", "--to", "size")
    assert re.fullmatch(r"m: \d+", (tmp_path / "m.txt").read_text())


def test_a_new_corpus_is_listed_built_and_read(add, tmp_path: Path) -> None:
    charnn = add("corpus")
    assert "ten-goats" in charnn("corpus")
    charnn("corpus", "ten-goats")
    assert 100 == (tmp_path / "corpora" / "ten-goats.txt").stat().st_size
    charnn("tokenize", "ten-goats", "-o", "goats.tokens")


def test_a_new_command_runs_and_has_help(add, tmp_path: Path) -> None:
    charnn = add("command")
    (tmp_path / "a.txt").write_text("abc")
    assert "3\n" == charnn("count", "a.txt")
    assert "Count the bytes of a text." in charnn("--help")
