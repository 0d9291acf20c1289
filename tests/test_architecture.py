"""The house rules of ARCHITECTURE.md, read from the source and tried in fresh processes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PLAIN = {"errors", "version"}
GROUND = PLAIN | {
    *("config", "portable", "tensor_file", "text", "checkpoint", "hub", "runs"),
}
# Room -> the rooms, or single modules of a room, that it may import.
MAY_IMPORT = {
    "errors": set(),
    "portable": set(),
    "threads": set(),
    "version": set(),
    "config": {"errors"},
    "tensor_file": PLAIN | {"portable"},
    "text": PLAIN | {"config", "tensor_file"},
    "checkpoint": PLAIN | {"config", "tensor_file", "ngrams.section"},
    "hub": PLAIN | {"tensor_file"},
    "runs": PLAIN | {"bases", "config", "hub", "portable", "tensor_file"},
    "bases": GROUND | {"evaluation", "model", "ngrams", "training"},
    "model": {"config", "errors"},
    "predictor": {"config", "errors"},
    "engines": GROUND | {"predictor", "ngrams.section", "ngrams.tree"},
    "ngrams": GROUND | {"predictor", "engines", "model", "evaluation", "training.final_step"},
    "evaluation": GROUND | {"model", "ngrams.tree", "ngrams.mixture_torch"},
    "generation": GROUND | {"predictor", "engines", "ngrams", "pages"},
    "desk": GROUND | {"engines", "generation", "ngrams"},
    "training": GROUND | {"bases", "evaluation", "generation", "model", "engines"},
    "pages": {"bases", "config"},
    "export": GROUND | {"engines", "generation", "pages", "ngrams"},
    "scoring": GROUND
    | {"pages", "predictor"}
    | {"engines", "evaluation", "generation", "model", "ngrams"},
    "inspection": GROUND
    | {
        "predictor",
        "engines",
        "evaluation",
        "generation",
        "model",
        "ngrams",
        "scoring",
    },
    "server": GROUND | {"predictor", "engines", "generation", "ngrams", "pages"},
    "report": GROUND
    | {
        "bases",
        "engines",
        "evaluation",
        "generation",
        "inspection",
        "model",
        "ngrams",
        "pages",
        "scoring",
    },
}
# The public API, the command line and the adapters to other programs stand above all rooms.
ROOFS = {"__init__", "__main__", "adapters", "cli"}

# Package -> the rooms that may import it. Anything else must come with Python.
PACKAGES = {
    "charset_normalizer": {"text"},
    "huggingface_hub": {"hub"},
    "jinja2": {"pages"},  # which only export, report and server import
    **{each: {"adapters"} for each in ("llm", "lm_eval", "pydantic", "surprisal")},
    "numpy": {*MAY_IMPORT, *ROOFS} - {"errors", "version", "config", "pages"},
    "onnx": {"export"},
    "outlines_core": {"generation"},
    "prompt_toolkit": {"cli"},
    "rich": {"cli"},
    "starlette": {"server"},
    "safetensors": {"checkpoint", "tensor_file", "text"},
    "sentencepiece": {"text"},
    "torch": {
        "bases",
        "evaluation",
        "inspection",
        "model",
        "ngrams",
        "report",
        "scoring",
        "training",
    },
    "typer": {"cli"},
    "uvicorn": {"server"},
}
# Modules that not every system has, and what Windows lacks of others.
SYSTEM_MODULES = {
    *("fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "readline", "resource", "syslog"),
    *("termios", "tty", "winreg"),
}
LACKING = re.compile(
    r"os\.(O_(BINARY|CLOEXEC|DIRECTORY|NOFOLLOW|NONBLOCK|SYNC)|W(IF|EXIT|TERM|NO)\w*|\w*fork\w*"
    r"|get[ep]?[gu]id|getpg\w+|l?f?ch(own|mod)(?<!\.chmod)|kill(pg)?|mkfifo|nice|p(read|write)v?"
    r"|sched_\w+|set\w*[gus]id|stat?vfs|fstatvfs|sysconf|uname|wait\w*)"
    r"|signal\.(SIG(ALRM|BREAK|CHLD|HUP|KILL|PIPE|QUIT|USR1|USR2|WINCH|_BLOCK|_SETMASK)"
    r"|alarm|pause|pthread_\w+|set\w*timer|sigwait)"
    r"|ctypes\.(WinDLL|WinError|windll|get_last_error)"
)
UNSAFE_MODULES = {"dill", "joblib", "marshal", "pickle", "shelve"}
TORCH_ROOMS = PACKAGES["torch"]


# Modules outside charnn/ngrams that mention n-grams: eight at most, and the hooks of the engine.
KNOW_NGRAMS = {
    "cli.train",  # chooses the final step
    *("checkpoint", "evaluation", "generation.model"),  # carry and read a mixture
    *("config.training", "bases.choose"),  # --ngram, and the loss to expect with it
    "cli.options",  # --network-only
    "scoring.baselines",  # n-grams as a baseline
    *("engines.native", "engines.compiled", "export.c_program", "export.page"),  # hooks
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "charnn").with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "charnn").rglob("*.py"))}


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def syntax_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it: "torch.nn", "charnn.text.sources"."""
    for node in ast.walk(syntax_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"charnn/{module}: import by the full name, not a relative one"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("charnn.") in MODULES
                yield full if is_module else node.module


def rooms_imported_by(module: str) -> set[str]:
    """Modules of charnn that a module imports, without the leading "charnn."."""
    names = {name for name in imports_of(module) if room_of(name) == "charnn"}
    return {name.removeprefix("charnn.") if name != "charnn" else "__init__" for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    if room in ROOFS:
        return
    assert room in MAY_IMPORT, f"{room} is a new room: add it to the table, here and in the page"
    strangers = {
        name
        for name in rooms_imported_by(module)
        if room_of(name) not in MAY_IMPORT[room] | {room} and name not in MAY_IMPORT[room]
    }
    assert set() == strangers


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_packages_that_its_room_may(module: str) -> None:
    packages = {room_of(name) for name in imports_of(module)} - {"charnn"}
    foreign = packages - sys.stdlib_module_names
    assert set() == {name for name in foreign if room_of(module) not in PACKAGES.get(name, set())}


def test_few_modules_know_that_there_are_n_grams() -> None:
    found = {
        name
        for name, path in MODULES.items()
        if room_of(name) != "ngrams"
        and re.search("n-?gram", path.read_text("utf-8"), re.IGNORECASE)
    }
    assert KNOW_NGRAMS >= found


@pytest.mark.parametrize("module", [name for name in MODULES if name != "portable"])
def test_one_module_knows_what_systems_lack(module: str) -> None:
    assert set() == {room_of(name) for name in imports_of(module)} & SYSTEM_MODULES
    tree = ast.walk(syntax_of(module))
    names = {ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)}
    assert set() == set(filter(LACKING.fullmatch, names))
    strings = {node.value for node in ast.walk(syntax_of(module)) if isinstance(node, ast.Constant)}
    assert not strings & {"/dev/stdin", "/dev/stdout", "/dev/tty", "/dev/fd"}
    for node in ast.walk(syntax_of(module)):  # Windows would write CRLF
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".write_text"):
            assert "newline" in {keyword.arg for keyword in node.keywords}


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module: rooms_imported_by(module) - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_in_the_package_runs_code_that_a_file_brings(module: str) -> None:
    assert set() == {room_of(name) for name in imports_of(module)} & UNSAFE_MODULES
    calls = {
        ast.unparse(node.func) for node in ast.walk(syntax_of(module)) if isinstance(node, ast.Call)
    }
    assert set() == calls & {"eval", "exec", "compile", "__import__", "torch.load"}
    keywords = {node.arg for node in ast.walk(syntax_of(module)) if isinstance(node, ast.keyword)}
    assert "allow_pickle" not in keywords


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) != "cli"])
def test_the_core_prints_nothing(module: str) -> None:
    names = {node.id for node in ast.walk(syntax_of(module)) if isinstance(node, ast.Name)}
    assert "print" not in names
    attributes = {
        ast.unparse(node) for node in ast.walk(syntax_of(module)) if isinstance(node, ast.Attribute)
    }
    assert set() == attributes & {"sys.stdout", "sys.stderr"}


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr


def test_importing_charnn_leaves_torch_out() -> None:
    run_python("import sys, charnn; assert 'torch' not in sys.modules")


def test_importing_the_command_line_leaves_torch_out() -> None:
    run_python("import sys, charnn.cli; assert 'torch' not in sys.modules")


def test_help_leaves_torch_and_numpy_out() -> None:
    run_python(
        "import sys\n"
        "from charnn.cli import main\n"
        "sys.argv = ['charnn', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'numpy' not in sys.modules\n"
        "assert 'pydantic' not in sys.modules  # what newer releases of typer bring along\n"
    )


def test_the_rooms_without_torch_leave_it_out() -> None:
    heavy = TORCH_ROOMS | {"__init__", "__main__", "adapters"}  # which need other programs
    # cli.watch shows the events of a training, so only `charnn train` imports it.
    light = [name for name in MODULES if room_of(name) not in heavy and name != "cli.watch"]
    imports = "\n".join(f"import charnn.{name}" for name in light)
    run_python(f"import sys\n{imports}\nassert 'torch' not in sys.modules")
