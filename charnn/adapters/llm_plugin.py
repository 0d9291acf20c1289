"""A plugin of llm: every run and base is a model that continues the prompt.

    llm -m charnn/book "It was" -o temperature 0.5 -o seed 1

llm finds the plugin by its entry point. ``llm -c`` continues the whole text of a conversation.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import llm
from pydantic import Field, create_model

import charnn
from charnn.bases import BASES
from charnn.config import SamplingConfig, TrainConfig
from charnn.config.settings import settings_of
from charnn.errors import ConfigError
from charnn.generation import Model
from charnn.generation.sampler import draw_seed
from charnn.generation.writer import Writing
from charnn.runs import list_runs
from charnn.server.assembly import valid

SETTINGS = ("max_tokens", "temperature", "top_p")


def _options() -> Any:
    """Returns the class of the options: `SETTINGS` of `SamplingConfig`, seed and unknown."""
    known = settings_of(SamplingConfig)
    fields: dict[str, Any] = {}
    for name, each in {**{n: known[n] for n in SETTINGS}, **settings_of(TrainConfig)}.items():
        if name in (*SETTINGS, "seed"):
            help = "The same seed gives the same text." if name == "seed" else each.help
            field = Field(default=None, description=help, ge=each.low, le=each.high)
            fields[name] = (each.kind | None, field)
    help = "Characters of the prompt that the model does not know: error, skip or replace."
    fields["unknown"] = (str | None, Field(default=None, description=help))
    return create_model("Options", __base__=llm.Options, **fields)


class Continuation:
    """A charnn model by its name; it is loaded when it is first used."""

    can_stream = True
    Options = _options()

    def __init__(self, name: str, checkpoints: Path) -> None:
        self.model_id = f"charnn/{name}"
        self._load: Callable[[], Model] = lambda: charnn.load(name, checkpoints)

    def __str__(self) -> str:
        """Returns the name, as `llm models` lists it."""
        return f"charnn: {self.model_id}"

    @cached_property
    def model(self) -> Model:
        """The loaded model."""
        return self._load()

    def start(self, prompt: Any, response: Any) -> Writing:
        """Returns the text, to iterate over, and records its seed in the log of llm.

        Raises:
            CharnnError: the model, an option or the prompt does not allow it.
        """
        if any(message.role == "system" for message in prompt.messages):
            raise ConfigError(
                f"{self.model_id} continues a text and takes no system prompt: leave out -s"
            )
        parts = [part for message in prompt.messages for part in message.parts]
        text = "".join(getattr(part, "text", "") for part in parts)
        settings = {key: value for key, value in prompt.options if value is not None}
        seed, unknown = settings.pop("seed", draw_seed()), settings.pop("unknown", "error")
        response.response_json = {"seed": seed}
        config = SamplingConfig.from_dict(settings)
        return self.model.write(text, config, seed, unknown=unknown, echo=False, keep=False)


class SyncModel(Continuation, llm.Model):
    """A model for llm's synchronous calls."""

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> Iterator[str]:
        """Yields the text in pieces; raises CharnnError as `start` does."""
        writing = self.start(prompt, response)
        for piece in writing:
            yield valid(piece)
        response.set_usage(output=writing.tokens)


class AsyncModel(Continuation, llm.AsyncModel):
    """A model for asyncio; another thread computes."""

    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> AsyncIterator[str]:
        """Yields the text in pieces; raises CharnnError as `start` does."""
        writing = await asyncio.to_thread(self.start, prompt, response)
        pieces = iter(writing)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield valid(piece)
        response.set_usage(output=writing.tokens)


@llm.hookimpl  # type: ignore[untyped-decorator]  # llm has no types
def register_models(register: Callable[..., None]) -> None:
    """Registers all runs and bases; a run hides the base of the same name."""
    checkpoints = Path(os.environ.get("CHARNN_CHECKPOINTS", "checkpoints"))
    for name in dict.fromkeys([*(run.name for run in list_runs(checkpoints)), *BASES]):
        register(SyncModel(name, checkpoints), AsyncModel(name, checkpoints))
