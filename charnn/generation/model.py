"""A trained model as Python programs use it: load it, and let it write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from charnn.checkpoint import Checkpoint
from charnn.config import SamplingConfig
from charnn.generation.filters import FILTERS
from charnn.generation.runtime import NumpyModel
from charnn.generation.sampler import Sampler, draw_seed
from charnn.generation.writer import Writing
from charnn.text.tokenizers import Tokenizer, tokenizer_from_dict


class Model:
    """A model ready to write: a network in numpy, its tokenizer, and what is known of its making.

    Attributes:
        network: the `NumpyModel`; ``config`` is its shape.
        tokenizer: text to ids and back.
        start_token: the id that a text without a prompt is begun with; not shown.
        info: JSON for people: corpus, recipe, history, results.
        digest: of the model's file, by which other files name it; "" without a file.
    """

    def __init__(
        self,
        network: NumpyModel,
        tokenizer: Tokenizer,
        start_token: int,
        info: dict[str, Any] | None = None,
        digest: str = "",
    ) -> None:
        self.network, self.tokenizer, self.start_token = network, tokenizer, start_token
        self.config, self.info, self.digest = network.config, info or {}, digest

    @classmethod
    def from_checkpoint(cls, loaded: Checkpoint) -> Model:
        """The model of a checkpoint.

        Raises:
            DamagedFile: its tokenizer is garbage, or not of the size of its vocabulary.
        """
        tokenizer = tokenizer_from_dict(loaded.tokenizer, loaded.config.vocab_size)
        network = NumpyModel(loaded.config, loaded.weights)
        return cls(network, tokenizer, loaded.start_token, loaded.info, loaded.digest)

    def write(
        self,
        prompt: str = "",
        config: SamplingConfig | None = None,
        seed: int | None = None,
        index: int = 0,
        unknown: str = "error",
        echo: bool = True,
    ) -> Writing:
        """A text to iterate over, which knows afterwards why it ended and how probable it was.

        The same model, prompt, settings, seed and index give the same text; no seed is a drawn one.

        Raises:
            ConfigError: seed or index is out of range.
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
        """
        config = config or SamplingConfig()
        filters = {name: getattr(config, name) for name in FILTERS}
        sampler = Sampler(self.network, draw_seed() if seed is None else seed, index, filters)
        return Writing(sampler, self.tokenizer, prompt, self.start_token, config, unknown, echo)

    def stream(
        self,
        prompt: str = "",
        max_tokens: int = SamplingConfig.max_tokens,
        temperature: float = SamplingConfig.temperature,
        top_k: int = SamplingConfig.top_k,
        top_p: float = SamplingConfig.top_p,
        min_p: float = SamplingConfig.min_p,
        repetition_penalty: float = SamplingConfig.repetition_penalty,
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
            stop: a string or several that end the text, and are not part of it.
            seed: a whole number below 2**32; the same one gives the same text.
            index: which of the texts of that seed.
            unknown: "error", "skip" or "replace" for characters the model never saw.
            echo: whether the prompt is the first piece.

        Raises:
            ConfigError: a setting is out of range.
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
        """
        config = SamplingConfig(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        return iter(self.write(prompt, config, seed, index, unknown, echo))

    def generate(self, prompt: str = "", **options: Any) -> str:
        """The whole text at once; the options are those of `stream`."""
        return "".join(self.stream(prompt, **options))
