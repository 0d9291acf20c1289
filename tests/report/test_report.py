"""The report: its numbers are those of the functions, and text of a model stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shlex
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from planted import random_weights
from typer.testing import CliRunner

import charnn.cli
from charnn import evaluation
from charnn.checkpoint import Checkpoint, load, save
from charnn.config import ModelConfig
from charnn.engines import make_predictor
from charnn.errors import FileError
from charnn.generation import Model
from charnn.inspection import horizon, units
from charnn.pages import visible
from charnn.report import commands
from charnn.report import facts as facts_room
from charnn.report.facts import Sample, find_facts
from charnn.report.page import SECTIONS, make_report, write_report
from charnn.scoring.baselines import baseline_rows
from charnn.scoring.breakdown import bits_of_characters, by_position, class_rows
from charnn.text.sources import open_source
from charnn.text.token_file import TokenFile
from charnn.text.token_writer import write_token_file

NASTY = "</script><b x='1' y=\"2\">&amp;\x07\x1b[31m\u2028\u202e{{title}}"
PROSE = f"He said “so be it {NASTY}” and 12 more.\n" * 60
NAMES = "".join(f"{a}{b}\n" for a in "ABCDE" for b in ("na", "lo", "”x", "<i>")) * 8
INFO = {
    "corpus": {"chars": 1234, "bytes": 4321, "tokens": {"train": 900, "valid": 334}, "sha256": 7},
    "recipe": {"seed": 3, "optimizer": "adamw", "text": "/home/me/book.txt", "<i>": 1, "bptt": []},
    "step": 40,
    "history": [
        {"step": 10, "train_loss": 2.75, "cold_256": 2.5, "lines": 2.5},
        {"step": 20, "train_loss": 1.5, "cold_256": 1.625, "lines": 1.625},
        {"step": "30", "train_loss": None, "cold_256": 1e999},
        7,
    ],
}
VOID = {"meta", "link", "br"}


def make_run(folder, text, cell="lstm", lines=False, name="best"):
    """A run of a small random network on a text, with its tokens."""
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    with open_source([str(folder / "text.txt")]) as source:
        tokenizer = write_token_file(folder / "tokens", source, split=(70, 30)).tokenizer
    (folder / "text.txt").unlink()
    config = ModelConfig(tokenizer.vocab_size, cell, 6, 6, 2)
    start = int(tokenizer.encode("\n")[0])
    weights = random_weights(config)
    info = {k: v for k, v in INFO.items() if k != "history"}
    info["history"] = [
        {k: v for k, v in row.items() if v != 1e999} if isinstance(row, dict) else row
        for row in INFO["history"]
    ]
    checkpoint = Checkpoint(config, tokenizer.to_dict(), weights, start, info, lines=lines)
    save(folder / f"{name}.safetensors", checkpoint)
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module", autouse=True)
def small_report():
    """A report that looks at little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts_room, "LAGS", (1, 2, 4, 8))
        patch.setattr(facts_room, "PLACES", 6)
        patch.setattr(units, "GOOD_AUC", 0.0)  # random weights track nothing
        patch.setattr(facts_room, "SAMPLE_CHARS", 80)
        yield


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """The facts of a run on nasty prose, and the model's file."""
    path = make_run(tmp_path_factory.mktemp("runs") / "prose", PROSE)
    return find_facts(load(path), path, NASTY), path


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects what is in them."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.text = [], set(), [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert [] == reader.open
    return reader


def section(page, key):
    return re.search(rf'<section id="{key}".*?</section>', page, re.DOTALL)[0]


def test_the_page_shows_the_scores_that_eval_computes(prose):
    facts, path = prose
    saved = load(path)
    file = TokenFile.open(path.parent / "tokens")
    tokens = np.array(file.split("valid"))
    tokenizer = file.tokenizer
    sizes = evaluation.TextSizes(tokenizer.chars_per_token, tokenizer.bytes_per_token)
    network = evaluation.network_of(saved)
    part = read(section(make_report(facts), "held-out")).text
    for score in (
        sizes.score(evaluation.carried_batches(network, tokens)),
        sizes.score(evaluation.cold_batches(network, tokens)),
    ):
        assert f"{score.bits_per_char:.4f}{score.bits_per_byte:.4f}" in part
    for row in baseline_rows(tokenizer, tokens, sizes, file.split("train")):
        assert f"{row['name']}{row['bits_per_char']:.4f}{row['bits_per_byte']:.4f}" in part
    losses = evaluation.token_losses(evaluation.carried_batches(network, tokens))
    text, bits = bits_of_characters(tokenizer, losses)
    for row in class_rows(text, bits, tokenizer.decode(tokens[:1])):
        if row["chars"]:
            assert f"{row['class']}{row['share_of_chars']:.1%}{row['share_of_bits']:.1%}" in part
    cold = evaluation.token_losses(evaluation.cold_batches(network, tokens))
    places, means, *_ = by_position(cold)
    for place, bits in zip(places, means, strict=True):
        assert f"{bits:.3f} at {place}" in part


def test_the_passage_shows_the_bits_of_each_character(prose):
    facts, path = prose
    tokens = np.array(TokenFile.open(path.parent / "tokens").split("valid"))
    network = evaluation.network_of(load(path))
    losses = evaluation.token_losses(evaluation.carried_batches(network, tokens))
    text, bits = bits_of_characters(facts.tokenizer, losses)
    assert float(losses.nats.sum()) / math.log(2) == pytest.approx(float(bits.sum()))
    passage = facts.scores.passage
    written = "".join(character for character, _ in passage)
    start = text.index(written)
    assert bits[start : start + len(written)].tolist() == [each for _, each in passage]
    part = section(make_report(facts), "passage")
    assert [f"{each:.2f} bits" for _, each in passage] == re.findall(r'title="([^"]*)"', part)


def test_samples_are_those_that_the_seed_gives(prose):
    facts, path = prose
    model = Model.from_checkpoint(load(path))
    expected = [
        model.generate(max_tokens=80, temperature=temperature, seed=1)
        for temperature in (0.5, 0.8, 1.1)
    ]
    assert expected == [sample.text for sample in facts.samples]
    page = make_report(facts)
    for text in expected:
        assert f'<p class="text">{escape(visible(text))}</p>' in page


def test_the_page_shows_the_gates_and_units_of_inspect(prose):
    facts, path = prose
    saved = load(path)
    tokens = np.array(TokenFile.open(path.parent / "tokens").split("valid"))
    activity = units.record(make_predictor(saved.config, saved.weights), tokens)
    shares = units.gate_shares(activity, saved.config, saved.weights)
    page = make_report(facts)
    for number, gate in enumerate(("input", "forget", "output")):
        low, high = shares.low[1, number].mean(), shares.high[1, number].mean()
        assert f"layer 1, {gate}: {low:.0%} shut, {high:.0%} open" in section(page, "gates")
    found = [each.finding for each in facts.inside.labels]
    quotes = next(each for each in found if each.labeller.name == "quotes")
    flags = units.per_token(facts.tokenizer, tokens, quotes.labeller.read)
    ranking = units.rank(activity, saved.config, {"quotes": flags})["quotes"]
    best = ranking.units[0]
    found = units.detector(activity, saved.config, best, flags)
    part = read(section(page, "units")).text
    assert f"{best}{ranking.auc[0]:.3f}{found.accuracy:.1%}" in part


def test_units_that_predict_badly_are_left_out(prose, monkeypatch):
    facts, _ = prose
    areas = [a for each in facts.inside.labels for a in each.finding.ranking.auc[:5]]
    monkeypatch.setattr(units, "GOOD_AUC", sorted(areas)[len(areas) // 2])
    monkeypatch.setattr(
        facts,
        "inside",
        facts.inside._replace(
            labels=[each for each in facts.inside.labels if each.finding.good], untracked=["name"]
        ),
    )
    part = read(section(make_report(facts), "units"))
    shown = [float(a) for a in re.findall(r":[ch]([01]\.\d{3})", part.text)]
    assert len(shown) == sum(area >= units.GOOD_AUC for area in areas)
    assert "name" in part.text


def test_the_learning_curve_has_the_loss_of_every_step(tmp_path):
    path = make_run(tmp_path / "run", PROSE)
    rows = [{"event": "step", "step": n, "loss": 3.0 - n / 1000} for n in range(1, 1001)]
    rows += [{"event": "step", "step": 1001, "loss": None}, {"event": "eval", "step": 7}]
    path.with_name("metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = section(make_report(find_facts(load(path), path, "run")), "curves")
    training, validation = re.findall(r'<polyline class="line c(\d)" points="([^"]*)"', page)
    assert ("0", 250) == (training[0], len(training[1].split()))
    assert ("1", 2) == (validation[0], len(validation[1].split()))  # drawn last, on top


def test_the_page_shows_the_losses_of_horizon(prose):
    facts, path = prose
    tokens = np.array(TokenFile.open(path.parent / "tokens").split("valid")).astype(np.int64)
    network = evaluation.network_of(load(path))
    found = horizon.measure_horizon(network, tokens, 1, 6, (1, 2, 4, 8), None, None, 12, 2)
    for one, other in zip(found, facts.memory, strict=True):
        assert np.array_equal(one, other)
    page = section(make_report(facts), "horizon")
    assert f"{found.truncated[0]:.3f} with the last token alone" in page
    assert f"{found.whole:.3f} with the last 8" in page
    ends = f"singular value from {found.singular[0]:.2e} to {found.singular[-1]:.2e}"
    assert ends in page


def test_facts_and_recipe_are_shown_without_paths(prose):
    page = make_report(prose[0])
    for text in ("1,234", "4,321", "900 tokens", prose[0].model.digest, "adamw", "from 2.7500"):
        assert text in page
    assert "training from 2.7500 at step 10 to 1.5000 at step 20" in section(page, "curves")
    for hidden in ("/home", "book.txt", str(prose[1].parent.parent), os.uname().nodename + "<"):
        assert hidden not in page


def test_hostile_text_of_a_model_stays_text(prose):
    page = make_report(prose[0])
    reader = read(page)
    assert not reader.tags & {"script", "img", "iframe", "object", "i", "form", "base", "image"}
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "src"]
    assert "</script" not in page
    assert not re.search(r"https?:|src=|url\(|@import|javascript:", page)
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")
    assert len(reader.ids) == len(set(reader.ids))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e\ud800-\udfff]", page)
    assert "{{title}}" in reader.text
    policy = dict(a for a in reader.attributes if a[1] and "default-src" in a[1])["content"]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; base-uri")
    assert "unsafe" not in policy


def test_each_chart_is_well_formed_and_described_in_words(prose):
    charts = re.findall(r"<svg.*?</svg>", make_report(prose[0]), re.DOTALL)
    assert 5 == len(charts)
    for chart in charts:
        root = ElementTree.fromstring(chart)  # noqa: S314 - it is our own
        names = {child.get("id"): child.text for child in root[:2]}
        assert ["title", "desc"] == [child.tag for child in root[:2]]
        assert root.get("aria-labelledby").split() == list(names)
        assert "img" == root.get("role")
        assert all(names.values())


def test_the_contents_link_to_every_section(prose):
    page = make_report(prose[0])
    for key in SECTIONS:
        assert f'<a href="#{key}">' in page
        assert f'<section id="{key}"' in page


def test_a_model_without_its_tokens_has_no_held_out_sections(tmp_path):
    path = make_run(tmp_path / "run", PROSE)
    path.with_name("tokens").unlink()
    facts = find_facts(load(path), path, "lone")
    assert {"held-out", "passage", "units", "horizon"} == set(facts.left_out)
    page = make_report(facts)
    read(page)
    for key in ("held-out", "passage", "gates", "units", "horizon"):
        assert facts.left_out["units"] in read(section(page, key)).text
    assert "Temperature 0.5" in page


def test_commands_quote_the_name_of_a_model_file_outside_a_run(prose, tmp_path):
    path = tmp_path / "it's <me>.safetensors"
    path.write_bytes(prose[1].read_bytes())
    facts = find_facts(load(path), path, path.stem)
    part = read(section(make_report(facts), "again")).text
    assert """charnn sample -m 'it'"'"'s <me>.safetensors' -n 500""" in part


@pytest.mark.parametrize("ngram", [None, 7])
def test_the_train_command_repeats_the_ngram_order(prose, ngram):
    saved = load(prose[1])
    recipe = {"max_steps": 9} | ({"ngram": ngram} if ngram else {})
    saved.info["recipe"] = recipe
    facts = find_facts(saved, prose[1], "book")
    assert f"--ngram {ngram or 0}" in read(section(make_report(facts), "again")).text


@pytest.mark.slow
def test_the_train_command_of_a_report_runs(folder):
    Path("text.txt").write_text("the lamp was lit, and the goat knew it.\n" * 60)
    words = "text.txt --name made --max-steps 3 --hidden-size 8 --num-layers 1 --ngram 3"
    assert 0 == call("train", *words.split()).exit_code
    path = Path("checkpoints/made/best.safetensors")
    saved = load(path)
    saved.info["recipe"]["ngram"] = 3.0  # JSON of another program
    command = commands.commands(find_facts(saved, path, "made"))[-1]
    words = shlex.split(command)[1:]
    result = call(*words[:1], "text.txt", *words[2:], "--name", "again")
    assert 0 == result.exit_code, result.output
    again = load(Path("checkpoints/again/best.safetensors"))
    assert saved.weights.keys() == again.weights.keys()
    for name, weight in saved.weights.items():
        assert np.array_equal(weight, again.weights[name])


@pytest.mark.parametrize("text", ["ab\n", "a\nb" * 4])
def test_a_short_text_leaves_sections_out(tmp_path, text):
    path = make_run(tmp_path / "run", text)
    facts = find_facts(load(path), path, "short")
    read(make_report(facts))
    assert "token" in facts.left_out["horizon"]


def test_damaged_tokens_leave_sections_out_without_naming_a_path(tmp_path):
    path = make_run(tmp_path / "run", PROSE)
    path.with_name("tokens").write_bytes(b"nonsense" * 9)
    facts = find_facts(load(path), path, "damaged")
    assert {"held-out", "passage", "units", "horizon"} == set(facts.left_out)
    assert str(tmp_path) not in make_report(facts)


def test_a_model_of_lines_is_scored_line_by_line(tmp_path):
    path = make_run(tmp_path / "names", NAMES, lines=True)
    facts = find_facts(load(path), path, "names")
    assert ["lines"] == list(facts.scores.protocols)
    assert {} == facts.left_out
    assert [1, 2] == facts.memory.lags.tolist()
    page = make_report(facts)
    read(page)
    score = facts.scores.protocols["lines"]
    assert f"{score.bits_per_char:.4f}" in section(page, "held-out")
    places = facts.scores.positions
    assert [1, 2, 4] == places.positions.tolist()  # "A”x\n" is of four
    assert places.counts.tolist()[0] == places.windows
    assert f"those of {places.windows:,} lines that reach it" in section(page, "held-out")
    assert "--classes --positions" in section(page, "again")
    assert "context begins with a newline" in section(page, "horizon")
    assert "4 tokens or more into their line" in section(page, "horizon")
    lines = "".join(character for character, _ in facts.scores.passage).splitlines()
    assert lines
    assert set(lines) <= set(NAMES.splitlines())
    assert 12 == facts.samples[0].text.count("\n") + 1
    assert "--lines 20" in section(page, "again")


def test_a_vanilla_rnn_has_no_gates(tmp_path):
    path = make_run(tmp_path / "run", PROSE, "rnn")
    page = make_report(find_facts(load(path), path, "rnn"))
    assert "A vanilla RNN has no gates." in section(page, "gates")


def test_a_failed_write_keeps_the_existing_page(prose, tmp_path):
    page = tmp_path / "page.html"
    write_report(prose[0], page)
    assert make_report(prose[0]) == page.read_text("utf-8")
    with pytest.raises(FileError):
        write_report(prose[0], tmp_path / "no" / "page.html")
    assert [page] == list(tmp_path.iterdir())
    assert stat.S_ISREG(page.stat().st_mode)


@pytest.mark.parametrize("text", [NASTY, "\udcff\0\r", "' onclick=x \"", "{% raw %}<!--", "\n \n"])
def test_no_text_of_a_model_adds_an_element(prose, text):
    facts = prose[0]
    label = facts.inside.labels[0]._replace(passage=[(text, -9.0, True), (text, 0.1, False)])
    hostile = replace(
        facts,
        name=text,
        name_in_commands=text,
        samples=[Sample(0.5, text)],
        scores=facts.scores._replace(passage=[(character, 5.0) for character in text]),
        inside=facts.inside._replace(labels=[label], rare=[text]),
        left_out={"horizon": text},
    )
    reader, plain = read(make_report(hostile)), read(make_report(facts))
    assert reader.tags <= plain.tags
    assert {name for name, _ in reader.attributes} <= {name for name, _ in plain.attributes}
    assert reader.ids == [key for key in plain.ids if key.split("-")[0] not in ("losses", "norms")]


@pytest.fixture
def folder(prose, tmp_path, monkeypatch):
    """A folder of runs, in which the command stands."""
    monkeypatch.chdir(tmp_path)
    Path("checkpoints/book").mkdir(parents=True)
    for name in ("best.safetensors", "tokens"):
        Path("checkpoints/book", name).write_bytes((prose[1].parent / name).read_bytes())
    return tmp_path


def call(*words):
    return CliRunner().invoke(charnn.cli.app, words)


def report(*words):
    return call("report", *words)


def test_the_command_writes_a_page_and_names_it(folder):
    result = report("-o", "page.html", "--threads", "1")
    assert (0, "") == (result.exit_code, result.stdout), result.output
    size = Path("page.html").stat().st_size
    assert (
        f"wrote page.html, {size:,} bytes, from checkpoints/book/best.safetensors" in result.stderr
    )
    assert "<h1>book</h1>" in Path("page.html").read_text("utf-8")
    again = report("book", "-o", "page.html")
    assert 1 == again.exit_code
    assert "--force" in again.stderr


def test_stdout_holds_the_json_alone_and_quiet_is_silent(folder):
    Path("page.html").write_text("old")
    result = report("book", "-o", "page.html", "--force", "--json", "-q", "--threads", "1")
    assert (0, "") == (result.exit_code, result.stderr)
    found = json.loads(result.stdout)
    assert Path("page.html").stat().st_size == found["bytes"]
    assert load(Path("checkpoints/book/best.safetensors")).digest == found["digest"]
    assert {} == found["left_out"]
    page = Path("page.html").read_text("utf-8")
    assert f"{found['carried']['bits_per_char']:.4f}" in section(page, "held-out")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "-o"),
        (["-o", "page.txt"], 2, "page.txt.html"),
        (["-o", "no/page.html"], 1, "no/page.html"),
        (["bok", "-o", "page.html"], 1, "book"),
        (["-o", "page.html", "--threads", "0"], 2, "--threads"),
        (["-o", "page.html", "--checkpoints", "other"], 1, "no run in other/"),
    ],
)
def test_impossible_requests_name_the_flag_and_write_nothing(folder, words, code, message):
    result = report(*words)
    assert code == result.exit_code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [folder / "checkpoints"] == list(folder.iterdir())
