"""Several processes: tokens/s, the share of communication, and what networks of a speed allow.

    python benchmarks/scale.py
    python benchmarks/scale.py --shapes 3x256 --steps 20 --repeats 3

Trains with one process of one thread, one of two threads (the ideal), and two of one thread each,
in turns. Counts the bytes of a step, and calculates the speed of more hosts from them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness import ROOT, alternate, machine, random_text, run, say, spread, table

SHAPES = "3x256,3x512,3x1024"
ARMS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}
GIGABITS, HOSTS = (1, 10, 100), (2, 8)
TEXT_BYTES = 400_000
WARM_UP = 2


class Measured(NamedTuple):
    """One training: seconds of a step, the share of communication, and bytes of a step.

    Attributes:
        reduced: bytes of the gradients that a process adds to those of the others.
        gathered: bytes of Muon's steps that all processes compute together.
    """

    seconds: float
    tokens: int
    share: float
    reduced: float
    gathered: float


def train(layers: int, hidden: int, threads: int, steps: int, folder: str) -> None:
    """Trains in this process, which torchrun may have started; rank 0 prints a `Measured`."""
    from charnn.config import TrainOptions
    from charnn.training import machine as timing
    from charnn.training.events import StepDone
    from charnn.training.follow import follow
    from charnn.training.launch import start
    from charnn.training.world import Processes, joined

    timing.MEASURE_SECONDS = 0.0
    sent = {"_all_reduce": 0, "_all_gather": 0}
    for name in sent:
        setattr(Processes, name, _counting(name, getattr(Processes, name), sent))
    options = TrainOptions(
        max_steps=steps,
        num_layers=layers,
        hidden_size=hidden,
        threads=threads,
        optimizer="muon",
        batch_size=64,
        bptt=64,
        dropout=0.0,
        eval_every=0,
        sample_every=0,
        save_every=0,
        seed=1,
    )
    root = Path(folder)
    with joined("scale") as world:
        if not world.leads:
            with follow(root) as trainer:
                assert trainer
                for _ in trainer.run():
                    pass
            return
        with start([str(root / "text.txt")], options, root) as (trainer, _):
            done, counts = [], []
            for event in trainer.run():
                if isinstance(event, StepDone):
                    done.append(event)
                    counts.append(dict(sent))
        whole = range(WARM_UP, len(done) - len(done) % 2)  # Muon's turns are two steps long
        tokens = done[0].tokens
        first, last = counts[whole[0] - 1], counts[whole[-1]]
        found = Measured(
            statistics.median(tokens / done[n].tokens_per_second for n in whole),
            tokens,
            statistics.median(done[n].communication or 0.0 for n in whole),
            (last["_all_reduce"] - first["_all_reduce"]) / len(whole),
            world.size * (last["_all_gather"] - first["_all_gather"]) / len(whole),
        )
        print(json.dumps(found))


def _counting(name: str, function: Any, sent: dict[str, int]) -> Any:
    def counting(world: Any, tensor: Any, *more: Any, **named: Any) -> Any:
        sent[name] += tensor.nbytes
        return function(world, tensor, *more, **named)

    return counting


def measure(shape: str, processes: int, threads: int, steps: int) -> Measured:
    """Trains in new processes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_bytes(random_text(TEXT_BYTES))
        words = [*shape.split("x"), str(threads), str(steps), folder]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        script = [str(ROOT / "benchmarks/scale.py"), "--train", *words]
        ran = run([sys.executable, *(launcher if processes > 1 else []), *script])
    measured = Measured(*json.loads(ran.stdout))
    say(f"scale: {shape}, processes {processes}, threads {threads}: {measured}")
    return measured


def send_seconds(measured: Measured, hosts: int, gigabits: float) -> float:
    """Calculates the seconds in which each of `hosts` sends its part of a step around a ring."""
    part = (hosts - 1) / hosts
    return part * (2 * measured.reduced + measured.gathered) * 8 / (gigabits * 1e9)


def times_faster(alone: Measured, shared: Measured, hosts: int, gigabits: float) -> float:
    """Calculates the speed of `hosts` like this one against this one alone."""
    return alone.seconds / (alone.seconds / hosts + send_seconds(shared, hosts, gigabits))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=SHAPES, help="networks, LAYERSxUNITS")
    parser.add_argument("--steps", type=int, default=12, help="steps of a training, at least 4")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each kind")
    parser.add_argument("--train", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.train:
        *sizes, folder = arguments.train
        return train(*map(int, sizes), folder)
    rows, calculated = [], []
    for shape in arguments.shapes.split(","):
        kinds = {name: partial(measure, shape, *of, arguments.steps) for name, of in ARMS.items()}
        found = alternate(kinds, arguments.repeats)
        speeds = {name: [m.tokens / m.seconds for m in each] for name, each in found.items()}
        shared = found["2 processes"]
        shares = [100 * m.share for m in shared]
        rows.append([shape, *(spread(each, 0) for each in speeds.values()), spread(shares, 0)])
        alone = min(found["1 process, 1 thread"] + found["1 process, 2 threads"])
        size = 2 * shared[0].reduced + shared[0].gathered
        faster = [
            f"{times_faster(alone, shared[0], hosts, gigabits):.1f}"
            for hosts in HOSTS
            for gigabits in GIGABITS
        ]
        calculated.append([shape, f"{size / 1e6:.1f}", *faster])
    print(f"{machine()}\n\nTokens/s, and percent of a step spent in communication and waiting:\n")
    print(table(["network", *ARMS, "communication, %"], rows))
    print("\nCalculated from the bytes of a step, without overlap: times the speed of one host:\n")
    heads = [f"{hosts} hosts, {gigabits} Gbit/s" for hosts in HOSTS for gigabits in GIGABITS]
    print(table(["network", "MB a step", *heads], calculated))
    return None


if __name__ == "__main__":
    main()
