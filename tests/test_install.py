"""Each platform has one wheel; a wheel that was built without a C compiler has no engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from charnn.engines import compiled
from charnn.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ENGINE = f"charnn/engines/_engine.{'dll' if os.name == 'nt' else 'so'}"
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
OFFLINE = """
import socket
def refuse(*_):
    raise OSError("the test forbids the network")
socket.socket.connect = socket.socket.connect_ex = refuse
"""
STATE = """
import json, charnn
from charnn.engines import compiled
print(json.dumps([charnn.__file__, compiled.kernels()]))
"""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, f"{command}\n{done.stderr}"
    return done.stdout


def pip(*words: str | Path, python: str | Path = sys.executable, **variables: str) -> None:
    command = [str(python), "-m", "pip", words[0], "--no-index", "--no-deps", *words[1:]]
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run([str(word) for word in command], ROOT.parent, os.environ | quiet | variables)


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("this is no clone")
    return {name for name in listing.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def packaged(tracked: set[str]) -> set[str]:
    """The files of the package, and the texts that the build copies into it."""
    texts = {f"charnn/text/{name}.txt" for name in ("lighthouse", "villages")}
    return {name for name in tracked if name.startswith("charnn/")} | texts


@pytest.fixture(scope="module")
def sdist(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a clone in which somebody has worked."""
    tree = tmp_path_factory.mktemp("a clone")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in (
        "corpora/novel.txt",
        "checkpoints/novel/best.safetensors",
        "charnn/old.pyc",
        ENGINE,
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("not to be distributed")
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    run([sys.executable, "-c", code], tree, dict(os.environ))
    (path,) = (tree / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def build(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def build(compiler: str) -> Path:
        """Returns the wheel that a C compiler, or a missing one, makes of the source."""
        folder = tmp_path_factory.mktemp("wheels")
        pip("wheel", "--no-build-isolation", "--wheel-dir", folder, sdist, CC=compiler)
        (wheel,) = folder.iterdir()
        return wheel

    return build


@pytest.fixture
def install(tmp_path: Path) -> Callable[[Path], Callable[..., str]]:
    """Installs a wheel into an empty environment without compiler and network; returns its shell.

    The environment borrows the dependencies from the one that runs the tests.
    """

    def install(wheel: Path) -> Callable[..., str]:
        home = tmp_path / "environment"
        run([sys.executable, "-m", "venv", "--without-pip", str(home)], tmp_path, dict(os.environ))
        (site,) = home.rglob("site-packages")
        borrowed = [path for path in sys.path if path.endswith("-packages")]
        (site / "borrowed.pth").write_text("\n".join(borrowed))
        (site / "sitecustomize.py").write_text(OFFLINE)
        pip("install", "--ignore-installed", wheel, python=home / SCRIPTS / "python")
        environment = os.environ | {"PATH": str(home / SCRIPTS), "CC": "/no/such/compiler"}
        environment.pop("PYTHONPATH", None)

        def shell(program: str, *words: str) -> str:
            return run([str(home / SCRIPTS / program), *words], tmp_path, environment)

        where, kernels = json.loads(shell("python", "-c", STATE))
        assert Path(where).is_relative_to(site)
        assert bool(kernels) == (ENGINE in zipfile.ZipFile(wheel).namelist())
        return shell

    return install


def held(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("charnn/")}


@pytest.mark.slow
def test_the_source_distribution_holds_what_git_tracks(sdist: Path, tracked: set[str]) -> None:
    with tarfile.open(sdist) as archive:
        names = {entry.name.partition("/")[2] for entry in archive if entry.isfile()}
    made = {name for name in names if name.startswith("charnn.egg-info/")}
    assert tracked == names - made - {"PKG-INFO", "setup.cfg"}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "nt" and not shutil.which("cc"), reason="there is no C compiler")
def test_a_wheel_brings_the_engine_to_every_python(
    build: Callable[[str], Path],
    install: Callable[[Path], Callable[..., str]],
    packaged: set[str],
    tmp_path: Path,
) -> None:
    wheel = build("cc")
    assert re.fullmatch(rf"charnn-{re.escape(__version__)}-py3-none-(?!any)\w+\.whl", wheel.name)
    assert packaged | {ENGINE} == held(wheel)

    shell = install(wheel)
    assert (tmp_path / "environment/share/man/man1/charnn.1").exists()
    shell("charnn", "corpus", "lighthouse")
    (tmp_path / "corpora/lighthouse.txt").rename(tmp_path / "book.txt")
    small = ["--cell", "gru", "--hidden-size", "16", "--num-layers", "1", "--max-steps", "4"]
    shell("charnn", "train", "book.txt", *small)
    assert shell("charnn", "sample", "The goat ", "-n", "20", "--engine", "native", "--seed", "1")
    assert shell("charnn", "sample", "-m", "english", "-n", "20", "--seed", "1")
    for kind, output in {"c": "program", "html": "page.html", "model": "copy.safetensors"}.items():
        shell("charnn", "export", "book", "--to", kind, "-o", output)
        assert (tmp_path / output).exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="CC does not choose the compiler on Windows")
def test_a_wheel_that_was_built_without_a_compiler_is_for_every_system(
    build: Callable[[str], Path],
    install: Callable[[Path], Callable[..., str]],
    packaged: set[str],
) -> None:
    wheel = build("/no/such/compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert packaged == held(wheel)
    assert install(wheel)("charnn", "sample", "-m", "english", "-n", "20", "--seed", "1")


def test_the_build_exports_the_functions_that_charnn_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Library(dict[str, SimpleNamespace]):
        def __getattr__(self, name: str) -> SimpleNamespace:
            return self.setdefault(name, SimpleNamespace())

    library = Library()
    monkeypatch.setattr(compiled.ctypes, "CDLL", lambda path: library)
    compiled.open_engine(Path("engine"))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    (extension,) = settings["ext-modules"]
    assert set(library) == set(extension["export-symbols"])
