"""From a prompt to text: pieces as soon as they are known, stop strings, and why it ended."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from charnn.config import SamplingConfig
from charnn.generation.sampler import Sampler
from charnn.generation.stopping import Ending
from charnn.text.tokenizers import Ids, Tokenizer


class StopMatcher:
    """Cuts a stream of text before the first stop string that is completed in it.

    It holds back as little as possible: the longest end of the text that could be the beginning
    of a stop string. How the text is cut into pieces makes no difference.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Takes the next piece; returns what can be shown now."""
        if not self.stops:
            return piece
        if self.found:
            return ""
        text = self.held + piece
        starts = ((text.find(stop), len(stop)) for stop in self.stops)
        # The one that ends first; of those that end together, the longest.
        ends = [(start + size, start) for start, size in starts if start >= 0]
        if ends:
            self.found, self.held = True, ""
            return text[: min(ends)[1]]
        longest = min(max(map(len, self.stops)) - 1, len(text))
        start = len(text) - longest
        while not any(stop.startswith(text[start:]) for stop in self.stops):
            start += 1
        self.held = text[start:]
        return text[:start]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self.held = self.held, ""
        return held


class TextPiece(NamedTuple):
    """Characters that were decoded together, and the surprisal of their tokens in nats."""

    text: str
    nats: float


class TextStream:
    """Decodes the ids that a sampler draws and cuts the text at a stop string or an ending.

    Iterate once. Each piece comes as soon as it can belong to no stop string. ``stopped`` tells
    whether a stop string, an ending or a guide ended the text, rather than `max_tokens`; ``chars``
    counts the characters of all drawn ids.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Tokenizer,
        config: SamplingConfig,
        ids: Iterable[int] | None = None,
    ) -> None:
        """Prepares to draw up to `max_tokens` ids.

        Args:
            sampler: has read everything before the text.
            tokenizer: decodes the ids.
            config: the length, the stop strings and the ending.
            ids: yields what `sampler.stream` yields; a caller that records each id passes it.
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

    The prompt comes first if `echo` is set; an empty one is not shown, and the text starts as a
    text starts. ``finish_reason`` is "length" or "stop" at the end, "interrupt" until then;
    ``tokens`` counts what was chosen, that of the stop string included. ``surprisals``, if asked
    for, has the bits of each character of what was shown, the prompt apart: those of its tokens, in
    equal parts where they complete several characters.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokenizer: Tokenizer,
        prompt: str,
        start_token: int,
        config: SamplingConfig,
        unknown: str = "error",
        echo: bool = True,
        surprisals: bool = False,
        index: int = 0,
        keep: bool = True,
    ) -> None:
        """Prepares a fresh `sampler` to write after `prompt`.

        Args:
            sampler: at the start of a text, with its filters.
            tokenizer: the model's.
            prompt: the text to go on from; nothing is fed before it.
            start_token: the id fed, and not shown, where the prompt gives none.
            config: the length and the stop strings; its filters are the sampler's business.
            unknown: what becomes of unknown characters of the prompt: see `Tokenizer.encode`.
            echo: whether the prompt is the first piece.
            surprisals: whether the bits of each character are kept.
            index: which of the texts of a seed it is, for whoever asks.
            keep: whether `text` will be asked for; a stream without end cannot keep what it wrote.

        Raises:
            UnknownCharacter: the prompt holds one, and `unknown` is "error".
            ConfigError: nothing may follow the prompt.
        """
        self.prompt, self.index = prompt, index
        self.surprisals: list[float] | None = [] if surprisals else None
        self.finish_reason = "interrupt"
        self._ids: Ids | list[int] = tokenizer.encode(prompt, unknown) if prompt else []
        self.sampler = sampler
        self._start_token, self._echo = start_token, echo
        for guide in sampler.guides:
            guide.feed(prompt)
        self._pieces: deque[str] = deque(maxlen=None if keep else 0)
        self._stream = TextStream(sampler, tokenizer, config)

    def __iter__(self) -> Iterator[str]:
        if self._echo and self.prompt:
            yield self.prompt
        self.sampler.feed(self._ids if len(self._ids) else [self._start_token])
        for text, nats in self._stream:
            if self.surprisals is not None:
                self.surprisals += [nats / math.log(2) / len(text)] * len(text)
            self._pieces.append(text)
            yield text
        self.finish_reason = "stop" if self._stream.stopped else "length"

    @property
    def shown(self) -> str:
        """What its pieces were so far, the prompt among them if it is echoed."""
        return self.prompt * self._echo + self.text

    @property
    def text(self) -> str:
        """What was written so far, without the prompt and without a stop string."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        """How many tokens were chosen so far."""
        return self.sampler.tokens

    @property
    def bits_per_char(self) -> float | None:
        """Surprisal of what was chosen, unfiltered and at temperature 1, per character of it.

        None where no character began, as with no token at all.
        """
        chars = self._stream.chars
        return self.sampler.nats / math.log(2) / chars if chars else None
