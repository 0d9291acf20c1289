"""What the pages say is so: examples run, flags exist, and the described formats can be read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from random_model import random_weights
from typer.testing import CliRunner

from charnn import checkpoint
from charnn.checkpoint import Checkpoint
from charnn.cli import COMMANDS, app
from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.engines import make_predictor
from charnn.generation.filters import FILTERS
from charnn.generation.sampler import Sfc32
from charnn.ngrams.mixture import predictor
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.text.corpora import CORPORA
from charnn.text.sources import open_source
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import TOKENIZERS, CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "corpora", "checkpoints") for p in ROOT.glob(f"{d}/*.md")),
    ]
)

# Texts that an example may name, beside those of the known corpora, which lie in corpora/.
TEXTS = ("book.txt", "chapter.txt")
# With every character that the prompt of an example is likely to have.
TEXT = "".join(
    f"Day {day}. Wind {wind}, and knows it.\nThe goat is not a sailor.\n"
    for day, wind in enumerate(("west", "south", "north", "east") * 25)
) + "".join(map(chr, range(32, 127)))
# Examples that are not run, and why.
NOT_RUN = {
    "charnn --install-completion": "it changes the settings of the shell of whoever tests",
    "charnn serve": "it ends with Ctrl-C; tests/server runs it",
}
# Flags of other programs that a page may name.
OTHER_FLAGS = {
    "--index-url": "pip",
    "--extra-index-url": "pip",
    "--find-links": "pip",
    "--no-deps": "pip",
    "--no-index": "pip",
    "--pip-args": "pipx",
    "--excludes": "uv",
    "--torch-backend": "uv",
    "--strict": "twine",
    "--prompt": "an exported program",
    "--about": "the same",
    "--tasks": "lm_eval",
}

# Examples run as they are written; only then are the sizes made small, behind the command line.
# A run without a new budget has none left to resume, since nobody pressed Ctrl-C.
QUICK = """
import sys
from dataclasses import replace

def make_quick():
    from charnn.bases import BASES
    from charnn.training import launch, machine

    start, resume = launch.start, launch.resume
    budget = {"minutes": None, "epochs": None, "max_steps": 4, "threads": 1}
    shape = {"hidden_size": 16, "num_layers": 1, "embedding_size": None, "precision": "float32"}
    machine.MEASURE_SECONDS = 0.0
    launch.start = lambda texts, options, *rest, **named: start(
        texts,
        replace(options, **budget, **({} if options.from_model in BASES else shape)),
        *rest,
        **named,
    )
    launch.resume = lambda name, options, *rest, **named: resume(
        name, replace(options, **budget), *rest, **named
    )
"""
CHARNN = f"""{QUICK}
if __name__ == "__main__":  # a worker of the lab imports this script
    if {{"train", "plan"}} & set(sys.argv):
        make_quick()
    from charnn.cli import main
    main()
"""


def page(name: str) -> str:
    path = ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text("utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced blocks in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


def examples(text: str) -> Iterator[str]:
    """Lines of `sh` blocks that run charnn, and those behind a "$ " in `console` blocks.

    What torchrun would start several times is run once, without torchrun.
    """
    for language, begin in {"sh": "", "console": r"\$ "}.items():
        for block in blocks(text, language):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"^torchrun .* -m (?=charnn )", "", line)
                if re.match(rf"{begin}(charnn\b|.*\| *charnn\b)", line):
                    yield line.removeprefix("$ ")


def make_folder(folder: Path) -> dict[str, str]:
    """Fills a folder with texts and a `charnn` on the path; gives the environment."""
    for name in (*TEXTS, *(f"corpora/{name}.txt" for name in CORPORA)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TEXT)
    (folder / "bin").mkdir()
    script = folder / "bin/quickly.py"
    script.write_text(CHARNN)
    # Not the script itself: the line that would name the interpreter cannot hold a space.
    words = shlex.join([sys.executable, str(script)])
    (folder / "bin/charnn").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "bin/charnn").chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder)}


def run(command: list[str], folder: Path, environment: dict[str, str], example: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    talk = done.stderr.decode("utf-8", "replace")
    assert 0 == done.returncode, f"{example}\n{talk}"
    assert "Traceback" not in talk, f"{example}\n{talk}"


@pytest.fixture(scope="module")
def folder_with_a_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("docs")
    environment = make_folder(folder)
    run(["charnn", "train", "book.txt"], folder, environment, "charnn train book.txt")
    return folder, environment


def pages_with(*languages: str) -> list[str]:
    return [
        str(path.relative_to(ROOT)) for path in PAGES if blocks(path.read_text("utf-8"), *languages)
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)  # the guide has some fifty examples, a process each
@pytest.mark.parametrize("name", pages_with("sh", "console"))
def test_the_commands_of_a_page_work_one_after_another(name: str, tmp_path: Path) -> None:
    lines = list(examples(page(name)))
    environment = make_folder(tmp_path)
    run(["charnn", "train", "book.txt"], tmp_path, environment, "charnn train book.txt")
    for line in lines:
        if not line.startswith(tuple(NOT_RUN)):
            run(["bash", "-o", "pipefail", "-c", line], tmp_path, environment, line)


@pytest.mark.parametrize("name", pages_with("python"))
def test_the_python_of_a_page_works(
    name: str, folder_with_a_run: tuple[Path, dict[str, str]]
) -> None:
    codes = list(blocks(page(name), "python"))  # one process, since each loads torch
    whole = f"{QUICK}\nmake_quick()\nfor code in {codes!r}:\n    print(code)\n    exec(code, {{}})"
    run([sys.executable, "-W", "error", "-c", whole], *folder_with_a_run, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_a_place_in_the_guide(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert 0 == shown.exit_code
    first = (COMMANDS[name].__doc__ or "").strip().splitlines()[0]
    assert first
    assert first in " ".join(shown.output.split())
    assert re.search(rf"\bcharnn {name}\b", page("docs/guide.md"))


def flags_of(command: Any) -> set[str]:
    flags = {flag for parameter in command.params for flag in parameter.opts}
    for each in getattr(command, "commands", {}).values():
        flags |= flags_of(each)
    return flags | {"--help"}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/guide.md",
        "docs/install.md",
        "docs/benchmarks.md",
        "docs/texts.md",
        "docs/writers.md",
        "docs/classroom.md",
        "docs/linguists.md",
        "docs/embedded.md",
        "docs/serve.md",
        "docs/integrations.md",
    ],
)
def test_every_flag_that_a_page_names_exists(name: str) -> None:
    known = flags_of(typer.main.get_command(app)) | set(OTHER_FLAGS)
    for benchmark in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', benchmark.read_text("utf-8")))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page(name)))
    assert set() == named - known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text("utf-8"))
    assert [] == [link for link in links if not (path.parent / link).exists()]


def test_pages_that_the_code_names_exist() -> None:
    sources = [p.read_text("utf-8") for p in (ROOT / "charnn").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"docs/[\w-]+\.md", source)}
    assert named
    assert [] == [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_what_a_page_names_in_the_tree_is_there(name: str) -> None:
    named = re.findall(r"`((?:charnn|tests|benchmarks|docs|corpora)/[\w/.-]*)`", page(name))
    assert named
    assert [] == [path for path in named if not (ROOT / path).exists()]


def test_the_architecture_page_names_every_room() -> None:
    rooms = {
        path.stem
        for path in (ROOT / "charnn").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__", "__main__"}
    named = set(re.findall(r"`(\w+)(?:\.py|/)?`", page("ARCHITECTURE.md")))
    assert set() == rooms - named


# From here on a reader made from docs/file-format.md alone: struct, json, hashlib and numpy.

DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "F16": "<f2", "F32": "<f4"}


def read_container(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of a file, after comparing its digest."""
    blob = path.read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    data = blob[8 + length :]
    text = header.pop("__metadata__")["charnn"]
    metadata = json.loads(text)

    rest = text.replace(f'"digest":"{metadata["digest"]}",', "", 1)
    places = {n: [t["dtype"], t["shape"], *t["data_offsets"]] for n, t in header.items()}
    tensors = json.dumps(places, sort_keys=True, separators=(",", ":"))
    sealed = data + f'{{"metadata":{rest},"tensors":{tensors}}}'.encode()
    assert metadata["digest"] == hashlib.sha256(sealed).hexdigest()

    arrays = {
        name: np.frombuffer(data[start:stop], DTYPES[dtype]).reshape(shape)
        for name, (dtype, shape, start, stop) in places.items()
    }
    return arrays, metadata


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def read_token(
    arrays: dict[str, np.ndarray], model: dict[str, Any], token: int, state: list[list[np.ndarray]]
) -> np.ndarray:
    """One step of the page's equations: logits (V,); `state` is changed."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean()
        scaled = centred / math.sqrt((centred**2).mean() + 0.00001)
        return scaled * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    size, kind = model["hidden_size"], model["cell"]
    x = arrays["embedding.weight"][token].astype(np.float64)
    for i in range(model["num_layers"]):
        cell = f"layers.{i}.cell"
        h = state[i][0]
        # (G, H): the rows of the gates, one below the other
        ih = (arrays[f"{cell}.weight_ih"] @ norm(x, f"layers.{i}.norm")).reshape(-1, size)
        hh = (arrays[f"{cell}.weight_hh"] @ h).reshape(-1, size)
        b = arrays[f"{cell}.bias"].reshape(-1, size)
        if kind == "rnn":
            state[i] = [np.tanh(ih[0] + hh[0] + b[0])]
        elif kind == "gru":
            r, z = sigmoid(ih[0] + hh[0] + b[0]), sigmoid(ih[1] + hh[1] + b[1])
            n = np.tanh(ih[2] + b[2] + r * (hh[2] + arrays[f"{cell}.bias_hn"]))
            state[i] = [(1 - z) * n + z * h]
        else:
            a = ih + hh + b
            c = sigmoid(a[1]) * state[i][1] + sigmoid(a[0]) * np.tanh(a[2])
            state[i] = [sigmoid(a[3]) * np.tanh(c), c]
        y = state[i][0]
        x = x + y if len(x) == size else y
    logits: np.ndarray = arrays["head.weight"] @ norm(x, "norm") + arrays["head.bias"]
    return logits


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("embedding_size", [6, 9])
def test_a_reader_made_from_the_page_computes_what_charnn_computes(
    cell: str, embedding_size: int, tmp_path: Path
) -> None:
    tokenizer = CharTokenizer.learn("Mem. count the stairs: é, ∞\n")
    config = ModelConfig(tokenizer.vocab_size, cell, embedding_size, 6, 2)
    weights = random_weights(config, 0.6, seed=1, mean=0.2)
    path = tmp_path / "model.safetensors"
    info = {"history": [{"train_loss": 1e-05, "cold_256": None}], "a note": "é"}
    checkpoint.save(path, Checkpoint(config, tokenizer.to_dict(), weights, 0, info))

    arrays, metadata = read_container(path)
    assert checkpoint.load(path).digest == metadata["digest"]
    assert ("model", 1) == (metadata["kind"], metadata["format"])
    vocabulary = [chr(code) for code in arrays["tokenizer.vocabulary"]]
    assert "Mem" == "".join(vocabulary[i] for i in tokenizer.encode("Mem"))

    state = [[np.zeros(6)] * (2 if cell == "lstm" else 1) for _ in range(2)]
    theirs = make_predictor(config, weights, "numpy")
    their_state = theirs.initial_state()
    for token in (metadata["start_token"], 3, 3, 7):
        logits = read_token(arrays, metadata["model"], token, state)
        expected, their_state = theirs.step(token, their_state)
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def n_grams(
    arrays: dict[str, np.ndarray], order: int, vocab_size: int, text: list[int]
) -> np.ndarray:
    """What the n-grams of a file say after a text, as the page has it: q (V,)."""
    symbols, counts, children, dropped = (
        arrays[f"ngrams.{name}"].tolist() for name in ("symbols", "counts", "children", "dropped")
    )
    first = [1]
    for number in children:
        first.append(first[-1] + number)
    levels = [range(1)]  # the nodes of each depth
    while len(levels) <= order:
        levels.append(range(first[levels[-1].start], first[levels[-1].stop]))
    contexts: list[int] = []
    for size in range(order):
        node: int | None = 0
        for symbol in text[len(text) - size :] if size <= len(text) else [-1]:
            among = range(first[node], first[node + 1])
            node = next((child for child in among if symbols[child - 1] == symbol), None)
            if node is None:
                break
        if node is not None:
            contexts.append(node)
    q = [1 / vocab_size] * vocab_size
    for context in contexts:
        depth = next(k for k, level in enumerate(levels) if context in level)
        n = [0] * 5
        for child in levels[depth + 1]:
            n[min(counts[child - 1], 4)] += counts[child - 1] < 5
        n[1] += sum(dropped[node] for node in levels[depth])
        d = [0, 0.5, 1.0, 1.5]
        if all(n[1:]):
            y = n[1] / (n[1] + 2 * n[2])
            d[1:] = [min(max(k - (k + 1) * y * n[k + 1] / n[k], 0.1), k) for k in (1, 2, 3)]
        among = range(first[context], first[context + 1])
        total = dropped[context] + sum(counts[child - 1] for child in among)
        if total:
            less = {child: d[min(counts[child - 1], 3)] for child in among}
            rest = (sum(less.values()) + dropped[context]) / total
            q = [rest * each for each in q]
            for child in among:
                q[symbols[child - 1]] += (counts[child - 1] - less[child]) / total
    return np.array(q)


@pytest.mark.parametrize("once", [None, 2])
def test_a_reader_made_from_the_page_knows_the_n_grams(once: int | None, tmp_path: Path) -> None:
    text = "".join(f"{n % 7} goats, {n % 11} gulls\n" for n in range(99))
    tokenizer = CharTokenizer.learn(text)
    ids = tokenizer.encode(text).astype(np.int64)
    tree = NGramTree.of(ids, tokenizer.vocab_size, 5, once)
    config = ModelConfig(tokenizer.vocab_size, "gru", 3, 4, 1)
    weights = {name: np.zeros(s, np.float32) for name, s in config.tensor_shapes().items()}
    path = tmp_path / "model.safetensors"
    ngrams = tree.section(MixtureWeights(0.5, 0.75))
    checkpoint.save(path, Checkpoint(config, tokenizer.to_dict(), weights, 0, ngrams=ngrams))
    arrays, metadata = read_container(path)
    theirs = predictor(checkpoint.load(path))
    for start in range(0, 60, 7):
        some = ids[start : start + start % 9 + 1].tolist()
        logits, _ = theirs.feed(some, theirs.initial_state())
        q = n_grams(arrays, metadata["ngrams"]["order"], tokenizer.vocab_size, some)
        theirs_alone = metadata["ngrams"]["weights"]["ngrams"] * np.log(q)  # the weights are nought
        np.testing.assert_allclose(logits, theirs_alone, rtol=1e-5)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_reader_made_from_the_page_reads_a_token_file(kind: str, tmp_path: Path) -> None:
    text = TEXT + "é\n"
    (tmp_path / "book.txt").write_text(text, "utf-8")
    path = tmp_path / "book.tokens"
    with open_source([tmp_path / "book.txt"]) as source:
        write_token_file(path, source, tokenizer=kind, split=(80, 10, 10))

    arrays, metadata = read_container(path)
    file = TokenFile.open(path)
    assert file.digest == metadata["digest"]
    assert ("tokens", 1) == (metadata["kind"], metadata["format"])
    assert ["test", "train", "valid"] == list(metadata["splits"])
    assert len(text) * 80 // 100 == metadata["splits"]["train"]["chars"]
    assert hashlib.sha256(text.encode()).hexdigest() == metadata["source"]["sha256"]
    np.testing.assert_array_equal(file.tokens, arrays["tokens"])
    assert {"char": "U8", "byte": "U8", "sentencepiece": "U16"}[kind] == next(
        name for name, code in DTYPES.items() if arrays["tokens"].dtype == code
    )
    if kind != "sentencepiece":
        ids = arrays["tokens"]
        codes = arrays["tokenizer.vocabulary"] if kind == "char" else np.arange(256)
        spelt = [chr(code).encode() if kind == "char" else bytes([code]) for code in codes]
        assert text == b"".join(spelt[i] for i in ids).decode()


def names_in(value: Any) -> Iterator[str]:
    """All keys of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names_in(inner)


def test_the_page_names_every_key_and_tensor_of_a_run(
    folder_with_a_run: tuple[Path, dict[str, str]],
) -> None:
    run_folder = folder_with_a_run[0] / "checkpoints/book"
    named = set(re.findall(r"`([^`\s]+)`", page("docs/file-format.md")))
    for file in ("last.safetensors", "best.safetensors", "tokens"):
        arrays, metadata = read_container(run_folder / file)
        assert set() == set(names_in(metadata)) - named
        tensors = {re.sub(r"\.\d+\.", ".<i>.", name) for name in arrays}
        kinds = ("training.exp_avg", "training.momentum")
        moments = {name for name in tensors if name.startswith(kinds)}
        assert set() == tensors - moments - named
        weights = {name.split(".", 2)[2] for name in moments}
        assert weights <= tensors
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert set() == set(names_in(lines)) - named
    assert {line["event"] for line in lines} <= named
    settings = {field.name for kind in (ModelConfig, TrainConfig) for field in fields(kind)}
    assert set() == settings - named
    assert set() == {f"layers.<i>.cell.{name}" for name in ("bias", "bias_hn")} - named


def test_the_numbers_of_the_sampling_page_are_those_of_the_generator() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| ([\da-f ]+) \|$", page("docs/sampling.md"), re.MULTILINE
    )
    assert len(rows) > 2
    for seed, index, outputs in rows:
        generator = Sfc32(int(seed), int(index))
        assert outputs.split() == [f"{generator.next():08x}" for _ in outputs.split()]


def test_the_sampling_page_has_every_filter_in_order_with_the_setting_that_is_off() -> None:
    rows = re.findall(r"^ *- `(\w+)` \w \((\S+) is off\)", page("docs/sampling.md"), re.MULTILINE)
    assert [(name, f"{off:g}") for name, (_, off) in FILTERS.items()] == rows


# Runs the cells of a notebook one after another; shows the last value of each, as a notebook does.
NOTEBOOK = f"""{QUICK}
import ast, importlib.util, json, subprocess, sys
from pathlib import Path
from unittest.mock import MagicMock

if importlib.util.find_spec("matplotlib") is None:  # hosted notebooks have it
    sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = MagicMock()
make_quick()
names = {{}}
for cell in json.loads(Path(sys.argv[1]).read_text("utf-8"))["cells"]:
    if cell["cell_type"] != "code" or cell["source"][0].startswith("%pip"):
        continue
    code = "import subprocess\\n"
    for line in cell["source"]:
        shell = f"subprocess.run({{line[1:].strip()!r}}, shell=True, check=True)\\n"
        code += shell if line[0] == "!" else line
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "a cell", "exec"), names)
    if last:
        value = eval(compile(ast.Expression(last.value), "a cell", "eval"), names)
        print(getattr(value, "_repr_html_", value.__repr__)())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("text", ["book.txt", "corpora/manual.txt"])
def test_the_notebook_runs_from_top_to_bottom(text: str, tmp_path: Path) -> None:
    environment = make_folder(tmp_path)
    if text != "book.txt":
        (tmp_path / "book.txt").unlink()
    notebook = ROOT / "docs/charnn.ipynb"
    run([sys.executable, "-W", "error", "-c", NOTEBOOK, str(notebook)], tmp_path, environment, text)
    assert "<script" in (tmp_path / "writer.html").read_text("utf-8")
    assert (tmp_path / "checkpoints" / Path(text).stem / "best.safetensors").exists()


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in json.loads(page("docs/charnn.ipynb"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
