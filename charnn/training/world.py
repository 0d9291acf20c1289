"""The processes that train one run together, as torchrun starts them.

Rank 0 leads: it alone reads texts, plans, locks, writes and prints. The other processes compute
their share of the streams. Short agreements are collectives of torch.distributed. A process that
may wait for long, while rank 0 reads a text or evaluates, waits in the store instead, because a
collective that takes minutes counts as a hang. Messages are JSON: nothing is unpickled.

Shapes: B streams, N matrices.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from charnn.errors import TrainingError
from charnn.portable import end_with_parent, interface_of
from charnn.version import __version__

COLLECTIVE_SECONDS = 300  # bound of a collective: the steps of two processes differ by less
SILENT_SECONDS = 300.0  # a process that has not signed for so long counts as lost
SIGN_SECONDS = 2.0
LEAVE_SECONDS = 10
LONGEST_POLL = 0.2


class PeerLost(TrainingError):
    """Another process of the run has ended or hangs."""


class World:
    """One process alone: it agrees with itself, and communicates nothing.

    Attributes:
        local_rank, local_size: rank and number of the processes on this host.
        job: digest of torchrun's run id and the command, "" without torchrun; a restarted process
            finds its run by it.
        hosts: the host of each process.
        seconds: time spent in collectives.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1
    hosts: Sequence[str] = ()
    seconds = 0.0

    def __init__(self, job: str = "") -> None:
        self.job = job

    @property
    def leads(self) -> bool:
        """True for rank 0."""
        return self.rank == 0

    def share(self, streams: int) -> slice:
        """Returns the streams of this process, of `streams`; shares differ by one at most."""
        return slice(*(streams * rank // self.size for rank in (self.rank, self.rank + 1)))

    def sum(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Sums tensors over all processes in place; returns the sums of the numbers."""
        return list(numbers)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors the values that they have on rank 0."""

    def gather(self, part: Tensor, streams: int) -> Tensor:
        """Returns the rows of all streams (B, ...) from each process's share of them."""
        return part

    def split(self, function: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
        """Returns function(matrices (N, ...)); each process computes a share of the N."""
        return function(matrices)

    def same(self, tensors: Sequence[Tensor]) -> bool:
        """Tells whether tensors have the same bits in all processes."""
        return True

    def tell(self, value: Any = None) -> Any:
        """Returns the JSON value of rank 0 on every process, however long rank 0 takes."""
        return value

    def exchange(self, value: Any) -> list[Any]:
        """Returns the JSON values of all processes by rank, however long each takes."""
        return [value]

    def confirm(self, problem: str = "") -> None:
        """Raises TrainingError in all processes if one of them has a problem."""
        for rank, said in enumerate(self.exchange(problem)):
            if said:
                raise TrainingError(f"rank {rank} on {self.hosts[rank]}: {said}")

    def report(self, problem: str) -> None:
        """Tells the other processes why this one ends."""

    def reported(self) -> str:
        """Returns the problem that ended another process, or ""."""
        return ""

    def part(self) -> None:
        """Leaves the other processes at the end of the run."""

    def close(self) -> None:
        """Ends everything that runs in the background."""


WORLD: ContextVar[World] = ContextVar("world", default=World())  # noqa: B039  # has no state


class Processes(World):
    """Several processes, connected by torch.distributed and by a store of keys and values."""

    def __init__(
        self,
        rank: int,
        size: int,
        store: Store,
        local: tuple[int, int] = (0, 1),
        job: str = "",
    ) -> None:
        super().__init__(job)
        self.rank, self.size, self.store = rank, size, store
        self.local_rank, self.local_size = local
        self._messages = 0
        self._closed = threading.Event()
        self._signing = threading.Thread(target=self._sign, daemon=True)
        self._signing.start()

    # Collectives: the same calls in the same order on all processes.

    def sum(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        flat = [tensor.reshape(-1) for tensor in tensors]
        buffer = torch.cat([*flat, tensors[0].new_tensor(numbers)])  # one message a step
        self._all_reduce(buffer)
        at = 0
        for tensor in tensors:
            tensor.copy_(buffer[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()
        sums: list[float] = buffer[at:].tolist()
        return sums

    @torch.no_grad()
    def spread(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self._broadcast(tensor)

    def gather(self, part: Tensor, streams: int) -> Tensor:
        whole = part.new_zeros(streams, *part.shape[1:])
        whole[self.share(streams)] = part
        self._all_reduce(whole.view(torch.int32))  # integers: a sum with 0 keeps all bits
        return whole

    def split(self, function: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
        most = -(-len(matrices) // self.size)
        own = matrices[self.rank * most : (self.rank + 1) * most]
        mine = matrices.new_zeros(most, *matrices.shape[1:])
        if len(own):
            mine[: len(own)] = function(own)
        return torch.cat(self._all_gather(mine))[: len(matrices)]

    @torch.no_grad()
    def same(self, tensors: Sequence[Tensor]) -> bool:
        bits = sum(
            tensor.contiguous().view(torch.int32).sum(dtype=torch.int64) for tensor in tensors
        )
        both = torch.stack([torch.as_tensor(bits), -torch.as_tensor(bits)])
        self._all_reduce(both, largest=True)
        return int(both[0]) == -int(both[1])

    def _all_reduce(self, buffer: Tensor, largest: bool = False) -> None:
        with self._communicating():
            dist.all_reduce(buffer, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)

    def _broadcast(self, tensor: Tensor) -> None:
        with self._communicating():
            dist.broadcast(tensor, 0)

    def _all_gather(self, part: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with self._communicating():
            dist.all_gather([each.view(torch.uint8) for each in parts], part.view(torch.uint8))
        return parts

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        begin = time.perf_counter()
        with _peers():
            yield
        self.seconds += time.perf_counter() - begin

    # Messages by the store.

    def tell(self, value: Any = None) -> Any:
        self._messages += 1
        key = f"told/{self._messages}"
        if not self.leads:
            return self._wait_for(key, 0)
        with _peers():
            self.store.set(key, json.dumps(value))
        return value

    def exchange(self, value: Any) -> list[Any]:
        self._messages += 1
        key = f"said/{self._messages}"
        with _peers():
            self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [self._wait_for(f"{key}/{rank}", rank) for rank in range(self.size)]

    def _wait_for(self, key: str, rank: int) -> Any:
        """Returns the value of a key that `rank` sets, as long as `rank` signs."""
        signed, begin = b"", time.monotonic()
        heard = begin
        with _peers():
            while not self.store.check([key]):
                now = time.monotonic()
                if self.store.check(["problem"]):
                    raise PeerLost("another process of this run has ended")
                if self.store.check([f"signed/{rank}"]):
                    before, signed = signed, self.store.get(f"signed/{rank}")
                    heard = heard if signed == before else now
                if now - heard > SILENT_SECONDS:
                    raise PeerLost(
                        f"rank {rank} has not answered for {SILENT_SECONDS:.0f} s: look at its host"
                    )
                time.sleep(min(LONGEST_POLL, 0.002 + (now - begin) / 20))
            return json.loads(self.store.get(key))

    def _sign(self) -> None:
        """Keeps signing in the store, so that the others see that this process is alive."""
        count = 0
        while not self._closed.is_set():
            with suppress(RuntimeError):  # the main thread meets the same error
                self.store.set(f"signed/{self.rank}", str(count))
            count += 1
            self._closed.wait(SIGN_SECONDS)

    def report(self, problem: str) -> None:
        with suppress(RuntimeError):
            if not self.store.check(["problem"]):
                self.store.set("problem", f"rank {self.rank} on {socket.gethostname()}: {problem}")

    def reported(self) -> str:
        with suppress(RuntimeError):
            if self.store.check(["problem"]):
                problem: str = self.store.get("problem").decode()
                return problem
        return ""

    def part(self) -> None:
        with suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")
            if self.leads:  # its process may be the one that keeps the store
                others = [f"left/{rank}" for rank in range(1, self.size)]
                self.store.wait(others, timedelta(seconds=LEAVE_SECONDS))
            if dist.is_initialized():
                dist.destroy_process_group()

    def close(self) -> None:
        self._closed.set()
        self._signing.join(LEAVE_SECONDS)


@contextmanager
def _peers() -> Iterator[None]:
    """Turns an error of torch.distributed into PeerLost."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            "another process of this run has ended without a message, torchrun gives its exit "
            "code; continue from the last save with 'charnn train --resume'"
        ) from error


@contextmanager
def joined(command: str, world: World | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started, for the length of the block.

    Without torchrun the process is alone. `command` must be the same in all processes; `world` is
    for tests.

    Raises:
        TrainingError: the processes differ in version or command; another process has ended.
    """
    world = world or _launched(command)
    before = WORLD.set(world)
    try:
        _require_agreement(world, {"charnn": __version__, "torch": torch.__version__}, command)
        yield world
    except PeerLost as lost:
        raise TrainingError(world.reported() or str(lost)) from lost
    except BaseException as error:
        world.report(str(error) or "it was stopped")
        raise
    else:
        world.part()
    finally:
        world.close()
        WORLD.reset(before)


def _require_agreement(world: World, versions: dict[str, str], command: str) -> None:
    world.hosts = world.exchange(socket.gethostname())
    first, *others = world.exchange({**versions, "command": command})
    for rank, other in enumerate(others, 1):
        for name in first:
            if other[name] != first[name]:
                raise TrainingError(
                    f"rank {rank} on {world.hosts[rank]} has {name} {other[name]!r}, rank 0 on "
                    f"{world.hosts[0]} {first[name]!r}: start the same {name} on all hosts"
                )


def _launched(command: str) -> World:
    """Returns the world that the environment describes."""
    environment = os.environ
    run_id = environment.get("TORCHELASTIC_RUN_ID", "none")
    size = int(environment.get("WORLD_SIZE", "1"))
    if "RANK" not in environment or (size == 1 and run_id == "none"):
        return World()
    job = ""
    if run_id != "none":
        job = hashlib.sha256(f"{run_id}\0{command}".encode()).hexdigest()[:16]
    end_with_parent()  # in a session of its own, it would outlive a killed torchrun
    if size == 1:  # an elastic run that other hosts have left
        return World(job)
    _choose_interface()
    limit = timedelta(seconds=COLLECTIVE_SECONDS)
    local_rank, local_size = (
        int(environment.get(name, default))
        for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    with _peers():
        store, rank, size = next(rendezvous("env://", timeout=limit))
        store.set_timeout(limit)
        store = PrefixStore(_meet(store, rank, size), store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return Processes(rank, size, store, (local_rank, local_size), job)


def _meet(store: Store, rank: int, size: int) -> str:
    """Returns a name that the processes of this start share, and no earlier start.

    torchrun keeps one store over restarts, with the addresses of processes that are dead (pytorch
    issue 135712), and its count of restarts differs between hosts (issue 108158). So each process
    asks with a random number, and rank 0 answers until all have confirmed its name.
    """
    if rank:
        number = secrets.token_hex(8)
        store.set(f"charnn/ask/{rank}", number)
        name: str = store.get(f"charnn/answer/{number}").decode()
        store.set(f"{name}/{rank}", "met")
        return name
    name, missing, until = f"charnn/{secrets.token_hex(8)}", set(range(1, size)), time.monotonic()
    until += COLLECTIVE_SECONDS
    while missing:
        for other in sorted(missing):
            if store.check([f"{name}/{other}"]):
                missing.discard(other)
            elif store.check([f"charnn/ask/{other}"]):
                store.set(f"charnn/answer/{store.get(f'charnn/ask/{other}').decode()}", name)
        if time.monotonic() > until:
            raise PeerLost(f"rank {min(missing)} did not start within {COLLECTIVE_SECONDS} s")
        time.sleep(0.02)
    return name


def _choose_interface() -> None:
    """Tells gloo the network interface, unless GLOO_SOCKET_IFNAME does.

    By itself gloo takes the address of the host's name, on many laptops 127.0.1.1.
    """
    environment = os.environ
    one_host = environment.get("LOCAL_WORLD_SIZE") == environment.get("WORLD_SIZE")
    with suppress(OSError, KeyError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        where = "127.0.0.1" if one_host else environment["MASTER_ADDR"]
        probe.connect((where, 9))  # sends nothing: chooses the route
        own = probe.getsockname()[0]
        if own.startswith("127.") and not one_host:
            return
        if name := interface_of(own):
            environment.setdefault("GLOO_SOCKET_IFNAME", name)
