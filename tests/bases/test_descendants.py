"""Models that start from the base: exact resume, and the same text from every engine and export."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from driving import finish, stop_after
from forging import same_arrays

import charnn
from charnn import checkpoint
from charnn.config import TrainOptions
from charnn.engines.compiled import kernels
from charnn.export import exporter
from charnn.ngrams.add import NGramStep
from charnn.training.launch import resume, start
from charnn.training.trained_run import TrainedRun

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests/export/drive.js"
TEXT = (ROOT / "corpora/lighthouse.txt").read_text("utf-8")[:20_000] + "À l'est: 30 ½ öre.\n" * 20
OPTIONS: dict[str, Any] = {
    "from_model": "english",
    "max_steps": 4,
    "batch_size": 4,
    "bptt": 16,
    "eval_every": 2,
    "threads": 1,
    "seed": 3,
    "precision": "float32",
}
PROMPTS = ((3, "The goat "), (2**32 - 1, "30 ½"), (0, ""))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("descendants")
    (root / "text.txt").write_text(TEXT, "utf-8")
    return root


@pytest.fixture(scope="module", params=[0, 5], ids=["network", "mixture"])
def run(root: Path, request: pytest.FixtureRequest) -> TrainedRun:
    name, options = f"ngram-{request.param}", {**OPTIONS, "ngram": request.param}
    return charnn.train(root / "text.txt", checkpoints=root, name=name, **options)


def written(run: TrainedRun, seed: int, prompt: str, **options: Any) -> str:
    return run.load(**options).generate(prompt, seed=seed, max_tokens=150, echo=True)


def test_a_resumed_run_from_the_base_equals_an_uninterrupted_one(root: Path) -> None:
    def begun(name: str) -> Any:
        options = TrainOptions(**OPTIONS, name=name)
        return start([str(root / "text.txt")], options, root, final_step=NGramStep(5))

    with begun("straight") as (trainer, _):
        finish(trainer)
    with begun("broken") as (trainer, _):
        stop_after(trainer, 2)
    with resume("broken", TrainOptions(), root, final_step=NGramStep()) as trainer:
        assert "english" == trainer.origin["name"]
        finish(trainer)
    for name in ("last.safetensors", "best.safetensors"):
        one, other = root / "straight" / name, root / "broken" / name
        assert same_arrays(one, other)
        assert checkpoint.peek(one).get("ngrams") == checkpoint.peek(other).get("ngrams")


def test_a_descendant_of_a_descendant_starts_from_its_weights(run: TrainedRun) -> None:
    tuned = charnn.train(
        run.root / "text.txt", checkpoints=run.root, **{**OPTIONS, "from_model": run, "ngram": 0}
    )
    first = json.loads(tuned.metrics.read_text().splitlines()[1])
    assert (0, "eval") == (first["step"], first["event"])
    before = checkpoint.load(run.best).info["history"]
    lowest = min(row["cold_256"] for row in before)
    assert lowest == pytest.approx(first["cold_256"]["nats_per_token"], rel=1e-5)
    assert run.load().digest == tuned.load().info["from"]["digest"]
    assert set(run.load().tokenizer.known) <= set(tuned.load().tokenizer.known)


@pytest.mark.skipif(not kernels(), reason="there is no compiled engine here")
@pytest.mark.parametrize(("seed", "prompt"), PROMPTS)
def test_engines_write_the_same_text_with_8_bits(run: TrainedRun, seed: int, prompt: str) -> None:
    native, numpy = (
        written(run, seed, prompt, int8=True, engine=engine) for engine in ("native", "numpy")
    )
    assert native == numpy
    assert native.startswith(prompt)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_the_c_program_writes_the_text_of_sample(run: TrainedRun, tmp_path: Path) -> None:
    exporter("c").write(checkpoint.load(run.best), run.name, tmp_path / "c")
    sources = sorted((tmp_path / "c").glob("*.c"))
    program = tmp_path / "writer"
    subprocess.run(["cc", "-std=c99", "-O1", *sources, "-lm", "-o", program], check=True)
    for seed, prompt in PROMPTS:
        words = ["--seed", str(seed), "-n", "150", "--prompt", prompt]
        ran = subprocess.run([program, *words], capture_output=True, check=True)
        assert written(run, seed, prompt, int8=True) == ran.stdout.decode()


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node on the path")
def test_the_page_writes_the_text_of_sample(run: TrainedRun, tmp_path: Path) -> None:
    exporter("html").write(checkpoint.load(run.best), run.name, tmp_path / "page.html")
    model = run.load(int8=True)
    for seed, prompt in PROMPTS:
        ids = model.tokenizer.encode(prompt).tolist() or None  # null: as the page itself starts
        job = {"what": "write", "settings": [[0.8, 1, seed]], "length": 150, "prompt": ids}
        done = subprocess.run(
            ["node", DRIVER, tmp_path / "page.html"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
        [text] = json.loads(done.stdout)
        expected = written(run, seed, prompt, int8=True).removeprefix(prompt)
        assert expected == model.tokenizer.decode(text["ids"])


def test_a_shared_file_writes_and_is_half_the_size(run: TrainedRun, tmp_path: Path) -> None:
    saved = checkpoint.load(run.best)
    exporter("model").write(saved, run.name, tmp_path / "shared.safetensors")
    shared = charnn.load(tmp_path / "shared.safetensors")
    assert 150 == len(shared.generate(max_tokens=150, seed=1))
    weights = 4 * saved.config.parameters
    smaller = run.best.stat().st_size - (tmp_path / "shared.safetensors").stat().st_size
    assert smaller == pytest.approx(weights / 2, rel=0.01)
