"""A peer of the quality benchmark: the classic recipe of char-rnn, in plain torch.

    python benchmarks/charrnn.py tinyshakespeare.txt --seconds 120 -o char-rnn.pt

This is github.com/karpathy/char-rnn with its defaults (two LSTM layers of 128 units over one-hot
characters, 50 streams, windows of 50, gradients clamped to 5, a learning rate that falls by 3 % per
pass from the tenth pass), but with Adam instead of RMSprop and a time budget instead of 50 passes.
It learns the first nine tenths.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import harness
import torch
from scorer import Network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BEGAN = time.monotonic() - time.process_time()  # the budget counts from the start of the process

UNITS, LAYERS = 128, 2
STREAMS, WINDOW = 50, 50
RATE, DECAY, FIRST_DECAY = 2e-3, 0.97, 10  # the rate decays after each pass from the tenth
CLAMP = 5.0
THREADS = 2


class CharRNN(nn.Module):
    """The network of char-rnn, a model in the sense of `scorer`."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.layers = nn.LSTM(vocab_size, UNITS, LAYERS, batch_first=True)
        self.head = nn.Linear(UNITS, vocab_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.08, 0.08)
        with torch.no_grad():
            for layer in range(LAYERS):  # torch adds up two biases
                getattr(self.layers, f"bias_ih_l{layer}")[UNITS : 2 * UNITS] = 1.0
                getattr(self.layers, f"bias_hh_l{layer}")[UNITS : 2 * UNITS] = 0.0

    def forward(self, ids: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Returns logits (B, T, V) for ids (B, T), and the memory after."""
        outputs, memory = self.layers(torch.eye(self.vocab_size)[ids], memory)
        return self.head(outputs), memory


def train(ids: Tensor, vocab_size: int, until: float, seed: int) -> tuple[CharRNN, int]:
    """Trains until a time of `time.monotonic`; returns the network and the number of steps."""
    windows = (len(ids) - 1) // (STREAMS * WINDOW)
    if not windows:
        sys.exit(f"error: char-rnn needs a training text of {STREAMS * WINDOW + 1:,} characters")
    size = STREAMS * windows * WINDOW
    inputs, targets = ids[:size].view(STREAMS, -1), ids[1 : size + 1].view(STREAMS, -1)
    torch.manual_seed(seed)
    model = CharRNN(vocab_size)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    memory, steps = None, 0
    while time.monotonic() < until:
        done, window = divmod(steps, windows)
        optimizer.param_groups[0]["lr"] = RATE * DECAY ** max(0, done + 1 - FIRST_DECAY)
        here = slice(window * WINDOW, (window + 1) * WINDOW)
        logits, memory = model(inputs[:, here], memory)
        memory = tuple(part.detach() for part in memory)
        loss = cross_entropy(logits.flatten(0, 1), targets[:, here].flatten())
        optimizer.zero_grad()
        (loss * WINDOW).backward()  # it clamps the gradient of the sum over a window
        nn.utils.clip_grad_value_(model.parameters(), CLAMP)
        optimizer.step()
        steps += 1
    return model, steps


class Loaded(NamedTuple):
    """A trained network: how many numbers were learnt, in how many steps."""

    network: Network
    parameters: int
    steps: int


def load(path: Path, vocab_size: int) -> Loaded:
    """Loads what the command wrote."""
    saved = torch.load(path, weights_only=True)
    model = CharRNN(vocab_size)
    model.load_state_dict(saved["weights"])
    return Loaded(model.eval(), sum(p.numel() for p in model.parameters()), saved["steps"])


def main() -> None:
    """Trains, and writes the network into a file."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("text", type=Path, metavar="TEXT", help="a text file in UTF-8")
    made.add_argument("--seconds", type=float, required=True, help="of the whole command")
    made.add_argument("--seed", type=int, default=0, help="[default: 0]")
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    options = made.parse_args()
    torch.set_num_threads(THREADS)
    ids, _, vocab_size = harness.split_ids(harness.read_split(options.text))
    until = BEGAN + options.seconds
    model, steps = train(torch.from_numpy(ids), vocab_size, until, options.seed)
    torch.save({"weights": model.state_dict(), "steps": steps}, options.output)


if __name__ == "__main__":
    main()
