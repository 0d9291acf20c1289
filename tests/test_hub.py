"""Models of the Hub: a local server stands for it, and its cache is a temporary folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from random_model import random_model

from charnn import hub
from charnn.errors import ConfigError
from charnn.export import exporter
from charnn.text.tokenizers import CharTokenizer

# Commands one after another in one process, which reads the environment when it begins.
CLI = """
import json, sys
from typer.testing import CliRunner
from charnn.cli import app
results = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([[each.exit_code, each.stdout, each.stderr] for each in results]))
"""
OLD, NEW = "1" * 40, "2" * 40


class Hub:
    """Repositories as commit -> file -> bytes, and a list of what was requested."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.revisions: dict[str, str] = {"main": NEW, "first": OLD}
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of /OWNER/NAME/resolve/REVISION/FILE."""
        if path.startswith("/api/"):
            return 404, {}, b""
        self.requests.append(path)
        owner, name, _, revision, file = path.strip("/").split("/", 4)
        commits = self.commits.get(f"{owner}/{name}")
        if commits is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.revisions.get(revision, revision)
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": commit}
        if file not in commits[commit]:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        body = commits[commit][file]
        return 200, {**headers, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Hub, dict[str, str]]]:
    """A server with me/book in two commits, and the environment that leads to it."""
    hub_, folder = Hub(), tmp_path / "folder"
    for commit, seed in ((OLD, 1), (NEW, 2)):
        model = random_model(CharTokenizer.learn("\nabcdef"), seed=seed)
        exporter("hub").write(model, "book", folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub_.commits.setdefault("me/book", {})[commit] = files

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub_.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # the name is that of http.server

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*"}
    yield hub_, {**os.environ, **variables, "HF_HUB_ETAG_TIMEOUT": "1"}
    server.shutdown()
    thread.join()
    server.server_close()


def charnn(environment: dict[str, str], *commands: str) -> list[tuple[int, str, str]]:
    """Runs commands; returns exit code, stdout and stderr of each."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLI, json.dumps([each.split() for each in commands])],
        env=environment,
        cwd=Path(environment["HF_HOME"]).parent,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def samples(environment: dict[str, str], *names: str) -> list[tuple[str, str]]:
    """What models write, and what is told of them."""
    found = charnn(environment, *(f"sample -m {name} -n 40 --seed 1" for name in names))
    assert {0} == {code for code, _, _ in found}, found
    return [(out, err) for _, out, err in found]


def refusals(environment: dict[str, str], *names: str, code: int = 1) -> list[str]:
    """The errors, each of one line, for models that are refused."""
    found = charnn(environment, *(f"sample -q -m {name} -n 1" for name in names))
    assert [(code, "", 1)] * len(names) == [(n, out, err.count("\n")) for n, out, err in found]
    return [err for _, _, err in found]


def test_a_model_is_read_pinned_to_a_commit_and_offline_from_the_cache(served) -> None:
    hub_, environment = served
    names = ("hf:me/book", "hf:me/book@first", f"hf:me/book@{OLD}")
    (newest, told), (first, _), (same, quiet) = samples(environment, *names)
    assert newest != first == same
    assert f"hf:me/book@{NEW}" in told
    assert "hf:" not in quiet
    files = [path for path in hub_.requests if path.endswith(hub.MODEL)]
    assert {f"/me/book/resolve/{commit}/{hub.MODEL}" for commit in (OLD, NEW)} == set(files)
    asked = len(hub_.requests)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert [newest, first, first] == [text for text, _ in samples(offline, *names)]
    assert asked == len(hub_.requests)


@pytest.mark.slow
def test_every_command_and_python_read_models_of_the_hub(served, tmp_path: Path) -> None:
    _, environment = served
    (tmp_path / "a.txt").write_text("abcdef\n" * 50)
    shown, *others, tuned = charnn(
        environment,
        "show hf:me/book --json",
        "score a.txt -m hf:me/book",
        "export hf:me/book --to html",
        "train a.txt --from hf:me/book --max-steps 2 --threads 1 --ngram 0",
        "show --json",
    )
    assert {0} == {code for code, _, _ in others}, others
    assert (tmp_path / "book.html").exists(), "named by its repository"
    digest = json.loads(shown[1])["digest"]
    assert digest == json.loads(tuned[1])["from"]["digest"]
    code = "import charnn; print(charnn.load('hf:me/book').digest)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert digest == done.stdout.strip()


def test_an_error_is_one_line_that_names_the_model(served) -> None:
    hub_, environment = served
    hub_.commits["me/empty"] = {NEW: {"README.md": b"nothing"}}
    hub_.commits["me/llama"] = {NEW: {hub.CONFIG: b'{"model_type": "llama"}', hub.MODEL: b"x"}}
    hub_.commits["me/odd"] = {NEW: {hub.CONFIG: b"[" * 9999}}
    expected = {
        "hf:me/none": "no such repository",
        "hf:me/book@v9": "'v9'",
        "hf:me/empty": hub.CONFIG,
        "hf:me/llama": hub.CONFIG,
        "hf:me/odd": hub.CONFIG,
    }
    for (name, part), message in zip(
        expected.items(), refusals(environment, *expected), strict=True
    ):
        assert name in message
        assert part in message
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    for unreachable in ({"HF_HUB_OFFLINE": "1"}, nowhere):
        (message,) = refusals({**environment, **unreachable}, "hf:me/none")
        assert "network" in message
    wrong = ["hf:", "hf:book", "hf:me/book@", "hf:../..", "hf:me/book@../x", "hf:me/b/c"]
    wrong += ["hf:-me/book", "hf:me/book.git", "hf:me/a--b", "hf:me/" + "b" * 99]
    for message in refusals(environment, *wrong, code=2):
        assert "hf:OWNER/NAME" in message


def test_files_that_do_not_belong_together_or_are_damaged_are_refused(served) -> None:
    hub_, environment = served
    book = hub_.commits["me/book"]
    hub_.commits["me/mixed"] = {NEW: {**book[NEW], hub.CONFIG: book[OLD][hub.CONFIG]}}
    flipped = bytearray(book[NEW][hub.MODEL])
    flipped[-5] ^= 1
    hub_.commits["me/flipped"] = {NEW: {**book[NEW], hub.MODEL: bytes(flipped)}}
    harmed = Path(environment["HF_HOME"] + "-harmed")

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(harmed),)

    hub_.commits["me/pickled"] = {NEW: {**book[NEW], hub.MODEL: pickle.dumps(Harm())}}
    refusals(environment, "hf:me/mixed", "hf:me/flipped", "hf:me/pickled")
    assert not harmed.exists()


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Exception, match=r"charnn\[hub\]"):
        hub.download("hf:me/book")
    with pytest.raises(ConfigError):
        hub.download("hf:book")
