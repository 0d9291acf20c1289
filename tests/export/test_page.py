"""The exported page: the engine under node, the whole of it in Chromium, each where it is there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import random_model

from charnn.checkpoint import Checkpoint
from charnn.cli.inspect import GROUNDS
from charnn.cli.marks import BITS
from charnn.config import ACTIVITY_STEPS, GATES, SamplingConfig
from charnn.engines.int8 import Int8Predictor
from charnn.engines.weights import arrange, quantise
from charnn.errors import CharnnError, ConfigError, DamagedFile
from charnn.export import EXPORTERS, exporter, page
from charnn.export.page import make_page, write_page
from charnn.generation.model import Model
from charnn.generation.sampler import Sampler
from charnn.ngrams.mixture import predictor
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.predictor import Predictor
from charnn.text.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    tokenizer_from_dict,
)

DRIVER = Path(__file__).with_name("drive.js")
ROOM = Path(page.__file__).parent
NODE = shutil.which("node")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_node = pytest.mark.skipif(not NODE, reason="there is no node on the path")
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="there is no chromium or google-chrome on the path"
)
# Ends an element or a string, begins a comment or an entity, breaks a line, reverses it.
NASTY = "</script><!--\"'`&amp;\\{{data}}$&\u2028\u2029\u202e\0\x7f\ufeff𝄞]]>\r\n"
MIXED = MixtureWeights(0.5, 0.6)


def make(
    cell: str = "gru",
    embedding: int = 24,
    hidden: int = 24,
    layers: int = 2,
    tokenizer: Tokenizer | None = None,
    spread: float = 0.4,
    **info: Any,
) -> Checkpoint:
    tokenizer = tokenizer or CharTokenizer.learn("\n abcdefghijklmnopqrst")
    return random_model(
        *(tokenizer, cell, hidden, layers),
        embedding=embedding,
        scale=spread,
        seed=hidden + embedding,
        start_token=1,
        info=info,
        start=[1, 1],
    )


WORDS = ["a", "bad", "cable", "held", "the", "deck\nold", "hands", "said", "the", "lock", "broke\n"]


def text_to_count(words: int) -> str:
    text = " ".join(np.random.default_rng(7).choice(WORDS, words))
    return "".join(c for c in text if c <= "t")  # what the alphabet of `make` has


def counted(
    checkpoint: Checkpoint, order: int = 5, once: int | None = 3, weights: MixtureWeights = MIXED
) -> Checkpoint:
    """The same model with n-grams of a text of words."""
    tokenizer = tokenizer_from_dict(checkpoint.tokenizer)
    ids = tokenizer.encode(text_to_count(2000))
    tree = NGramTree.of(ids, tokenizer.vocab_size, order, once)
    return replace(checkpoint, ngrams=tree.section(weights))


def network_of(checkpoint: Checkpoint) -> Int8Predictor:
    return Int8Predictor(quantise(arrange(checkpoint.config, checkpoint.weights)))


def logits_of(network: Predictor, tokens: Iterable[int]) -> np.ndarray:
    """Returns the logits after each token: (T, V)."""
    state, found = network.initial_state(), []
    for token in tokens:
        logits, state = network.step(token, state)
        found.append(logits)
    return np.stack(found)


def ids_of(checkpoint: Checkpoint, count: int, seed: int, **filters: float) -> list[int]:
    sampler = Sampler(network_of(checkpoint), seed, 0, filters)
    sampler.feed(checkpoint.start)
    return list(sampler.stream(count))


def text_of(checkpoint: Checkpoint, ids: list[int]) -> str:
    text = tokenizer_from_dict(checkpoint.tokenizer).decode(ids)
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)


def drive(made: Path, what: str, **job: Any) -> Any:
    done = subprocess.run(
        [str(NODE), str(DRIVER), str(made)],
        input=json.dumps({"what": what, **job}),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(make(), "page", path)
    return path


SHAPES = [(24, 24, 2), (13, 21, 3), (37, 10, 1), (5, 64, 2)]


@needs_node
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_page_computes_the_logits_of_the_int8_network_exactly(
    cell: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    checkpoint = make(cell, *shape)
    write_page(checkpoint, "x", tmp_path / "x.html")
    tokens = np.random.default_rng(1).integers(0, checkpoint.config.vocab_size, 40).tolist()
    expected = logits_of(network_of(checkpoint), tokens).view(np.uint32).tolist()
    assert expected == drive(tmp_path / "x.html", "read", tokens=tokens)


@needs_node
@pytest.mark.parametrize("case", ["huge", "large", "tiny", "zero", "wide"])
def test_extreme_weights_give_the_same_logits(case: str, tmp_path: Path) -> None:
    spread = {"huge": 1e18, "large": 1e3, "tiny": 1e-6, "zero": 0.0, "wide": 0.5}[case]
    # Wider than two sums fit into one number.
    checkpoint = make("lstm", 2100 if case == "wide" else 24, 24, 2, spread=spread)
    write_page(checkpoint, "x", tmp_path / "x.html")
    expected = logits_of(network_of(checkpoint), range(20)).view(np.uint32).tolist()
    assert expected == drive(tmp_path / "x.html", "read", tokens=list(range(20)))


@needs_node
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("shape", [(24, 24, 2), (13, 21, 3)], ids=str)
def test_the_page_writes_what_the_int8_network_writes(
    cell: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    checkpoint = make(cell, *shape, spread=0.25)
    write_page(checkpoint, "x", tmp_path / "x.html")
    choices = [(0, 1, 1), (0.8, 1, 2), (1, 1, 3), (0.8, 0.9, 4), (1, 0.9, 2**32 - 1), (1, 0, 5)]
    texts = drive(tmp_path / "x.html", "write", settings=choices, length=500)
    for (temperature, top_p, seed), text in zip(choices, texts, strict=True):
        sampler = Sampler(
            network_of(checkpoint), seed, 0, {"temperature": temperature, "top_p": top_p}
        )
        sampler.feed(checkpoint.start)
        assert list(sampler.stream(500)) == text["ids"]
        assert pytest.approx(sampler.nats / np.log(2), rel=1e-9) == text["bits"]


# ---- With n-grams: Math.exp and Math.log may be those of libm but for the last bit ----


@needs_node
@pytest.mark.parametrize(
    ("order", "once", "width"),
    [(2, None, None), (5, 3, None), (9, None, np.uint16), (5, 3, np.uint32)],
)
def test_the_page_computes_the_logits_of_the_mixture_to_the_last_bit(
    order: int, once: int | None, width: Any, tmp_path: Path
) -> None:
    checkpoint = counted(make(spread=0.25), order, once)
    assert checkpoint.ngrams is not None
    arrays = {name: a.astype(width or a.dtype) for name, a in checkpoint.ngrams.arrays.items()}
    checkpoint.ngrams = replace(checkpoint.ngrams, arrays=arrays)
    write_page(checkpoint, "x", tmp_path / "x.html")
    known = tokenizer_from_dict(checkpoint.tokenizer).encode(text_to_count(60)).tolist()
    tokens = known + np.random.default_rng(1).integers(0, 22, 40).tolist()  # seen and never seen
    expected = logits_of(predictor(checkpoint, "numpy", int8=True), tokens)
    bits = drive(tmp_path / "x.html", "read", tokens=tokens)
    found = np.array(bits, np.uint32).view(np.float32)
    assert (np.abs(found - expected) <= np.spacing(np.abs(expected))).all()
    assert (found == expected).mean() > 0.99


@needs_node
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(
    ("order", "once", "prompt"), [(2, None, ""), (5, 3, "qqqt"), (9, None, "the old lock")]
)
def test_the_page_writes_what_the_mixture_writes(
    cell: str, order: int, once: int | None, prompt: str, tmp_path: Path
) -> None:
    checkpoint = counted(make(cell, 13, 21, 2, spread=0.25), order, once)
    write_page(checkpoint, "x", tmp_path / "x.html")
    choices = [(0, 1, 1), (0.8, 1, 2), (1, 0.9, 3), (1, 1, 2**32 - 1)]
    ids = tokenizer_from_dict(checkpoint.tokenizer).encode(prompt).tolist()
    texts = drive(
        tmp_path / "x.html",
        "write",
        settings=choices,
        length=300,
        prompt=ids or checkpoint.start,
    )
    model = Model.from_checkpoint(checkpoint, int8=True)
    for (temperature, top_p, seed), text in zip(choices, texts, strict=True):
        config = SamplingConfig(temperature=temperature, top_p=top_p, max_tokens=300)
        written = "".join(model.write(prompt, config, seed, echo=False))
        assert written == text_of(checkpoint, text["ids"])


@needs_node
@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
def test_the_page_mixes_n_grams_of_any_symbols(kind: str, tmp_path: Path) -> None:
    tokenizer = {
        "byte": ByteTokenizer,
        "sentencepiece": lambda: SentencePieceTokenizer.learn([text_to_count(500)], 290),
    }[kind]()
    checkpoint = counted(make(tokenizer=tokenizer, spread=0.1), weights=MixtureWeights(0.1, 0.9))
    write_page(checkpoint, "x", tmp_path / "x.html")
    (text,) = drive(tmp_path / "x.html", "write", settings=[(0.5, 1, 4)], length=200)
    sampler = Sampler(predictor(checkpoint, int8=True), 4, 0, {"temperature": 0.5})
    sampler.feed(checkpoint.start)
    assert list(sampler.stream(200)) == text["ids"]
    assert pytest.approx(sampler.nats / np.log(2), rel=1e-9) == text["bits"]


@needs_node
def test_the_page_writes_what_the_network_of_a_mixture_writes_alone(tmp_path: Path) -> None:
    checkpoint = counted(make(spread=0.25))
    write_page(checkpoint, "x", tmp_path / "x.html")
    (text,) = drive(
        tmp_path / "x.html", "write", settings=[(0.8, 1, 4)], length=200, source="network"
    )
    assert ids_of(checkpoint, 200, 4, temperature=0.8) == text["ids"]


@needs_node
@pytest.mark.parametrize("cell", GATES)
def test_the_page_measures_surprisal_and_units_as_charnn_does(cell: str, tmp_path: Path) -> None:
    checkpoint = counted(make(cell, spread=0.25))
    write_page(checkpoint, "x", tmp_path / "x.html")
    tokens = tokenizer_from_dict(checkpoint.tokenizer).encode(text_to_count(40)).tolist()
    found = drive(tmp_path / "x.html", "values", tokens=tokens, layer=1)
    logits = logits_of(predictor(checkpoint, "numpy", int8=True), tokens)[:-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    bits = -logs[np.arange(len(logs)), tokens[1:]] / np.log(2)
    assert found[0]["bits"] is None
    assert bits == pytest.approx([each["bits"] for each in found[1:]], abs=1e-5)
    network, values = network_of(checkpoint), []
    state = network.initial_state()
    for token in tokens:
        _, state = network.step(token, state)
        values.append(np.tanh(state[1, 1]) if cell == "lstm" else state[1, 0])
    np.testing.assert_allclose([each["units"] for each in found], values, atol=1e-6)


def test_colours_change_at_the_same_numbers_on_the_page_and_in_the_terminal() -> None:
    data = json.loads(elements(make_page(make(), "x"), "script")[0])
    assert data["steps"] == {"surprisal": list(BITS), "unit": list(ACTIVITY_STEPS)}
    assert len(GROUNDS) == 1 + len(ACTIVITY_STEPS)


def test_a_page_lists_its_n_grams() -> None:
    mixed = counted(make())
    assert mixed.ngrams is not None
    data = json.loads(elements(make_page(mixed, "x"), "script")[0])
    assert (
        f"{len(mixed.ngrams.arrays['symbols']):,}, up to 5 long" == dict(data["facts"])["N-grams"]
    )
    alone = json.loads(elements(make_page(make(), "x"), "script")[0])
    assert alone["ngrams"] is None
    assert "N-grams" not in dict(alone["facts"])
    assert alone["network"] == data["network"]


def test_n_grams_count_towards_the_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = len(json.dumps(page.network_data(make())))
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", alone)
    make_page(make(), "x")
    with pytest.raises(CharnnError, match="--to c"):
        make_page(counted(make(), order=9, once=None), "x")


def test_damaged_n_grams_are_not_exported(tmp_path: Path) -> None:
    spoilt = counted(make())
    assert spoilt.ngrams is not None
    arrays = spoilt.ngrams.arrays
    spoilt.ngrams = replace(
        spoilt.ngrams, arrays={**arrays, "children": arrays["children"][::-1].copy()}
    )
    with pytest.raises(DamagedFile, match="n-grams"):
        write_page(spoilt, "x", tmp_path / "x.html")
    assert [] == list(tmp_path.iterdir())


@needs_node
def test_the_generator_gives_the_numbers_in_docs_sampling(made: Path) -> None:
    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| ([0-9a-f ]+) \|$",
        (ROOM.parent.parent / "docs/sampling.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert rows
    outputs = drive(made, "generator", seeds=[[int(seed), int(index)] for seed, index, _ in rows])
    assert [[int(word, 16) for word in words.split()] for *_, words in rows] == outputs


@needs_node
@settings(max_examples=8)  # each starts node, with many lists
@given(lists=st.lists(st.binary(max_size=12), min_size=50, max_size=200))
def test_the_page_and_charnn_decode_bytes_alike(made: Path, lists: list[bytes]) -> None:
    edges = [b"\xef\xbb\xbfa", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xc0\x80", b""]
    edges += [b"\xf0\x9f\x98\x80\xf0\x9f(", b"\xe2\x82\xac\xe0\x9f\xbf", b"\xf4\x8f\xbf\xbf\xff"]
    cases = [*edges, *lists]
    texts = drive(made, "decode", lists=[list(data) for data in cases])
    checkpoint = make(tokenizer=ByteTokenizer())
    assert [text_of(checkpoint, list(data)) for data in cases] == texts


@needs_node
def test_the_page_and_charnn_encode_prompts_alike(tmp_path: Path) -> None:
    learnt = "The lamp was lit at dusk.\nÄ lamp, thé lamp; lamps and lamplight 12.\n" * 9
    texts = [
        *(learnt, "", " ", "\n\n", "  lamps  \tlit\r\n", "a\u2581b", "<0x41> <unk>"),
        *("日本 lamp 😀", "\0lamplamplamp", "x" * 300),
    ]
    for tokenizer in (
        ByteTokenizer(),
        SentencePieceTokenizer.learn([learnt], 330),
        CharTokenizer.learn("".join(texts)),
    ):
        path = tmp_path / f"{tokenizer.kind}.html"
        write_page(make(tokenizer=tokenizer), "x", path)
        expected = [{"ids": tokenizer.encode(text).tolist(), "unknown": []} for text in texts]
        assert expected == drive(path, "encode", texts=texts)


@needs_node
def test_unknown_characters_of_a_prompt_are_listed(made: Path) -> None:
    (encoded,) = drive(made, "encode", texts=["abé𝄞é\ta"])
    assert {"ids": [], "unknown": ["é", "𝄞", "\t"]} == encoded


# ---- What a model brings cannot break the page ----


def elements(text: str, name: str) -> list[str]:
    return re.findall(rf"<{name}\b[^>]*>(.*?)</{name}\s*>", text, re.DOTALL | re.IGNORECASE)


def test_hostile_text_of_a_model_stays_text() -> None:
    checkpoint = make(tokenizer=CharTokenizer.learn(NASTY), corpus={"chars": NASTY}, seconds="1")
    text = make_page(checkpoint, f"{NASTY}<img src=x onerror=alert(1)>")
    data, engine, script = elements(text, "script")
    tokens = json.loads(data)["tokenizer"]["tokens"]
    assert sorted(set(NASTY)) == [token.encode("latin-1").decode() for token in tokens]
    assert data.isascii()
    assert "<" not in data
    assert (ROOM / "engine.js").read_text("utf-8") == engine
    assert (ROOM / "page.js").read_text("utf-8") == script
    assert "<img" not in text
    (title,) = elements(text, "title")
    assert html.unescape(title).startswith("</script><!--\"'`&amp;\\{{data}}$&\ufffd\ufffd\ufffd")


def test_the_page_refers_to_nothing_outside() -> None:
    text = make_page(make(), "x")
    assert "http:" not in text
    assert "https:" not in text
    assert ["data:,"] == re.findall(r"\b(?:src|href|action|srcset)\s*=\s*[\"']?([^\"'>\s]*)", text)
    assert [] == re.findall(
        r"@import|\burl\(|\bfetch\(|XMLHttp|WebSocket|sendBeacon|import\(", text
    )
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    # Before it, nothing is loaded.
    assert text.index("Content-Security-Policy") < min(
        text.index(f"<{name}") for name in ("link", "style", "script", "title")
    )


def test_the_page_shows_numbers_and_no_paths() -> None:
    results = {"carried": {"bits_per_char": 2.125, "nats_per_token": 1.4, "targets": 9}}
    checkpoint = make(
        corpus={"chars": 61000, "bytes": 62000, "name": "/home/me/secret.txt"},
        results=results,
        seconds=185.0,
        recipe={"host": "secret"},
    )
    text = make_page(checkpoint, "x")
    facts = dict(json.loads(elements(text, "script")[0])["facts"])
    assert "GRU, 2 layers of 24" == facts["Network"]
    assert "61,000 characters" == facts["Trained on"]
    assert "2.12 bits per character" == facts["Held-out loss"]
    assert "3.1 minutes" == facts["Trained for"]
    assert f"{checkpoint.config.parameters:,}" == facts["Parameters"]
    assert "secret" not in text


@pytest.mark.parametrize("value", [None, True, "9", [], {}, float("nan"), -1, 10**40])
def test_implausible_facts_are_left_out(value: Any) -> None:
    checkpoint = make(corpus={"chars": value}, seconds=value, results={"carried": value})
    names = [name for name, _ in page.facts(checkpoint, ByteTokenizer())]
    assert ["Network", "Parameters", "Vocabulary", "Weights"] == names


def test_a_model_above_the_size_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(CharnnError, match="--to c"):
        make_page(make(), "x")


def test_overflowing_weights_are_refused() -> None:
    with pytest.raises(CharnnError, match="weights"):
        make_page(make(spread=1e37), "x")


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=" or ".join(EXPORTERS)):
        exporter("pdf")


# ---- In a real browser ----


def browse(made: Path, folder: Path, address: dict[str, Any], *flags: str) -> str:
    """Opens the page at an address; returns its document as text after it has run."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--disable-default-apps",
            "--disable-extensions",
            "--disable-dev-shm-usage",
        ),
        *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}"),
        *("--virtual-time-budget=20000", *flags, "--dump-dom"),
        f"{made.as_uri()}#{urlencode(address)}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def requests_of(folder: Path) -> set[str]:
    """Returns the URLs that the page requested, without the browser's own requests."""
    log = (folder / "net.json").read_text("utf-8", "replace")
    asked = set(re.findall(r'"url":"(\w+://[^"]*)"', log))
    own = re.compile(
        r"(file|chrome[\w-]*)://|https?://([\w-]+\.)*(google|googleapis|gvt1)\.com[/:]"
    )
    return {url for url in asked if not own.match(url)}


def shown_in(document: str) -> str:
    match = re.search(
        r'<div id="text"[^>]*>(.*?)</div><?/?d?i?v?>?\n?<p id="empty"', document, re.S
    )
    assert match, document[:4000]
    return html.unescape(re.sub(r"<[^>]*>", "", match[1]))


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_a_browser_shows_the_text_of_the_int8_network(kind: str, tmp_path: Path) -> None:
    tokenizer = {
        "char": lambda: CharTokenizer.learn("\n abcdefgh<&>é😀"),
        "byte": ByteTokenizer,
        "sentencepiece": lambda: SentencePieceTokenizer.learn(["some text to learn\n" * 9], 280),
    }[kind]()
    # Without control characters, which a document as text does not bring back.
    checkpoint = make("lstm", 24, 32, 2, tokenizer, spread=0.3)
    bias = checkpoint.weights["head.bias"]
    for token, data in enumerate(tokenizer.token_bytes):
        if data and (data[0] < 9 or 10 < data[0] < 32 or data == b"\x7f"):
            bias[token] = -1000
    write_page(checkpoint, "x", tmp_path / "x.html")
    address = {"seed": 7, "temperature": 0.8, "top-p": 0.9, "length": 500, "speed": "max"}
    document = browse(tmp_path / "x.html", tmp_path, address)
    ids = ids_of(checkpoint, 500, 7, temperature=0.8, top_p=0.9)
    assert text_of(checkpoint, ids) == shown_in(document)
    assert re.search(r'id="status"[^>]*>Done: [\d,]+ characters, .* Seed 7\.<', document)

    assert set() == requests_of(tmp_path)


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_the_text_of_the_mixture(tmp_path: Path) -> None:
    checkpoint = counted(make(spread=0.25))
    write_page(checkpoint, "x", tmp_path / "x.html")
    address = {"seed": 7, "prompt": "the old", "temperature": 0.8, "length": 400, "speed": "max"}
    document = browse(tmp_path / "x.html", tmp_path, address)
    config = SamplingConfig(temperature=0.8, max_tokens=400)
    written = "".join(Model.from_checkpoint(checkpoint, int8=True).write("the old", config, 7))
    assert written == shown_in(document)
    assert ", up to 5 long</dd>" in document


@needs_chromium
@pytest.mark.slow
def test_the_policy_blocks_planted_requests(made: Path, tmp_path: Path) -> None:
    planted = """<img src="http://planted.invalid/image"><script>fetch("http://planted.invalid/")
    </script><link rel="stylesheet" href="http://planted.invalid/style"></body>"""
    text = made.read_text("utf-8").replace("</body>", planted)
    target = tmp_path / "planted.html"
    for policy, expected in {"content": set[str](), "data-content": {"image", "style", ""}}.items():
        target.write_text(text.replace('Policy" content="', f'Policy" {policy}="'), "utf-8")
        document = browse(target, tmp_path, {"seed": 1, "length": 50, "speed": "max"})
        assert 50 == len(shown_in(document))
        assert {f"http://planted.invalid/{name}" for name in expected} == requests_of(tmp_path)


@needs_chromium
@pytest.mark.slow
def test_a_browser_marks_surprisal_and_starts_with_the_prompt(tmp_path: Path) -> None:
    checkpoint = make(spread=0.3)
    write_page(checkpoint, NASTY, tmp_path / "x.html")
    address = {"seed": 1, "prompt": "abc", "length": 200, "speed": "max", "surprisal": "1"}
    document = browse(tmp_path / "x.html", tmp_path, address)
    assert '<span class="given" title="your prompt">a</span>' in document  # it follows nothing
    assert re.search(r'<span class="given s[1-4]" title="\d+\.\d bits">', document)
    assert re.search(r'<span class="s[1-4]" title="\d+\.\d bits">', document)
    sampler = Sampler(network_of(checkpoint), 1, 0, {"temperature": 0.8})
    sampler.feed(tokenizer_from_dict(checkpoint.tokenizer).encode("abc"))
    assert "abc" + text_of(checkpoint, list(sampler.stream(200))) == shown_in(document)


@needs_chromium
@pytest.mark.slow
def test_a_browser_colours_a_hidden_unit_and_writes_without_n_grams(tmp_path: Path) -> None:
    checkpoint = counted(make("lstm", spread=0.3))
    write_page(checkpoint, "x", tmp_path / "x.html")
    address = {"seed": 1, "length": 200, "speed": "max", "source": "network"}
    address |= {"colour": "unit", "layer": 1, "unit": 3}
    document = browse(tmp_path / "x.html", tmp_path, address)
    assert re.search(r'<span class="[np][1-3]" title="-?\d\.\d\d">', document)
    assert "Unit 1:3" in document
    assert text_of(checkpoint, ids_of(checkpoint, 200, 1, temperature=0.8)) == shown_in(document)


@needs_chromium
@pytest.mark.slow
def test_a_browser_colours_a_prompt_while_it_is_typed(tmp_path: Path) -> None:
    checkpoint = counted(make("lstm", spread=0.5))
    network = network_of(checkpoint)
    state = network.initial_state()
    for token in tokenizer_from_dict(checkpoint.tokenizer).encode("the old lock"):
        _, state = network.step(int(token), state)
    values = np.tanh(state[1, 1])
    unit = int(np.abs(values).argmax())
    typing = """<script>
    const put = (id, value) => {
      const field = document.getElementById(id);
      field.value = value;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    };
    put("prompt", "the"); // read from its beginning, when a colour is chosen
    put("colour", "unit");
    put("layer", "1");
    setTimeout(() => put("prompt", "the old lock"), 500); // continued
    setTimeout(() => put("unit", "UNIT"), 1000); // read again
    </script></body>""".replace("UNIT", str(unit))
    text = make_page(checkpoint, "x").replace("</body>", typing)
    (tmp_path / "x.html").write_text(text.replace("Content-Security-Policy", "X"), "utf-8")
    document = browse(tmp_path / "x.html", tmp_path, {})
    assert "the old lock" == shown_in(document)
    title = f"{values[unit]:.2f}"
    assert re.search(rf'class="given [np][1-3]" title="{title}">k</span></div>', document)


def test_tab_visits_prompt_buttons_and_text_before_the_folded_settings() -> None:
    text = make_page(make(), "x")
    places = [
        text.index(f'id="{name}"') for name in ("prompt", "write", "text", "settings", "seed")
    ]
    assert places == sorted(places)
    assert "tabindex" not in text.replace('tabindex="0"', "")
    assert '<details id="settings">' in text  # a wide window opens it


@needs_chromium
@pytest.mark.slow
def test_a_browser_names_unknown_characters(made: Path, tmp_path: Path) -> None:
    document = browse(made, tmp_path, {"prompt": "abé"})
    assert "“é” (U+00E9)" in document
    assert "" == shown_in(document)


@needs_chromium
@pytest.mark.slow
def test_a_nasty_vocabulary_is_only_text_in_a_browser(tmp_path: Path) -> None:
    letters = "".join(c for c in NASTY if c not in "\0\r\x7f")
    checkpoint = make(tokenizer=CharTokenizer.learn(letters), spread=0.05)
    write_page(checkpoint, "<img src=x onerror=document.title='broken'>", tmp_path / "x.html")
    document = browse(
        tmp_path / "x.html", tmp_path, {"seed": 3, "temperature": 1, "length": 400, "speed": 5000}
    )
    ids = ids_of(checkpoint, 400, 3)
    assert text_of(checkpoint, ids) == shown_in(document)
    assert "<img" not in document
    assert "broken</title>" not in document
