"""Settings of the commands that analyse a network."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.model import GATE_ROLES, GATES
from charnn.config.settings import (
    MAX_SEED,
    Config,
    Setting,
    choice,
    number,
    require,
    setting,
    whole,
)

LABELS = ("quotes", "brackets", "indent", "line", "number", "name")  # what a parser can mark
EFFECT_CHARS = 8_000  # characters sampled for each setting of the clamped units
SHOWN_UNITS = 5
GOOD_AUC = 0.85  # units below it tell too little about a label to be shown
# Bits from which the colour of a character changes: in the terminal, the report and the page.
SURPRISAL_BITS = (1, 2, 4, 8)
ACTIVITY_STEPS = (0.2, 0.5, 0.8)  # the same for the absolute value of a unit, 0 to 1
LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HORIZON_SAMPLES = 400  # positions of the text whose losses are averaged

# The rates with the lowest mean loss on parts of two other texts, Python's sources and names of
# villages. With three times the rate, one of them scores worse than with fixed weights.
DYNAMIC_RATES = {"rms": 3e-4, "sgd": 0.01}


@dataclass(frozen=True)
class DynamicConfig(Config):
    """Dynamic evaluation: after each segment, a step down the gradient of its loss."""

    rule: str = choice("rms", tuple(DYNAMIC_RATES), "Rule by which the weights adapt.")
    rate: float = number(DYNAMIC_RATES["rms"], 0, 10, "Size of a step.")
    segment: int = whole(20, 1, 4096, "Tokens between two steps.")
    decay: float = number(0.002, 0, 1, "Share of the way back to the fixed weights at each step.")


# By task: the name of its sizes, the default sizes, the lowest and the highest size.
LAB_SIZES: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "recall": ("delay", (10, 20, 50, 100, 200), 1, 10_000),
    "adding": ("length", (10, 20, 50, 100, 200), 2, 10_000),
    "brackets": ("depth", (2, 4, 5, 6), 1, 64),
    "reber": ("strings", (1, 2, 4, 8), 1, 1_000),
}
LAB_STEPS = 1000  # steps of a trial without a budget; the same for all cells and machines


def can_have_chrono(cell: str) -> bool:
    """Tells whether a cell has a gate whose bias chrono initialisation sets."""
    return bool(GATE_ROLES[cell].keep or GATE_ROLES[cell].write)


@dataclass(frozen=True)
class LabOptions(Config):
    """One experiment of the lab: each cell is trained from each seed at each size.

    A row of the table is a cell with all its sizes and seeds.
    """

    task: str = "recall"
    cells: tuple[str, ...] = choice(
        ("rnn", "gru", "lstm"),
        GATES,
        "Cells to compare.",
        listed=True,
        shown="rnn,gru,lstm",
        metavar="CELL,CELL",
    )
    sizes: tuple[int, ...] | None = whole(
        None,
        1,
        10_000,
        "Delays, or the other sizes that the task has.",
        listed=True,
        shown="those of the task",
        flags=("--delays", "--sizes"),
        metavar="N,N",
    )
    seeds: int = whole(3, 1, 100, "Trials for each cell and size.")
    chrono: bool | None = setting(
        None,
        "Initialise gate biases by chrono (Tallec and Ollivier 2018), or not. [default: both]",
        kind=bool,
        flags=("--chrono/--no-chrono",),
    )
    orthogonal: bool = setting(
        True,
        "Initialise recurrent matrices orthogonally, or with normal numbers.",
        kind=bool,
        shown="--orthogonal",
        flags=("--orthogonal/--no-orthogonal",),
    )
    clip: float = number(1.0, 0, 1e9, "Highest norm of the gradient; 0: any.")
    minutes: float | None = number(
        None, 0.001, 1e6, "Minutes for each row of the table, instead of steps."
    )
    max_steps: int | None = whole(
        None, 1, 2**40, "Steps of a trial; solved trials stop early.", shown=f"{LAB_STEPS}"
    )
    hidden_size: int = whole(64, 1, 4096, "Hidden units.")
    batch_size: int = whole(32, 1, 1 << 16, "Sequences a step.")
    learning_rate: float = number(3e-3, 1e-9, 1e9, "Constant learning rate of Adam.")
    seed: int = whole(0, 0, MAX_SEED, "First of the seeds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, cells = ", ".join(LAB_SIZES), ",".join(self.cells)
        require(self.task in LAB_SIZES, f"unknown task {self.task!r}: choose from {tasks}")
        name, _, low, high = LAB_SIZES[self.task]
        require(
            0 < len(self.cells) == len({*self.cells}),
            f"--cells takes each of {','.join(GATES)} at most once, got {cells!r}",
        )
        for size in self.sizes or ():
            problem = Setting("", kind=int, low=low, high=high).problem(size)
            require(not problem, f"{name} of {self.task} {problem}")
        require(
            self.sizes is None or () != self.sizes == tuple(sorted({*self.sizes})),
            f"--delays takes rising numbers such as 10,20,50, got {self.sizes}",
        )
        require(
            not self.chrono or any(map(can_have_chrono, self.cells)),
            f"--chrono sets the bias of a gate, {cells} has none: add gru or lstm to --cells",
        )
        require(
            self.minutes is None or self.max_steps is None,
            "--minutes and --max-steps are both budgets: give one of them",
        )

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The given sizes, or those of the task."""
        return self.sizes or LAB_SIZES[self.task][1]

    @property
    def size_name(self) -> str:
        """The name of a size: "delay", "length", "depth" or "strings"."""
        return LAB_SIZES[self.task][0]
