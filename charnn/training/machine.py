"""What the machine can do: settings that speed training up, and measurements of the moment."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from charnn.config import GATES, ModelConfig, TrainConfig
from charnn.errors import ConfigError, TrainingError
from charnn.evaluation import BATCH_SIZE, COLD_WINDOW
from charnn.model import LanguageModel
from charnn.training.optimizer import adamw

MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3
KEEP_BYTES = 1 << 30
MEASURE_SECONDS = 1.0


def prepare(threads: int) -> None:
    """Sets the process up for training: threads, no denormals, memory kept between steps.

    Denormal numbers slow a recurrent step down many times over. glibc hands large blocks back to
    the kernel at every step and asks for them again, which costs up to half of the time.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MALLOPT_TRIM_THRESHOLD, KEEP_BYTES)
        libc.mallopt(MALLOPT_MMAP_THRESHOLD, KEEP_BYTES)


def default_threads() -> int:
    """As many threads as torch takes by itself: one for each core that the process may use."""
    return torch.get_num_threads()


def choose_device(device: str) -> str:
    """The device that `auto` means here, or `device` itself where it is there.

    Raises:
        ConfigError: it is not there.
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
        raise ConfigError(f"device {device!r} is not available here; there is: {have}")
    return device


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is done in hardware; elsewhere it is slower or fails."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device == "mps":
        return False
    known = any(flag in _cpu_flags() for flag in ("avx512_bf16", "amx_bf16"))
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return known and supported


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


def environment(config: TrainConfig) -> dict[str, str]:
    """What must be the same for a resumed run to repeat the same bits."""
    return {
        "torch": torch.__version__,
        "threads": str(config.threads),
        "precision": config.precision,
        "device": config.device,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def available_memory() -> int | None:
    """Bytes that this process may still take, or None where the system does not say."""
    limits = []
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file if ":" in line)
        limits.append(int(found["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        try:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, ValueError):
            return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limits.append(int(file.read()))
    except (OSError, ValueError):
        pass
    return min(limits)


def training_memory(model: ModelConfig, batch_size: int, bptt: int) -> int:
    """Estimate, in bytes, of what training takes at its peak.

    Weights, gradients, two moments and the copy that is cast; the activations of every layer and
    gate, kept for the backward pass; logits with their gradient and their softmax.
    """
    gates = len(GATES[model.cell])
    per_token = model.num_layers * (3 * gates + 8) * model.hidden_size + 4 * model.vocab_size
    return 4 * (6 * model.parameters + batch_size * bptt * per_token)


def require_memory(model: ModelConfig, batch_size: int, bptt: int) -> None:
    """Refuses beforehand what would run out of memory.

    Raises:
        TrainingError: the estimate is above what is there.
    """
    need, have = training_memory(model, batch_size, bptt), available_memory()
    if have is not None and need > 0.9 * have:
        raise TrainingError(
            f"this training needs about {need / 2**30:.1f} GiB of memory, {have / 2**30:.1f} are "
            "free: lower --hidden-size, --batch-size or --bptt, or use --tokenizer byte for a "
            "text with very many different characters"
        )


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step in a precision, and of scoring a token under each protocol."""

    precision: str
    step: float
    cold_token: float
    carried_token: float


def measure(model: ModelConfig, batch_size: int, bptt: int, precision: str, device: str) -> Speed:
    """Trains a throwaway network for a moment, in each precision that is allowed.

    `precision` is "auto" or one that settles it. Nothing of this reaches the real training.
    """
    candidates = [precision] if precision != "auto" else ["float32"]
    if precision == "auto" and has_bfloat16(device):
        candidates.append("bfloat16")
    network = LanguageModel(model).to(device)
    times = {name: _time_step(network, batch_size, bptt, name, device) for name in candidates}
    fastest = min(times, key=lambda name: times[name])
    cold = _time_forward(network, (COLD_WINDOW, BATCH_SIZE), device)
    carried = _time_forward(network, (COLD_WINDOW, 1), device)
    return Speed(fastest, times[fastest], cold, carried)


def _time_step(
    network: LanguageModel, batch_size: int, bptt: int, precision: str, device: str
) -> float:
    network.train()
    network.recurrent_dtype = getattr(torch, precision)
    optimizer = adamw(network, 0.0, 0.0)
    tokens = torch.zeros(bptt, batch_size, dtype=torch.long, device=device)
    state = network.initial_state(batch_size)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - begin < MEASURE_SECONDS:
        at = time.perf_counter()
        logits, _ = network(tokens, state)
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - at)
    # Not the median: what else the machine does at this moment is likely to pass.
    return sorted(times[1:])[len(times[1:]) // 4]


@torch.inference_mode()
def _time_forward(network: LanguageModel, shape: tuple[int, int], device: str) -> float:
    network.eval()
    tokens = torch.zeros(shape, dtype=torch.long, device=device)
    state = network.initial_state(shape[1])
    network(tokens[:8], state)
    at = time.perf_counter()
    network(tokens, state)
    return (time.perf_counter() - at) / tokens.numel()
