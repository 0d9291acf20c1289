"""`charnn serve` as a process: its address, its options, its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from serving import checkpoint_of

from charnn.checkpoint import save

COMMAND = [sys.executable, "-W", "error", "-c", "from charnn.cli import main; main()"]


@pytest.fixture
def charnn(tmp_path):
    """Returns a function that starts charnn beside a model; all processes end with the test."""
    save(tmp_path / "small.safetensors", checkpoint_of())
    begun = []

    def start(*words, **environment):
        begun.append(
            subprocess.Popen(
                [*COMMAND, *words],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def serving(charnn, *words, **environment):
    """Starts a server on a free port; returns the process, its port and its first line."""
    process = charnn("serve", "small.safetensors", "--port", "0", *words, **environment)
    line = process.stderr.readline()
    found = re.search(r"http://\S+:(\d+);", line)
    assert found, line + process.stderr.read()
    return process, int(found[1]), line


def ask(port, body, headers=None, host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    headers = {"content-type": "application/json", **(headers or {})}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_a_served_text_is_that_of_sample_and_is_not_logged(charnn):
    process, port, _ = serving(charnn)
    body = {"prompt": "bad cab", "max_tokens": 50, "temperature": 0.7, "seed": 9}
    status, answer = ask(port, body)
    assert (200, "small") == (status, answer["model"])
    words = ["sample", "bad cab", "-m", "small.safetensors", "-n", "50", "-t", "0.7"]
    expected, _ = charnn(*words, "--seed", "9", "--no-echo").communicate()
    assert expected == answer["choices"][0]["text"]
    ask(port, {"prompt": "bad cab", "temperature": 9})
    process.send_signal(signal.SIGINT)
    output, messages = process.communicate(timeout=30)
    assert "" == output
    assert "bad cab" not in messages
    assert 1 == len(messages.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order(charnn, number):
    process, port, _ = serving(charnn)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"prompt": "bad", "max_tokens": 30_000, "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.readline()
    process.send_signal(number)
    assert "server_error" in answer.read().decode().split("\n\n")[-2]
    connection.close()
    _, messages = process.communicate(timeout=30)
    assert 128 + number == process.returncode
    assert "Traceback" not in messages


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_connections_wait_while_no_descriptor_is_free(charnn):
    import resource

    process, port, _ = serving(charnn)
    assert 200 == ask(port, {"prompt": "bad"})[0]  # all modules are loaded
    limit = len(os.listdir(f"/proc/{process.pid}/fd")) + 3
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(9)]
    for connection in idle:
        connection.close()
    assert 200 == ask(port, {"prompt": "bad"})[0]
    process.send_signal(signal.SIGINT)
    assert "" == process.communicate(timeout=30)[1].partition("\n")[2]


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl on the path")
def test_the_printed_example_of_curl_works(charnn):
    _, _, line = serving(charnn, "--api-key", "secret")
    command = line.strip().partition("try: ")[2]
    environment = {**os.environ, "CHARNN_API_KEY": "secret"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True)  # noqa: S602  # ours
    assert 200 == json.loads(done.stdout)["usage"]["completion_tokens"]
    done = subprocess.run(command, shell=True, capture_output=True)  # noqa: S602  # the same
    assert "invalid_api_key" == json.loads(done.stdout)["error"]["code"]


def test_a_port_in_use_is_one_line(charnn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = charnn("serve", "small.safetensors", "--port", port)
        _, messages = process.communicate(timeout=30)
    assert 1 == process.returncode
    (line,) = messages.splitlines()
    assert line.startswith("error: ")
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  # that is what is refused
def test_other_machines_are_let_in_only_with_a_key(charnn, host):
    process = charnn("serve", "small.safetensors", "--port", "0", "--host", host)
    _, messages = process.communicate(timeout=30)
    assert 2 == process.returncode
    assert "--api-key" in messages
    if host == "::":
        return
    for words, environment in ((["--api-key", "k1"], {}), ([], {"CHARNN_API_KEY": "k1"})):
        _, port, line = serving(charnn, "--host", host, *words, **environment)
        assert "k1" not in line
        assert 401 == ask(port, {"prompt": "bad"})[0]
        headers = {"authorization": "Bearer k1", "host": "any.example"}
        assert 200 == ask(port, {"prompt": "bad"}, headers)[0]


@pytest.mark.parametrize(
    "words",
    [
        ["--host", "no host"],
        ["--host", ""],
        ["--api-key", ""],
        ["--api-key", "schlüssel"],
        ["--port", "65536"],
        ["--max-requests", "0"],
    ],
    ids=str,
)
def test_impossible_options_are_refused(charnn, words):
    process = charnn("serve", "small.safetensors", *words)
    _, messages = process.communicate(timeout=30)
    assert 2 == process.returncode
    assert words[0] in messages
    assert "Traceback" not in messages


def test_an_address_of_ipv6_works(charnn):
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 loopback here")
    _, port, line = serving(charnn, "--host", "::1")
    assert f"http://[::1]:{port}" in line
    assert 200 == ask(port, {"prompt": "bad"}, host="::1")[0]


def test_a_missing_package_is_named_with_the_line_that_installs_it(charnn, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(name='uvicorn')\n")
    process = charnn("serve", "small.safetensors", PYTHONPATH=str(tmp_path))
    _, messages = process.communicate(timeout=30)
    assert 1 == process.returncode
    assert "charnn[serve]" in messages


def test_the_server_leaves_torch_out(charnn, tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')\n")
    _, port, _ = serving(charnn, PYTHONPATH=str(tmp_path))
    assert 200 == ask(port, {"prompt": "bad"})[0]
