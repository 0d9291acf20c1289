"""Continues a prompt: decodes ids into pieces of text, and cuts the text where it ends."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from charnn.config import SamplingConfig
from charnn.generation.sampler import Sampler
from charnn.generation.stopping import Ending, StopMatcher
from charnn.text.tokenizers import Ids, Tokenizer


class TextPiece(NamedTuple):
    """Characters that were decoded together, and the surprisal of their tokens in nats."""

    text: str
    nats: float


class TextStream:
    """Decodes the ids that a sampler draws and cuts the text at a stop string or an ending.

    Iterate once. Each piece comes as soon as it can belong to no stop string.

    Attributes:
        stopped: whether a stop string, an ending or a guide ended the text, not `max_tokens`.
        chars: the number of characters of all drawn ids.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Tokenizer,
        config: SamplingConfig,
        ids: Iterable[int] | None = None,
    ) -> None:
        """Prepares to draw up to `max_tokens` ids after those that `sampler` has read.

        `ids` replaces `sampler.stream`, for a caller that records each id on its way.
        """
        self._sampler, self._tokenizer = sampler, tokenizer
        self._ids = sampler.stream(config.max_tokens) if ids is None else ids
        self._cutters: list[StopMatcher | Ending] = []
        if config.stop:
            self._cutters.append(StopMatcher(config.stop))
        if config.until:
            self._cutters.append(Ending(config.until))
        self._held: deque[TextPiece] = deque()
        self.stopped = False
        self.chars = 0

    def __iter__(self) -> Iterator[TextPiece]:
        sampler, decoder = self._sampler, self._tokenizer.stream_decoder()
        chars_per_token = self._tokenizer.chars_per_token
        nats = 0.0
        for token in self._ids:
            self.chars += int(chars_per_token[token])
            if sampler.guides and sampler.cut:
                break
            nats += sampler.last_nats
            if text := decoder.push(token):
                piece, nats = TextPiece(text, nats), 0.0
                if self._cutters:
                    yield from self._cut(piece)
                else:
                    yield piece
            if self.stopped:
                break
        yield from self._cut(TextPiece(decoder.flush(), nats), last=True)
        self.stopped = self.stopped or sampler.over

    def _cut(self, piece: TextPiece, last: bool = False) -> Iterator[TextPiece]:
        """Adds a piece to those held back; yields what the cutters let through."""
        text = piece.text
        self._held.append(piece)
        for cutter in self._cutters:
            text = cutter.push(text) + (cutter.flush() if last else "")
            self.stopped = self.stopped or cutter.found
        left = len(text)
        while left:
            text, nats = self._held.popleft()
            if len(text) > left:
                share = nats * left / len(text)
                self._held.appendleft(TextPiece(text[left:], nats - share))
                text, nats = text[:left], share
            left -= len(text)
            yield TextPiece(text, nats)


class Writing:
    """One text being written: iterate over it, once, for its pieces.

    Attributes:
        finish_reason: "length" or "stop" at the end, "interrupt" before.
        surprisals: if requested, the bits of each new character: those of its tokens, in equal
            parts if they complete several characters.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Tokenizer,
        prompt: str,
        start: Sequence[int],
        config: SamplingConfig,
        unknown: str = "error",
        echo: bool = True,
        surprisals: bool = False,
        index: int = 0,
        keep: bool = True,
    ) -> None:
        """Prepares a fresh `sampler` to write after `prompt`.

        Args:
            start: the ids fed, and not shown, if the prompt gives none.
            config: the length, the stop strings and the ending.
            unknown: "error", "skip" or "replace", for unknown characters of the prompt.
            echo: whether the prompt is the first piece.
            surprisals: whether to keep the bits of each character.
            index: which of the texts of a seed this is.
            keep: whether to keep `text`; an endless text would fill the memory.

        Raises:
            UnknownCharacter: the prompt contains one, and `unknown` is "error".
            ConfigError: nothing may follow the prompt.
        """
        self.prompt, self.index = (prompt := tokenizer.spelled(prompt)), index
        self.surprisals: list[float] | None = [] if surprisals else None
        self.finish_reason = "interrupt"
        self._ids: Ids | list[int] = tokenizer.encode(prompt, unknown) if prompt else []
        self.sampler = sampler
        self._start, self._echo = start, echo
        for guide in sampler.guides:
            guide.feed(prompt)
        self._pieces: deque[str] = deque(maxlen=None if keep else 0)
        self._stream = TextStream(sampler, tokenizer, config)

    def __iter__(self) -> Iterator[str]:
        if self._echo and self.prompt:
            yield self.prompt
        self.sampler.feed(self._ids if len(self._ids) else self._start)
        for text, nats in self._stream:
            if self.surprisals is not None:
                self.surprisals += [nats / math.log(2) / len(text)] * len(text)
            self._pieces.append(text)
            yield text
        self.finish_reason = "stop" if self._stream.stopped else "length"

    @property
    def shown(self) -> str:
        """The pieces so far, with the prompt if it is echoed."""
        return self.prompt * self._echo + self.text

    @property
    def text(self) -> str:
        """The text so far, without the prompt and without a stop string."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """The number of tokens chosen so far, those of a stop string included."""
        return self.sampler.tokens

    @property
    def bits_per_char(self) -> float | None:
        """The surprisal of the chosen tokens, unfiltered, at temperature 1, per character.

        None if no character began.
        """
        chars = self._stream.chars
        return self.sampler.nats / math.log(2) / chars if chars else None
