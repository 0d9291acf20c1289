from __future__ import annotations

import ast
import bz2
import errno
import gc
import gzip
import io
import lzma
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charnn.errors import CharnnError, FileError, TextError
from charnn.text import encodings, sources
from charnn.text.line_breaks import UNCHANGED, Reading
from charnn.text.sources import open_source, run_name


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(path: str, data: bytes | str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def whole(*texts: str, encoding: str = "utf-8", reading: Reading = UNCHANGED) -> bytes:
    with open_source(texts, encoding, reading=reading) as source:
        first = b"".join(source.chunks())
        assert first == b"".join(source.chunks()), "it reads differently the second time"
        return first


def complaint(*texts: str, encoding: str = "utf-8") -> str:
    with pytest.raises(CharnnError) as error, open_source(texts, encoding) as source:
        list(source.texts())
    assert "\n" not in str(error.value)
    return str(error.value)


@given(data=st.binary(max_size=200), size=st.integers(1, 9))
def test_the_chunk_size_never_changes_the_bytes_of_a_text(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK_BYTES", size)
        assert data == whole(put("book.txt", data))


@given(text=st.text(max_size=60), size=st.integers(1, 9))
def test_no_chunk_ends_inside_a_character(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK_BYTES", size)
        with open_source([put("book.txt", text)], reading=UNCHANGED) as source:
            assert text.removeprefix("\ufeff") == "".join(source.texts())


def test_chunks_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1000)
    with open_source([put("book.txt", "a line of text\r\n" * 500)], reading=UNCHANGED) as source:
        chunks = list(source.chunks())
    assert len(chunks) > 5
    assert all(chunk.endswith(b"\r\n") for chunk in chunks)


def test_files_are_joined_by_a_newline_where_one_is_missing() -> None:
    files = [put("b.txt", "second"), put("a.txt", "first\n"), put("empty.txt", ""), put("c", "end")]
    assert b"second\nfirst\nend" == whole(*files)


def test_a_folder_is_its_text_files_in_order_and_all_folders_in_it() -> None:
    put("folder/b.txt", "b\n")
    put("folder/a/z.md", "z")
    put("folder/a/y.md", "y\n")
    put("folder/.hidden", "no\n")
    put("folder/.git/config", "no\n")
    put("folder/picture.png", b"\x89PNG\0\0")
    put("folder/empty", b"")
    assert b"y\nz\nb\n" == whole("folder")
    (note,) = open_source(["folder"]).notes
    assert note.startswith("folder: 3 ")
    assert "empty: empty" in note
    assert "binary: picture.png" in note


def test_the_files_of_a_folder_come_in_natural_order() -> None:
    for name in ("10.txt", "2.txt", "chapter 1/b.txt", "chapter 10/a.txt", "chapter 9/a.txt"):
        put(f"folder/{name}", f"{name}\n")
    expected = ["2.txt", "10.txt", "chapter 1/b.txt", "chapter 9/a.txt", "chapter 10/a.txt", ""]
    assert expected == whole("folder").decode().split("\n")
    put(f"folder/{'9' * 5000 and '9' * 200}.txt", "last\n")
    assert 6 == whole("folder").count(b"\n")


def test_runs_in_a_folder_are_left_out_and_named() -> None:
    put("folder/a.txt", "a\n")
    put("folder/checkpoints/book/best.safetensors", b"x")
    put("folder/checkpoints/book/metrics.jsonl", "{}\n")
    put("folder/checkpoints/begun/lock", "{}\n")
    put("folder/own/lock", "a poem\n")
    put("folder/own/key", "another\n")
    assert b"a\nanother\na poem\n" == whole("folder")
    (note,) = open_source(["folder"]).notes
    assert "run of a model: begun, book" in note
    assert "book" in complaint("folder/checkpoints")


def test_a_linked_folder_is_followed_once() -> None:
    put("more/b.txt", "b\n")
    put("folder/z.txt", "z\n")
    for link, target in {"again": "../more", "more": "../more", "loop": "."}.items():
        Path("folder", link).symlink_to(target)
    assert b"b\nz\n" == whole("folder")


def test_a_file_with_several_links_is_read_once() -> None:
    put("elsewhere.txt", "e\n")
    put("folder/b/a.txt", "a\n")
    os.link("folder/b/a.txt", "folder/c.txt")
    for link, target in {"d.txt": "b/a.txt", "e.txt": "../elsewhere.txt"}.items():
        Path("folder", link).symlink_to(target)
    assert b"a\ne\n" == whole("folder")
    (note,) = open_source(["folder"]).notes
    assert "c.txt, d.txt" in note


def test_many_files_left_out_are_named_in_part() -> None:
    put("folder/a.txt", "a\n")
    for number in range(9):
        put(f"folder/{number}.png", b"\0")
    (note,) = open_source(["folder"]).notes
    assert "binary: 0.png, 1.png, 2.png and 6 others" in note


@pytest.mark.parametrize(
    ("data", "command"),
    [
        (gzip.compress(b"a text"), "zcat"),
        (bz2.compress(b"a text"), "bzcat"),
        (lzma.compress(b"a text"), "xzcat"),
        (b"%PDF-1.7\n%\xe2\xe3", "pdftotext"),
        (b"{\\rtf1\\ansi a text\\par}", "pandoc -f rtf"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z x -so"),
        (b"PK\x03\x04 ... plain.txt", "unzip -p"),
        (b"PK\x03\x04 ... mimetypeapplication/epub+zip", "pandoc -f epub"),
        (b"PK\x03\x04 ... [Content_Types].xml ... word/document.xml", "pandoc -f docx"),
    ],
)
def test_a_text_in_another_format_is_named_with_the_command_that_reads_it(
    data: bytes, command: str
) -> None:
    message = complaint(put("my book", data))
    assert f"'{command}" in message
    assert "'my book'" in message
    put("folder/a.txt", "a\n")
    put("folder/packed", data)
    assert b"a\n" == whole("folder")
    (note,) = open_source(["folder"]).notes
    assert "packed" in note
    assert command in note


def test_an_encoding_is_not_advised_for_all_files_where_one_differs() -> None:
    plain, old = FRENCH.encode() * 5, FRENCH.encode("cp1252") * 5
    put("folder/a.txt", plain)
    put("folder/b.txt", old)
    message = complaint("folder")
    assert "folder/b.txt" in message
    assert "iconv -f cp1252 -t utf-8" in message
    assert "--encoding" not in message
    message = complaint("folder", encoding="cp1252")
    assert "folder/a.txt is UTF-8, not cp1252" in message
    assert FRENCH.encode() * 5 == whole("folder/b.txt", encoding="cp1252")
    assert b"ascii" == whole(put("c.txt", b"ascii"), encoding="cp1252")


def test_a_folder_without_text_is_refused() -> None:
    put("folder/picture.png", b"\x89PNG\0\0")
    assert "folder folder" in complaint("folder")


def test_a_utf16_file_of_a_folder_is_named_and_not_skipped() -> None:
    put("folder/a.txt", "a\n")
    put("folder/b.txt", "b\n".encode("utf-16"))
    message = complaint("folder")
    assert "folder/b.txt" in message
    assert "--encoding utf-16" in message


def test_a_fifo_and_a_broken_link_in_a_folder_are_named_and_not_waited_for() -> None:
    put("folder/a.txt", "a\n")
    os.mkfifo("folder/fifo")
    Path("folder/moved.txt").symlink_to("../elsewhere.txt")
    assert b"a\n" == whole("folder")
    (note,) = open_source(["folder"]).notes
    assert "fifo, moved.txt" in note


def test_a_file_of_a_folder_that_cannot_be_read_is_named(monkeypatch) -> None:
    secret, plain = Path(put("folder/secret.txt", "a")), Path.open
    secret.chmod(0)

    def as_no_root(path: Path, *how: Any, **more: Any) -> Any:  # root may read everything
        if path.name == secret.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, *how, **more)

    monkeypatch.setattr(Path, "open", as_no_root)
    assert "folder/secret.txt" in complaint("folder")


def test_a_file_that_fails_while_it_is_read_is_named() -> None:
    with open_source([put("book.txt", "a")]) as source:
        Path("book.txt").unlink()
        with pytest.raises(FileError, match=r"book\.txt"):
            list(source.chunks())


def test_a_fifo_is_copied_and_can_be_read_again() -> None:
    os.mkfifo("fifo")
    writer = threading.Thread(target=put, args=("fifo", "through a pipe\n" * 1000))
    writer.start()
    with open_source(["fifo"], temporary_folder=Path.cwd()) as source:
        writer.join()
        assert b"through a pipe\n" * 1000 == b"".join(source.chunks())
        assert b"through a pipe\n" * 1000 == b"".join(source.chunks())
        assert 15_000 == source.size
        assert ["fifo"] == os.listdir()  # the copy has no name


def test_two_readers_of_one_temporary_copy_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 4)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abcdefgh"), closed=False))
    with open_source(["-"]) as source:
        pairs = list(zip(source.chunks(), source.chunks(), strict=True))
    assert [(b"abcd", b"abcd"), (b"efgh", b"efgh")] == pairs


def test_stdin_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"typed"), closed=False))
    with open_source(["-"]) as source:
        assert "stdin" == source.name
        assert ["typed"] == list(source.texts())


def test_stdin_that_is_closed_or_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "stdin" in complaint("-", "-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin" in complaint("-")


def test_a_garbage_collected_source_closes_its_temporary_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"typed"), closed=False))
    source = open_source(["-"])
    copy = source.parts[0].copy
    assert copy is not None
    del source
    gc.collect()
    assert copy.closed


def test_ctrl_c_stops_the_wait_for_stdin_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys; from charnn.text.sources import open_source\n"
        "print('ready', flush=True)\n"
        "try: open_source(['-'], temporary_folder='.')\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    root = Path(sources.__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    child.stdin.write(b"x" * (1 << 20))
    child.stdin.flush()
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert 130 == child.wait(10)
    assert [] == os.listdir(tmp_path)
    child.stdin.close()
    child.stdout.close()


def test_a_folder_that_takes_no_temporary_copy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"typed"), closed=False))
    with pytest.raises(FileError, match="nowhere"):
        open_source(["-"], temporary_folder="nowhere")


def test_a_known_corpus_is_found_by_its_name() -> None:
    put("corpora/tales.txt", "once\n")
    assert b"once\n" == whole("tales")


def test_a_missing_corpus_names_the_command_that_gets_it() -> None:
    assert "'charnn corpus tiny-shakespeare'" in complaint("tiny-shakespeare")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "..", ".hidden", "a\0b"])
def test_corpus_names_never_leave_the_corpora_folder(name: str, tmp_path: Path) -> None:
    put("secret.txt", "secret")
    put("corpora/a/x", "")
    put("corpora/.hidden.txt", "secret")
    os.chdir(tmp_path / "corpora" / "a")
    with pytest.raises((TextError, FileError)):
        open_source([name])


def test_a_missing_text_names_the_nearest_ones() -> None:
    put("books/moby-dick.txt", "whale")
    message = complaint("books/mobydick.txt")
    assert "'books/mobydick.txt'" in message
    assert "moby-dick.txt?" in message
    assert "lighthouse?" in complaint("lighthous")


def test_a_byte_order_mark_is_dropped_from_the_characters_and_kept_in_the_bytes() -> None:
    files = [put("a", b"\xef\xbb\xbfone\n"), put("b", b"\xef\xbb\xbftwo \xef\xbb\xbf")]
    assert b"\xef\xbb\xbfone\n\xef\xbb\xbftwo \xef\xbb\xbf" == whole(*files)
    with open_source(files) as source:
        assert "one\ntwo \ufeff" == "".join(source.texts())


ODD = "a\r\nb\rc\0d\u2028e\x85f\x0bg\x0c\n\r"


def test_line_ends_and_control_characters_stay_as_they_are() -> None:
    with open_source([put("odd.txt", ODD)], reading=UNCHANGED) as source:
        assert ODD == "".join(source.texts())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_encodings_are_read_when_they_are_named(encoding: str) -> None:
    text = f"{ODD}é😀" * 1000
    assert text.encode() == whole(put("book.txt", text.encode(encoding)), encoding=encoding)


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_transcoding_splits_no_character(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charnn.text.sources.CHUNK_BYTES", size)
    text = "日本語 text\n" * 20
    path = put("book.txt", text.encode("shift_jis"))
    assert text.encode() == whole(path, encoding="shift_jis")


def test_a_folder_in_another_encoding_may_hold_zeros() -> None:
    put("folder/a.txt", "one".encode("utf-16"))
    assert b"one" == whole("folder", encoding="utf-16")


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
    ],
)
def test_utf16_and_utf32_are_recognised_by_their_mark(mark: bytes, encoding: str) -> None:
    message = complaint(put("book.txt", mark + b"o\0n\0e\0"))
    assert message.startswith("book.txt")
    assert message.endswith(f"--encoding {encoding}")


CODE = "for (i = 0; i < n; i++) for (j = 0; j < n; j++) total += rows[i][j] * weights[j] * scale;"
FRENCH = "Où est passé l'été ? Ça, répondit-elle, nul ne le sait…\n"


def test_a_byte_that_is_not_utf8_is_named_with_its_place_and_likely_encodings() -> None:
    text = "plain line\n" * 3 + FRENCH * 5
    message = complaint(put("book.txt", text.encode("cp1252")))
    assert message.startswith("book.txt ")
    for part in ("0xf9", "offset 34,", "line 4;", "--encoding cp1252", "'Où'", "--tokenizer byte"):
        assert part in message
    assert text.encode() == whole("book.txt", encoding="cp1252")


def test_the_place_of_a_wrong_byte_is_right_far_into_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 64)
    data = b"0123456789\n" * 1000 + b"caf\xe9\n"
    assert "byte 0xe9 at offset 11,003, line 1,001;" in complaint(put("book.txt", data))


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 4,
        f"{FRENCH}{FRENCH}".encode() + b" damaged \xe9 here",
        b"cut in a charact" + "é".encode()[:1],
    ],
    ids=["binary", "damaged", "cut"],
)
def test_data_without_a_likely_encoding_gets_no_advice_on_encodings(data: bytes) -> None:
    message = complaint(put("book.txt", data))
    assert "byte 0x" in message
    assert "--tokenizer byte" in message
    assert "would read" not in message
    assert ("binary" in message) == (b"\0" in data)


TEXTS = {
    "cp1251 koi8_r mac_cyrillic": "Большой дом стоял на берегу реки, и жил в нём смотритель.\n",
    "iso8859_5": "Дощ ішов усю ніч, і їжак спав.\n",
    "cp932 euc_jis_2004": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n",
    "gb18030": "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。\n",
    "cp1253 cp737": "Ο γέρος καθόταν κάθε πρωί δίπλα στη θάλασσα.\n",
    "cp1250": "Az őszi szél űzte a felhőket.\n",
    "cp1254": "İstanbul'da güneşli bir gün, çok güzel\n",
    "cp1256 iso8859_6": "ذهب الولد في الصباح إلى النهر.\n",
    "cp1252": "«\xa0Ça alors\xa0!\xa0» s'écria le garçon, tout étonné de la voir déjà là.\n",
    "utf-16-le utf-16-be": "Der Löwe, sagte er, sei müde gewesen.\n",
}


@pytest.mark.parametrize(
    ("encoding", "text"),
    [(name, text) for names, text in TEXTS.items() for name in names.split()]
    + [
        ("cp1252", "nothing but “quotes” here\n"),
        ("cp1252", "¿Dónde está la señora? ¡Aquí!\n"),
        ("cp1252", "x = 1  # naïve\n"),
        ("cp1251", f"{CODE}  /* Большой дом стоял на берегу реки */\n"),
        ("koi8_r", f"{CODE}  /* Большой дом стоял на берегу реки */\n"),
        ("cp1253", f"{CODE}  /* Ο γέρος καθόταν κάθε πρωί */\n"),
    ],
)
def test_the_encoding_of_a_text_is_advised_with_a_word_as_it_reads(
    encoding: str, text: str
) -> None:
    message = complaint(put("book.txt", (text * 20).encode(encoding)))
    assert f"--encoding {encoding}" in message
    readings = re.findall(r"""--encoding (\S+) would read ('.*?'|".*?")""", message)
    for name, word in readings:
        assert ast.literal_eval(word) in (text * 20).encode(encoding).decode(name)
    assert readings or encoding.startswith("utf-16")


def test_an_encoding_that_fails_far_from_the_wrong_byte_is_not_advised() -> None:
    text = "naïve\n".encode("cp1252") * 9 + b"plain\n" * 20_000
    assert "--encoding cp1252" in complaint(put("book.txt", text))
    assert "--encoding cp1252" not in complaint(put("book.txt", text + b"a\x81b\n"))


def test_a_word_far_from_the_wrong_byte_can_distinguish_encodings() -> None:
    text = "Löwe\n".encode("cp1252") * 9 + b"plain\n" * 20_000 + "déjà\n".encode("cp1252")
    message = complaint(put("book.txt", text))
    assert "cp1252 would read 'déjà'" in message


def test_stray_bytes_in_utf8_are_counted() -> None:
    data = FRENCH.encode() + b"na\xefve\n"
    message = complaint(put("book.txt", data))
    assert "0xef at offset 66, line 2" in message
    assert "would read" not in message
    assert " 3 such bytes" in complaint(put("book.txt", data + b"\xff\xfe"))


@given(st.lists(st.sampled_from(["a", "é", "日", b"\xff", b"\x80", b"\xe6"]), max_size=30))
def test_wrong_bytes_and_characters_beyond_ascii_are_counted(parts: list[str | bytes]) -> None:
    spaced = [p + b" " if isinstance(p, bytes) else p.encode() for p in parts]
    expected = sum(isinstance(p, bytes) for p in parts), sum(p in ("é", "日") for p in parts)
    assert expected == encodings.wrong_bytes(b"".join(spaced)[i : i + 1] for i in range(99))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf16_and_utf32_without_a_mark_is_not_taken_for_ascii_with_zeros(encoding: str) -> None:
    data = ("plain words\n" * 9).encode(encoding)
    message = complaint(put("book.txt", data))
    assert f"--encoding {encoding}" in message
    assert ("plain words\n" * 9).encode() == whole("book.txt", encoding=encoding)
    put("folder/a.txt", "a\n")
    put("folder/b.txt", data)
    assert encoding in complaint("folder")
    assert "a\0b\n" * 20 == whole(put("zeros.txt", "a\0b\n" * 20)).decode()


def test_a_text_that_is_not_in_the_encoding_given_names_the_byte() -> None:
    message = complaint(put("book.txt", b"abc\n\xff\n"), encoding="ascii")
    assert "book.txt is not ascii: byte 0xff at offset 4" in message
    assert "utf-16" in complaint(put("odd.txt", b"\xff\xfea\0b"), encoding="utf-16")


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "hex", "", "a\0b", "undefined"])
def test_a_wrong_name_of_an_encoding_says_what_to_do(name: str) -> None:
    message = complaint(put("book.txt", "a"), encoding=name)
    assert f"--encoding {name!r}" in message


def test_an_encoding_has_many_spellings() -> None:
    assert "utf-8" == encodings.resolve("UTF8")
    assert "cp1253" in complaint(put("a", "a"), encoding="cp-1253x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("-", "stdin"),
        ("book.txt", "book"),
        ("some/where/My book (2nd).txt", "My-book-2nd"),
        ("../café.txt", "café"),
        ("cafe\u0301.txt", "café"),
        ("日本.txt", "日本"),
        ("«Война и мир».txt", "Война-и-мир"),
        ("हिन्दी.txt", "हिन्दी"),
        ("\u202etxt.☃", "txt"),
        ("☃.txt", "text"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a\nb\x1b[31m.txt", "a-b-31m"),
        ("x" * 100, "x" * 64),
        ("書" * 100, "書" * 64),
        ("𝄞a" + "𠀀" * 100, "a" + "𠀀" * 49),
        ("v1.2.txt", "v1.2"),
    ],
)
def test_a_run_gets_a_safe_name_from_its_text(text: str, name: str) -> None:
    assert name == run_name(text)


def test_a_folder_gives_its_whole_name_to_a_run() -> None:
    put("poems v1.2/a.txt", "a")
    assert "poems-v1.2" == run_name("poems v1.2")
    assert "poems-v1.2" == run_name("poems v1.2/")


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(TextError):
        open_source([])
    with pytest.raises(TextError):
        open_source(["book.txt", ""])


@pytest.mark.parametrize("text", ["Ann\nBob\n", "The river " * 400, "a\0b\n"])
def test_a_text_in_place_of_a_name_is_refused_with_its_size_and_its_beginning(text: str) -> None:
    with (
        pytest.raises(TextError, match=f"{len(text):,} characters") as found,
        open_source([text]),
    ):
        pass
    assert repr(text[:5])[:-1] in str(found.value)
    assert len(str(found.value)) < 250
