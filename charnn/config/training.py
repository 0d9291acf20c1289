"""How a model is trained, and what a person may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from charnn.config.checks import MAX_SEED, build, require, require_int, require_number
from charnn.config.model import STATES, ModelConfig, is_gate_matrix

OPTIMIZERS = ("muon", "adamw")
BATCH_SIZES = {"muon": 64, "adamw": 32}  # streams that suit them, for a text that has enough
ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTUM = "momentum"
PRECISIONS = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; every number of steps is settled before step 1.

    Intervals are in optimizer steps; 0 is never before the end, for samples never. ``threads`` and
    ``precision`` are part of what a resumed run repeats. ``schedule_start`` is the step at which
    the present budget began: 0, unless a finished run was given another one. An
    evaluation during training reads ``valid_tokens`` of the validation split, spread over it;
    those at the end ``final_tokens``, from its start. With ``lines`` a stream reads one line after
    another, each from the start state. ``ngram`` is the length of the n-grams that the best network
    is mixed with at the end, where that lowers its loss; 0 is none.
    """

    max_steps: int
    batch_size: int = BATCH_SIZES["muon"]
    bptt: int = 64
    optimizer: str = "muon"
    learning_rate: float = 4e-3
    muon_rate: float = 0.04
    weight_decay: float = 0.1
    warmup_steps: int = 50
    max_grad_norm: float = 1.0
    eval_every: int = 0
    sample_every: int = 0
    save_every: int = 0
    seed: int = 0
    precision: str = "float32"
    threads: int = 1
    device: str = "cpu"
    schedule_start: int = 0
    valid_tokens: int = 100_000
    final_tokens: int = 200_000
    lines: bool = False
    ngram: int = 0

    def __post_init__(self) -> None:
        require_int("max_steps", self.max_steps, 1, 2**40)
        require_int("batch_size", self.batch_size, 1, 1 << 16)
        require_int("bptt", self.bptt, 1, 1 << 16)
        require(
            self.optimizer in OPTIMIZERS,
            f"unknown optimizer {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}",
        )
        require_number("learning_rate", self.learning_rate, 1e-9, 1e9)
        require_number("muon_rate", self.muon_rate, 1e-9, 1e9)
        require_number("weight_decay", self.weight_decay, 0.0, 10.0)
        require_int("warmup_steps", self.warmup_steps, 0, 2**40)
        require_number("max_grad_norm", self.max_grad_norm, 1e-6, 1e9)
        for name in ("eval_every", "sample_every", "save_every"):
            require_int(name, getattr(self, name), 0, 2**40)
        require_int("seed", self.seed, 0, MAX_SEED)
        require(
            self.precision in PRECISIONS[1:],
            f"precision must be one of {', '.join(PRECISIONS[1:])}, got {self.precision!r}",
        )
        require_int("threads", self.threads, 1, 4096)
        require(
            self.device in DEVICES[1:],
            f"device must be one of {', '.join(DEVICES[1:])}, got {self.device!r}",
        )
        require_int("schedule_start", self.schedule_start, 0, self.max_steps - 1)
        require_int("valid_tokens", self.valid_tokens, 2, 2**40)
        require_int("final_tokens", self.final_tokens, 2, 2**40)
        require(
            type(self.ngram) is int and self.ngram in {0, *range(2, 16 + 1)},
            f"ngram must be 0 or a whole number from 2 to {16}, got {self.ngram!r}",
        )
        require(type(self.lines) is bool, f"lines must be true or false, got {self.lines!r}")

    def tensor_shapes(self, model: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name and shape of every array that continues a training (see `TrainingState`)."""
        shapes = {}
        for name, shape in model.tensor_shapes().items():
            muon = self.optimizer == "muon" and is_gate_matrix(name)
            for memory in (MUON_MOMENTUM,) if muon else ADAMW_MOMENTS:
                shapes[f"{memory}.{name}"] = shape
        for layer in range(model.num_layers):
            for part in STATES[model.cell]:
                shapes[f"state.{layer}.{part}"] = (self.batch_size, model.hidden_size)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a setting is missing, unknown or out of range.
        """
        return build(cls, values)


@dataclass(frozen=True)
class TrainOptions:
    """What a person asks of a training; None means that charnn chooses.

    At most one budget (``minutes``, ``epochs``, ``max_steps``) may be given; without one it is
    `DEFAULT_MINUTES`. ``valid`` names a text of its own to validate on, instead of a part of
    ``split``. With ``lines`` each line is a sample of its own. ``from_model`` names a model to
    fine-tune, which then settles shape and tokenizer. The rest is as in `ModelConfig` and
    `TrainConfig`.
    """

    name: str | None = None
    from_model: str | None = None
    minutes: float | None = None
    epochs: float | None = None
    max_steps: int | None = None
    cell: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    embedding_size: int | None = None
    dropout: float | None = None
    batch_size: int | None = None
    bptt: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    muon_rate: float | None = None
    weight_decay: float | None = None
    precision: str = "auto"
    tokenizer: str | None = None
    vocab_size: int | None = None
    split: tuple[int, ...] = (90, 10)
    valid: str | None = None
    encoding: str = "utf-8"
    lines: bool = False
    ngram: int | None = None
    eval_every: int | None = None
    sample_every: int | None = None
    save_every: int | None = None
    seed: int | None = None
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        budgets = {"minutes": self.minutes, "epochs": self.epochs, "max_steps": self.max_steps}
        given = [
            f"--{name.replace('_', '-')}" for name, value in budgets.items() if value is not None
        ]
        require(len(given) < 2, f"give one budget, not {' and '.join(given)}")
        if self.minutes is not None:
            require_number("minutes", self.minutes, 0.01, 1e6)
        if self.epochs is not None:
            require_number("epochs", self.epochs, 0.01, 1e6)
        require(
            self.precision in PRECISIONS,
            f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}",
        )
        require(
            self.device in DEVICES,
            f"device must be one of {', '.join(DEVICES)}, got {self.device!r}",
        )
        require(
            self.optimizer != "adamw" or self.muon_rate is None,
            "--muon-rate is for --optimizer muon, and this is adamw: leave one of them out",
        )
        # What is given must be possible on its own, before any text is read.
        shape = ("cell", "num_layers", "hidden_size", "embedding_size", "dropout")
        ModelConfig(vocab_size=1, **self.given(shape))
        TrainConfig(**{"max_steps": 1, **self.given(TRAIN_OPTIONS)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Options by name; what is left out is for charnn to choose.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        return build(cls, values)

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of the named options that were asked for."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


DEFAULT_MINUTES = 3.0
DEFAULT_TOKENIZER = "char"
DEFAULT_NGRAM = 10
TRAIN_OPTIONS = (
    "max_steps",
    "batch_size",
    "bptt",
    "optimizer",
    "learning_rate",
    "muon_rate",
    "weight_decay",
    "ngram",
    "eval_every",
    "sample_every",
    "save_every",
    "seed",
    "threads",
)
