from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import CharnnError, ConfigError, DamagedFile, FileError, TextError
from charnn.tensor_file import METADATA_KEY, to_json
from charnn.text import sources, token_writer
from charnn.text.line_breaks import UNCHANGED, Reading
from charnn.text.sources import TextSource, open_source
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import TOKENIZERS, CharTokenizer, SentencePieceTokenizer

VERSE = "The wind was high, the glass was low;\nthe keeper said: é, I told you só.\n" * 30


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def text_of(text: str | bytes, name: str = "book.txt", reading: Reading = UNCHANGED) -> TextSource:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source([name], reading=reading)


def write(
    text: str | bytes, tokenizer: Any = "char", reading: Reading = UNCHANGED, **options: Any
) -> TokenFile:
    source = text_of(text, reading=reading)
    return write_token_file("book.tokens", source, tokenizer=tokenizer, **options)


def decoded(file: TokenFile) -> dict[str, str]:
    return {name: file.tokenizer.decode(file.split(name)) for name in file.splits}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_token_file_gives_back_the_whole_text(kind: str) -> None:
    written = write(VERSE, kind, split=(80, 10, 10))
    file = TokenFile.open("book.tokens")
    file.verify()
    assert written.digest == file.digest
    assert kind == file.tokenizer.kind
    assert ["train", "valid", "test"] == list(file.splits)
    assert VERSE == file.tokenizer.decode(file.tokens)
    assert VERSE == "".join(decoded(file).values())
    assert file.tokenizer.dtype == file.tokens.dtype
    assert isinstance(file.tokens, np.memmap)
    assert b"\n" == file.tokenizer.token_bytes[file.start_token]
    assert "book" == file.source["name"]
    assert (len(VERSE), len(VERSE.encode())) == (file.source["chars"], file.source["bytes"])


@pytest.mark.parametrize("split", [(90, 10), (80, 10, 10), (100,), (1, 99), (33, 33, 34)])
def test_every_tokenizer_splits_a_text_at_the_same_character(split: Sequence[int]) -> None:
    expected, start = {}, 0
    for count, name in enumerate(["train", "valid", "test"][: len(split)], 1):
        stop = len(VERSE) * sum(split[:count]) // 100
        expected[name], start = VERSE[start:stop], stop
    for kind in TOKENIZERS:
        file = write(VERSE, kind, split=split)
        assert expected == decoded(file)
        for name, part in file.splits.items():
            ids = file.split(name)
            assert len(expected[name]) == part.chars == file.tokenizer.chars_per_token[ids].sum()
            assert len(expected[name].encode()) == part.bytes
            assert part.bytes == file.tokenizer.bytes_per_token[ids].sum()


@given(
    text=st.text(min_size=2, max_size=40) | st.text("aé😀\r\n\ufeff", min_size=2, max_size=40),
    kind=st.sampled_from(["char", "byte"]),
    size=st.integers(1, 7),
)
def test_the_size_of_chunks_never_changes_the_file(text: str, kind: str, size: int) -> None:
    if not text.removeprefix("\ufeff")[1:]:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK_BYTES", size)
        small = write(text, kind, split=(50, 50))
    whole = write(text, kind, split=(50, 50))
    assert whole.digest == small.digest
    whole.verify()
    plain = text.removeprefix("\ufeff")
    middle = len(plain) // 2
    mark = text[: len(text) - len(plain)] if kind == "byte" else ""
    assert {"train": mark + plain[:middle], "valid": plain[middle:]} == decoded(whole)
    found = json.dumps(whole.source) + json.dumps(whole.notes)
    assert found == json.dumps(small.source) + json.dumps(small.notes)


@given(data=st.binary(min_size=2, max_size=60))
def test_the_byte_tokenizer_gives_back_any_file(data: bytes) -> None:
    if data == b"\xef\xbb\xbf":
        return  # a byte order mark alone is an empty text
    file = write(data, "byte", split=(100,))
    assert data == bytes(file.tokens)
    file.verify()


def test_bytes_that_are_not_utf8_are_split_by_bytes_and_have_no_characters() -> None:
    file = write(b"\xff\xfe\x00\x01" * 25, "byte")
    assert {"train": (0, 90, None, 90), "valid": (90, 100, None, 10)} == {
        name: tuple(split) for name, split in file.splits.items()
    }
    assert file.source["chars"] is None
    assert any("not UTF-8" in note for note in file.notes)


def test_the_byte_tokenizer_takes_utf16_as_bytes() -> None:
    data = VERSE.encode("utf-16")
    assert data == bytes(write(data, "byte").tokens)


def test_characters_come_from_the_whole_text_and_pieces_from_the_train_split() -> None:
    text = "abc abc abc\n" * 90 + "zebra zebra\n" * 10
    assert b"z" in write(text, "char").tokenizer.token_bytes
    pieces = write(text, "sentencepiece", vocab_size=300)
    assert b"z" not in pieces.tokenizer.token_bytes[256:]
    assert "zebra" in decoded(pieces)["valid"]


def test_another_text_can_be_the_valid_split() -> None:
    valid = text_of("other words: ß\n", "other.txt")
    for kind in TOKENIZERS:
        file = write("a text\n" * 9, kind, valid=valid, split=(50, 50))
        assert {"train": "a text\n" * 9, "valid": "other words: ß\n"} == decoded(file)


def test_a_ready_tokenizer_takes_the_characters_of_the_text_if_its_tokens_are_characters() -> None:
    file = write(VERSE + "Qπ", CharTokenizer.learn(VERSE + "ß"))
    assert VERSE + "Qπ" == file.tokenizer.decode(file.tokens)
    assert CharTokenizer.learn(VERSE + "Qπ").token_bytes == file.tokenizer.token_bytes
    for kind in ("byte", "sentencepiece"):
        ready = write(VERSE, kind).tokenizer
        file = write("Qπ" * 300, ready)
        assert "Qπ" * 300 == file.tokenizer.decode(file.tokens)
        assert ready.token_bytes == file.tokenizer.token_bytes


def test_the_source_is_described_by_its_digest_and_sizes() -> None:
    data = b"\xef\xbb\xbfa\r\ntext\n"
    file = write(data)
    assert {
        "name": "book",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": 11,
        "chars": 8,
        "keep_crlf": True,
        "unwrap": False,
    } == file.source
    folded = write(data, reading=Reading()).source
    assert (10, 7, False) == (folded["bytes"], folded["chars"], folded["keep_crlf"])
    assert hashlib.sha256(data.replace(b"\r", b"")).hexdigest() == folded["sha256"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_starts_after_a_blank_line_where_its_paragraphs_do(kind: str) -> None:
    paragraphs = "The wind was high.\nThe glass was low.\n\n" * 20
    starts = {"\n\n": paragraphs, "\n": VERSE}
    for start, text in starts.items():
        file = write(text, kind)
        assert file.start == TokenFile.open("book.tokens").start
        assert start == file.tokenizer.decode(file.start)
        assert "\n" == file.tokenizer.decode([file.start_token])
    crlf = paragraphs.replace("\n", "\r\n")
    assert "\n\n" == (file := write(crlf, kind, Reading())).tokenizer.decode(file.start)


def test_oddities_of_a_text_are_noted() -> None:
    notes = write(b"\xef\xbb\xbfa\r\nb\rc\0\xe2\x80\xa8\xc2\x85\xe2\x80\xa9\xef\xbb\xbf\r\n").notes
    named = [
        "1 byte order mark",
        "2 CRLF",
        "1 carriage return",
        "1 NUL",
        "3 Unicode line ends",
        "1 byte order",
    ]
    assert all(note.startswith(name) for note, name in zip(notes, named, strict=True))
    assert [] == write("plain\ntext\n").notes
    assert 1 == len(write(b"\xef\xbb\xbfab", "byte").notes)


def test_a_text_with_very_many_characters_gets_advice() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 11_000)))
    assert any("--tokenizer sentencepiece" in note for note in write(text).notes)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"], ids=["nothing", "only a mark"])
def test_an_empty_text_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(TextError, match="book"):
        write(data, kind)
    assert not Path("book.tokens").exists()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_one_character_is_too_little_unless_all_of_it_is_the_train_split(kind: str) -> None:
    with pytest.raises(TextError, match="--split 90,10"):
        write("é" if kind != "byte" else "e", kind)
    file = write("e", kind, split=(100,))
    assert {"train": "e"} == decoded(file)


def test_a_text_without_a_newline_starts_after_its_first_token() -> None:
    file = write("banana")
    assert b"b" == file.tokenizer.token_bytes[file.start_token]


def test_an_empty_split_is_noted() -> None:
    file = write("abcde", split=(80, 10, 10))
    assert {"train": "abcd", "valid": "", "test": "e"} == decoded(file)
    assert ["the valid split is empty"] == file.notes
    assert [] == file.split("valid").tolist()


@pytest.mark.parametrize(
    "split", [(), (50,), (90, 5), (0, 100), (-10, 110), (25, 25, 25, 25), (99.5, 0.5)]
)
def test_a_wrong_split_is_refused(split: Any) -> None:
    with pytest.raises(ConfigError, match="--split"):
        write(VERSE, split=split)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="--tokenizer 'words'"):
        write(VERSE, "words")
    with pytest.raises(ConfigError, match="--vocab-size 300"):
        write(VERSE, "char", vocab_size=300)
    with pytest.raises(ConfigError, match="259"):
        write(VERSE, "sentencepiece", vocab_size=100)
    with pytest.raises(ConfigError, match="'test'"):
        write(VERSE).split("test")


def test_a_wrong_byte_is_named_and_no_file_is_left() -> None:
    with pytest.raises(TextError, match="0xe9 at offset 3, line 1"):
        write(b"caf\xe9 au lait")
    assert ["book.txt"] == [path.name for path in Path().iterdir()]


class Changing(TextSource):
    """A text that differs each time it is read."""

    def __init__(self, *versions: str) -> None:
        super().__init__("changing", [])
        self.versions = [text_of(text, f"{n}.txt") for n, text in enumerate(versions)]

    def pieces(self) -> Any:
        return (self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]).pieces()


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        ("char", "abcabcabd"),
        ("char", "abcabcab"),
        ("char", "abcabcabca"),
        ("char", "abcabcé"),
        ("byte", "abcabcab"),
        ("byte", "abcabcabca"),
        ("byte", "abcabcaé"),
    ],
)
def test_a_text_that_changes_between_the_passes_is_refused(kind: str, later: str) -> None:
    with pytest.raises(TextError, match="'changing'"):
        write_token_file("new.tokens", Changing("abcabcabc", later), tokenizer=kind)
    assert not Path("new.tokens").exists()


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_the_file_holds_and_describes_a_text_that_changed_at_the_same_size(kind: str) -> None:
    source = Changing("abcabcabc", "cbacbacba")
    file = write_token_file("new.tokens", source, tokenizer=kind)
    file.verify()
    assert "cbacbacba" == file.tokenizer.decode(file.tokens)
    assert hashlib.sha256(b"cbacbacba").hexdigest() == file.source["sha256"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_text_gives_the_same_file_to_the_byte(kind: str) -> None:
    write(VERSE, kind)
    data = Path("book.tokens").read_bytes()
    write(VERSE, kind)
    assert data == Path("book.tokens").read_bytes()


def test_the_safetensors_library_reads_the_same_tensors() -> None:
    for kind in TOKENIZERS:
        file = write(VERSE * 3, kind)
        tensors = safetensors.numpy.load_file("book.tokens")
        assert file.tokens.tolist() == tensors.pop("tokens").tolist()
        values = {k: v for k, v in file.tokenizer.to_dict().items() if k != "kind"}
        assert {f"tokenizer.{k}" for k in values} == set(tensors)


def test_tokens_are_aligned() -> None:
    for words in (5, 6, 7, 8, 9, 10, 11, 12):
        text = VERSE + "".join(map(chr, range(0x4E00, 0x4E00 + 50 * words)))
        file = write(text, "sentencepiece", vocab_size=300 + words)
        assert file.tokens.flags.aligned


def test_an_existing_file_is_replaced_and_keeps_its_mode() -> None:
    Path("book.tokens").write_text("old")
    Path("book.tokens").chmod(0o600)
    write(VERSE).verify()
    assert 0o600 == Path("book.tokens").stat().st_mode & 0o777


def test_the_text_itself_is_never_overwritten() -> None:
    with pytest.raises(FileError, match=r"book\.txt"):
        write_token_file("./book.txt", text_of(VERSE))
    assert VERSE == Path("book.txt").read_text()


def test_a_target_that_cannot_be_written_is_refused_before_reading() -> None:
    def no_reading(done: int, total: int) -> None:
        raise AssertionError

    Path("folder").mkdir()
    for place, reason in (("nowhere/a.tokens", "nowhere"), ("folder", "folder")):
        with pytest.raises(FileError, match=reason):
            write_token_file(place, text_of(VERSE), progress=no_reading)


def test_a_full_disk_is_named_with_needed_and_free_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = token_writer.shutil.disk_usage(".")._replace(free=10)
    monkeypatch.setattr(token_writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FileError, match=r"2,190 bytes and 10 "):
        write(VERSE)


def test_a_write_that_fails_leaves_the_old_file() -> None:
    write(VERSE)
    before = Path("book.tokens").read_bytes()
    text_of(VERSE * 100, "long.txt")
    code = (
        "import resource, signal\n"
        "from charnn.text.sources import open_source\n"
        "from charnn.text.token_writer import write_token_file\n"
        "from charnn.errors import FileError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: write_token_file('book.tokens', open_source(['long.txt']))\n"
        "except FileError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(sources.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert "book.tokens" in done.stdout, done.stderr
    assert before == Path("book.tokens").read_bytes()
    assert {"book.tokens", "book.txt", "long.txt"} == {path.name for path in Path().iterdir()}


def test_progress_reaches_the_end_of_all_passes() -> None:
    for kind, passes in (("char", 2), ("byte", 2), ("sentencepiece", 3)):
        seen: list[tuple[int, int]] = []
        write(VERSE, kind, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == sorted(seen)
        assert 2 * len(VERSE.encode()) < seen[-1][0] + 1
        assert passes * len(VERSE.encode()) == seen[-1][1]


def test_a_file_cut_anywhere_is_refused() -> None:
    write("ab\n" * 9)
    data = Path("book.tokens").read_bytes()
    for length in range(len(data)):
        Path("cut.tokens").write_bytes(data[:length])
        with pytest.raises(DamagedFile, match=r"cut\.tokens"):
            TokenFile.open("cut.tokens")


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
def test_any_flipped_bit_is_found(kind: str) -> None:
    text = "ab\n" * 9
    write(text, kind, **({"vocab_size": 260} if kind == "sentencepiece" else {}))
    data = Path("book.tokens").read_bytes()
    step = 1 if kind == "char" else 37
    for place in range(0, len(data), step):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        Path("flipped.tokens").write_bytes(flipped)
        with pytest.raises(DamagedFile, match=r"flipped\.tokens"):
            TokenFile.open("flipped.tokens").verify()


def forge(**changes: Any) -> str:
    """Writes a token file with a changed header and the old digest."""
    write("abc\n" * 9)
    data = Path("book.tokens").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = json.loads(header["__metadata__"][METADATA_KEY])
    metadata |= changes
    header["__metadata__"][METADATA_KEY] = to_json(metadata)
    body = json.dumps(header).encode()
    Path("forged.tokens").write_bytes(len(body).to_bytes(8, "little") + body + data[8 + length :])
    return "forged.tokens"


SPLIT = {"start": 0, "stop": 36, "chars": 36, "bytes": 36}


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": {}},
        {"splits": []},
        {"splits": None},
        {"splits": {"valid": SPLIT}},
        {"splits": {"train": SPLIT, "other": SPLIT}},
        {"splits": {"train": {**SPLIT, "stop": 37}}},
        {"splits": {"train": {**SPLIT, "stop": 35}}},
        {"splits": {"train": {**SPLIT, "start": -1}}},
        {"splits": {"train": {**SPLIT, "chars": "36"}}},
        {"splits": {"train": {**SPLIT, "more": 1}}},
        {"splits": {"train": SPLIT, "valid": {**SPLIT, "start": 30}}},
        {"start_token": 4},
        {"start_token": -1},
        {"start_token": None},
        {"start": []},
        {"start": [0] * 17},
        {"start": [4]},
        {"start": 0},
        {"source": {"name": "b", "sha256": "", "bytes": 1, "chars": 1, "unwrap": "yes"}},
        {"source": "book"},
        {"digest": 5},
        {"tokenizer": {"kind": "words"}},
        {"tokenizer": {"kind": "byte"}},
        {"tokenizer": {"kind": "sentencepiece"}},
        {"tokenizer": {"kind": "char", "extra": 1}},
        {"tokenizer": "char"},
        {"tokenizer": None},
        {"format": 0},
        {"format": "1"},
        {"format": True},
    ],
    ids=str,
)
def test_a_wrong_header_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match=r"forged\.tokens"):
        TokenFile.open(forge(**changes))


def test_an_id_outside_the_vocabulary_is_found() -> None:
    file = write("abc\n" * 9)
    tokens = np.array(file.tokens)
    tokens[5] = 4
    wrong = dataclasses.replace(file, tokens=tokens)
    with pytest.raises(DamagedFile, match=r"book\.tokens"):
        wrong.verify()


def test_a_newer_format_names_the_version() -> None:
    with pytest.raises(DamagedFile, match=r"9\.0.* 2"):
        TokenFile.open(forge(format=2, charnn="9.0"))


def test_another_kind_of_file_is_named() -> None:
    with pytest.raises(DamagedFile, match="model"):
        TokenFile.open(forge(kind="model"))
    with pytest.raises(DamagedFile, match=r"book\.txt"):
        TokenFile.open(text_of("just a text that is long enough\n").parts[0].name)
    with pytest.raises(FileError, match="missing"):
        TokenFile.open("missing")


@given(st.binary(max_size=300))
def test_random_bytes_are_never_a_token_file(data: bytes) -> None:
    Path("garbage").write_bytes(data)
    with pytest.raises(CharnnError):
        TokenFile.open("garbage")


def test_a_big_text_needs_little_memory() -> None:
    with Path("big.txt").open("wb") as file:
        for _ in range(24):
            file.write(b"the wind was high, the glass was low;\n" * (1 << 15))
    code = (
        "import resource\n"
        "from charnn.text.sources import open_source\n"
        "from charnn.text.token_writer import write_token_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_token_file('big.tokens', open_source(['big.txt']))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(sources.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < Path("big.txt").stat().st_size / 2


def test_pieces_are_learnt_from_a_sample_spread_over_a_long_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from charnn.text import sentencepiece_training

    monkeypatch.setattr(sentencepiece_training, "SAMPLE_CHARACTERS", 1000)
    monkeypatch.setattr(sentencepiece_training, "SAMPLE_BLOCK", 10)
    text = "".join(chr(0x4E00 + n // 10) for n in range(100_000))
    chunks = [text[n : n + 777] for n in range(0, len(text), 777)]
    sample = "".join(sentencepiece_training.sample(chunks, len(text)))
    assert 900 <= len(sample) <= 1000
    starts = np.unique([ord(c) - 0x4E00 for c in sample])
    assert starts[0] == 0
    assert starts[-1] >= 9800
    assert np.diff(starts).max() <= 101


def test_the_vocabulary_grows_with_the_text() -> None:
    from charnn.text.sentencepiece_training import auto_vocab_size

    sizes = [auto_vocab_size(10**n, 80) for n in range(1, 11)]
    assert [512, 512, 512, 512, 512, 1024, 4096, 8192, 8192, 8192] == sizes
    assert 8192 == auto_vocab_size(10**6, 20_000)
    assert isinstance(write(VERSE, "sentencepiece").tokenizer, SentencePieceTokenizer)


def test_a_folder_that_cannot_be_written_is_refused_before_the_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    seen: list[int] = []
    with open_source([tmp_path / "a.txt"]) as source, pytest.raises(FileError, match="write"):
        write_token_file("/proc/a.tokens", source, progress=lambda done, _: seen.append(done))
    assert [] == seen
