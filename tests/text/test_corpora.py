from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from charnn.config.names import is_name
from charnn.errors import FileError, TextError
from charnn.text import corpora
from charnn.text.corpora import CORPORA, Corpus, download, get

TEXT = b"To be, or not to be.\n" * 5000


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/text")
            self.end_headers()
        else:
            self.send_response(200)
            stated = {"/text": len(TEXT), "/cut": len(TEXT)}.get(self.path)
            if stated:
                self.send_header("Content-Length", str(stated))
            self.end_headers()
            if self.path == "/wrong":
                self.wfile.write(TEXT[::-1])
            elif self.path in ("/cut", "/short"):
                self.wfile.write(TEXT[:50_000])
            elif self.path == "/long":
                self.wfile.write(TEXT + TEXT)
            else:
                self.wfile.write(TEXT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def hamlet(url: str) -> Corpus:
    return Corpus("hamlet", "a play", None, url, hashlib.sha256(TEXT).hexdigest(), len(TEXT))


@pytest.mark.parametrize("page", ["/text", "/moved"])
def test_a_download_arrives_whole_with_a_record_beside_it(address: str, page: str) -> None:
    seen: list[tuple[int, int]] = []
    path = get(hamlet(address + page), progress=lambda done, total: seen.append((done, total)))
    assert Path("corpora/hamlet.txt") == path
    assert TEXT == path.read_bytes()
    assert (len(TEXT), len(TEXT)) == seen[-1]
    record = json.loads(Path("corpora/hamlet.json").read_text())
    assert address + page == record["url"]
    assert (len(TEXT), hashlib.sha256(TEXT).hexdigest()) == (record["bytes"], record["sha256"])
    assert path == corpora.find("hamlet")


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("/missing", "404"),
        ("/wrong", "SHA-256"),
        ("/cut", "50,000"),
        ("/short", "50,000 of 105,000 bytes"),
        ("/long", "105,000 bytes"),
    ],
)
def test_a_failed_download_names_the_reason_and_leaves_no_file(
    address: str, page: str, reason: str
) -> None:
    with pytest.raises(TextError, match=reason) as error:
        get(hamlet(address + page))
    assert "\n" not in str(error.value)
    assert [] == list(Path("corpora").iterdir())


def test_a_download_without_a_network_names_the_file_to_save(address: str) -> None:
    with pytest.raises(TextError, match=r"corpora/hamlet\.txt"):
        get(hamlet("http://127.0.0.1:1/text"))
    assert [] == list(Path("corpora").iterdir())


def test_a_silent_server_is_given_up() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(TextError, match="timed out"):
            list(download(hamlet(url), timeout=0.1))


def test_an_existing_corpus_is_kept() -> None:
    Path("corpora").mkdir()
    Path("corpora/hamlet.txt").write_text("my own")
    assert Path("corpora/hamlet.txt") == get(hamlet("http://127.0.0.1:1/"))
    assert "my own" == Path("corpora/hamlet.txt").read_text()


def test_a_folder_that_cannot_be_created_is_named() -> None:
    Path("corpora").write_text("a file")
    with pytest.raises(FileError, match="corpora"):
        get(CORPORA["manual"])


@pytest.mark.parametrize("name", [c.name for c in CORPORA.values() if c.kind == "built"])
def test_built_corpora_are_text_and_the_same_every_time(name: str) -> None:
    path = get(CORPORA[name])
    data = path.read_bytes()
    assert len(data.decode("utf-8")) > 200_000
    record = json.loads(path.with_suffix(".json").read_text())
    assert hashlib.sha256(data).hexdigest() == record["sha256"]
    assert record["python"].startswith("3.")
    path.unlink()
    assert data == get(CORPORA[name]).read_bytes()


def test_a_python_without_help_or_sources_is_refused() -> None:
    with pytest.raises(TextError, match="'nothing'"):
        get(Corpus("nothing", "of nothing", build=lambda: iter(())))
    assert [] == list(Path("corpora").iterdir())


def test_the_standard_library_comes_without_its_tests() -> None:
    text = get(CORPORA["python"]).read_text("utf-8")
    assert "class JSONEncoder" in text
    assert "class TestCase" in text  # unittest itself is no test
    assert text.count("(unittest.TestCase)") < 100


@pytest.mark.parametrize("name", [c.name for c in CORPORA.values() if c.kind == "shipped"])
def test_a_shipped_corpus_is_found_from_any_folder_and_copied(name: str) -> None:
    shipped = corpora.find(name)
    assert shipped is not None
    assert shipped.parent in corpora.SHIPPED_FOLDERS
    path = get(CORPORA[name])
    assert Path(f"corpora/{name}.txt") == path == corpora.find(name)
    assert shipped.read_bytes() == path.read_bytes()
    assert "shipped" == json.loads(path.with_suffix(".json").read_text())["kind"]


def test_a_missing_shipped_corpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "SHIPPED_FOLDERS", [tmp_path / "nowhere"])
    with pytest.raises(TextError, match="lighthouse"):
        get(CORPORA["lighthouse"])


def test_every_download_has_a_checksum_and_a_size() -> None:
    for corpus in CORPORA.values():
        assert is_name(corpus.name)
        assert (corpus.url is None) == (corpus.sha256 is None) == (corpus.size is None)
        assert corpus.url is None or corpus.url.startswith("https://")


@pytest.mark.parametrize("name", ["../corpora", "/etc/passwd", ".", "", "a/b", "x\n", "-"])
def test_only_names_are_looked_up(name: str) -> None:
    assert corpora.find(name) is None
