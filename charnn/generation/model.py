"""A trained model as Python programs use it: load it, and let it write."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.checkpoint import Checkpoint
from charnn.config import LineConfig, SamplingConfig
from charnn.engines.clamps import Clamp
from charnn.errors import DamagedFile, FileError
from charnn.generation.filters import FILTERS
from charnn.generation.guides import Guide, Phrases
from charnn.generation.line_writer import LineWriter
from charnn.generation.sampler import Sampler, draw_seed
from charnn.generation.writer import Writing
from charnn.ngrams.mixture import predictor as predictor_of
from charnn.predictor import Predictor
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict

if TYPE_CHECKING:
    from charnn.generation.pattern import Pattern
    from charnn.text.suffixes import TextIndex

INDEX = "text-index"  # beside the tokens that it was made from


class Model:
    """A model ready to write: a network in numpy, its tokenizer, and what is known of its making.

    Attributes:
        predictor: the network in one of the engines, with its n-grams if it has any.
        tokenizer: text to ids and back.
        start_token: the id that a text without a prompt is begun with; not shown.
        of_lines: whether it was trained on lines, each from the start state.
        info: JSON for people: corpus, recipe, history, results.
        tokens: the file of the tokens that it learnt from, if there is one.
        digest: of the model's file, by which other files name it; "" without a file.
    """

    def __init__(
        self,
        predictor: Predictor,
        tokenizer: Tokenizer,
        start_token: int,
        info: dict[str, Any] | None = None,
        of_lines: bool = False,
        tokens: Path | None = None,
        digest: str = "",
    ) -> None:
        self.predictor, self.tokenizer, self.start_token = predictor, tokenizer, start_token
        self.of_lines = of_lines
        self.config, self.info, self.digest = predictor.config, info or {}, digest
        self.tokens = tokens
        self._patterns: dict[str, Pattern] = {}  # the latest one

    @classmethod
    def from_checkpoint(
        cls,
        loaded: Checkpoint,
        tokens: Path | None = None,
        engine: str = "auto",
        int8: bool = False,
        clamps: Sequence[Clamp] = (),
    ) -> Model:
        """The model of a checkpoint, in an engine that `make_predictor` knows.

        `tokens` is the file that it learnt from; `clamps` hold units at their values.

        Raises:
            ConfigError: there is no such engine here, or a clamp cannot be.
            DamagedFile: its tokenizer is garbage, or not of the size of its vocabulary, or its
                n-grams are none.
        """
        tokenizer = tokenizer_from_dict(loaded.tokenizer, loaded.config.vocab_size)
        return cls(
            predictor_of(loaded, engine, int8, clamps),
            tokenizer,
            loaded.start_token,
            loaded.info,
            loaded.lines,
            tokens,
            loaded.digest,
        )

    @cached_property
    def training_text(self) -> TextIndex:
        """The index of the text that the model learnt from, kept beside its tokens.

        Raises:
            FileError: the tokens are not there, damaged, or those of another model.
            TextError: the text is too large for an index.
        """
        from charnn.text.suffixes import open_index
        from charnn.text.token_file import TokenFile

        if self.tokens is None or not self.tokens.exists():
            raise FileError(
                f"the text that the model learnt from is not known: {self.tokens or 'tokens'} is "
                "not there; name the run, not a copy of its file"
            )
        tokens = TokenFile.open(self.tokens)
        if tokens.tokenizer.token_bytes != self.tokenizer.token_bytes:
            raise DamagedFile(f"{self.tokens} was made with another tokenizer than the model's")
        return open_index(self.tokens.with_name(INDEX), tokens)

    def guides(self, config: SamplingConfig) -> list[Guide]:
        """New guides for one text, as far as `config` asks for any.

        Raises:
            CharnnError: they cannot be had, or leave nothing to write.
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

            if config.regex not in self._patterns:
                self._patterns = {config.regex: Pattern(config.regex, self.tokenizer)}
            guides.append(PatternGuide(self._patterns[config.regex], config.max_tokens))
        return guides

    def write(
        self,
        prompt: str = "",
        config: SamplingConfig | None = None,
        seed: int | None = None,
        index: int = 0,
        unknown: str = "error",
        echo: bool = True,
        surprisals: bool = False,
        keep: bool = True,
    ) -> Writing:
        """A text to iterate over, which knows afterwards why it ended and how probable it was.

        The same model, prompt, settings, seed and index give the same text; no seed is a drawn one.
        Without `keep` it does not know afterwards what it wrote, and takes no memory for it.

        Raises:
            ConfigError: seed or index is out of range, or the settings leave nothing to write.
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
            FileError: `max_copy` needs the training text, which is not there.
        """
        config = config or SamplingConfig()
        filters = {name: getattr(config, name) for name in FILTERS}
        drawn = draw_seed() if seed is None else seed
        sampler = Sampler(self.predictor.twin(1), drawn, index, filters, self.guides(config))
        start = self.start_token
        return Writing(
            sampler, self.tokenizer, prompt, start, config, unknown, echo, surprisals, index, keep
        )

    def lines(
        self,
        lines: LineConfig,
        config: SamplingConfig | None = None,
        seed: int | None = None,
        known: Collection[str] = (),
        unknown: str = "error",
    ) -> LineWriter:
        """Lines to iterate over, each from the start state.

        Of `config` the filters count, biases, bans and `max_copy`.

        Args:
            known: lines that are not to be written.

        Raises:
            TextError: the model knows no newline, or not the characters of the prefix.
            ConfigError: the seed is out of range, or the biases leave nothing to write.
            FileError: `max_copy` needs the training text, which is not there.
        """
        config = replace(config or SamplingConfig(), regex=None)
        filters = {name: getattr(config, name) for name in FILTERS}
        seed = draw_seed() if seed is None else seed
        guides = self.guides(config)
        return LineWriter(
            self.predictor.twin(1), self.tokenizer, lines, seed, filters, known, unknown, guides
        )

    def stream(
        self,
        prompt: str = "",
        max_tokens: int = SamplingConfig.max_tokens,
        temperature: float = SamplingConfig.temperature,
        top_k: int = SamplingConfig.top_k,
        top_p: float = SamplingConfig.top_p,
        min_p: float = SamplingConfig.min_p,
        repetition_penalty: float = SamplingConfig.repetition_penalty,
        frequency_penalty: float = SamplingConfig.frequency_penalty,
        presence_penalty: float = SamplingConfig.presence_penalty,
        typical_p: float = SamplingConfig.typical_p,
        bias: Mapping[str, float] | None = None,
        ban: str | Iterable[str] = SamplingConfig.ban,
        max_copy: int = SamplingConfig.max_copy,
        regex: str | None = SamplingConfig.regex,
        until: str | None = SamplingConfig.until,
        stop: str | Iterable[str] = SamplingConfig.stop,
        seed: int | None = None,
        index: int = 0,
        unknown: str = "error",
        echo: bool = False,
    ) -> Iterator[str]:
        """Yields text in pieces, each as soon as it is known; the prompt first only with `echo`.

        Args:
            prompt: the text to go on from; without one, a text is begun.
            max_tokens: the length, in tokens.
            temperature: 0 for the likeliest token always, 1 for the model as it is.
            top_k: chooses among the k likeliest only; 0 is off.
            top_p: chooses among the likeliest that have this probability together; 1 is off.
            min_p: rules out what is less likely than this times the likeliest; 0 is off.
            repetition_penalty: above 1 makes the latest tokens less likely.
            frequency_penalty: taken from a logit for each time its token is among the latest.
            presence_penalty: taken from a logit once if its token is among the latest.
            typical_p: chooses among the tokens of nearly the expected surprisal that have this
                probability together; 1 is off.
            bias: numbers to add to the logits of tokens that would complete a text.
            ban: a string or several that are never written.
            max_copy: the most characters in a row that are copied from the training text; 0 is off.
            regex: a pattern that the whole new text matches.
            until: "sentence", "line" or "paragraph": ends after the first whole one.
            stop: a string or several that end the text, and are not part of it.
            seed: a whole number below 2**32; the same one gives the same text.
            index: which of the texts of that seed.
            unknown: "error", "skip" or "replace" for characters the model never saw.
            echo: whether the prompt is the first piece.

        Raises:
            ConfigError: a setting is out of range, or the settings leave nothing to write.
            FileError: `max_copy` needs the training text, which is not there.
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
        """
        config = SamplingConfig(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            typical_p=typical_p,
            bias=tuple((bias or {}).items()),
            ban=(ban,) if isinstance(ban, str) else tuple(ban),
            max_copy=max_copy,
            regex=regex,
            until=until,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        return iter(self.write(prompt, config, seed, index, unknown, echo, keep=False))

    def generate(self, prompt: str = "", **options: Any) -> str:
        """The whole text at once; the options are those of `stream`."""
        return "".join(self.stream(prompt, **options))
