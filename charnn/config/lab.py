"""What a person may ask of `charnn lab`."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.checks import MAX_SEED, require, require_int, require_number
from charnn.config.model import GATES

# Task -> what its sizes are, the sizes that the lab tries, and the smallest and largest allowed.
LAB_SIZES: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "recall": ("delay", (10, 20, 50, 100, 200), 1, 10_000),
    "adding": ("length", (10, 20, 50, 100, 200), 2, 10_000),
    "brackets": ("depth", (2, 4, 5, 6), 1, 64),
    "reber": ("strings", (1, 2, 4, 8), 1, 1_000),
}


LAB_STEPS = 1000  # of each training; alike for all cells, and on all machines


@dataclass(frozen=True)
class LabOptions:
    """One experiment of the lab.

    Each of ``cells`` is trained from ``seeds`` seeds (``seed``, ``seed`` + 1, …) at each of
    ``sizes``; None takes those of the task. ``minutes`` are for one row of the table, all its sizes
    and seeds; ``max_steps`` is a budget for one training instead. ``chrono`` None tries gated cells
    both ways. ``clip`` is the largest norm of a gradient, 0 for any.
    """

    task: str
    cells: tuple[str, ...] = ("rnn", "gru", "lstm")
    sizes: tuple[int, ...] | None = None
    seeds: int = 3
    chrono: bool | None = None
    orthogonal: bool = True
    clip: float = 1.0
    minutes: float | None = None
    max_steps: int | None = None
    hidden_size: int = 64
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.task in LAB_SIZES,
            f"the lab has no task {self.task!r}; choose from {', '.join(LAB_SIZES)}",
        )
        what, _, low, high = LAB_SIZES[self.task]
        unknown = [cell for cell in self.cells if cell not in GATES]
        require(
            bool(self.cells) and not unknown,
            f"--cells takes some of {','.join(GATES)}; got {','.join(unknown) or 'none'}",
        )
        require(
            len(set(self.cells)) == len(self.cells),
            f"--cells names a cell twice: {','.join(self.cells)}",
        )
        require(self.sizes is None or len(self.sizes) > 0, "--delays names no size; leave it out")
        for size in self.sizes or ():
            require_int(f"{what} of {self.task}", size, low, high)
        ascending = list(self.sizes or ()) == sorted(set(self.sizes or ()))
        require(
            ascending,
            f"--delays takes rising numbers such as 10,20,50; "
            f"got {','.join(map(str, self.sizes or ()))}",
        )
        require_int("seeds", self.seeds, 1, 100)
        require(
            self.chrono is None or not self.chrono or set(self.cells) != {"rnn"},
            "--chrono sets the bias of a gate, and rnn has none: add gru or lstm to --cells",
        )
        require_number("clip", self.clip, 0.0, 1e9)
        require(
            self.minutes is None or self.max_steps is None,
            "--minutes and --max-steps are both budgets: give one of them",
        )
        if self.minutes is not None:
            require_number("minutes", self.minutes, 0.001, 1e6)
        if self.max_steps is not None:
            require_int("max_steps", self.max_steps, 1, 2**40)
        require_int("hidden_size", self.hidden_size, 1, 4096)
        require_int("batch_size", self.batch_size, 1, 1 << 16)
        require_number("learning_rate", self.learning_rate, 1e-9, 1e3)
        require_int("seed", self.seed, 0, MAX_SEED)

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The sizes asked for, or the task's own."""
        return self.sizes or LAB_SIZES[self.task][1]

    @property
    def size_name(self) -> str:
        """What a size is: "delay", "length", "depth" or "strings"."""
        return LAB_SIZES[self.task][0]
