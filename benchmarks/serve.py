"""Measures `charnn serve`: requests and characters a second, and memory over many requests.

    python benchmarks/serve.py                      # the English base
    python benchmarks/serve.py --model RUN --memory 10000

Each client keeps one connection and requests one text after another, whole or streamed. For
comparison this process samples the same texts without a server, one after another and in batches.
Clients and server share the machine. Arms take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import alternate, say

from charnn.config import SamplingConfig
from charnn.generation import Model
from charnn.generation.batch import write_together
from charnn.runs import find_model

PROMPT = "It was "
CLIENTS = 8  # of the table of memory
LETTERS = "It was her"  # of prompts that differ


@contextmanager
def server(model: Path, *options: str) -> Iterator[tuple[int, int]]:
    """Runs `charnn serve`; yields its port and its process id."""
    command = harness.charnn_command("serve", str(model), "--port", "0", *options)
    process = subprocess.Popen(command, cwd=harness.ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r":(\d+);", line)
    if not found:
        sys.exit(line + process.stderr.read())
    try:
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.communicate()


class Client:
    """A connection that asks for texts one after another."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, prompt: str, tokens: int, seed: int, stream: bool) -> int:
        """Returns the number of characters of one text."""
        body = {"prompt": prompt, "max_tokens": tokens, "seed": seed, "stream": stream}
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/v1/completions", json.dumps(body), headers)
        data = self._connection.getresponse().read()
        if not stream:
            return len(json.loads(data)["choices"][0]["text"])
        events = data.decode().split("\n\n")[:-2]
        return sum(len(json.loads(event[6:])["choices"][0]["text"]) for event in events)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def asked(port: int, clients: int, requests: int, tokens: int, stream: bool) -> tuple[float, float]:
    """Returns requests/s and characters/s of `clients` that share `requests`."""
    several = [Client(port) for _ in range(clients)]

    def work(place: int) -> int:
        seeds = range(place, requests, clients)
        return sum(several[place].ask(PROMPT, tokens, seed, stream) for seed in seeds)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        chars = sum(pool.map(work, range(clients)))
    seconds = time.perf_counter() - began
    for each in several:
        each.close()
    return requests / seconds, chars / seconds


def sampled(model: Model, requests: int, tokens: int, together: bool) -> tuple[float, float]:
    """Returns texts/s and characters/s without a server."""
    config = SamplingConfig(temperature=1.0, max_tokens=tokens)
    writings = (model.write(PROMPT, config, seed, echo=False) for seed in range(requests))
    began = time.perf_counter()
    if together:
        chars = sum(len(each.text) for each in write_together(writings, model.predictor))
    else:
        chars = sum(len("".join(each)) for each in writings)
    seconds = time.perf_counter() - began
    return requests / seconds, chars / seconds


def memory(process: int) -> float:
    """Returns the resident memory of a process in MB."""
    done = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def speeds(model: Path, options: argparse.Namespace) -> list[list[str]]:
    """Returns the rows of the table of speeds."""
    loaded, rows = Model.load(model), []
    size = (options.requests, options.tokens)
    with server(model) as (port, _):
        arms = {
            "sample, one after another": lambda: sampled(loaded, *size, False),
            "sample, in batches of 64": lambda: sampled(loaded, *size, True),
        }
        for clients in options.clients:
            for stream in (False, True):
                how = "streamed" if stream else "whole"
                name = f"serve, {clients} client{'s' * (clients > 1)}, {how}"
                arms[name] = lambda c=clients, s=stream: asked(port, c, *size, s)
        for name, found in alternate(arms, options.repeats).items():
            each, chars = (statistics.median(part) for part in zip(*found, strict=True))
            rows.append([name, f"{each:,.1f}", f"{chars:,.0f}"])
    return rows


def memories(model: Path, options: argparse.Namespace) -> list[list[str]]:
    """Returns the rows of the table of memory; every request has another prompt.

    The states of prompts are kept for 2,048 of them, so the memory grows until then.
    """
    rows, done = [], 0
    with server(model) as (port, process), ThreadPoolExecutor(CLIENTS) as pool:
        for mark in (options.memory * quarter // 4 for quarter in range(1, 5)):

            def work(place: int, begin: int = done, end: int = mark) -> None:
                client = Client(port)
                for seed in range(begin + place, end, CLIENTS):
                    prompt = "".join(LETTERS[int(digit)] for digit in str(seed))
                    client.ask(prompt, 20, seed, seed % 2 == 0)
                client.close()

            list(pool.map(work, range(CLIENTS)))
            done = mark
            rows.append([f"{done:,}", f"{memory(process):,.1f}"])
            say(f"{done:,} requests")
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="english", metavar="MODEL")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR")
    parser.add_argument("--requests", type=int, default=64, help="of one measurement")
    parser.add_argument("--tokens", type=int, default=400, help="of one text")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure")
    parser.add_argument("--memory", type=int, default=10_000, help="requests; 0: leave it out")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    model = find_model(options.model, Path(options.checkpoints))
    print(harness.table(["", "requests/s", "characters/s"], speeds(model, options)))
    if options.memory:
        print()
        print(harness.table(["after requests", "MB of the server"], memories(model, options)))
    print(f"\n{harness.machine()}")


if __name__ == "__main__":
    main()
