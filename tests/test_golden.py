"""Files of every format that was ever written are still read, and mean the same.

`tests/golden` holds one model and one token file for each format number, never rewritten. A
format that changes adds a pair, and a migration for the older ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import charnn
from charnn import checkpoint
from charnn.text import token_format
from charnn.text.token_file import TokenFile

GOLDEN = Path(__file__).parent / "golden"
LINE = "the goat is not a sailor.\nwind west, and knows it.\n"
WRITTEN = "helw,,l.a\niweoaaegeed.ere.inoarlo,indr.r"
MIXED = {  # 4 and 5 were of an unreleased charnn, which mixed otherwise
    4: "ghlw. naa ntdoaaegeea.drd,ior.oor.eods,r",
    5: "gknw,,n.a kwer..dgeea.ese,ior.rno,ioas,r",
    6: "goat anaa kter.,dgghe,ese,ior.ono,ioas,r",
}


@pytest.mark.parametrize("number", range(1, checkpoint.FORMAT + 1))
def test_a_model_of_every_format_still_writes_the_same(number):
    path = GOLDEN / f"model-{number}.safetensors"
    saved = checkpoint.load(path)
    assert ("gru", 2, 6, 4) == (
        saved.config.cell,
        saved.config.num_layers,
        saved.config.hidden_size,
        saved.config.embedding_size,
    )
    assert saved.training is not None
    assert 3 == saved.training.progress["step"]
    assert ("adamw" if number == 1 else "muon") == saved.training.config.optimizer
    written = charnn.load(path).generate("the ", max_tokens=40, seed=1)
    assert MIXED.get(number, WRITTEN) == written


@pytest.mark.parametrize("number", range(1, token_format.FORMAT + 1))
def test_a_token_file_of_every_format_still_holds_its_text(number):
    tokens = TokenFile.open(GOLDEN / f"tokens-{number}.tokens")
    tokens.verify()
    assert LINE * 12 == tokens.tokenizer.decode(tokens.tokens)
    assert {"train": (0, 550), "valid": (550, 612)} == {
        name: (split.start, split.stop) for name, split in tokens.splits.items()
    }
