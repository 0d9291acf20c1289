"""Lines from a model: names, titles, records; each from the initial state, ended by the model.

A line that does not fit is drawn again, not cut short: so the lines are samples of the model under
the condition that they fit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from charnn.config import LineConfig
from charnn.errors import TextError
from charnn.generation.guides import Guide
from charnn.generation.sampler import Sampler
from charnn.predictor import Predictor
from charnn.text.tokenizers import Tokenizer

LINE_TRIES = 1000  # draws for one line
LINE_TOKENS = 100_000  # tokens of all draws for one line


@dataclass(frozen=True)
class Line:
    """A line without its newline.

    ``tries`` counts the draws, ``tokens`` the tokens of the last one, with the newline;
    ``bits_per_char`` is their surprisal, unfiltered and at temperature 1, per character.
    """

    text: str
    index: int
    tries: int
    tokens: int
    bits_per_char: float


class LineWriter:
    """Draws lines: iterate over it, once; each line comes as soon as it is complete.

    Line i comes from generator i of the seed, which continues from try to try: the line depends on
    the seed and i and, with ``unique``, on the lines before it.
    """

    def __init__(
        self,
        predictor: Predictor,
        tokenizer: Tokenizer,
        config: LineConfig,
        seed: int,
        filters: Mapping[str, float] | None = None,
        known: Collection[str] = (),
        unknown: str = "error",
        guides: Sequence[Guide] = (),
    ) -> None:
        """Prepares; draws nothing yet.

        Args:
            filters: maps names in `FILTERS` to settings.
            known: lines that may not be written.
            unknown: "error", "skip" or "replace", for unknown characters of the prefix.
            guides: of one line each; none that ends a text itself, as a pattern does.

        Raises:
            TextError: the tokenizer lacks the newline or characters of the prefix.
            ConfigError: the seed or a filter's setting is out of range.
        """
        self._ends = [i for i, spelt in enumerate(tokenizer.token_bytes) if b"\n" in spelt]
        if not 0 < len(self._ends) < tokenizer.vocab_size:
            lacks = "only newlines" if self._ends else "no newline"
            raise TextError(
                f"this model knows {lacks}, so it cannot write lines: leave --lines out"
            )
        prefix = tokenizer.encode(tokenizer.spelled(config.prefix), unknown)
        self.prefix = tokenizer.decode(prefix)
        self._predictor, self._tokenizer, self._config = predictor, tokenizer, config
        self._seed, self._filters, self._known = seed, dict(filters or {}), known
        self._guides = guides
        start = Sampler(predictor, seed, 0, self._filters, guides)
        start.feed([int(tokenizer.encode("\n")[0]), *prefix])
        for guide in guides:
            guide.feed(self.prefix)
        self._start = start.state_dict()
        # At temperature 0 every try gives the same line.
        self._tries = 1 if self._filters.get("temperature") == 0 else LINE_TRIES

    def __iter__(self) -> Iterator[Line]:
        """Yields the lines.

        Raises:
            TextError: `LINE_TRIES` tries, or `LINE_TOKENS` tokens, gave no line that fits.
            CharnnError: the logits are not finite, or the guides rule out every token.
        """
        taken: set[str] = set()
        for index in range(self._config.count):
            line = self._draw(index, taken)
            if self._config.unique:
                taken.add(line.text)
            yield line

    def _draw(self, index: int, taken: set[str]) -> Line:
        sampler = Sampler(self._predictor, self._seed, index, self._filters, self._guides)
        spent = tries = 0
        refused = dict.fromkeys(("of another length", "written already", "in the training text"), 0)
        while tries < self._tries and spent < LINE_TOKENS:
            tries += 1
            sampler.load_state_dict({**self._start, "generator": sampler.state_dict()["generator"]})
            text, chars = self._attempt(sampler)
            spent += sampler.tokens
            if text is None:
                refused["of another length"] += 1
            elif text in taken:
                refused["written already"] += 1
            elif text in self._known:
                refused["in the training text"] += 1
            else:
                bits = sampler.nats / math.log(2) / max(chars, 1)
                return Line(text, index, tries, sampler.tokens, bits)
        why = ", ".join(f"{count:,} {what}" for what, count in refused.items() if count)
        often = "1 try" if tries == 1 else f"{tries:,} tries"
        raise TextError(
            f"{index:,} of {self._config.count:,} lines are written, and {often} gave no "
            f"further one ({why}): ask for fewer, raise --temperature, or allow more"
        )

    def _attempt(self, sampler: Sampler) -> tuple[str | None, int]:
        """Draws a line; returns it and its characters with the newline, None if it does not fit."""
        config, decoder = self._config, self._tokenizer.stream_decoder()
        chars_per_token = self._tokenizer.chars_per_token
        pieces, length = [self.prefix], len(self.prefix)
        # Tokens are counted too, four a character, since stray bytes begin no character.
        while length <= config.max_length and sampler.tokens <= 4 * config.max_length:
            sampler.forbidden = self._ends if length < config.min_length else ()
            (token,) = sampler.stream(1)
            if token in self._ends:
                text = "".join(pieces) + decoder.push(token).partition("\n")[0]
                text = text.removesuffix("\r")  # the training text has Windows newlines
                fits = config.min_length <= len(text) <= config.max_length
                return (text if fits else None), length - len(self.prefix) + 1
            length += int(chars_per_token[token])
            pieces.append(decoder.push(token))
        return None, 0
