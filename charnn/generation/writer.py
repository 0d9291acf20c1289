"""From a prompt to text: pieces as soon as they are known, stop strings, and why it ended."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

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
        self.sampler, self._tokenizer, self._config = sampler, tokenizer, config
        self._start_token, self._echo = start_token, echo
        for guide in sampler.guides:
            guide.feed(prompt)
        self._pieces: deque[str] = deque(maxlen=None if keep else 0)
        self._chars = 0
        self._nats_shared = 0.0

    def __iter__(self) -> Iterator[str]:
        if self._echo and self.prompt:
            yield self.prompt
        self.sampler.feed(self._ids if len(self._ids) else [self._start_token])
        decoder = self._tokenizer.stream_decoder()
        chars_per_token = self._tokenizer.chars_per_token
        matcher = StopMatcher(self._config.stop)
        ending = Ending(self._config.until) if self._config.until else None
        for token in self.sampler.stream(self._config.max_tokens):
            self._chars += int(chars_per_token[token])
            if self.sampler.guides and self.sampler.cut:
                break
            text = decoder.push(token)
            if self.surprisals is not None:
                self._share_bits(self.surprisals, len(text))
            piece = matcher.push(text)
            if ending:
                piece = ending.push(piece)
            if piece:
                self._pieces.append(piece)
                yield piece
            if matcher.found or (ending and ending.found):
                break
        text = decoder.flush()
        if self.surprisals is not None:
            self._share_bits(self.surprisals, len(text))
        rest = matcher.push(text) + matcher.flush()
        if ending:
            rest = ending.push(rest) + ending.flush()
        stopped = matcher.found or (ending and ending.found) or self.sampler.over
        self.finish_reason = "stop" if stopped else "length"
        if rest:
            self._pieces.append(rest)
            yield rest

    def _share_bits(self, surprisals: list[float], characters: int) -> None:
        """Gives the bits that have come since the last time to as many characters."""
        if characters:
            bits = (self.sampler.nats - self._nats_shared) / math.log(2) / characters
            surprisals += [bits] * characters
            self._nats_shared = self.sampler.nats

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
        return self.sampler.nats / math.log(2) / self._chars if self._chars else None
