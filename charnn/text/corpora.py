"""Corpora: texts with a name, which ship with charnn, are built from this Python, or downloaded.

A corpus is the file ``corpora/NAME.txt`` of the working folder. charnn writes ``NAME.json`` beside
one that it made, with origin, size and digest. To add one, add it to `CORPORA`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import platform
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charnn.config.names import is_name
from charnn.errors import TextError
from charnn.tensor_file import file_errors, replacing, to_json

FOLDER = Path("corpora")
HERE = Path(__file__).resolve()
SHIPPED_FOLDERS = [HERE.parents[2] / "corpora", HERE.parent]  # in a checkout, in a wheel (setup.py)
TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """A text with a name; it ships with charnn if it has neither `build` nor `url`.

    Attributes:
        build: yields the bytes of a corpus that is built on this machine.
        url: the address of a download, whose `sha256` and `size` in bytes are checked.
    """

    name: str
    about: str
    build: Callable[[], Iterator[bytes]] | None = None
    url: str | None = None
    sha256: str | None = None
    size: int | None = None

    @property
    def kind(self) -> str:
        """The origin: "shipped", "built" or "download"."""
        return "download" if self.url else "built" if self.build else "shipped"


def standard_library() -> Iterator[bytes]:
    """Yields the sources of this Python's standard library, sorted by name, without tests."""
    root = Path(sysconfig.get_path("stdlib"))
    leave_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in leave_out)
        for name in sorted(names):
            if name.endswith(".py"):
                source = Path(folder, name).read_bytes()
                try:
                    source.decode("utf-8")
                except UnicodeDecodeError:
                    continue
                yield source if source.endswith(b"\n") or not source else source + b"\n"


def python_manual() -> Iterator[bytes]:
    """Yields the reference topics of Python's own help: English prose with examples."""
    try:
        from pydoc_data.topics import topics  # imported here: half a megabyte
    except ImportError:
        return  # some systems ship Python without help

    for name in sorted(topics):
        yield topics[name].strip().encode() + b"\n\n"


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus("lighthouse", "the log of a lighthouse; written for charnn"),
        Corpus("villages", "names of villages that do not exist; invented for charnn"),
        Corpus("python", "the standard library of this Python, as source code", standard_library),
        Corpus("manual", "the reference topics of Python's help, English prose", python_manual),
        Corpus(
            "tiny-shakespeare",
            "plays of Shakespeare, the field's benchmark",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            size=1_115_394,
        ),
        Corpus(
            "names",
            "32,033 given names, one a line",
            url="https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
            sha256="0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
            size=228_145,
        ),
    )
}


def find(name: str) -> Path | None:
    """Returns the file of a corpus: ``corpora/NAME.txt``, or the one that ships; None if absent."""
    if not is_name(name):
        return None
    ships = name in CORPORA and CORPORA[name].kind == "shipped"
    candidates = (folder / f"{name}.txt" for folder in [FOLDER, *SHIPPED_FOLDERS * ships])
    return next((path for path in candidates if path.is_file()), None)


def get(corpus: Corpus, folder: Path = FOLDER, progress: Progress | None = None) -> Path:
    """Copies, builds or downloads a corpus into `folder`, unless the file exists; returns its path.

    Args:
        progress: called with bytes done and bytes in all (0 where unknown).

    Raises:
        TextError: the corpus cannot be built, downloaded or found; no file is left behind.
        FileError: the corpus cannot be written.
    """
    path = folder / f"{corpus.name}.txt"
    if path.is_file():
        return path
    if corpus.build:
        blocks = corpus.build()
    elif corpus.url:
        blocks = download(corpus)
    elif shipped := find(corpus.name):
        with file_errors("read", shipped):
            blocks = iter([shipped.read_bytes()])
    else:
        raise TextError(
            f"this installation of charnn lacks the corpus {corpus.name!r}: install charnn again, "
            "or choose another corpus with 'charnn corpus'"
        )
    record: dict[str, Any] = {"name": corpus.name, "kind": corpus.kind, "about": corpus.about}
    record |= {"url": corpus.url} if corpus.url else {}
    record |= {"python": platform.python_version()} if corpus.build else {}
    digest, size = hashlib.sha256(), 0
    with file_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += len(block)
            if progress:
                progress(size, corpus.size or 0)
        if not size:
            raise TextError(
                f"this Python lacks the files that {corpus.name!r} is built from: choose another "
                "corpus with 'charnn corpus'"
            )
        if corpus.sha256 and digest.hexdigest() != corpus.sha256:
            raise TextError(
                f"{corpus.url} sent {size:,} bytes whose SHA-256 is not that of {corpus.name}: try "
                "again; the file may also have moved"
            )
    record |= {"bytes": size, "sha256": digest.hexdigest()}
    with replacing(path.with_suffix(".json")) as file:
        file.write(to_json(record).encode() + b"\n")
    return path


def download(corpus: Corpus, timeout: float = TIMEOUT_SECONDS) -> Iterator[bytes]:
    """Yields the blocks of a download, of the expected size in all.

    Raises:
        TextError: the server cannot be reached, refuses, stops early, or sends too much.
    """
    assert corpus.url is not None
    received, limit = 0, corpus.size or 0
    request = urllib.request.Request(corpus.url, headers={"User-Agent": "charnn"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            while block := response.read(BLOCK_BYTES):
                received += len(block)
                if received > limit:
                    reason = f"{corpus.url} sends more than {limit:,} bytes"
                    raise TextError(f"cannot download {corpus.name}: {reason}")
                yield block
    except urllib.error.HTTPError as error:
        with error:
            reason = f"the server answers {error.code} {error.reason}"
        raise TextError(f"cannot download {corpus.name}: {reason} for {corpus.url}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise TextError(
            f"cannot download {corpus.name} from {corpus.url}: {reason}; "
            f"check the connection, or save the text as {FOLDER}/{corpus.name}.txt"
        ) from None
    if received < limit:
        raise TextError(
            f"cannot download {corpus.name}: {corpus.url} stopped after {received:,} of "
            f"{limit:,} bytes; try again"
        )
