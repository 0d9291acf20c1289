"""MODEL on the command line (a run, a file or a base that ships), and the seed of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.cli.console import note, show_live, tell, warn

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.generation import Model
    from charnn.text.line_breaks import Reading
    from charnn.text.text_reader import EncodedText
    from charnn.text.tokenizers import Tokenizer


def model_path(model: str | None, checkpoints: Path) -> Path:
    """Returns the file that MODEL means.

    Names the run if `model` is None and there are several, and the commit of a model of the Hub.
    Warns if the model is untrained, and notes a run that hides the base of the same name.

    Raises:
        FileError: there is no such model.
    """
    from charnn import hub
    from charnn.bases import BASES
    from charnn.runs import Run, find_model, is_untrained, list_runs, step_of

    if model and hub.is_hub_name(model):
        show_live(f"reading {model}")
    path = find_model(model, checkpoints)
    if model and hub.is_hub_name(model) and hub.commit_of(path) not in model:
        tell(f"model {model.partition('@')[0]}@{hub.commit_of(path)}")
    if model is None:
        run, step = Run(checkpoints, path.parent.name), step_of(path)
        facts = [] if step is None else [f"step {step:,}"]
        facts += ["still training"] * bool(run.holder)
        if run.holder or len(list_runs(checkpoints)) > 1:
            tell(f"model {run.name}" + f" ({', '.join(facts)})" * bool(facts))
    elif is_untrained(path):
        warn(f"{path} is untrained (step 0): its weights are random")
    if model in BASES and path != BASES[model].path:
        note(
            f"{model!r} is the run in {path.parent}, not the base that ships; "
            f"for the base, give its file: {BASES[model].path}"
        )
    return path


def start_path(model: str | None, checkpoints: Path) -> Path | None:
    """Returns the file that --from means, None for scratch; notes if that is the name of a run.

    Raises:
        FileError: there is no such model.
    """
    from charnn.bases import SCRATCH
    from charnn.runs import list_runs

    if model not in (None, SCRATCH):
        return model_path(model, checkpoints)
    for run in list_runs(checkpoints) if model else []:
        if run.name == model:
            note(
                f"--from {model} starts from random weights, not from the run in {run.folder}; "
                f"for the run, give its file: {run.model}"
            )
    return None


def load_model(model: str | None, checkpoints: Path) -> tuple[Path, Checkpoint, Tokenizer]:
    """Returns path, contents and tokenizer of the file that MODEL means.

    Raises:
        FileError: there is no such model, or its file is damaged.
    """
    from charnn.checkpoint import load
    from charnn.text.tokenizers import tokenizer_from_dict

    path = model_path(model, checkpoints)
    saved = load(path)
    return path, saved, tokenizer_from_dict(saved.tokenizer, saved.config.vocab_size)


def open_model(
    model: str | None, checkpoints: Path, network_only: bool = False, **options: Any
) -> tuple[Path, Model]:
    """Returns path and model of what MODEL means; the options are those of `charnn.load`.

    Raises:
        CharnnError: there is no such model, its file is damaged, or an option does not fit it.
    """
    from charnn.generation import Model

    path = model_path(model, checkpoints)
    loaded = Model.load(path, **options)
    alone = loaded.network_only()
    if network_only and alone is loaded:
        note_needless_network_only()
    return path, alone if network_only else loaded


def note_needless_network_only() -> None:
    """Notes that --network-only changes nothing."""
    note("--network-only changes nothing: the model is a network alone")


def reading_of(info: Mapping[str, Any], tokenizer: Tokenizer) -> Reading:
    """Returns how to read a text for a model: as its training text was read."""
    from charnn.text.line_breaks import Reading

    return Reading.of_model(info, knows_returns=not tokenizer.unknown_in("\r"))


def read_text_for(
    saved: Checkpoint, tokenizer: Tokenizer, path: Path, texts: list[str] | None, **more: Any
) -> EncodedText:
    """Reads texts as the training text of a model was read, and notes what was changed.

    Without texts, reads the tokens beside `path`, the model's file. `more` are options of
    `read_text`.
    """
    from charnn.text.text_reader import read_text

    reading, of_lines = reading_of(saved.info, tokenizer), saved.lines
    beside = path.parent / "tokens"
    text = read_text(texts or [], tokenizer, beside, of_lines=of_lines, reading=reading, **more)
    note(*text.notes)
    return text


def seed_or_drawn(seed: int | None) -> int:
    """Returns the seed that was given, or draws one and prints it on stderr."""
    if seed is None:
        from charnn.generation.sampler import draw_seed

        seed = draw_seed()
        tell(f"seed {seed}")
    return seed


def note_network_alone(saved: Checkpoint, subject: str) -> None:
    """Notes that `subject` ignores what the network of a model is mixed with."""
    if saved.mixture:
        mixed_with = saved.mixture.partition(";")[0]
        note(f"{subject} covers the network alone, without its {mixed_with}")
