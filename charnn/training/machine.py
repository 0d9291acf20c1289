"""The machine: process settings for speed, memory limits and speed measurements."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.errors import ConfigError, TrainingError
from charnn.evaluation import COLD_WINDOW, evaluation_batch
from charnn.model import LanguageModel
from charnn.portable import available_cores, memory
from charnn.training.gradient import gradients
from charnn.training.optimizer import Optimizer
from charnn.training.world import WORLD
from charnn.version import __version__

MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30
MEASURE_SECONDS = 0.5
STEP_MARGIN = 1.04


@contextmanager
def prepared(threads: int) -> Iterator[None]:
    """Configures the process for a block: threads, no denormals, memory kept between steps.

    Denormal numbers slow a recurrent step many times over. glibc returns large blocks to the kernel
    at every step and requests them again, which costs up to half of the time; this setting stays
    after the block, since glibc cannot report the old one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MALLOPT_TRIM_THRESHOLD, KEEP_BYTES)
        libc.mallopt(MALLOPT_MMAP_THRESHOLD, KEEP_BYTES)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def default_threads() -> int:
    """Returns torch's default, one thread per core that the process may use.

    Several processes share the cores of their host. torchrun sets OMP_NUM_THREADS to 1 for them,
    so that torch's default is 1 then.
    """
    threads, processes = torch.get_num_threads(), WORLD.get().local_size
    if threads > 1 or processes == 1:
        return threads
    return max(1, available_cores() // processes)


@contextmanager
def whole_host(threads: int) -> Iterator[None]:
    """Gives rank 0 the threads of all processes of its host, which wait during the block."""
    processes = WORLD.get().local_size
    if processes > 1:
        torch.set_num_threads(processes * threads)
    try:
        yield
    finally:
        if processes > 1:
            torch.set_num_threads(threads)


def choose_device(device: str) -> str:
    """Returns the device that `auto` means here, or `device` if it is available.

    Raises:
        ConfigError: the device is not available.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(device):
        have = ", ".join(name for name, is_there in there.items() if is_there)
        raise ConfigError(f"--device {device} is not available here; choose from auto, {have}")
    return device


def has_bfloat16(device: str) -> bool:
    """Returns True if the hardware computes in bfloat16; otherwise it is slower or fails."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device == "mps":
        return False
    flags = _cpu_info("flags").split()
    known = "avx512_bf16" in flags or "amx_bf16" in flags
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cpu_info(key: str) -> str:
    """Returns a field of the first processor in /proc/cpuinfo, or an empty string."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def environment(config: TrainConfig) -> dict[str, str]:
    """Returns the facts that must not change for a resumed run to give the same bits."""
    processes = WORLD.get().size
    return {
        "charnn": __version__,
        "torch": torch.__version__,
        "threads": str(config.threads),
        "precision": config.precision,
        "device": config.device,
        "processor": f"{_cpu_info('model name') or platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        **({"processes": str(processes)} if processes > 1 else {}),
    }


def available_memory() -> int | None:
    """Returns the bytes of memory that are available, or None if unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file if ":" in line)
        limit: int | None = int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        limit = memory()
    if limit is None:
        return None
    with suppress(OSError, ValueError):
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        largest = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        limit = min(limit, largest - used)
    return limit


def training_memory(model: ModelConfig, batch_size: int, bptt: int) -> int:
    """Estimates the peak memory of training in bytes.

    Counts weights, gradients, two moments and the cast copy, all of them again and the file during
    a save; the activations of every layer and gate for the backward pass; logits with gradient and
    softmax, of a window or of an evaluation.
    """
    gates = len(GATES[model.cell])
    activations = batch_size * bptt * model.num_layers * (3 * gates + 8) * model.hidden_size
    scored = evaluation_batch(model.vocab_size) * COLD_WINDOW
    logits = max(4 * batch_size * bptt, 3 * scored) * model.vocab_size
    return 4 * (12 * model.parameters + activations + logits)


def require_memory(model: ModelConfig, config: TrainConfig) -> None:
    """Refuses a run that would run out of memory; the memory of a GPU is not checked.

    The processes of a host share its memory.

    Raises:
        TrainingError: the estimate exceeds the available memory.
    """
    world = WORLD.get()
    streams = -(-config.batch_size // world.size)
    need = world.local_size * training_memory(model, streams, config.bptt)
    have = available_memory() if config.device == "cpu" else None
    if have is not None and need > 0.9 * have:
        raise TrainingError(
            f"this run needs about {need / 2**30:.1f} GiB of memory, {have / 2**30:.1f} GiB are "
            "free: lower --hidden-size, --batch-size or --bptt, or use --tokenizer byte if the "
            "text has thousands of different characters"
        )


@dataclass(frozen=True)
class Speed:
    """Seconds per training step, and per token scored under each protocol."""

    step: float
    cold_token: float
    carried_token: float


def measure(
    model: ModelConfig, config: TrainConfig, shapes: Sequence[tuple[int, int]] = ()
) -> Speed:
    """Times a temporary network, which leaves no trace in the run.

    `shapes` holds (steps, streams) of each part of a window; by default the window is one part.
    Several processes time the step together, with `help_measure` in all but rank 0.
    """
    shapes = shapes or [(config.bptt, config.batch_size)]
    told = {"model": model.to_dict(), "config": config.to_dict(), "measure": list(shapes)}
    WORLD.get().tell(told)
    network = LanguageModel(model).to(config.device)
    step = _time_step(network, config, shapes)
    batch = evaluation_batch(model.vocab_size)
    with whole_host(config.threads):
        cold = _time_forward(network, (COLD_WINDOW, batch), config.device)
        carried = _time_forward(network, (COLD_WINDOW, 1), config.device)
    return Speed(step, cold, carried)


def help_measure(told: dict[str, Any]) -> None:
    """Takes part in the measurement that rank 0 told."""
    config = TrainConfig.from_dict(told["config"])
    with prepared(config.threads):
        network = LanguageModel(ModelConfig.from_dict(told["model"])).to(config.device)
        _time_step(network, config, told["measure"])


def _time_step(
    network: LanguageModel, config: TrainConfig, shapes: Sequence[tuple[int, int]]
) -> float:
    network.train()
    network.recurrent_dtype = getattr(torch, config.precision)
    world, optimizer = WORLD.get(), Optimizer(network, config)
    parts = []
    for steps, streams in shapes:
        own = max(1, len(range(streams)[world.share(streams)]))
        parts.append(torch.zeros((steps, own), dtype=torch.long, device=config.device))
    times: list[float] = []
    begin, ends = time.perf_counter(), 0.0
    while not ends:
        at = time.perf_counter()
        network.zero_grad()
        for tokens in parts:
            logits, _ = network(tokens, network.initial_state(tokens.shape[1]))
            cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        enough = len(times) >= 3 and time.perf_counter() - begin >= MEASURE_SECONDS
        (ends,) = world.sum(gradients(network), [float(enough and world.leads)])
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step(0.0)
        _wait_for(config.device)
        times.append(time.perf_counter() - at)
    # A low quartile, since disturbances are likely to pass; the margin is for reading the window
    # and logging.
    return STEP_MARGIN * sorted(times[1:])[len(times[1:]) // 4]


@torch.inference_mode()
def _time_forward(network: LanguageModel, shape: tuple[int, int], device: str) -> float:
    network.eval()
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    state = network.initial_state(shape[1])
    network(tokens[:8], state)
    _wait_for(device)
    at = time.perf_counter()
    network(tokens, state)
    _wait_for(device)
    return (time.perf_counter() - at) / tokens.numel()


def _wait_for(device: str) -> None:
    """Waits for a GPU to finish, so that elapsed time is meaningful."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
