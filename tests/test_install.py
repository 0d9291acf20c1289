"""charnn is installed with its engine where there is a C compiler, and without it where not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from charnn import checkpoint
from charnn.config import ModelConfig
from charnn.text.tokenizers import CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
TRY = """
import json, charnn
from charnn.engines import compiled
model = charnn.load("model.safetensors")
texts = [each.generate(seed=1, max_tokens=20) for each in (model, charnn.load("english"))]
print(json.dumps([charnn.__file__, compiled.kernels(), texts]))
"""


def save_a_model(path: Path) -> None:
    tokenizer = CharTokenizer.learn("the goat\n")
    config = ModelConfig(tokenizer.vocab_size, "gru", 4, 6, 2)
    draw = np.random.default_rng(0)
    weights = {
        name: draw.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in config.tensor_shapes().items()
    }
    checkpoint.save(path, checkpoint.Checkpoint(config, tokenizer.to_dict(), weights, 0))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["cc", "/no/such/compiler"])
def test_it_writes_with_and_without_a_compiler(compiler: str, tmp_path: Path) -> None:
    if compiler == "cc" and shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    source, site = tmp_path / "source", tmp_path / "site"
    skip = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "charnn", source / "charnn", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    options = ["--no-build-isolation", "--target", str(site), str(source)]
    environment = os.environ | {"CC": compiler, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ran = subprocess.run([*install, *options], capture_output=True, text=True, env=environment)
    assert 0 == ran.returncode, ran.stderr

    save_a_model(tmp_path / "model.safetensors")
    ran = subprocess.run(
        [sys.executable, "-c", TRY],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert 0 == ran.returncode, ran.stderr
    where, kernels, texts = json.loads(ran.stdout)
    assert where.startswith(str(site))
    assert (compiler == "cc") == bool(kernels)
    assert all(texts)
    for data in ("py.typed", "engines/engine/engine.c", "export/program/main.c"):
        assert (site / "charnn" / data).exists()
