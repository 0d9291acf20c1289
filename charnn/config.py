"""Plain data that checks itself: what a model is, and how it is trained.

No torch and no numpy here: the command line borrows its defaults from this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from charnn.errors import ConfigError

# Gates of each cell, in the order in which their rows lie in the weights.
GATES = {"rnn": ("h",), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}
STATES = {"rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}
OPTIMIZERS = ("muon", "adamw")
BATCH_SIZES = {"muon": 64, "adamw": 32}  # streams that suit them, for a text that has enough
ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTUM = "momentum"
PRECISIONS = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROTOCOLS = ("carried", "cold-256")
TOKENS_SUFFIX = ".tokens"
MAX_SEED = 2**32 - 1

# Far above what a laptop trains, far below what would exhaust memory while a header is checked.
MAX_VOCAB_SIZE = 1 << 21
MAX_HIDDEN_SIZE = 1 << 15
MAX_LAYERS = 256

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_int(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _require(good, f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _require_number(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = number and low <= value <= high  # type: ignore[operator]  # a number, as just asked
    _require(good, f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def is_gate_matrix(name: str) -> bool:
    """Whether a weight is the input or the recurrent matrix of a layer: what Muon is for."""
    return name.endswith((".weight_ih", ".weight_hh"))


def _from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # only dataclasses come here
    unknown = sorted(set(values) - known)
    _require(not unknown, f"unknown settings: {', '.join(map(str, unknown))}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"incomplete settings: {error}") from None


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a language model: everything needed to rebuild its tensors.

    V is ``vocab_size``, E ``embedding_size``, H ``hidden_size``; layer 0 reads E features, the
    others H. A residual path joins input and output of a layer where the two widths agree.
    """

    vocab_size: int
    cell: str = "lstm"
    embedding_size: int = 256
    hidden_size: int = 256
    num_layers: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require(
            self.cell in GATES,
            f"unknown cell {self.cell!r}; choose from {', '.join(sorted(GATES))}",
        )
        _require_int("vocab_size", self.vocab_size, 1, MAX_VOCAB_SIZE)
        _require_int("embedding_size", self.embedding_size, 1, MAX_HIDDEN_SIZE)
        _require_int("hidden_size", self.hidden_size, 1, MAX_HIDDEN_SIZE)
        _require_int("num_layers", self.num_layers, 1, MAX_LAYERS)
        _require_number("dropout", self.dropout, 0.0, 0.95)

    def input_size(self, layer: int) -> int:
        """Features that a layer reads: E for layer 0, H above it."""
        return self.embedding_size if layer == 0 else self.hidden_size

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, in the order of the forward pass."""
        v, h, rows = self.vocab_size, self.hidden_size, len(GATES[self.cell]) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (v, self.embedding_size)}
        for layer in range(self.num_layers):
            d = self.input_size(layer)
            shapes[f"layers.{layer}.norm.weight"] = (d,)
            shapes[f"layers.{layer}.norm.bias"] = (d,)
            shapes[f"layers.{layer}.cell.weight_ih"] = (rows, d)
            shapes[f"layers.{layer}.cell.weight_hh"] = (rows, h)
            shapes[f"layers.{layer}.cell.bias"] = (rows,)
            if self.cell == "gru":
                shapes[f"layers.{layer}.cell.bias_hn"] = (h,)
        shapes["norm.weight"] = shapes["norm.bias"] = (h,)
        shapes["head.weight"] = (v, h)
        shapes["head.bias"] = (v,)
        return shapes

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a setting is missing, unknown or out of range.
        """
        return _from_dict(cls, values)


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; every number of steps is settled before step 1.

    Intervals are in optimizer steps; 0 is never before the end, for samples never. ``threads`` and
    ``precision`` are part of what a resumed run repeats. ``schedule_start`` is the step at which
    the present budget began: 0, unless a finished run was given another one. An
    evaluation during training reads ``valid_tokens`` of the validation split, spread over it;
    those at the end ``final_tokens``, from its start.
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

    def __post_init__(self) -> None:
        _require_int("max_steps", self.max_steps, 1, 2**40)
        _require_int("batch_size", self.batch_size, 1, 1 << 16)
        _require_int("bptt", self.bptt, 1, 1 << 16)
        _require(
            self.optimizer in OPTIMIZERS,
            f"unknown optimizer {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}",
        )
        _require_number("learning_rate", self.learning_rate, 1e-9, 1e9)
        _require_number("muon_rate", self.muon_rate, 1e-9, 1e9)
        _require_number("weight_decay", self.weight_decay, 0.0, 10.0)
        _require_int("warmup_steps", self.warmup_steps, 0, 2**40)
        _require_number("max_grad_norm", self.max_grad_norm, 1e-6, 1e9)
        for name in ("eval_every", "sample_every", "save_every"):
            _require_int(name, getattr(self, name), 0, 2**40)
        _require_int("seed", self.seed, 0, MAX_SEED)
        _require(
            self.precision in PRECISIONS[1:],
            f"precision must be one of {', '.join(PRECISIONS[1:])}, got {self.precision!r}",
        )
        _require_int("threads", self.threads, 1, 4096)
        _require(
            self.device in DEVICES[1:],
            f"device must be one of {', '.join(DEVICES[1:])}, got {self.device!r}",
        )
        _require_int("schedule_start", self.schedule_start, 0, self.max_steps - 1)
        _require_int("valid_tokens", self.valid_tokens, 2, 2**40)
        _require_int("final_tokens", self.final_tokens, 2, 2**40)

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
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a setting is missing, unknown or out of range.
        """
        return _from_dict(cls, values)


@dataclass(frozen=True)
class SamplingConfig:
    """How text is drawn from a model: its length, the filters on each choice, where it stops.

    A temperature of 0 always takes the likeliest token; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and
    ``repetition_penalty`` 1 are off. ``stop`` strings end the text and are no part of it.
    """

    max_tokens: int = 500
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_int("max_tokens", self.max_tokens, 0, 2**40)
        _require_number("temperature", self.temperature, 0.0, 1000.0)
        _require_int("top_k", self.top_k, 0, MAX_VOCAB_SIZE)
        _require_number("top_p", self.top_p, 0.0, 1.0)
        _require_number("min_p", self.min_p, 0.0, 1.0)
        _require_number("repetition_penalty", self.repetition_penalty, 0.1, 10.0)
        for stop in self.stop:
            _require(stop != "", "stop must be a string of at least one character, got ''")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingConfig:
        """Settings by name; what is left out has its default.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        return _from_dict(cls, values)


@dataclass(frozen=True)
class TrainOptions:
    """What a person asks of a training; None means that charnn chooses.

    At most one budget (``minutes``, ``epochs``, ``max_steps``) may be given; without one it is
    `DEFAULT_MINUTES`. ``valid`` names a text of its own to validate on, instead of a part of
    ``split``. ``from_model`` names a model to fine-tune, which then settles shape and tokenizer.
    The rest is as in `ModelConfig` and `TrainConfig`.
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
        _require(len(given) < 2, f"give one budget, not {' and '.join(given)}")
        if self.minutes is not None:
            _require_number("minutes", self.minutes, 0.01, 1e6)
        if self.epochs is not None:
            _require_number("epochs", self.epochs, 0.01, 1e6)
        _require(
            self.precision in PRECISIONS,
            f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}",
        )
        _require(
            self.device in DEVICES,
            f"device must be one of {', '.join(DEVICES)}, got {self.device!r}",
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
        return _from_dict(cls, values)

    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of the named options that were asked for."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


DEFAULT_MINUTES = 3.0
DEFAULT_TOKENIZER = "char"
TRAIN_OPTIONS = (
    "max_steps",
    "batch_size",
    "bptt",
    "optimizer",
    "learning_rate",
    "muon_rate",
    "weight_decay",
    "eval_every",
    "sample_every",
    "save_every",
    "seed",
    "threads",
)
