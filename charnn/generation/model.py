"""The interface of a trained model for Python programs: load it, then generate text."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.checkpoint import Checkpoint, load
from charnn.config import LineConfig, SamplingConfig
from charnn.engines.clamps import Clamp, parse_clamp
from charnn.errors import ConfigError, FileError
from charnn.generation.filters import filter_settings
from charnn.generation.guides import Guide, Phrases
from charnn.generation.line_writer import LineWriter
from charnn.generation.sampler import Sampler, draw_seed
from charnn.generation.writer import Writing
from charnn.ngrams.mixture import predictor as predictor_of
from charnn.predictor import Predictor
from charnn.runs import model_name
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict

if TYPE_CHECKING:
    from charnn.generation.pattern import Pattern
    from charnn.text.text_index import TextIndex

INDEX = "text-index"  # beside the tokens that it was made from


@dataclass(eq=False, repr=False)
class Model:
    """A model ready to write, and the facts that its file records.

    Several threads may write with one model: each text has separate scratch memory. A model that
    was loaded from a file can be copied and pickled: another process loads the same file.

    Attributes:
        predictor: the network in one of the engines, with its n-grams if it has any.
        tokenizer: text to ids and back.
        start_token: the id fed before a line.
        start: the ids fed before a text without a prompt; not shown.
        of_lines: whether the model was trained on lines, each from the initial state.
        info: JSON for people: corpus, recipe, history, results.
        tokens: the token file of the training text; None if unknown.
        digest: the digest of the model's file, by which other files name it; "" without a file.
    """

    predictor: Predictor
    tokenizer: Tokenizer
    start_token: int
    info: dict[str, Any] = field(default_factory=dict)
    of_lines: bool = False
    tokens: Path | None = None
    digest: str = ""
    start: Sequence[int] = ()
    _pattern: tuple[str, Pattern] | None = None  # the latest one
    _loaded: tuple[Any, ...] = ()  # the arguments of `load`

    def __post_init__(self) -> None:
        self.start = self.start or [self.start_token]

    @classmethod
    def load(
        cls,
        path: Path,
        engine: str = "auto",
        int8: bool = False,
        clamps: Iterable[str] = (),
        network_only: bool = False,
    ) -> Model:
        """Loads a model's file; the options are those of `charnn.load`.

        Raises:
            CharnnError: the file is damaged, or there is no such engine or unit.
        """
        loaded, clamps = load(path), tuple(clamps)
        held = [parse_clamp(clamp, loaded.config) for clamp in clamps]
        model = cls.from_checkpoint(loaded, path.parent / "tokens", engine, int8, held)
        model._loaded = (path.absolute(), engine, int8, clamps)
        return model.network_only() if network_only else model

    @classmethod
    def from_checkpoint(
        cls,
        loaded: Checkpoint,
        tokens: Path | None = None,
        engine: str = "auto",
        int8: bool = False,
        clamps: Sequence[Clamp] = (),
    ) -> Model:
        """Makes the model of a checkpoint; engine, int8 and clamps are those of `make_predictor`.

        `tokens` is the token file of the training text.

        Raises:
            ConfigError: the engine is unknown or not installed, or a clamp is impossible.
            DamagedFile: its tokenizer or its n-grams are damaged.
        """
        return cls(
            predictor_of(loaded, engine, int8, clamps),
            tokenizer_from_dict(loaded.tokenizer, loaded.config.vocab_size),
            *(loaded.start_token, loaded.info, loaded.lines, tokens, loaded.digest, loaded.start),
        )

    def network_only(self) -> Model:
        """Returns the model without its n-grams; itself if it has none."""
        alone = self.predictor.alone()
        if alone is self.predictor:
            return self
        return replace(self, predictor=alone, _loaded=self._loaded and (*self._loaded, True))

    def __repr__(self) -> str:
        """Returns the shape, the tokenizer and the file."""
        shape, kind = self.predictor.config, self.tokenizer.kind
        where = f", {self._loaded[0]}" if self._loaded else ""
        return (
            f"<charnn model: {shape.cell} {shape.num_layers}x{shape.hidden_size}, {kind} tokenizer "
            f"of {shape.vocab_size}{where}>"
        )

    def _repr_html_(self) -> str:
        """Returns the model's card for a notebook: facts, and the learning curve."""
        from charnn.pages import notebook, records

        title = model_name(self._loaded[0]) if self._loaded else "charnn model"
        rows = records.card_rows(self.predictor.config, self.tokenizer.units, self.info)
        if self.predictor.alone() is not self.predictor:
            rows.append(("Mixed with", "n-grams of its text"))
        return notebook.card(title, rows, self.info, "lines" if self.of_lines else "cold_256")

    def __copy__(self) -> Model:
        """Returns a model that shares everything."""
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """Returns a model that shares the weights, which nothing changes."""
        return replace(self, info=deepcopy(self.info, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the arguments with which another process loads the model from its file.

        Raises:
            FileError: the model was not loaded from a file.
        """
        if not self._loaded:
            raise FileError(
                "this model was not loaded from a file, so it cannot be pickled: save it and "
                "pass on its path"
            )
        return _load_again, (self.digest, *self._loaded)

    @cached_property
    def training_text(self) -> TextIndex:
        """The index of the training text, stored beside its tokens.

        Raises:
            FileError: the tokens are missing, damaged, or those of another model.
            TextError: the text is too large for an index.
        """
        from charnn.text.text_index import open_index
        from charnn.text.token_file import TokenFile

        if self.tokens is None or not self.tokens.exists():
            raise FileError(
                f"the training text of this model is not known: {self.tokens or 'tokens'} is "
                "missing; sample from the run itself, or leave out --max-copy, --copied and "
                "--show copied"
            )
        # The index has its own digest: reading the tokens is needed only to make one.
        tokens = TokenFile.open(self.tokens, self.tokenizer, verify=False)
        return open_index(self.tokens.with_name(INDEX), tokens)

    def guides(self, config: SamplingConfig) -> list[Guide]:
        """Returns new guides for one text, those that `config` switches on.

        Raises:
            CharnnError: they are not available, or leave nothing to write.
        """
        guides: list[Guide] = []
        if config.bias or config.ban:
            biases = {**dict(config.bias), **dict.fromkeys(config.ban, -math.inf)}
            guides.append(Phrases(self.tokenizer, biases))
        if config.max_copy:
            from charnn.generation.copies import CopyGuard

            guides.append(CopyGuard(self.training_text, self.tokenizer, config.max_copy))
        if config.regex is not None:
            from charnn.generation.pattern import Pattern, PatternGuide

            latest = self._pattern  # read once: another thread may replace it
            if latest is None or latest[0] != config.regex:
                latest = self._pattern = config.regex, Pattern(config.regex, self.tokenizer)
            guides.append(PatternGuide(latest[1], config.max_tokens))
        return guides

    def write(
        self,
        prompt: str | bytes = "",
        config: SamplingConfig | None = None,
        seed: int | None = None,
        index: int = 0,
        unknown: str = "error",
        echo: bool = True,
        surprisals: bool = False,
        keep: bool = True,
    ) -> Writing:
        """Returns a text to iterate over; at its end it knows why it ended, and its surprisal.

        The same model, prompt, settings, seed and index give the same text; without a seed, one is
        drawn. A prompt of bytes is read as UTF-8; other bytes become surrogate escapes. Without
        `keep`, ``Writing.text`` stays empty and takes no memory.

        Raises:
            ConfigError: seed or index is out of range, or the settings leave nothing to write.
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
            FileError: `max_copy` needs the training text, which is missing.
        """
        config = config or SamplingConfig()
        if isinstance(prompt, bytes):
            prompt = prompt.decode("utf-8", "surrogateescape")
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt must be a string or bytes, got {type(prompt).__name__}")
        seed = draw_seed() if seed is None else seed
        filters, guides = filter_settings(config), self.guides(config)
        sampler = Sampler(self.predictor.twin(1), seed, index, filters, guides)
        return Writing(
            *(sampler, self.tokenizer, prompt, self.start, config),
            *(unknown, echo, surprisals, index, keep),
        )

    def lines(
        self,
        lines: LineConfig,
        config: SamplingConfig | None = None,
        seed: int | None = None,
        known: Collection[str] = (),
        unknown: str = "error",
    ) -> LineWriter:
        """Returns lines to iterate over, each from the initial state.

        Uses the filters, `bias`, `ban` and `max_copy` of `config`. Lines in `known` are not
        written.

        Raises:
            TextError: the model knows no newline, or not the characters of the prefix.
            ConfigError: the seed is out of range, or the biases leave nothing to write.
            FileError: `max_copy` needs the training text, which is missing.
        """
        config = replace(config or SamplingConfig(), regex=None)
        seed = draw_seed() if seed is None else seed
        filters, guides = filter_settings(config), self.guides(config)
        predictor = self.predictor.twin(1)
        return LineWriter(predictor, self.tokenizer, lines, seed, filters, known, unknown, guides)

    def stream(
        self,
        prompt: str | bytes = "",
        *,
        seed: int | None = None,
        index: int = 0,
        unknown: str = "error",
        echo: bool = False,
        **settings: Any,
    ) -> Iterator[str]:
        """Yields text in pieces, each as soon as it is known.

        Args:
            prompt: the text to continue; without one, generation starts from the start token.
            seed: an integer below 2**32; the same one gives the same text. Default: a drawn one.
            index: which of the texts of that seed.
            unknown: "error", "skip" or "replace" for characters of the prompt that the model lacks.
            echo: whether the prompt is the first piece.
            settings: those of `SamplingConfig`, such as ``max_tokens=200, temperature=0.8,
                stop="THE END", bias={"e": -2.0}``.

        Raises:
            CharnnError: see `write`; or a setting is unknown or out of range.
        """
        config = SamplingConfig.from_dict(settings)
        return iter(self.write(prompt, config, seed, index, unknown, echo, keep=False))

    def generate(self, prompt: str | bytes = "", **options: Any) -> str:
        """Returns the whole text; the options are those of `stream`."""
        return "".join(self.stream(prompt, **options))

    def example(self, tokens: int, lines: int, seed: int, **settings: Any) -> str:
        """Returns a sample without a prompt: so many `tokens`, or `lines` of a model of lines.

        Raises:
            CharnnError: see `stream`.
        """
        if self.of_lines:
            config = SamplingConfig.from_dict(settings)
            return "\n".join(line.text for line in self.lines(LineConfig(lines), config, seed))
        return self.generate(max_tokens=tokens, seed=seed, **settings)


def _load_again(digest: str, path: Path, *options: Any) -> Model:
    """Loads a model in another process.

    Raises:
        FileError: the file is missing, or another one by now.
    """
    model = Model.load(path, *options)
    if model.digest != digest:
        raise FileError(f"{path} has changed since the model was loaded: load it again")
    return model
