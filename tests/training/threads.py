"""A world of threads: several processes of a run inside one process, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch.distributed import HashStore

from charnn.training.world import Processes, joined

SECONDS = 60


class Meeting:
    """Where threads exchange tensors."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=SECONDS)
        self.parts: list[Any] = [None] * size

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.parts[rank] = tensor.clone()
        self.barrier.wait()
        parts = list(self.parts)
        self.barrier.wait()
        return parts


class Threads(Processes):
    def __init__(self, rank: int, size: int, store: HashStore, meeting: Meeting, job: str) -> None:
        self.meeting = meeting
        super().__init__(rank, size, store, job=job)

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        with self._communicating():
            return self.meeting.exchange(self.rank, tensor)

    def _all_reduce(self, buffer: torch.Tensor, largest: bool = False) -> None:
        stacked = torch.stack(self._exchange(buffer))
        buffer.copy_(stacked.amax(0) if largest else stacked.sum(0))

    def _broadcast(self, tensor: torch.Tensor) -> None:
        tensor.copy_(self._exchange(tensor)[0])

    def _all_gather(self, part: torch.Tensor) -> list[torch.Tensor]:
        return self._exchange(part)

    def report(self, problem: str) -> None:
        super().report(problem)
        self.meeting.barrier.abort()


def together(
    size: int, work: Callable[[Any], Any], commands: dict[int, str] | None = None, job: str = ""
) -> list[Any]:
    """Runs work(world) in each of `size` processes; returns the results or errors by rank."""
    store, meeting = HashStore(), Meeting(size)
    results: list[Any] = [None] * size

    def live(rank: int) -> None:
        world = Threads(rank, size, store, meeting, job)
        try:
            with joined((commands or {}).get(rank, "train"), world):
                results[rank] = work(world)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=live, args=(rank,), daemon=True) for rank in range(size)]
    with suppress(RuntimeError):
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "a process hangs"
    return results
