"""The benchmarks measure correctly and print their tables; no test depends on a clock."""

from __future__ import annotations

import json
import math
import pickle
import sys
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import charrnn
import curve
import experiments
import finetune
import harness
import nanogpt
import numpy as np
import pytest
import quality
import scale
import scorer
import serve
import speed
import torch
import verbatim

from charnn import checkpoint, evaluation
from charnn.config import GATES, ModelConfig
from charnn.model import LanguageModel
from charnn.ngrams.section import MixtureWeights
from charnn.ngrams.tree import NGramTree
from charnn.runs import Run
from charnn.text.sources import open_source
from charnn.text.token_writer import write_token_file
from charnn.text.tokenizers import CharTokenizer, tokenizer_from_dict

TEXT = "To be, or not to be.\n" * 30


def save_model(folder: Path, cell: str) -> Path:
    tokenizer = CharTokenizer(np.array(sorted(set(map(ord, TEXT))), np.uint32))
    shape = ModelConfig(tokenizer.vocab_size, cell, 8, 12, 2)
    network = LanguageModel(shape)
    network.reset_parameters(torch.Generator().manual_seed(1))
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    path = folder / f"{cell}.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(shape, tokenizer.to_dict(), weights, 0))
    return path


def test_a_table_is_markdown_with_numbers_on_the_right() -> None:
    expected = "| what | MB/s |\n| --- | ---: |\n| char | 120 |"
    assert expected == harness.table(["what", "MB/s"], [["char", "120"]])


def test_spread_shows_the_median_and_the_range_of_several_values() -> None:
    assert "1.500 (1.400..2.000)" == harness.spread([2.0, 1.4, 1.5], 3)
    assert "1.50" == harness.spread([1.5], 2)


def test_a_ratio_is_the_median_of_pairwise_ratios() -> None:
    assert 2.0 == harness.ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0])


def test_arms_take_turns() -> None:
    order: list[str] = []

    def arm(name: str) -> int:
        order.append(name)
        return len(order)

    found = harness.alternate({"a": lambda: arm("a"), "b": lambda: arm("b")}, 2)
    assert {"a": [1, 3], "b": [2, 4]} == found
    assert ["a", "b", "a", "b"] == order


def test_the_machine_is_described_without_its_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "secret-host")
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    line = harness.machine()
    assert torch.__version__ in line
    assert "secret-host" not in line


def test_a_command_that_fails_ends_the_benchmark_with_its_error() -> None:
    with pytest.raises(SystemExit, match=r"/nowhere"):
        harness.run(harness.charnn_command("show", "--checkpoints", "/nowhere"))


def test_a_uniform_model_has_the_loss_log_v() -> None:
    windows: list[int] = []

    def uniform(ids: torch.Tensor, memory: None) -> tuple[torch.Tensor, None]:
        windows.append(ids.numel())
        return torch.zeros(*ids.shape, 5), None

    ids = torch.arange(23) % 5
    assert math.log(5) == pytest.approx(scorer.cold(uniform, ids, 4))
    assert [20] == windows  # the 22 targets make five windows of 4, and the rest is dropped
    assert math.log(5) == pytest.approx(scorer.carried(uniform, ids))
    assert [20, 22] == windows


@pytest.mark.parametrize("cell", GATES)
def test_the_scorer_agrees_with_the_evaluation_of_charnn(cell: str, tmp_path: Path) -> None:
    loaded = scorer.load_charnn(save_model(tmp_path, cell))
    model = evaluation.network_of(checkpoint.load(tmp_path / f"{cell}.safetensors"))
    ids = loaded.encode(TEXT)
    ones = np.ones(model.config.vocab_size, np.int64)
    sizes = evaluation.TextSizes(ones, ones)
    cold = sizes.score(evaluation.cold_batches(model, ids.numpy())).nats_per_token
    carried = sizes.score(evaluation.carried_batches(model, ids.numpy())).nats_per_token
    assert cold == pytest.approx(scorer.cold(loaded.network, ids, 256), rel=1e-6)
    assert carried == pytest.approx(scorer.carried(loaded.network, ids), rel=1e-6)
    assert abs(cold - carried) > 1e-5  # else the comparison would prove little
    assert model.config.parameters == loaded.parameters


def test_the_scorer_mixes_n_grams_as_the_evaluation_does(tmp_path: Path) -> None:
    saved = checkpoint.load(save_model(tmp_path, "gru"))
    tokenizer = tokenizer_from_dict(saved.tokenizer)
    ids = tokenizer.encode(TEXT)
    tree = NGramTree.of(ids, saved.config.vocab_size, 3)
    saved.ngrams = tree.section(MixtureWeights(0.75, 0.5))
    path = tmp_path / "mixed.safetensors"
    checkpoint.save(path, saved)
    ones = np.ones(saved.config.vocab_size, np.int64)
    sizes = evaluation.TextSizes(ones, ones)
    expected = sizes.score(
        evaluation.carried_batches(evaluation.predictor_of(saved), ids)
    ).nats_per_token
    loaded = scorer.load_charnn(path)
    found = scorer.carried(loaded.network, loaded.encode(TEXT))
    assert expected == pytest.approx(found, rel=1e-6)
    alone = sizes.score(
        evaluation.carried_batches(evaluation.network_of(saved), ids)
    ).nats_per_token
    assert found < alone - 0.1


def test_a_row_shows_medians_and_a_dash_for_missing_losses() -> None:
    found = [
        quality.Result(seconds, 100, 1.5, 1234, "float32", cold, None, None)
        for seconds, cold in ((60.0, 1.5), (62.0, 1.4), (61.0, 1.6))
    ]
    expected = ["x", "61.0", "100", "1.50", "1.500 (1.400..1.600)", "2.164", "–", "–"]
    assert [*expected, "1,234", "float32"] == quality.row("x", found, short=False)
    assert [*expected, "–", "–", "1,234", "float32"] == quality.row("x", found, short=True)


def test_average_is_a_mean_of_probabilities_with_a_memory_for_each_member() -> None:
    def constant(*chances: float) -> scorer.Network:
        logits = torch.tensor(chances).log() + 3.0  # the softmax ignores the shift
        return lambda ids, memory: (logits.expand(*ids.shape, -1), (memory or 0) + ids.numel())

    network = scorer.average([constant(0.5, 0.3, 0.2), constant(0.1, 0.1, 0.8)])
    logits, memory = network(torch.zeros(1, 2, dtype=torch.long), None)
    assert [0.3, 0.2, 0.5] == pytest.approx(logits.exp()[0, 1].tolist())
    assert [2, 2] == memory
    assert [3, 3] == network(torch.zeros(1, 1, dtype=torch.long), memory)[1]


def result(cold: float, seconds: float = 60.0) -> quality.Result:
    history = [(seconds / 3, cold + 1), (seconds, cold)]
    return quality.Result(seconds, 100, 1.5, 1234, "float32", cold, cold, cold, history)


def test_an_interrupted_campaign_continues(tmp_path: Path) -> None:
    text = quality.Text(tmp_path / "a.txt", "", "")
    ran: list[int] = []

    def job(seed: int) -> quality.Job:
        def run() -> quality.Result:
            if not ran and seed == 1:
                ran.append(-1)
                raise KeyboardInterrupt
            ran.append(seed)
            return result(1.5 + seed)

        return quality.Job(text, "arm", seed, run)

    file = tmp_path / "results.jsonl"
    first = quality.Results(file)
    first.add(("a.txt", "arm", 0), result(1.5))
    assert not quality.work([job(seed) for seed in range(3)], first)
    assert quality.work([job(seed) for seed in range(3)], quality.Results(file))
    assert [-1, 1, 2] == ran
    kept = quality.Results(file)
    assert 3 == len(file.read_text().splitlines())
    assert [1.5, 2.5, 3.5] == [each.cold for each in kept.of("a.txt", "arm", range(3))]
    assert [[20.0, 2.5], [60.0, 1.5]] == kept.found["a.txt", "arm", 0].history
    table = quality.rows([job(seed) for seed in range(3)], [text], kept, short=False)
    assert ["arm", "60.0"] == table[0][:2]


def test_an_invalid_line_of_results_is_reported_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    quality.Results(file).add(("a.txt", "arm", 0), result(1.5))
    with file.open("a") as more:
        more.write('{"text": "a.txt", "arm"')
    with pytest.raises(SystemExit, match="line 2"):
        quality.Results(file)


def test_runs_take_turns_and_peers_have_the_first_text_only(tmp_path: Path) -> None:
    made = quality.parser()
    command = "a.txt b.txt --cells gru,rnn --minutes 1,2 --seeds 2 --float32 --members 2"
    options = made.parse_args([*command.split(), "--ngram", "--char-rnn", "2"])
    texts = [quality.Text(path, "", "") for path in options.texts]
    jobs = quality.plan(options, texts, tmp_path, quality.Results(None))
    charnn = [f"charnn {c}, {m} min" for c in ("gru", "rnn") for m in (1, 2)]
    charnn += [f"charnn gru, {m} min, float32" for m in (1, 2)]
    both = [(text, arm) for text in ("a.txt", "b.txt") for arm in charnn]
    both.insert(len(charnn), ("a.txt", "char-rnn recipe, 2 min"))
    for seed in (0, 1):
        found = [(j.text.name, j.arm) for j in jobs if j.seed == seed]
        assert both == [each for each in found if not each[1].endswith(("gram", "mean of 2"))]
    grams = [job.text.name for job in jobs if job.arm == "n-gram"]
    assert ["a.txt", "b.txt"] == grams
    means = [(job.text.name, job.arm) for job in jobs[-2:]]
    assert [(text, "charnn gru, 2 min, mean of 2") for text in ("a.txt", "b.txt")] == means


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--members", "2", "--seeds", "1"], "--seeds"),
        (["--members", "2", "--results", "x.jsonl"], "--checkpoints"),
        (["--cells", "lstm,elman"], "lstm,elman"),
        (["--nanogpt", "."], "train.py"),
    ],
)
def test_flags_that_would_fail_after_hours_fail_at_once(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 10)
    monkeypatch.setattr(sys, "argv", ["quality.py", str(text), *arguments])
    with pytest.raises(SystemExit) as ended:
        quality.main()
    assert 2 == ended.value.code
    assert words in capsys.readouterr().err


def test_the_curve_is_well_formed_and_says_in_words_what_it_shows(tmp_path: Path) -> None:
    options = quality.parser().parse_args(["tinyshakespeare.txt", "--cells", "lstm,gru"])
    kept = quality.Results(None)
    for cell, cold in (("lstm", 1.4), ("gru", 1.5)):
        for minutes in (1, 2, 5):
            for seed in range(3):
                loss = cold + seed / 10 + 1 / minutes
                key = ("tinyshakespeare.txt", quality.arm_of(cell, minutes), seed)
                kept.add(key, result(loss, 60.0 * minutes))
    text = quality.Text(tmp_path / "tinyshakespeare.txt", "", "")
    root = ElementTree.fromstring(quality.drawing(options, text, kept))  # noqa: S314  # our own
    names = {"svg": "http://www.w3.org/2000/svg"}
    told = root.findtext(".//svg:desc", namespaces=names) or ""
    assert "lstm ends at 1.700; gru ends at 1.800" in told  # of three seeds, the one in the middle
    assert "tinyshakespeare.txt" in (root.findtext(".//svg:title", namespaces=names) or "")
    said = [each.text for each in root.iterfind(".//svg:text", names)]
    assert 2 == said.count("nanoGPT's GPU recipe 1.4697")
    drawn = [each.get("class") for each in root.iterfind(".//svg:g/*", names)]
    assert 2 * 2 * 3 == drawn.count("mark c0") + drawn.count("mark c1")
    assert quality.drawing(options, text, quality.Results(None)) is None


def test_a_loss_that_stands_still_can_be_drawn() -> None:
    flat = curve.Trace([(1.0, 2.0), (20.0, 2.0)], [])
    ElementTree.fromstring(curve.draw("a < b & c", {"x": flat}, {}))  # noqa: S314  # our own


def test_char_rnn_learns_until_its_budget_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.arange(3000) % 7
    ticks = iter(range(1000))
    monkeypatch.setattr(charrnn.time, "monotonic", lambda: next(ticks))
    model, steps = charrnn.train(ids, 7, until=20, seed=1)
    assert 20 == steps
    torch.save({"weights": model.state_dict(), "steps": steps}, tmp_path / "x.pt")
    loaded = charrnn.load(tmp_path / "x.pt", 7)
    assert 20 == loaded.steps
    assert sum(p.numel() for p in model.parameters()) == loaded.parameters
    assert scorer.cold(loaded.network, ids, 256) < math.log(7)
    with pytest.raises(SystemExit, match="2,501"):
        charrnn.train(ids[:2500], 7, until=1e9, seed=1)


@pytest.mark.slow
def test_the_char_rnn_arm_trains_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 10)
    text = quality.Text(path, *harness.read_split(path))
    found = quality.char_rnn(text, 12 / 60, seed=1)
    assert found.steps > 0
    assert found.passes == found.steps * 2500 / len(text.train)
    assert all(loss and math.isfinite(loss) for loss in (found.cold, found.carried))


def test_nanogpt_gets_the_files_of_its_prepare_script(tmp_path: Path) -> None:
    folder = tmp_path / nanogpt.DATA
    folder.mkdir(parents=True)
    encode = nanogpt.prepare(tmp_path, "hello ", "world")
    meta = pickle.loads((folder / "meta.pkl").read_bytes())  # noqa: S301  # written one line above
    assert 8 == meta["vocab_size"]
    train, valid = (np.fromfile(folder / f"{name}.bin", np.uint16) for name in ("train", "val"))
    assert "hello " == "".join(meta["itos"][i] for i in train)
    assert encode("world").tolist() == valid.tolist()


def test_a_copy_of_nanogpt_has_another_seed_and_no_history(tmp_path: Path) -> None:
    checkout = tmp_path / "nanoGPT"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "train.py").write_text(f"import torch\n{nanogpt.SEED_LINE}\n")
    nanogpt.copy(checkout, tmp_path / "copy", 2)
    copied = (tmp_path / "copy" / "train.py").read_text()
    assert "import torch\ntorch.manual_seed(1339 + seed_offset)\n" == copied
    assert not (tmp_path / "copy" / ".git").exists()
    (checkout / "train.py").write_text("something else")
    with pytest.raises(SystemExit, match="another"):
        nanogpt.copy(checkout, tmp_path / "other", 2)


@pytest.mark.parametrize("cell", GATES)
def test_both_arms_of_the_training_section_train(cell: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(harness.random_text(5_000))
    with open_source([str(text)]) as source:
        tokens = write_token_file(tmp_path / "text.tokens", source)
    model = ModelConfig(tokens.tokenizer.vocab_size, cell, 8, 8, 2)
    run = Run(tmp_path, "run")
    assert 2 == len(list(islice(speed.trainer_steps(run, tokens, model, "float32"), 2)))
    lines = run.metrics.read_text().splitlines()
    assert 2 == len([line for line in lines if json.loads(line)["event"] == "step"])
    # Four windows fill a pass over so short a text, so the bare loop begins another one.
    assert 6 == len(list(islice(speed.bare_steps(tokens, model, "float32"), 6)))


def test_the_text_that_is_tokenized_is_ascii_of_the_size_asked_for() -> None:
    text = harness.random_text(100_000)
    assert 100_000 == len(text)
    assert set(harness.SYMBOLS) == set(text.decode("ascii"))
    assert 65 == len(harness.SYMBOLS)


@pytest.mark.parametrize("script", [experiments, finetune, quality, scale, serve, speed])
def test_help_says_how_to_run_it(
    script: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--help"])
    with pytest.raises(SystemExit) as ended:
        script.main()  # type: ignore[attr-defined]  # a module, which mypy cannot see into
    assert 0 == ended.value.code
    assert "python benchmarks/" in capsys.readouterr().out


@pytest.mark.slow
def test_every_arm_of_the_experiments_trains_and_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(900)))
    words = ["experiments.py", str(text), "--arms", ",".join(experiments.ARMS), "--seeds", "3"]
    words += ["--steps", "2", "--layers", "1", "--hidden", "8", "--batch", "4", "--threads", "1"]
    words += ["--keep", str(tmp_path), "--results", str(tmp_path / "r.jsonl")]
    monkeypatch.setattr(sys, "argv", words)
    experiments.main()
    table = capsys.readouterr().out
    for arm in experiments.ARMS:
        assert f"| text.txt | {arm} | 3 |" in table
    known = (tmp_path / "r.jsonl").read_text()
    experiments.main()
    assert table == capsys.readouterr().out
    assert known == (tmp_path / "r.jsonl").read_text()


@pytest.mark.slow
def test_quality_trains_with_the_whole_command_and_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 10)
    arguments = ["quality.py", str(text), "--minutes", "0.02", "--seeds", "2", "--ngram"]
    arguments += ["--members", "2", "--curve", str(tmp_path / "curve.svg")]
    arguments += ["--results", str(tmp_path / "r.jsonl"), "--checkpoints", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", arguments)
    quality.main()
    first = capsys.readouterr()
    table = first.out.splitlines()
    assert table[0].startswith("| run | wall s | steps | passes | cold-256 | bits | carried")
    names = ["charnn lstm, 0.02 min", "n-gram, order ", "charnn lstm, 0.02 min, mean of 2"]
    for name, line in zip(names, table[2:5], strict=True):
        assert line.startswith(f"| {name}")
        assert table[0].count("|") == line.count("|")
    ElementTree.parse(tmp_path / "curve.svg")  # noqa: S314  # our own
    monkeypatch.setattr(harness, "run", None)  # a second time, nothing trains
    quality.main()
    again = capsys.readouterr()
    assert first.out == again.out
    assert again.err.count("(known)") == 4


@pytest.mark.slow
@pytest.mark.parametrize("section", ["tokenize", "startup"])
def test_speed_prints_a_table_for_a_section(
    section: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["speed.py", section, "--repeats", "1", "--megabytes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    speed.main()
    table = capsys.readouterr().out.splitlines()
    assert table[1].startswith("| --- | ---: |")
    assert table[0].count("|") == table[2].count("|")
    assert "torch" in table[-1]


def test_a_row_of_finetune_shows_medians_and_the_range_of_the_losses() -> None:
    found = [
        finetune.Result(seconds, 100, 4.0, 1.7, cold, 1.2)
        for seconds, cold in ((30.0, 1.5), (31.0, 1.4), (32.0, 1.6))
    ]
    expected = ["x", "31.0", "100", "4.0", "1.700 (1.700..1.700)", "1.500 (1.400..1.600)"]
    assert [*expected, "1.200 (1.200..1.200)", "2.164"] == finetune.row("x", found)


@pytest.mark.slow
def test_finetune_trains_both_arms_with_the_whole_command_and_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.txt").write_text("To be, or not to be.\n" * 300)
    (tmp_path / "new.txt").write_text("Très bien, & not a goat.\n" * 300, "utf-8")
    texts = [str(tmp_path / "old.txt"), str(tmp_path / "new.txt")]
    minutes = ["--pretrain", "0.02", "--minutes", "0.02", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *texts, *minutes])
    finetune.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "| run | wall s | steps | passes | network alone | cold-256 | carried"
    )
    assert lines[2].startswith("| new, 0.02 min, from best | ")
    assert lines[3].startswith("| new, 0.02 min, from scratch | ")


def test_verbatim_finds_a_copied_span_and_its_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Copier:
        def generate(self, seed: int, **settings: object) -> str:
            return f"{seed}~" + "the old man tied the rope to the" + "~" * 40

    monkeypatch.setattr(verbatim.charnn, "load", lambda name: Copier())
    (tmp_path / "text.txt").write_text("so the old man tied the rope to the quay. " * 9)
    arguments = ["verbatim.py", "model", str(tmp_path / "text.txt"), "--samples", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    verbatim.main()
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:]]
    found = {int(length): float(share.split()[0]) for length, share in rows}
    assert found[20] > found[30] > 0
    assert 0 == found[40]


def test_the_time_of_a_message_follows_from_its_bytes() -> None:
    alone = scale.Measured(seconds=0.3, tokens=4096, share=0.0, reduced=0, gathered=0)
    shared = scale.Measured(seconds=0.2, tokens=4096, share=0.1, reduced=10e6, gathered=5e6)
    # Each of two hosts sends half of 20 MB to add up, and half of 5 MB: 12.5 MB at 1 Gbit/s.
    assert 0.1 == pytest.approx(scale.send_seconds(shared, 2, 1))
    assert 1.2 == pytest.approx(scale.times_faster(alone, shared, 2, 1))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_scale_trains_with_real_processes_and_prints_both_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scale.main(["--shapes", "1x16", "--steps", "4"])
    rows = [
        line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "1x16" in line
    ]
    measured, calculated = ([float(cell.replace(",", "")) for cell in row[1:]] for row in rows)
    assert all(speed > 0 for speed in measured)
    assert len(calculated) == 7


@pytest.mark.slow
def test_serve_asks_a_real_server_and_prints_both_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve.py", "--requests", "4", "--tokens", "5", "--repeats", "1", "--memory", "100"]
    monkeypatch.setattr(sys, "argv", [*words, "--clients", "1", "3"])
    serve.main()
    table = capsys.readouterr().out
    for name in ("1 client, whole", "3 clients, streamed"):
        assert f"| serve, {name} | " in table
    assert "| 100 | " in table
