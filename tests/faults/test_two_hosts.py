"""Two hosts, here network namespaces with a cable: exact, killed, left and rejoined."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from processes import OPTIONS, SECONDS, TEXT, Torchrun, same_bits

# torchrun 2.13 needs this for a host that comes back: it sends the address of its store only once.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
HOSTS = {"charnn-a": "10.77.0.1", "charnn-b": "10.77.0.2"}
FIRST, SECOND = HOSTS


def ip(*words: str) -> bool:
    return 0 == subprocess.run(["ip", *words], capture_output=True).returncode


def connect() -> bool:
    """Makes two namespaces with a cable; False where that is not allowed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    disconnect()
    cable = f"link add cable type veth peer name cable netns {SECOND}"
    try:
        return (
            all(ip("netns", "add", host) for host in HOSTS)
            and ip("-n", FIRST, *cable.split())
            and all(
                ip("-n", host, *words.split())
                for host, address in HOSTS.items()
                for words in (
                    f"address add {address}/24 dev cable",
                    "link set cable up",
                    "link set lo up",
                )
            )
        )
    except OSError:
        return False


def disconnect() -> None:
    for host in HOSTS:
        ip("netns", "delete", host)


@pytest.fixture(scope="module")
def cable() -> Iterator[None]:
    if not connect():
        pytest.skip("needs root, Linux and the ip command, to make two network namespaces")
    # 5 ms one way at 100 Mbit/s; without netem in the kernel the cable has no delay.
    for host in HOSTS:
        delay = ["netem", "delay", "5ms", "rate", "100mbit"]
        subprocess.run(
            ["tc", "-n", host, "qdisc", "add", "dev", "cable", "root", *delay], capture_output=True
        )
    yield
    disconnect()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS), pytest.mark.usefixtures("cable")]


@pytest.fixture
def start(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    started: list[Torchrun] = []

    def on(host: str, name: str, nodes: str = "2", steps: int = 100) -> Torchrun:
        under = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint {HOSTS[FIRST]}:29500"
        under += f" --rdzv-id {name} --local-addr {HOSTS[host]} --max-restarts 3"
        if host == FIRST:  # torchrun knows only the address of the host's name as its own
            under += " --rdzv-conf is_host=true"
        words = ("text.txt", *OPTIONS, "--max-steps", str(steps))
        within = ["ip", "netns", "exec", host]
        started.append(
            Torchrun(
                tmp_path,
                name,
                *words,
                under=under.split(),
                size=1,
                within=within,
                log=host,
                variables=OWN_STORE if nodes == "1:2" else {},
            )
        )
        return started[-1]

    yield on
    for each in started:
        each.kill()


@pytest.fixture
def reference(tmp_path, start) -> Torchrun:
    """The same run of two processes on one host."""
    words = ("text.txt", *OPTIONS, "--max-steps", "100")
    run = Torchrun(tmp_path, "one-host", *words)
    assert 0 == run.wait()
    return run


def test_two_hosts_train_as_one_and_a_killed_process_is_replaced(start, reference) -> None:
    both = [start(host, "two-hosts") for host in HOSTS]
    assert [0, 0] == [each.agent.wait(SECONDS) for each in both]
    assert same_bits(reference, both[0])
    killed = [start(host, "killed") for host in HOSTS]
    killed[0].after_step(30)
    os.kill(killed[0].processes(1)[0], signal.SIGKILL)
    assert [0, 0] == [each.agent.wait(SECONDS) for each in killed]
    assert same_bits(reference, killed[0])


def test_a_host_leaves_and_comes_back(start) -> None:
    steps = 3000
    first, second = (start(host, "elastic", "1:2", steps) for host in HOSTS)
    first.after_step(30)
    assert ["2", "2"] == first.variables("WORLD_SIZE")
    os.killpg(second.agent.pid, signal.SIGKILL)  # torchrun, and its processes by their parent
    first.after_step(first.steps() + 50)
    assert ["1"] == first.variables("WORLD_SIZE")
    second = start(SECOND, "elastic", "1:2", steps)
    first.after_step(first.steps() + 50)
    while first.variables("WORLD_SIZE") != ["2", "2"]:
        assert first.steps() < steps
        time.sleep(0.1)
    assert [0, 0] == [each.agent.wait(SECONDS) for each in (first, second)]
    assert steps == first.steps()
