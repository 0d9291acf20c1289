"""Settings of training, and the options from which charnn makes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from charnn.config.model import MAX_VOCAB_SIZE, STATES, ModelConfig, is_gate_matrix
from charnn.config.settings import (
    MAX_SEED,
    REQUIRED,
    Config,
    choice,
    number,
    optional,
    require,
    setting,
    settings_of,
    switch,
    whole,
)

OPTIMIZERS = ("muon", "adamw")
BATCH_SIZES = {"muon": 64, "adamw": 32}  # streams that suit them, for a text that has enough
ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTUM = "momentum"
PRECISIONS = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_MINUTES = 3.0
DEFAULT_TOKENIZER = "char"
DEFAULT_NGRAM = 10
AUTO = "auto"  # shown as the default that charnn chooses by text and machine
MANY_STEPS = 2**40

# Sections of the help.
COMMON = "Common"  # comes first
BUDGET, TEXT, RECIPE = "Budget", "Data", "Optimizer"
PROGRESS, MACHINE = "While training", "Machine"


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings of training; every number of steps is decided before step 1.

    Attributes:
        threads: stored, like ``precision``, so that a resumed run repeats it.
        schedule_start: the step at which the present budget began: above 0 after a finished run
            got a new budget.
        valid_tokens: tokens that an evaluation during training reads, spread over the validation
            split; ``final_tokens``, from its start, are read at the end.
        lines: whether each line of a stream starts from the start state.
    """

    max_steps: int = whole(REQUIRED, 1, MANY_STEPS, "Budget in optimizer steps.", section=BUDGET)
    batch_size: int = whole(
        BATCH_SIZES["muon"], 1, 1 << 16, "Streams read in parallel.", section=RECIPE
    )
    bptt: int = whole(
        64, 1, 1 << 16, "Window of backpropagation through time in tokens.", section=RECIPE
    )
    optimizer: str = choice(
        "muon",
        OPTIMIZERS,
        "muon: Muon for input and recurrent matrices, AdamW for the rest; adamw: AdamW for all.",
        section=RECIPE,
    )
    learning_rate: float = number(4e-3, 1e-9, 1e9, "Peak learning rate of AdamW.", section=RECIPE)
    muon_rate: float = number(0.04, 1e-9, 1e9, "Peak learning rate of Muon.", section=RECIPE)
    weight_decay: float = number(0.1, 0, 10, "Weight decay of the matrices.", section=RECIPE)
    warmup_steps: int = whole(50, 0, MANY_STEPS, "Steps until the peak learning rate.")
    max_grad_norm: float = number(1.0, 1e-6, 1e9, "Highest norm of the gradient.")
    eval_every: int = whole(
        0, 0, MANY_STEPS, "Steps between validations; 0: only at the end.", section=PROGRESS
    )
    sample_every: int = whole(0, 0, MANY_STEPS, "Steps between samples; 0: none.", section=PROGRESS)
    save_every: int = whole(
        0, 0, MANY_STEPS, "Steps between saves; 0: only at the end.", section=PROGRESS
    )
    seed: int = whole(
        0, 0, MAX_SEED, "Random seed; the same seed repeats the run.", section=MACHINE
    )
    precision: str = choice(
        "float32", PRECISIONS[1:], "Number format of the recurrent layers.", section=MACHINE
    )
    threads: int = whole(1, 1, 4096, "Processor threads.", section=MACHINE)
    device: str = choice("cpu", DEVICES[1:], "Device that trains.", section=MACHINE)
    schedule_start: int = whole(0, 0, MANY_STEPS, "Step at which the present budget began.")
    valid_tokens: int = whole(100_000, 2, MANY_STEPS, "Tokens of an evaluation on the way.")
    final_tokens: int = whole(200_000, 2, MANY_STEPS, "Tokens of the evaluation at the end.")
    lines: bool = switch(
        "Learn separate lines, such as names, in any order: each starts from the initial state.",
        section=TEXT,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.schedule_start < self.max_steps,
            f"schedule_start must be below max_steps {self.max_steps}, got {self.schedule_start}",
        )

    def tensor_shapes(self, model: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Returns name and shape of every array of a `TrainingState`."""
        shapes = {}
        for name, shape in model.tensor_shapes().items():
            muon = self.optimizer == "muon" and is_gate_matrix(name)
            for memory in (MUON_MOMENTUM,) if muon else ADAMW_MOMENTS:
                shapes[f"{memory}.{name}"] = shape
        for layer in range(model.num_layers):
            for part in STATES[model.cell]:
                shapes[f"state.{layer}.{part}"] = (self.batch_size, model.hidden_size)
        return shapes


@dataclass(frozen=True)
class TextOptions(Config):
    """Options that turn a text into tokens and splits."""

    tokenizer: str | None = setting(
        None,
        "Kind of tokens: {charnn.text.tokenizers:TOKENIZERS}.",
        shown=DEFAULT_TOKENIZER,
        metavar="KIND",
        section=TEXT,
    )
    vocab_size: int | None = whole(
        None,
        1,
        MAX_VOCAB_SIZE,
        "Tokens that sentencepiece learns.",
        shown="by the size of the text",
        section=TEXT,
    )
    split: tuple[int, ...] = whole(
        (90, 10),
        1,
        100,
        "Percent of the text for training, validation and, if you like, test.",
        listed=True,
        shown="90,10",
        metavar="N,N",
        section=TEXT,
    )
    valid: str | None = setting(
        None,
        "Validate on this text instead of a part of TEXT.",
        metavar="FILE",
        parse=str,
        section=TEXT,
    )
    encoding: str = setting("utf-8", "Encoding of the text.", section=TEXT)
    keep_crlf: bool = switch("Keep CRLF line ends; without it they become LF.", section=TEXT)
    unwrap: bool = switch(
        "Join the lines of hard-wrapped prose into paragraphs; verse and lists keep their lines.",
        section=TEXT,
    )


@dataclass(frozen=True)
class TrainOptions(TextOptions):
    """Options of a new run; None leaves the choice to charnn.

    At most one budget (``minutes``, ``epochs``, ``max_steps``) may be given. ``from_model`` names a
    model to fine-tune, which then decides shape and tokenizer.
    """

    minutes: float | None = number(
        None,
        0.01,
        1e6,
        "Budget in minutes, from the start of the command to the last save.",
        shown=f"{DEFAULT_MINUTES:g}",
        section=COMMON,
    )
    name: str | None = setting(
        None, "Name of the run.", shown="the name of the text", section=COMMON
    )
    from_model: str | None = setting(
        None,
        "Model to start from: a run, a file, a base that ships ({charnn.bases:BASES}), or scratch.",
        shown="the base or scratch, by the lower expected loss",
        flags=("--from",),
        metavar="MODEL",
        parse=str,
        section=COMMON,
    )
    epochs: float | None = number(
        None, 0.01, 1e6, "Budget in passes over the text.", section=BUDGET
    )
    max_steps: int | None = optional(TrainConfig, "max_steps", "")
    cell: str | None = optional(ModelConfig, "cell", section=COMMON)
    hidden_size: int | None = optional(ModelConfig, "hidden_size", AUTO, section=COMMON)
    num_layers: int | None = optional(ModelConfig, "num_layers", AUTO)
    embedding_size: int | None = optional(ModelConfig, "embedding_size", "as --hidden-size")
    dropout: float | None = optional(ModelConfig, "dropout", AUTO)
    batch_size: int | None = optional(
        TrainConfig,
        "batch_size",
        shown=", ".join(f"{size} with {name}" for name, size in BATCH_SIZES.items())
        + ", 128 with --from and muon; fewer for a short text",
    )
    bptt: int | None = optional(
        TrainConfig, "bptt", shown=f"{TrainConfig.bptt}; less for a short text"
    )
    optimizer: str | None = optional(TrainConfig, "optimizer")
    learning_rate: float | None = optional(
        TrainConfig, "learning_rate", "0.004, or up to 0.002 with --from"
    )
    muon_rate: float | None = optional(
        TrainConfig, "muon_rate", "0.04, 0.06 for a short run, or up to 0.02 with --from"
    )
    weight_decay: float | None = optional(TrainConfig, "weight_decay")
    precision: str = choice(
        "auto",
        PRECISIONS,
        "Number format of the recurrent layers; auto: bfloat16 if the processor has it.",
        section=MACHINE,
    )
    lines: bool = switch(settings_of(TrainConfig)["lines"].help, section=COMMON)
    ngram: int | None = whole(
        None,
        0,
        16,
        "At the end, mix in n-grams of up to N tokens if they lower the validation loss; 0: never.",
        shown=f"{DEFAULT_NGRAM}, or 0 with fewer than 100 validation tokens",
        section=RECIPE,
    )
    eval_every: int | None = optional(TrainConfig, "eval_every", AUTO)
    sample_every: int | None = optional(TrainConfig, "sample_every", AUTO)
    save_every: int | None = optional(TrainConfig, "save_every", AUTO)
    seed: int | None = optional(TrainConfig, "seed", "random", section=COMMON)
    threads: int | None = optional(TrainConfig, "threads", AUTO)
    device: str = choice("auto", DEVICES, "Device that trains.", section=MACHINE)

    def __post_init__(self) -> None:
        super().__post_init__()
        budgets = {"minutes": self.minutes, "epochs": self.epochs, "max_steps": self.max_steps}
        given = [
            f"--{name.replace('_', '-')}" for name, value in budgets.items() if value is not None
        ]
        require(len(given) < 2, f"give one budget, not {' and '.join(given)}")
        require(
            self.optimizer != "adamw" or self.muon_rate is None,
            "--muon-rate is for --optimizer muon, got --optimizer adamw: leave one of them out",
        )
        require(
            not (self.lines and (self.keep_crlf or self.unwrap)),
            "--lines learns each line without its end, so --keep-crlf and --unwrap are not for it: "
            "leave them out",
        )
        require(self.ngram != 1, "--ngram must be 0 or a whole number from 2 to 16, got 1")

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns those of the named options that are not None."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


# Options of `charnn train` that repeat a recipe, each with the value that it has in a recipe of an
# older charnn without its key; None: the option is left out.
REPEATED: dict[str, Any] = {
    **dict.fromkeys(("max_steps", "batch_size", "bptt", "optimizer", "learning_rate", "seed")),
    "ngram": 0,
}

# Options that are settings of `TrainConfig`, decided by charnn where they are None.
TRAIN_OPTIONS = tuple(
    each.name
    for each in fields(TrainOptions)
    if each.default is None and each.name in settings_of(TrainConfig)
)
