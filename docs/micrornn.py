"""A recurrent network that writes, in numpy and nothing else. Read it from top to bottom.

    python docs/micrornn.py checkpoints/book/best.safetensors "It was " -n 200 -t 0.8 --seed 1

It reads a model file that charnn has trained, and writes the text that charnn itself writes with

    charnn sample "It was " -m book -n 200 -t 0.8 --seed 1 --network-only
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np

# --- 1. The file: arrays of numbers, each with a name ---------------------------------------------
TYPES = {"F32": "<f4", "F16": "<f2", "U8": "<u1", "U16": "<u2", "U32": "<u4"}


def load(path):
    """Returns the arrays of a model file by name, and the facts that charnn wrote about them."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")  # the file begins with the length of its header,
    header = json.loads(data[8 : 8 + size])  # which tells type, shape and place of each array
    facts = json.loads(header.pop("__metadata__")["charnn"])
    arrays = {}
    for name, its in header.items():
        start, stop = (8 + size + offset for offset in its["data_offsets"])
        arrays[name] = np.frombuffer(data[start:stop], TYPES[its["dtype"]]).reshape(its["shape"])
    return arrays, facts


# --- 2. The cells: what a layer remembers after one more character --------------------------------
#
# x is the input, h the output, which the cell reads again at the next character. Training has found
# the matrices W_ih (input to hidden) and W_hh (hidden to hidden), and the biases b and b_hn.


def sigmoid(a):
    """Squeezes numbers into 0 to 1: a gate is closed, open, or in between."""
    return (1 + np.tanh(a / 2)) / 2


def rnn(x, state, W_ih, W_hh, b, b_hn):
    """Elman 1990: the new memory is a mixture of the input and the old memory."""
    (h,) = state
    return (np.tanh(W_ih @ x + W_hh @ h + b),)


def gru(x, state, W_ih, W_hh, b, b_hn):
    """Cho et al. 2014: n is a new memory, gate z keeps the old one, gate r hides it from n."""
    (h,) = state
    r_x, z_x, n_x = np.split(W_ih @ x + b, 3)
    r_h, z_h, n_h = np.split(W_hh @ h, 3)
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
    n = np.tanh(n_x + r * (n_h + b_hn))
    return ((1 - z) * n + z * h,)


def lstm(x, state, W_ih, W_hh, b, b_hn):
    """Hochreiter & Schmidhuber 1997: c is a memory that gate f keeps, i writes and o shows."""
    h, c = state
    i, f, g, o = np.split(W_ih @ x + W_hh @ h + b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)  # while f is 1, c keeps what it holds
    return sigmoid(o) * np.tanh(c), c


CELLS = {"rnn": (rnn, 1), "gru": (gru, 1), "lstm": (lstm, 2)}  # the cell, the vectors of its state


# --- 3. The network: a character goes in, a score for each possible next one comes out ------------
class Network:
    """Layers of cells, one above the other."""

    def __init__(self, arrays, shape):
        self.weights = {n: a.astype(float) for n, a in arrays.items() if a.dtype.kind == "f"}
        self.cell, vectors = CELLS[shape["cell"]]
        self.states = [[np.zeros(shape["hidden_size"])] * vectors] * shape["num_layers"]

    def norm(self, x, name):
        """Layer norm: centres and scales a vector, so that no layer drowns the others."""
        x = (x - x.mean()) / np.sqrt(x.var() + 0.00001)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def read(self, token):
        """Reads the number of a character and remembers it; returns the scores (logits)."""
        x = self.weights["embedding.weight"][token]  # each character has a vector of its own
        for i, state in enumerate(self.states):
            names = ("weight_ih", "weight_hh", "bias", "bias_hn")
            trained = [self.weights.get(f"layers.{i}.cell.{name}") for name in names]
            self.states[i] = self.cell(self.norm(x, f"layers.{i}.norm"), state, *trained)
            h = self.states[i][0]
            x = x + h if len(x) == len(h) else h  # a layer adds to what the layer below has found
        return self.weights["head.weight"] @ self.norm(x, "norm") + self.weights["head.bias"]


# --- 4. The dice: the same seed throws the same numbers on every computer -------------------------
def dice(seed):
    """Yields numbers from 0 to 1: sfc32, the random generator of Chris Doty-Humphrey."""
    a, b, c, count, bits = 0, seed, 0, 1, 2**32 - 1
    while True:
        thrown = (a + b + count) & bits
        a, b, c = b ^ (b >> 9), (c + (c << 3)) & bits, ((c << 21 | c >> 11) + thrown) & bits
        count += 1
        yield thrown / 2**32


def choose(scores, temperature, thrown):
    """Returns the number of a character: likely ones often, unlikely ones rarely."""
    if temperature == 0:
        return int(scores.argmax())
    scores = scores / temperature  # below 1, likely characters get likelier still
    shares = np.exp(scores - scores.max()).cumsum()  # softmax: each character has its share
    return int(shares.searchsorted(thrown * shares[-1], "right"))  # of a line, which the dice hit


# --- 5. Writing: the network reads what was chosen, and so on -------------------------------------
def write(path, prompt, length, temperature, seed):
    """Yields a text that begins with `prompt`, in bytes."""
    arrays, facts = load(path)
    if facts["tokenizer"]["kind"] == "sentencepiece":
        sys.exit(f"{path} writes pieces of words: take a model of characters or bytes")
    known, letters = [bytes([n]) for n in range(256)], [bytes([n]) for n in prompt.encode()]
    if facts["tokenizer"]["kind"] == "char":
        known = [chr(code).encode() for code in arrays["tokenizer.vocabulary"]]
        letters = [letter.encode() for letter in prompt]
    network = Network(arrays, facts["model"])
    start = facts.get("start", [facts["start_token"]])  # what comes before a text: a newline
    for token in [known.index(letter) for letter in letters] or start:
        scores = network.read(token)
    yield prompt.encode()
    for thrown in islice(dice(seed), 16, 16 + length):  # the first 16 still resemble the seed
        token = choose(scores, temperature, thrown)
        yield known[token]
        scores = network.read(token)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("path")
    options.add_argument("prompt", nargs="?", default="")
    options.add_argument("-n", dest="length", type=int, default=500)
    options.add_argument("-t", dest="temperature", type=float, default=0.8)
    options.add_argument("--seed", type=int, default=1)
    for piece in write(**vars(options.parse_args())):
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
