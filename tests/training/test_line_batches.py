"""Training on lines: windows, gradients, resumed runs, plans."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from driving import finish, stop_after
from hypothesis import given
from hypothesis import strategies as st
from test_resume import same, without_times
from torch.nn.functional import cross_entropy

from charnn import checkpoint, evaluation
from charnn.config import ModelConfig, TrainConfig, TrainOptions
from charnn.errors import ConfigError, DamagedFile, TextError
from charnn.evaluation import IGNORED
from charnn.model import CELLS, LanguageModel, map_state
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file
from charnn.training import events
from charnn.training.batches import LineBatches, LineLayout, line_lengths
from charnn.training.gradient import backward, begin
from charnn.training.launch import resume, start
from charnn.training.machine import Speed
from charnn.training.plan import Text, fit_lines, set_budget, step_shapes
from charnn.training.validation import first_lines

NEWLINE = 0
V = 9
LISTS = st.lists(
    st.lists(st.integers(1, V - 1), min_size=1, max_size=9), min_size=1, max_size=40
)  # fmt: skip


def tokens_of(lines) -> np.ndarray:
    return np.array([token for line in lines for token in (*line, NEWLINE)], np.uint8)


def read_pass(batches: LineBatches, number: int = 0) -> list[tuple[int, ...]]:
    """Returns the lines of a pass from its windows, after checking their inputs and targets."""
    lines, open_lines = [], {}
    first = number * batches.windows_per_epoch
    for step in range(first, first + batches.windows_per_epoch):
        window = batches.window(step)
        seen = 0
        for streams, inputs, targets, *_ in window.parts:
            for column, stream in enumerate(streams.tolist()):
                count = int((targets[:, column] != IGNORED).sum())
                assert (targets[count:, column] == IGNORED).all()
                seen += count
                read, wanted = (x[:count, column].tolist() for x in (inputs, targets))
                assert read[1:] == wanted[:-1]
                if window.fresh[stream]:
                    assert stream not in open_lines
                    assert NEWLINE == read[0]
                    open_lines[stream] = []
                else:
                    assert open_lines[stream][-1] == read[0]
                    assert 0 == len(open_lines[stream]) % batches.bptt
                open_lines[stream] += wanted
                if wanted[-1] == NEWLINE:
                    lines.append(tuple(open_lines.pop(stream)))
        assert window.size == seen > 0
        before = batches.tokens_before(step)
        assert window.size == batches.tokens_before(step + 1) - before
    assert {} == open_lines
    return lines


@given(LISTS, st.integers(1, 7), st.integers(1, 6), st.integers(0, 3))
def test_a_pass_reads_every_line_once_from_newline_to_newline(lines, batch_size, bptt, number):
    batches = LineBatches(tokens_of(lines), batch_size, bptt, NEWLINE, seed=5)
    read = read_pass(batches, number)
    assert sorted((*line, NEWLINE) for line in lines) == sorted(read)


@given(LISTS, st.integers(1, 7), st.integers(1, 6))
def test_a_pass_takes_at_most_a_third_more_windows_than_the_optimum(lines, batch_size, bptt):
    lengths = line_lengths(tokens_of(lines), NEWLINE)
    pieces = -(-lengths // bptt)
    least = max(pieces.max(), -(-pieces.sum() // batch_size))
    assert least <= LineLayout(lengths, batch_size, bptt).windows <= 4 / 3 * least + 1


def test_each_pass_has_another_order_that_depends_on_the_seed():
    lines = [[1 + n % 8, 1 + n // 8] for n in range(64)]

    def orders(seed):
        batches = LineBatches(tokens_of(lines), 4, 8, NEWLINE, seed)
        return [tuple(read_pass(batches, number)) for number in range(3)]

    assert orders(1) == orders(1)
    assert 3 == len(set(orders(1)))
    assert not set(orders(1)) & set(orders(2))


def test_windows_can_be_read_in_any_order():
    lines = [[1] * (1 + n % 7) for n in range(30)]
    one = LineBatches(tokens_of(lines), 4, 3, NEWLINE, 1)
    steps = [0, 40, 3, 41, 0, 12]
    for step in steps:
        other = LineBatches(tokens_of(lines), 4, 3, NEWLINE, 1)
        for a, b in zip(one.window(step).parts, other.window(step).parts, strict=True):
            assert all(x.equal(y) for x, y in zip(a[:3], b[:3], strict=True))


def test_short_lines_are_not_padded_to_the_longest_of_the_window():
    lines = [[1] * (2 if n % 2 else 9) for n in range(256)]
    window = LineBatches(tokens_of(lines), 256, 16, NEWLINE).window(0)
    assert [3, 3, 10, 10] == [len(part.inputs) for part in window.parts]


def test_one_very_long_line_among_short_ones_is_read_in_order():
    lines = [[1, 2]] * 50 + [[3] * 1000]
    batches = LineBatches(tokens_of(lines), 4, 16, NEWLINE)
    assert 63 == batches.windows_per_epoch
    assert 51 == len(read_pass(batches))


def test_a_text_without_a_newline_has_no_lines():
    with pytest.raises(TextError, match="no line"):
        LineBatches(np.ones(5, np.uint8), 1, 3, NEWLINE)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_equals_that_of_single_lines(cell):
    network = LanguageModel(ModelConfig(V, cell, 8, 8, 2))
    network.reset_parameters(torch.Generator().manual_seed(1))
    with torch.no_grad():
        network.head.weight.mul_(50)
    rng = np.random.default_rng(1)
    lines = [rng.integers(1, V, size) for size in rng.integers(1, 8, 150)]
    batches = LineBatches(tokens_of(lines), 150, 8, NEWLINE)
    state = network.initial_state(150)
    stale = map_state(lambda part: part + 1, state)
    window = batches.window(0)
    network.train()
    loss, _ = backward(network, window, begin(network, window, stale))
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    expected = 0.0
    count = sum(len(line) + 1 for line in lines)
    for line in lines:
        ids = torch.tensor([NEWLINE, *line, NEWLINE])[:, None]
        logits, _ = network(ids[:-1], network.initial_state(1))
        nats = cross_entropy(logits[:, 0], ids[1:, 0], reduction="sum") / count
        nats.backward()
        expected += float(nats.detach())
    assert expected == pytest.approx(loss, rel=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name], rtol=1e-3, atol=1e-6)


def test_the_state_of_a_long_line_is_carried_into_the_next_window():
    network = LanguageModel(ModelConfig(V, "lstm", 8, 8, 2)).eval()
    line = np.random.default_rng(2).integers(1, V, 11)
    batches = LineBatches(tokens_of([line, [1], [2]]), 2, 4, NEWLINE)
    state, losses = network.initial_state(2), []
    for step in range(batches.windows_per_epoch):
        window = batches.window(step)
        loss, state = backward(network, window, begin(network, window, state))
        losses.append(loss * window.size)
    total = 0.0
    for each in (line, [1], [2]):
        ids = torch.tensor([NEWLINE, *each, NEWLINE])[:, None]
        logits, _ = network(ids[:-1], network.initial_state(1))
        total += float(cross_entropy(logits[:, 0], ids[1:, 0], reduction="sum").detach())
    assert total == pytest.approx(sum(losses), rel=1e-5)


LIST = "".join(
    f"{first}{middle}{last}\n"
    for first in ("Al", "Ber", "Cun")
    for middle in ("i", "ga", "", "trude-in-the-")
    for last in ("na", "bert", "mond", "x")
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(LIST)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "lstm", "batch_size": 5, "bptt": 6},
        {"cell": "gru", "dropout": 0.3, "tokenizer": "byte", "optimizer": "adamw"},
        {"cell": "rnn", "tokenizer": "sentencepiece", "vocab_size": 270, "batch_size": 12},
    ],
    ids=lambda o: f"{o['cell']}-{o.get('tokenizer', 'char')}",
)
def test_a_resumed_run_of_lines_equals_an_uninterrupted_one(launch, tmp_path, options):
    options = {"lines": True, **options}
    with launch(name="straight", **options) as trainer:
        finish(trainer)
        assert trainer.step / trainer.batches.windows_per_epoch > 1, "should cross a seam"
    with launch(name="broken", **options) as trainer:
        stop_after(trainer, 8)
    for step in (17, None):
        with resume("broken", TrainOptions(), tmp_path / "runs") as trainer:
            assert trainer.config.lines
            if step:
                stop_after(trainer, step)
            else:
                finish(trainer)
    straight, broken = tmp_path / "runs/straight", tmp_path / "runs/broken"
    for name in ("last.safetensors", "best.safetensors"):
        same(checkpoint.load(straight / name), checkpoint.load(broken / name))
    kept = [
        [
            line
            for line in without_times(run / "metrics.jsonl")
            if line["event"] in ("step", "eval", "sample")
        ]
        for run in (straight, broken)
    ]
    assert kept[0] == kept[1]


def test_the_file_of_a_model_of_lines_says_so_and_has_scores_under_lines(launch):
    with launch(lines=True) as trainer:
        happened = list(trainer.run())
        run = trainer.home
    assert {"lines"} == {e.protocol for e in happened if isinstance(e, events.Validated)}
    assert {"lines"} == happened[-1].scores.keys()
    for file in (run.last, run.best):
        saved = checkpoint.load(file)
        assert saved.lines
        assert checkpoint.peek(file)["lines"]
        assert saved.info["recipe"]["lines"]
        assert all("cold_256" not in entry for entry in saved.info["history"])
    best = checkpoint.load(run.best)
    tokens = trainer.token_file
    sizes = trainer.validator.sizes
    network, valid = evaluation.network_of(best), tokens.split("valid")
    score = sizes.score(evaluation.line_batches(network, valid, tokens.start_token))
    assert score.to_dict() == best.info["results"]["lines"]
    assert score.targets == len(tokens.split("valid"))
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert all("lines" in line for line in logged if line["event"] in ("eval", "end"))
    samples = [line["text"] for line in logged if line["event"] == "sample"]
    assert samples
    assert all(10 == len(text.split("\n")) for text in samples)


def test_the_token_count_of_a_step_equals_its_targets(launch):
    with launch(lines=True, batch_size=7, max_steps=9) as trainer:
        windows = [trainer.batches.window(step) for step in range(9)]
        done = [e for e in trainer.run() if isinstance(e, events.StepDone)]
    assert np.cumsum([window.size for window in windows]).tolist() == [e.tokens for e in done]


def test_a_file_whose_model_and_state_differ_in_lines_is_damaged(launch):
    with launch(lines=True) as trainer:
        stop_after(trainer, 2)
        saved = checkpoint.load(trainer.home.last)
        saved.lines = False
        with pytest.raises(DamagedFile, match="lines"):
            checkpoint.save(trainer.home.last, saved)


@pytest.mark.parametrize(
    "data",
    [b"Ann", b"Ann\nAnn\n", b"Ann\r\nBob\r\n\r\n", b"x" * 3000 + b"\nAnn\n"],
    ids=["one line", "two equal lines", "CRLF", "a long line"],
)
def test_unusual_lists_can_be_learnt(launch, tmp_path, data):
    path = tmp_path / "odd.txt"
    path.write_bytes(data)
    with launch(source=path, lines=True, max_steps=3) as trainer:
        finish(trainer)
    assert checkpoint.load(trainer.home.best).lines
    assert b"\r" not in b"".join(trainer.token_file.tokenizer.token_bytes)


def test_lines_of_another_text_serve_for_validation(launch, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Albert\r\nEmma")
    with launch(lines=True, valid=str(other), max_steps=2) as trainer:
        finish(trainer)
        tokens = trainer.token_file
    valid = tokens.tokenizer.decode(tokens.split("valid"))
    assert ["Albert", "Emma"] == sorted(valid.splitlines())
    assert sorted(LIST.splitlines()) == sorted(
        tokens.tokenizer.decode(tokens.split("train")).splitlines()
    )


def test_lines_refuse_a_token_file(launch, text, tmp_path):
    given_tokens = tmp_path / "names.tokens"
    with open_source([text]) as source:
        write_token_file(given_tokens, source)
    with pytest.raises(ConfigError, match="--lines"):
        with launch(source=given_tokens, lines=True):
            pass


def test_a_model_of_prose_can_be_fine_tuned_on_lines(launch, tmp_path):
    prose = tmp_path / "prose.txt"
    prose.write_text("no line end anywhere in this text, " * 30)
    with launch(source=prose, name="prose") as trainer:
        finish(trainer)
    options = TrainOptions(
        from_model="prose", lines=True, max_steps=3, threads=1, precision="float32", seed=1
    )
    with start([str(tmp_path / "names.txt")], options, tmp_path / "runs") as (trainer, _):
        finish(trainer)
    assert checkpoint.load(trainer.home.best).lines


def test_a_new_budget_counts_passes_over_the_lines(launch, tmp_path):
    with launch(lines=True, name="more") as trainer:
        finish(trainer)
        windows = trainer.batches.windows_per_epoch
    with resume("more", TrainOptions(epochs=2), tmp_path / "runs") as trainer:
        assert 20 + 2 * windows == trainer.config.max_steps


def test_short_lines_are_read_whole():
    lengths = np.array([5, 9, 7] * 400)
    batch_size, bptt, notes = fit_lines(lengths, TrainOptions(), 700)
    assert (100, 9, []) == (batch_size, bptt, notes)
    batch_size, bptt, _ = fit_lines(np.full(100, 384), TrainOptions(), 640)
    assert (10, TrainConfig.bptt) == (batch_size, bptt)


def test_a_long_line_reduces_the_batch_with_a_note():
    lengths = np.array([10] * 900 + [64 * 100])
    batch_size, _, notes = fit_lines(lengths, TrainOptions(), 4096)
    assert 10 == batch_size
    assert "6,400" in notes[0]


@pytest.mark.parametrize(("count", "passes"), [(50, 60), (10_000, 16)])
def test_a_run_stops_before_it_overfits_a_list(count, passes):
    lengths = np.full(count, 8)
    model, speed = ModelConfig(V, "lstm", 8, 8, 1), Speed(1e-4, 1e-9, 1e-9)
    batch_size, bptt, _ = fit_lines(lengths, TrainOptions(), 2048)
    config = TrainConfig(1, batch_size, bptt, lines=True)
    options = TrainOptions(minutes=60, lines=True)
    plan = set_budget(options, model, config, speed, Text(8 * count, 100, 9, lengths), 0.0)
    assert passes == plan.epochs
    assert any("--epochs" in note for note in plan.notes)


def test_the_timed_shapes_resemble_real_windows():
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 40, 2000)
    lines = [[1] * (size - 1) for size in lengths]
    batches = LineBatches(tokens_of(lines), 200, 16, NEWLINE)
    timed = step_shapes(TrainConfig(1, batch_size=200, bptt=16), lengths)
    found = [
        sum(part.inputs.numel() for part in batches.window(step).parts)
        for step in range(batches.windows_per_epoch)
    ]
    expected = sum(steps * streams for steps, streams in timed)
    assert expected == pytest.approx(np.mean(found), rel=0.15)


@pytest.mark.parametrize(("limit", "kept"), [(1, 3), (3, 3), (6, 3), (7, 7), (99, 9)])
def test_the_final_score_reads_whole_lines(limit, kept):
    tokens = np.array([1, 1, 0, 1, 1, 1, 0, 2, 0])
    assert kept == len(first_lines(tokens, NEWLINE, limit))
