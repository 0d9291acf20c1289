"""The tree of passages behind the texts of a desk, and a sampler at any place in it.

A passage is the text that was typed, or drawn at once, after its parent. A finished passage never
changes: texts share the passages that they begin with, and undo moves to another passage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from charnn.config import SamplingConfig
from charnn.generation.filters import filter_settings
from charnn.generation.model import Model
from charnn.generation.sampler import Sampler, Sfc32
from charnn.generation.writer import TextPiece, TextStream

# Tokens between kept states; the others are recomputed, since a state takes some kB.
KEEP_EVERY = 64
START, TYPED, DRAWN = "start", "typed", "drawn"
NO_SURPRISAL = float("nan")  # the surprisal of the first id of a text


@dataclass(eq=False)
class Passage:
    """Ids that follow those of the parent.

    Attributes:
        kind: TYPED, DRAWN, or START, the start tokens of a text without a prompt: not shown.
        nats: the surprisal of each id.
        index: the sample of the seed that is drawn; None continues the generator.
        asked: the number of tokens that were to be drawn.
        states: sampler states by the number of ids of this passage that they have read.
        begin: the number of ids before the passage.
    """

    parent: Passage | None
    kind: str
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    index: int | None = None
    asked: int = 0
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    begin: int = field(init=False)

    def __post_init__(self) -> None:
        """Computes ``begin``."""
        self.begin = self.parent.end if self.parent else 0

    @property
    def end(self) -> int:
        """The number of ids from the beginning of the text to the end of the passage."""
        return self.begin + len(self.ids)

    @property
    def previous(self) -> Passage | None:
        """The parent, or None where the parent is the start token."""
        return self.parent if self.parent and self.parent.kind != START else None

    def keep(self, sampler: Sampler, always: bool = False) -> None:
        """Keeps the state of a sampler that has read the last id, every `KEEP_EVERY` ids or always.

        The guides of a sampler belong to one continuation, so their states are left out.
        """
        if always or self.end % KEEP_EVERY == 0:
            self.states[len(self.ids)] = {**sampler.state_dict(), "guides": []}

    def cut(self, size: int) -> Passage:
        """Returns a copy of the first `size` ids."""
        states = {read: state for read, state in self.states.items() if read <= size}
        return replace(self, ids=self.ids[:size], nats=self.nats[:size], states=states)

    def latest(self, size: int, count: int) -> list[int]:
        """Returns the last `count` ids of the text up to the first `size` ids of the passage."""
        found, before = self.ids[:size][-count:], self.parent
        while before and len(found) < count:
            found = before.ids[len(found) - count :] + found
            before = before.parent
        return found

    def path(self) -> list[Passage]:
        """Returns all passages from the beginning of the text to this one."""
        passages: list[Passage] = []
        passage: Passage | None = self
        while passage:
            passages.append(passage)
            passage = passage.parent
        return passages[::-1]


class Tree:
    """Makes passages with a model and a seed.

    With ``network_only`` the network is used without what it is mixed with. The states of passages
    belong to one of these two ways.
    """

    def __init__(self, model: Model, seed: int) -> None:
        """Raises ConfigError if the seed is out of range."""
        Sfc32(seed)
        self.model, self.seed, self.network_only = model, seed, False

    @property
    def writer(self) -> Model:
        """The model, or its network alone."""
        return self.model.network_only() if self.network_only else self.model

    def text(self, passage: Passage | None) -> str:
        """Returns the text up to the end of a passage; stray bytes are surrogate escapes."""
        path = passage.path() if passage else []
        return self.model.tokenizer.decode([i for p in path if p.kind != START for i in p.ids])

    def pieces(self, passage: Passage | None) -> Iterator[tuple[str, TextPiece]]:
        """Yields the text up to the end of a passage in pieces, each after its passage's kind."""
        decoder, nats, kind = self.model.tokenizer.stream_decoder(), 0.0, TYPED
        for each in passage.path() if passage else []:
            if each.kind == START:
                continue
            kind = each.kind
            for token, surprisal in zip(each.ids, each.nats, strict=True):
                nats += surprisal
                if text := decoder.push(token):
                    yield kind, TextPiece(text, nats)
                    nats = 0.0
        if text := decoder.flush():
            yield kind, TextPiece(text, nats)

    def sampler(self, passage: Passage | None, settings: SamplingConfig | None = None) -> Sampler:
        """Returns a sampler that has read everything up to the end of a passage.

        It starts from the nearest state that was kept. `settings` gives it filters and guides.

        Raises:
            CharnnError: the guides need a file that is missing, or leave nothing to write.
        """
        filters = filter_settings(settings) if settings else None
        guides = self.model.guides(settings) if settings else []
        if guides:
            text = self.text(passage)
            for guide in guides:
                guide.feed(text)
        sampler = Sampler(self.writer.predictor, self.seed, 0, filters, guides)
        path = passage.path() if passage else []
        start = max((at for at, each in enumerate(path) if each.states), default=0)
        for each in path[start:]:
            read = max(each.states, default=0)
            if each.states:
                states = [guide.state for guide in guides]
                sampler.load_state_dict({**each.states[read], "guides": states})
            elif each.index is not None:
                generator = np.array(Sfc32(self.seed, each.index).state, np.uint32)
                sampler.load_state_dict({**sampler.state_dict(), "generator": generator})
            # One at a time, as when they were drawn: a batch would round sums differently.
            for token in each.ids[read:]:
                (sampler.repeat if each.kind == DRAWN else sampler.feed)([token])
        return sampler

    def read(self, parent: Passage | None, ids: Iterable[int], kind: str = TYPED) -> Passage:
        """Returns a new passage of given ids after `parent`.

        Raises:
            CharnnError: the model's output is not finite.
        """
        passage, sampler = Passage(parent, kind), self.sampler(parent)
        for token in map(int, ids):
            passage.nats.append(sampler.surprisal(token) if passage.end else NO_SURPRISAL)
            sampler.feed([token])
            passage.ids.append(token)
            passage.keep(sampler)
        passage.keep(sampler, always=True)
        return passage

    def draw(
        self,
        parent: Passage | None,
        settings: SamplingConfig,
        index: int | None,
        done: Callable[[Passage], None],
    ) -> Generator[TextPiece]:
        """Draws a continuation and yields its pieces.

        `done` receives the passage in the end, unless it is empty: also when the caller stops
        early, or an exception ends the drawing.

        Raises:
            CharnnError: the model's output is not finite, or the guides leave nothing to write.
        """
        parent = parent or self.read(None, self.model.start, START)
        passage = Passage(parent, DRAWN, index=index, asked=settings.max_tokens)
        sampler = self.sampler(passage, settings)

        def recorded() -> Iterator[int]:
            for token in sampler.stream(settings.max_tokens):
                passage.ids.append(token)
                passage.nats.append(sampler.last_nats)
                passage.keep(sampler)
                yield token

        stream = TextStream(sampler, self.model.tokenizer, settings, recorded())
        shown = 0
        try:
            for piece in stream:
                shown += len(piece.text.encode("utf-8", "surrogateescape"))
                yield piece
            passage.keep(sampler, always=True)
        except GeneratorExit:  # raised at a yield, where the sampler has read all ids
            passage.keep(sampler, always=True)
            raise
        finally:
            del passage.ids[len(passage.nats) :]  # a signal may come between the two appends
            ended: Passage | None = passage
            if stream.stopped:
                ended = self.without(passage, self._size(passage.ids) - shown)
            if ended and ended is not parent and ended.ids:
                done(ended)

    def without(self, passage: Passage, size: int) -> Passage | None:
        """Returns the passage that ends `size` bytes earlier; None is the empty text.

        The rest of a token that is cut in two is read like typed text.
        """
        while passage.parent and (whole := self._size(passage.ids)) < size:
            passage, size = passage.parent, size - whole
        left = len(passage.ids)
        while left and size > 0:
            left -= 1
            size -= int(self.model.tokenizer.bytes_per_token[passage.ids[left]])
        if left == len(passage.ids):
            return passage
        before = passage.cut(left) if left else passage.previous
        if size >= 0:
            return before
        tokenizer = self.model.tokenizer
        rest = tokenizer.token_bytes[passage.ids[left]][:-size]
        return self.read(before, tokenizer.encode(rest.decode("utf-8", "surrogateescape")))

    def _size(self, ids: list[int]) -> int:
        """Returns the number of bytes that ids stand for."""
        return int(self.model.tokenizer.bytes_per_token[ids].sum())
