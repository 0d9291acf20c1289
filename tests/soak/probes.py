"""Probes of the promises of docs/reliability.md: each yields the promise and kind of a case.

A probe goes on for ever, draws its cases at random, yields those that held, and raises
AssertionError at one that did not. `soak.py` runs them for a time, `test_soak.py` some cases of
most.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from forging import contents, packed, same_arrays
from stock import ENVIRONMENT, TINY, Skipped, Stock, charnn, ran

from charnn import checkpoint as checkpoints
from charnn.cli.console import visible
from charnn.cli.runs import describe
from charnn.cli.show import _history
from charnn.desk.desk_file import load_desk
from charnn.engines import compiled
from charnn.errors import CharnnError
from charnn.export.c_program import c_files
from charnn.export.page import make_page
from charnn.generation.model import Model
from charnn.runs import Run, list_runs, read_metrics
from charnn.text.text_index import open_index
from charnn.text.token_file import TokenFile
from charnn.text.tokenizers import ByteTokenizer, CharTokenizer

Held = Iterator[tuple[int, str]]
SPARE_BYTES = 64 << 20  # beside twice its size, what reading a file may take
REFUSED_SECONDS = 2.0

# --- reading damaged and hostile files, each in a process of its own


def read_model(path: Path, _: Stock) -> None:
    json.dumps(describe("x", path), allow_nan=False)
    saved = checkpoints.load(path)
    assert all(np.isfinite(array).all() for array in saved.weights.values())
    for engine in ["numpy", *["native"] * bool(compiled.kernels())]:
        with suppress(CharnnError):  # an output that is not finite
            Model.from_checkpoint(saved, engine=engine).generate(max_tokens=5, seed=1)
    with suppress(KeyError, TypeError, ValueError, AttributeError, ArithmeticError):  # as `show`
        list(_history(saved.info))
    make_page(saved, "x")
    c_files(saved)


def read_tokens(path: Path, _: Stock) -> None:
    tokens = TokenFile.open(path)
    tokens.tokenizer.decode(tokens.tokens)
    tokens.valid.tolist()


def read_desk(path: Path, stock: Stock) -> None:
    desk = load_desk(path, Model.load(stock.run / "best.safetensors"))
    assert desk.text is not None
    list(desk.draw(3))


def read_index(path: Path, stock: Stock) -> None:
    shutil.copy(path, path.with_name("kept"))
    found = open_index(path, TokenFile.open(stock.run / "tokens"))  # another is made if damaged
    assert b"Ada" in found
    if path.read_bytes() != path.with_name("kept").read_bytes():
        raise CharnnError("the index was replaced")


READERS: dict[str, Callable[[Path, Stock], None]] = {
    "model": read_model,
    "tokens": read_tokens,
    "desk": read_desk,
    "index": read_index,
}


def in_a_fork(work: Callable[[], None]) -> tuple[int, str, float, int]:
    """Runs work in a fork; returns its status, how it ended, seconds, and bytes at the peak."""
    reading, writing = os.pipe()
    began = time.monotonic()
    if not (child := os.fork()):
        said = "fine"
        try:
            signal.alarm(60)
            work()
        except CharnnError as error:
            said = f"refused: {error}"
        except BaseException as error:
            said = f"fault: {type(error).__name__}: {error}"
        os.write(writing, said[:4000].encode("utf-8", "replace"))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return status, said, time.monotonic() - began, peak


def read_forked(kind: str, path: Path, stock: Stock) -> str:
    """Reads a file as charnn does; it is read or refused, in time and in memory."""
    before = in_a_fork(lambda: None)[3]
    status, said, seconds, peak = in_a_fork(lambda: READERS[kind](path, stock))
    assert status == 0, (kind, f"ended with status {status}")
    assert not said.startswith("fault"), (kind, said)
    if said.startswith("refused"):
        assert "\n" not in said, said
        assert seconds < REFUSED_SECONDS, (kind, said, seconds)
        assert peak - before <= 2 * path.stat().st_size + SPARE_BYTES, (kind, said, peak - before)
    return said.partition(":")[0]


def damaged_files(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 4: a file that was cut, flipped or overwritten is refused."""
    path = place / "damaged"
    while True:
        kind = draw.choice(list(stock.files))
        good = stock.files[kind].read_bytes()
        data, at = bytearray(good), draw.randrange(len(good))
        size = draw.choice((1, 2, 8, 512))
        way = draw.choice(("flipped", "cut", "zeroed", "longer", "shuffled"))
        if way == "flipped":
            data[at] ^= 1 << draw.randrange(8)
        elif way == "cut":
            del data[at:]
        elif way == "zeroed":
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif way == "longer":
            data[at:at] = draw.randbytes(size)
        else:
            data[at : at + size] = data[: len(data[at : at + size])]
        if data == good:
            continue
        path.write_bytes(data)
        assert read_forked(kind, path, stock) == "refused", (kind, way, at, size)
        yield 4, f"{kind}, {way}"


NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**53, 2**63, -(2**63), 10**299, 0.5, -0.0, 1e308, -1e308),
    *("", "x", "inf", "\x1b]52;c;eA==\x07", "../../x", "y" * 5000),
    *([], [[]], {}, {"a": 1}, [0] * 99),
)


def mutate(value: Any, draw: random.Random) -> Any:
    """JSON with one change at a random place."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], mutate(value[at], draw), *value[at + 1 :]]
    return draw.choice(NASTY)


def mutate_array(array: np.ndarray[Any, Any], draw: random.Random) -> np.ndarray[Any, Any]:
    """An array with other numbers, another size, or another type."""
    way = draw.randrange(5)
    if way == 0 and array.ndim == 1:
        return array[: draw.randrange(len(array) + 1)].copy()
    if way == 1 and array.ndim == 1:
        return np.concatenate([array, array[: draw.randrange(1, 9)]])
    if way == 2:
        return array.astype(draw.choice(["<u1", "<u2", "<u4", "<f4", "<i8"]))
    changed = array.copy().reshape(-1)
    if changed.size:
        for _ in range(draw.choice((1, 3, 99))):
            real = array.dtype.kind == "f"
            top = (np.finfo if real else np.iinfo)(array.dtype).max
            values = [0, 1, top, draw.randrange(128), *([np.nan, np.inf, -top] if real else [])]
            changed[draw.randrange(changed.size)] = draw.choice(values)
    return changed.reshape(array.shape)


def forge(path: Path, draw: random.Random) -> tuple[bytes, str]:
    """A good file with changes that its digest covers, and what was changed."""
    metadata, arrays = contents(path)
    what = draw.choice(("metadata", "array"))
    with np.errstate(all="ignore"):
        for _ in range(draw.choice((1, 1, 1, 3))):
            if what == "metadata":
                metadata = mutate(metadata, draw)
                metadata = metadata if isinstance(metadata, dict) else {}
            else:
                name = draw.choice(list(arrays))
                arrays[name] = mutate_array(arrays[name], draw)
    return packed(metadata, arrays), what


def forged_files(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 5: a file whose digest fits its nonsense is read or refused, cheaply."""
    path = place / "forged"
    while True:
        kind = draw.choice(list(stock.files))
        try:
            data, what = forge(stock.files[kind], draw)
        except (CharnnError, ValueError, OverflowError):  # no such file can be written
            continue
        path.write_bytes(data)
        found = read_forked(kind, path, stock)
        assert sorted(os.listdir(place)) in (["forged"], ["forged", "kept"]), os.listdir(place)
        yield 5, f"{kind}, forged {what}, {found}"


SANITIZED = """
import random, sys
from pathlib import Path
from charnn.engines import compiled
engine = compiled.open_engine(Path(sys.argv[1]))
compiled.load = lambda: engine
from probes import mutate_array
from forging import contents, packed
from charnn import checkpoint
from charnn.errors import CharnnError
from charnn.generation.model import Model
draw, path, names = random.Random(int(sys.argv[3])), Path("mutated"), None
for kernel in compiled.kernels():
    for _ in range(int(sys.argv[4])):
        metadata, arrays = contents(Path(sys.argv[2]))
        for _ in range(draw.choice((1, 1, 4))):
            trees = [name for name in arrays if name.startswith("ngrams.")]
            name = draw.choice(trees or list(arrays))
            arrays[name] = mutate_array(arrays[name], draw)
        path.write_bytes(packed(metadata, arrays))
        done = "refused"
        try:
            for int8 in (False, True):
                model = Model.from_checkpoint(checkpoint.load(path), engine="native", int8=int8)
                compiled.use(kernel)
                model.generate(max_tokens=60, seed=1)
            done = "written"
        except CharnnError:
            pass
        print(done, flush=True)
"""


def sanitized_engine(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 5: no tree of n-grams makes the compiled engine leave its memory (ASan, UBSan)."""
    if not (compiler := shutil.which("gcc")) or not compiled.kernels():
        raise Skipped("there is no gcc, or charnn was installed without a compiler")
    source = Path(compiled.__file__).parent / "engine" / "engine.c"
    flags = ["-shared", "-fPIC", "-std=c99", "-O1", "-g", "-ffp-contract=off", "-DCHARNN_KERNELS=1"]
    sane = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    library = place / "engine.so"
    command = [compiler, *flags, *sane, str(source), "-lm", "-o", str(library)]
    runtime = ran([compiler, "-print-file-name=libasan.so"], place).stdout.strip()
    if ran(command, place).returncode or not os.path.isabs(runtime):
        raise Skipped("gcc has no address sanitizer here")
    model = str(stock.run / "best.safetensors")
    sanitizer = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    while True:
        words = [str(library), model, str(draw.randrange(2**31)), "8"]
        ended = ran([sys.executable, "-c", SANITIZED, *words], place, **sanitizer)
        assert ended.returncode == 0, ended.stderr[-3000:]
        for done in ended.stdout.split():
            yield 5, f"C engine under sanitizers, mutated n-grams, {done}"


# --- writers that are killed, refused, or run out of space

WRITER = """
import sys
from pathlib import Path
from charnn import checkpoint
from charnn.errors import CharnnError
from charnn.runs import MetricsLog
what, which, stock = sys.argv[1], sys.argv[2], Path(sys.argv[3])
run = stock / "checkpoints" / which

def write():
    if what == "log":
        MetricsLog(Path("metrics.jsonl")).cut(3 if which == "book" else 5)
        return
    if what == "tokens":
        from charnn.text.sources import open_source
        from charnn.text.token_writer import write_token_file
        split = (90, 10) if which == "book" else (50, 50)
        write_token_file(Path("made.tokens"), open_source([stock / "book.txt"]), split=split)
        return
    saved = checkpoint.load(run / "best.safetensors")
    if what == "save":
        checkpoint.save(Path("made.safetensors"), saved)
    elif what == "desk":
        from charnn.desk.desk_file import load_desk, save_desk
        from charnn.generation.model import Model
        model = Model.load(stock / "checkpoints/book/best.safetensors")
        desk = load_desk(stock / "text.desk", model)
        if which == "other":
            desk.undo()
        save_desk(desk, Path("made.desk"))
    else:
        from charnn.export import exporter
        made = exporter(what)
        made.write(saved, which, Path("made" + made.suffix))
try:
    write()
except CharnnError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
"""
WRITERS = ("save", "tokens", "desk", "log", "html", "model", "c")
CHANGING = (
    *("write", "pwrite64", "fsync", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "rmdir", "ftruncate", "fchmod", "flock"),
)
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES")


def snapshot(place: Path) -> dict[str, str]:
    """Digests of all files that are not hidden."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(place).parts)
    }


class Writing:
    """One kind of output in a folder, in an old and a new content."""

    def __init__(self, what: str, stock: Stock, place: Path) -> None:
        self.what, self.stock, self.place = what, stock, place / what
        self.place.mkdir()
        if what == "log":
            self._fill_log()
        self.new = self._made("other")
        self.reset()

    def _fill_log(self) -> None:
        rows = ({"event": "step", "step": step, "loss": 1 / step} for step in range(1, 9))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.place / "metrics.jsonl").write_text(lines)

    def _made(self, which: str) -> dict[str, str]:
        ended = self.write(which)
        assert ended.returncode == 0, ended.stderr
        assert not list(self.place.glob(".*")), "the next command sweeps"
        return snapshot(self.place)

    def reset(self) -> None:
        if self.what == "log":
            self._fill_log()
            self.old = snapshot(self.place)
        else:
            self.old = self._made("book")
        assert self.old != self.new

    def write(self, which: str, *before: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", WRITER, self.what, which, str(self.stock.folder)]
        return ran([*before, *program], self.place)

    def check(self, why: Any) -> str:
        found = snapshot(self.place)
        assert found in (self.old, self.new), (self.what, why, found, self.old, self.new)
        return "old" if found == self.old else "new"


def traced_calls(writing: Writing, log: Path) -> list[str]:
    """The system calls of a writer that change the disk, in order."""
    flags = ["-f", "-qq", "-o", str(log), "-e", f"trace={','.join(CHANGING)}"]
    ended = writing.write("other", "strace", *flags)
    if ended.returncode and "PTRACE" in ended.stderr.upper():
        raise Skipped("this system does not allow strace")
    assert ended.returncode == 0, ended.stderr
    return re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE)


def system_calls(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promises 1, 2 and 8: a writer killed or refused at any call leaves the old or the new."""
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed: tests/faults kills at the calls of Python instead")
    writings = dict[str, Writing]()
    cases: dict[str, list[tuple[str, int, str]]] = {}
    while True:
        what = draw.choice(WRITERS)
        if not cases.get(what):
            shutil.rmtree(place / what, ignore_errors=True)
            writing = writings[what] = Writing(what, stock, place)
            calls = Counter(traced_calls(writing, place / f"{what}.log"))
            writing.reset()
            every = [(call, n) for call, count in calls.items() for n in range(1, count + 1)]
            cases[what] = [(*each, "signal=KILL") for each in every]
            cases[what] += [(*each, f"error={draw.choice(ERRORS)}") for each in every]
            draw.shuffle(cases[what])
        call, number, fate = cases[what].pop()
        writing = writings[what]
        flags = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        ended = writing.write(
            "other", "strace", *flags, "-e", f"inject={call}:{fate}:when={number}"
        )
        left = writing.check((call, number, fate))
        if fate == "signal=KILL":
            assert ended.returncode in (-9, 137), (what, call, number, ended.stderr)
            yield 1, f"{what} killed at {call}"
        else:
            assert "Traceback" not in ended.stderr, (what, call, number, fate, ended.stderr)
            assert ended.returncode in (0, 1), ended.stderr
            if ended.returncode == 0:
                assert left == "new", (what, call, number, fate)
                assert call not in ("fsync", "write", "rename"), (what, call, number, fate)
            else:
                told = "is written" in ended.stderr
                assert told == (left == "new"), (what, call, number, fate, ended.stderr)
                if call == "fsync":
                    yield 2, f"{what}: no success where fsync fails"
            yield 8, f"{what}, {call} refused"
        if left == "new" or list(writing.place.glob(".*")):
            writing.reset()


SMALL_DISK = """
import os, random, subprocess, sys
from pathlib import Path
from probes import WRITERS, Writing
from stock import Stock
stock, disk, draw = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
stock = Stock(stock, stock / "checkpoints/book", stock / "checkpoints/other/best.safetensors", {})
disk.mkdir(exist_ok=True)
for what in draw.sample(WRITERS, len(WRITERS)):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], check=True)
    writing = Writing(what, stock, disk)
    used = sum(4096 * -(-p.stat().st_size // 4096) for p in disk.rglob("*") if p.is_file()) >> 10
    for full in (True, False):
        size = f"size={used + draw.randrange(0, max(8, used))}k" if full else "ro"
        subprocess.run(["mount", "-o", f"remount,{size}", "none", disk], check=True)
        ended = writing.write("other")
        left = writing.check(size)
        assert "Traceback" not in ended.stderr, (what, size, ended.stderr)
        assert ended.returncode == (left == "old"), (what, size, left, ended.stderr)
        print(f"{what}, {'small' if full else 'read-only'} disk, {left}", flush=True)
        if left == "new":
            break
    subprocess.run(["umount", disk], check=True)
"""


def small_disks(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 8: a full or read-only file system damages no file."""
    if os.geteuid() or not shutil.which("unshare"):
        raise Skipped("only root can mount file systems")
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(place)]
    if ran(probe, place).returncode:
        raise Skipped("this system does not allow mounts")
    while True:
        words = [str(stock.folder), str(place / "disk"), str(draw.randrange(2**31))]
        ended = ran(["unshare", "-m", sys.executable, "-c", SMALL_DISK, *words], place)
        assert ended.returncode == 0, ended.stderr[-3000:]
        for line in ended.stdout.splitlines():
            yield 8, line


def durable(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 2: the message of success comes after fsync of the file and of its folder."""
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed")
    commands = (
        f"tokenize {stock.folder}/book.txt -o x.tokens",
        f"export --to c {stock.run} -o x --force",
        f"export --to html {stock.run} -o x.html --force",
        f"export --to model {stock.run} -o x.safetensors --force",
    )
    flags = ["-f", "-qq", "-y", "-s", "20", "-o", "log", "-e"]
    traced = "trace=fsync,write,rename,renameat,renameat2"
    while True:
        for words in commands:
            program = [sys.executable, "-m", "charnn", *words.split()]
            ended = ran(["strace", *flags, traced, *program], place)
            assert ended.returncode == 0, ended.stderr
            lines = (place / "log").read_text().splitlines()
            told = min(i for i, x in enumerate(lines) if re.search(r'write\(2<.*"(wrote|repl)', x))
            renamed = max(i for i, x in enumerate(lines) if "rename" in x)
            files = [i for i, x in enumerate(lines) if "fsync(" in x and f"<{place}/" in x]
            folders = [i for i, x in enumerate(lines) if "fsync(" in x and f"<{place}>" in x]
            assert files[0] < renamed < folders[-1] < told, (words, lines)
            yield 2, f"{words.partition('/')[0].strip()}: message after fsync"


SAVER = """
import json, sys, time
from pathlib import Path
from charnn import checkpoint
from charnn.runs import MetricsLog, Run
root, stock = Path(sys.argv[1]), Path(sys.argv[2])
runs = stock / "checkpoints"
states = [checkpoint.load(runs / name / "last.safetensors") for name in ("book", "other")]
run, until, step = Run(root, "saving"), time.monotonic() + 2, 0
log = MetricsLog(run.metrics)
with run.lock():
    while time.monotonic() < until:
        step += 1
        checkpoint.save(run.last, states[step % 2])
        checkpoint.save(run.best, states[step % 2])
        run.mark_newest()
        assert log.append({"event": "step", "step": step}) is None
"""


def readers(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promises 1 and 9: a reader beside a trainer sees a whole state, and the trainer's lock."""
    last = [stock.run / "last.safetensors", stock.other.with_name("last.safetensors")]
    digests = {checkpoints.load(path).digest for path in last}
    while True:
        run = Run(place, "saving")
        words = [sys.executable, "-c", SAVER, str(place), str(stock.folder)]
        with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as saver:
            while saver.poll() is None:
                if not run.exists or not run.best.exists():
                    continue
                assert checkpoints.load(draw.choice((run.last, run.best))).digest in digests
                assert "error" not in describe("saving", run.last)
                (listed,) = list_runs(place)
                steps = [line["step"] for line in read_metrics(listed.metrics)]
                assert steps == list(range(1, len(steps) + 1))
                yield 1, "a state read beside a saving trainer"
                if saver.poll() is None and (holder := run.holder):
                    assert str(saver.pid) in holder
                    yield 9, "the holder of a lock, named to a reader"
            assert saver.returncode == 0, saver.stderr and saver.stderr.read()
        shutil.rmtree(run.folder)


# --- whole commands


def started(place: Path, words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "charnn", *words.split()],
        cwd=place,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def signals(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promises 10 and 12: a signal at any time ends a command in order, without a traceback."""
    book = stock.folder / "book.txt"
    commands = (
        f"train {book} --name=run --max-steps=3000 --save-every=7 {TINY}",
        f"sample -m {stock.run} -n 200000",
        f"tokenize {book} -o x.tokens",
        f"export {stock.run} --to c -o x --force",
        "--help",
    )
    while True:
        for words in commands:
            name = words.split()[0]
            number = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            command = started(place, words)
            with suppress(subprocess.TimeoutExpired):
                command.wait(draw.uniform(0.01, 5 if name == "train" else 1))
            command.send_signal(number)
            _, said = command.communicate(timeout=600)
            assert command.returncode in (0, 128 + number, -number), (name, number, said)
            assert "Traceback" not in said, (name, number, said)
            assert "fault" not in said, (name, number, said)
            yield 10, f"{name}, {number.name}"
            run = Run(place / "checkpoints", "run")
            if name == "train" and run.folder.exists():
                step = checkpoints.load(run.last).info["step"] if run.exists else None
                logged = [line["step"] for line in read_metrics(run.metrics)]
                if step is not None and logged and command.returncode > 128:
                    assert step == max(logged), (step, logged[-1])
                    yield 10, "a signalled run is saved at its last step"
                shutil.rmtree(run.root)
            if (place / "x.tokens").exists():
                TokenFile.open(place / "x.tokens")
            if (place / "x").exists():
                assert len(os.listdir(place / "x")) == 6


def two_trainers(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 9: of two trainers of one run, one is refused."""
    words = f"train {stock.folder}/book.txt --name=run --max-steps=400 {TINY}"
    while True:
        first = started(place, words)
        time.sleep(draw.choice((0, 0.01, 0.3, 2.5)))
        second = started(place, words)
        said = [each.communicate(timeout=600)[1] for each in (first, second)]
        codes = sorted(each.returncode for each in (first, second))
        assert codes == [0, 1], said
        assert checkpoints.load(place / "checkpoints/run/last.safetensors").info["step"] == 400
        steps = read_metrics(place / "checkpoints/run/metrics.jsonl")
        assert [x["step"] for x in steps if x["event"] == "step"] == list(range(1, 401))
        shutil.rmtree(place / "checkpoints")
        yield 9, "two trainers of one name"


def resumed(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 3: a run that is killed twice, at any steps, resumes to the same bits."""
    book, few = stock.folder / "book.txt", "--max-steps=300 --save-every=5 --dropout=0.1"
    words = f"train {book} {few} {TINY}"
    charnn(f"{words} --name=straight", place)
    expected = place / "checkpoints/straight/last.safetensors"
    while True:
        run, kills = Run(place / "checkpoints", "killed"), 0
        shutil.rmtree(run.folder, ignore_errors=True)
        command = started(place, f"{words} --name=killed")
        while command.poll() is None:
            lines = draw.randrange(200)  # of the log, at which it is killed
            while command.poll() is None and (kills == 2 or steps_logged(run) < lines):
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.05))
            if command.poll() is None:
                command.kill()
                command.communicate()
                kills += 1
                if run.exists and is_finished(run):
                    break
                again = "train --resume" if run.exists else words
                command = started(place, f"{again} --name=killed")
        assert command.returncode == 0 or is_finished(run), command.communicate()
        command.communicate()
        assert same_arrays(expected, run.last)
        yield 3, f"the same bits after {kills} kills"


def is_finished(run: Run) -> bool:
    training = checkpoints.load(run.last).training
    return training is not None and bool(training.progress.get("finished"))


def steps_logged(run: Run) -> int:
    return run.metrics.read_bytes().count(b"\n") if run.metrics.exists() else 0


def take_streams() -> None:
    """Connects Python's standard streams to their descriptors, whatever they were before."""
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115  # for good
        for number in range(3)
    )


WORDS = (
    *("sample", "show", "runs", "tokenize", "export", "score", "corpus", "write", "nosuch", "-m"),
    *("book", "other", "english", "book.txt", "checkpoints/book", "x.tokens", "x.html", "x", "-o"),
    *("--to", "c", "html", "model", "-n", "-t", "--top-k", "--top-p", "--seed", "--num-samples"),
    *("--json", "--lines", "--max-copy", "--stop", "--ban", "--bias", "e=2", "--regex", "[a-z]+"),
    *("0", "1", "3", "-1", "1e400", "nan", "9" * 400, "", "\x1b[31m", "\udc80", "--", "--force"),
    *("--split", "50,50", "--tokenizer", "byte", "--encoding", "utf-16", "--checkpoints", "-"),
)


def command_lines(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 12: every command line ends in a documented code, an error in one line."""
    import charnn.cli

    shutil.copytree(stock.run.parent, place / "home" / "checkpoints")
    shutil.copy(stock.folder / "book.txt", place / "home")
    said = place / "said"
    while True:
        command = draw.choice(WORDS[:9])
        words = [command, *(draw.choice(WORDS) for _ in range(draw.randrange(7)))]

        def run(words: list[str] = words) -> None:
            os.chdir(place / "home")
            os.environ.pop("CHARNN_DEBUG", None)
            for number, path in enumerate((os.devnull, os.devnull, str(said))):
                flags = os.O_RDWR | os.O_TRUNC | os.O_CREAT
                os.dup2(os.open(path, flags, 0o600), number)
            take_streams()
            resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
            sys.argv = ["charnn", *words]
            try:
                charnn.cli.main()
            except SystemExit as end:
                code = end.code or 0
            raise CharnnError(str(code))

        status, ended, *_ = in_a_fork(run)
        text = said.read_text(errors="replace")
        assert status == 0, (words, status, text)
        assert ended in ("refused: 0", "refused: 1", "refused: 2"), (words, ended, text)
        for bad in ("Traceback", "charnn has a fault", "\x1b"):
            assert bad not in text, (words, text)
        if ended != "refused: 0":
            errors = [line for line in text.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, (words, text)
        yield 12, f"{command}, code {ended[-1]}"


def refusal(work: Callable[..., Any], *values: Any) -> str:
    """The error with which a call is refused, or ""."""
    try:
        work(*values)
    except CharnnError as error:
        return str(error)
    return ""


PLANES = [(0, 32), (32, 127), (128, 0x300), (0x300, 0xD800), (0xE000, 0x110000)]


def round_trips(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 7: a text that a tokenizer accepts comes back; another is named."""
    learnt = TokenFile.open(stock.run / "tokens").tokenizer
    while True:
        ranges = draw.sample(PLANES, 2)
        size = draw.randrange(200)
        text = "".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(size))
        for tokenizer in (CharTokenizer.learn(text + "x"), ByteTokenizer()):
            assert text == tokenizer.decode(tokenizer.encode(text))
            yield 7, f"{tokenizer.kind} tokenizer"
        unknown, said = set(text) - set(learnt.known), refusal(learnt.encode, text)
        assert said or text == learnt.decode(learnt.encode(text))
        assert bool(unknown) == bool(said)
        assert not said or any(f"U+{ord(c):04X}" in said or c in said for c in unknown), said
        yield 7, "an unknown character is named"


ALLOWED = re.compile(rb"\x1b\[[0-9;]*m")  # colour


def terminals(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 6: no control sequence of a text or a model reaches a terminal."""
    import charnn.cli

    path = place / "run" / "last.safetensors"
    path.parent.mkdir()
    hostile = ("\x1b]0;owned\x07", "\x9b31m", "\x1b[2J", "\r", "\x08", "\u202e", "\x7f", "\x00")
    while True:
        text = "".join(chr(draw.randrange(0x3000)) for _ in range(99)) + draw.choice(hostile)
        assert all(c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) for c in visible(text))
        yield 6, "text as it is shown"
        metadata, arrays = contents(stock.files["model"])
        bad = draw.choice(hostile)
        metadata["info"] = mutate_strings(metadata["info"], bad)
        metadata["charnn"] = bad
        codes = arrays["tokenizer.vocabulary"].copy()
        codes[:3] = sorted({1, 7, 27})
        arrays["tokenizer.vocabulary"] = np.unique(codes)[: len(codes)]
        if len(arrays["tokenizer.vocabulary"]) != len(codes):
            continue
        path.write_bytes(packed(metadata, arrays))
        command = draw.choice((("show", "run"), ("runs",), ("sample", "-m", "run", "-n", "60")))
        child, master = pty.fork()
        if not child:
            take_streams()
            os.chdir(place)
            sys.argv = ["charnn", *command, "--checkpoints", "."]
            code: Any = 1
            try:
                charnn.cli.main()
            except SystemExit as end:
                code = end.code or 0
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(code)
        shown = b""
        with suppress(OSError):
            while data := os.read(master, 1 << 16):
                shown += data
        os.close(master)
        os.waitpid(child, 0)
        rest = ALLOWED.sub(b"", shown).replace(b"\r\n", b"").replace(b"\t", b"")
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", rest), (
            command,
            rest,
        )
        assert shown, command
        yield 6, f"{command[0]} at a terminal"


def mutate_strings(value: Any, bad: str) -> Any:
    """JSON in which every string ends in `bad`."""
    if isinstance(value, dict):
        return {key: mutate_strings(each, bad) for key, each in value.items()}
    if isinstance(value, list):
        return [mutate_strings(each, bad) for each in value]
    return value + bad if isinstance(value, str) else value


def not_finite(stock: Stock, place: Path, draw: random.Random) -> Held:
    """Promise 11: numbers that are not finite are neither saved nor loaded."""
    forged, made = place / "forged", place / "x.safetensors"

    def spoil(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        name = draw.choice([name for name, array in arrays.items() if array.dtype.kind == "f"])
        arrays[name] = arrays[name].copy()
        value = draw.choice((np.nan, np.inf, -np.inf))
        arrays[name].reshape(-1)[draw.randrange(arrays[name].size)] = value

    while True:
        for where in ("weights", "training"):
            saved = checkpoints.load(stock.files["model"])
            assert saved.training is not None
            spoil(saved.weights if where == "weights" else saved.training.arrays)
            assert refusal(checkpoints.save, made, saved), where
            assert not os.listdir(place)
            yield 11, "not saved"
        metadata, arrays = contents(stock.files["model"])
        spoil(arrays)
        forged.write_bytes(packed(metadata, arrays))
        assert refusal(checkpoints.load, forged)
        forged.unlink()
        yield 11, "not loaded"


CHEAP = (damaged_files, forged_files, not_finite, round_trips, terminals, command_lines)
SLOW = (sanitized_engine, small_disks, durable, signals, two_trainers, resumed)
PROBES: dict[str, Callable[[Stock, Path, random.Random], Held]] = {
    probe.__name__: probe for probe in (*CHEAP, readers, system_calls, *SLOW)
}
