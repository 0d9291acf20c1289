"""The peer of the quality benchmark: nanoGPT (github.com/karpathy/nanoGPT), its CPU recipe.

Its own train.py runs, as its README says to, in a temporary copy of a checkout.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from scorer import Network
from torch import Tensor

CONTEXT = 64
BATCH = 12
RECIPE = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
    f"--log_interval=1 --block_size={CONTEXT} --batch_size={BATCH} --n_layer=4 --n_head=4 "
    "--n_embd=128 --dropout=0.0"
).split()
DATA = Path("data/shakespeare_char")
SEED_LINE = "torch.manual_seed(1337 + seed_offset)"


def prepare(folder: Path, train: str, valid: str) -> Callable[[str], Tensor]:
    """Writes the files of data/shakespeare_char/prepare.py, but for the split of the caller.

    Returns the function from text to ids.
    """
    chars = sorted(set(train + valid))
    stoi = {char: index for index, char in enumerate(chars)}
    for name, text in (("train", train), ("val", valid)):
        np.array([stoi[char] for char in text], np.uint16).tofile(folder / DATA / f"{name}.bin")
    meta = {"vocab_size": len(chars), "itos": dict(enumerate(chars)), "stoi": stoi}
    (folder / DATA / "meta.pkl").write_bytes(pickle.dumps(meta))
    return lambda text: torch.tensor([stoi[char] for char in text])


def copy(checkout: Path, folder: Path, seed: int) -> None:
    """Copies a checkout, with `seed` added to the seed in its train.py."""
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    script = folder / "train.py"
    code = script.read_text(encoding="utf-8")
    if SEED_LINE not in code:
        sys.exit(f"error: {script.name} of {checkout} lacks {SEED_LINE!r}: use another version")
    seeded = SEED_LINE.replace("1337", str(1337 + seed))
    script.write_text(code.replace(SEED_LINE, seeded), encoding="utf-8")


def train(folder: Path, steps: int) -> harness.Ran:
    """Trains in a copy with the recipe."""
    options = [*RECIPE, f"--max_iters={steps}", f"--lr_decay_iters={steps}"]
    if steps < 250:  # else no checkpoint would be written
        options.append(f"--eval_interval={steps}")
    return harness.run([sys.executable, "train.py", *options], cwd=folder)


def load(folder: Path) -> tuple[Network, int, int]:
    """Returns the network of a trained copy, its number of parameters, and its step."""
    # weights_only: the file has only dictionaries of tensors and numbers.
    saved = torch.load(folder / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks up its module here
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(sys.stderr):
        model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()

    def network(ids: Tensor, memory: Any) -> tuple[Tensor, Any]:
        logits, _ = model(
            ids, ids
        )  # without targets, it returns the logits of the last position only
        return logits, memory

    return network, sum(p.numel() for p in model.parameters()), int(saved["iter_num"])
