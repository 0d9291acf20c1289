"""The points that a text on the desk is made of, and what a model does at them.

A point is what was typed, or drawn at one go, after what was there before. It never changes, so
that several texts may share their beginnings, and undoing is going to another point.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from charnn.config import SamplingConfig
from charnn.generation.filters import FILTERS
from charnn.generation.model import Model
from charnn.generation.sampler import Sampler, Sfc32
from charnn.generation.writer import StopMatcher

# A state takes a few kB for a token that takes one byte: it is kept this often, and otherwise
# found again by going on from the one before.
KEEP_EVERY = 64
START, TYPED, DRAWN = "start", "typed", "drawn"
NOT_KNOWN = float("nan")


class Piece(NamedTuple):
    """Some characters, one more often than not, and their nats together; NaN for the very first."""

    text: str
    nats: float
    kind: str = DRAWN


@dataclass(eq=False)
class Point:
    """A place in the text: what is done there, after its parent.

    Attributes:
        kind: TYPED, DRAWN, or START, the token that a text without a beginning follows: not shown.
        ids: what was read at this point.
        nats: the surprisal of each.
        index: with which sample of the seed the drawing began anew; None goes on with the last.
        asked: how many tokens were to be drawn.
        states: the sampler's after so many of the ids.
    """

    parent: Point | None
    kind: str
    ids: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    index: int | None = None
    asked: int = 0
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    begin: int = 0

    def __post_init__(self) -> None:
        """Sets ``begin``, the number of ids before it."""
        self.begin = self.parent.end if self.parent else 0

    @property
    def end(self) -> int:
        """How many ids lie between the beginning and here."""
        return self.begin + len(self.ids)

    def keep(self, sampler: Sampler, always: bool = False) -> None:
        """Keeps the state of a sampler that has just read the last id, now and then or always."""
        if always or self.end % KEEP_EVERY == 0:
            self.states[len(self.ids)] = sampler.state_dict()

    def cut(self, size: int) -> Point:
        """The point with its first `size` ids alone."""
        states = {at: state for at, state in self.states.items() if at <= size}
        return Point(
            self.parent,
            self.kind,
            self.ids[:size],
            self.nats[:size],
            self.index,
            self.asked,
            states,
        )

    def latest(self, size: int, count: int) -> list[int]:
        """Up to `count` ids before and among the first `size` ids here, the latest last."""
        found, at = self.ids[:size][-count:], self.parent
        while at and len(found) < count:
            found = at.ids[len(found) - count :] + found
            at = at.parent
        return found

    def path(self) -> list[Point]:
        """All points from the beginning to this one."""
        points: list[Point] = []
        at: Point | None = self
        while at:
            points.append(at)
            at = at.parent
        return points[::-1]


class Tree:
    """What grows points: a model, a seed, and nothing that changes."""

    def __init__(self, model: Model, seed: int) -> None:
        """Raises ConfigError if the seed is out of range."""
        Sfc32(seed)
        self.model, self.seed = model, seed
        self._sizes = model.tokenizer.bytes_per_token

    def text(self, point: Point | None) -> str:
        """The text up to a point; bytes that are not UTF-8 are surrogate escapes."""
        points = point.path() if point else []
        return self.model.tokenizer.decode([i for p in points if p.kind != START for i in p.ids])

    def pieces(self, point: Point | None) -> Generator[Piece]:
        """The text up to a point, from its beginning, as it came about."""
        decoder, waiting, kind = self.model.tokenizer.stream_decoder(), 0.0, TYPED
        for each in point.path() if point else []:
            if each.kind == START:
                continue
            kind = each.kind
            for token, nats in zip(each.ids, each.nats, strict=True):
                waiting += nats
                if text := decoder.push(token):
                    yield Piece(text, waiting, kind)
                    waiting = 0.0
        if text := decoder.flush():
            yield Piece(text, waiting, kind)

    def sampler(self, point: Point | None, filters: dict[str, float] | None = None) -> Sampler:
        """A sampler that has read all up to a point: from the latest state that was kept."""
        sampler = Sampler(self.model.predictor, self.seed, 0, filters)
        todo = []
        while point and not point.states:
            todo.append(point)
            point = point.parent
        if point:
            at = max(point.states)
            sampler.load_state_dict(point.states[at])
            self._go_through(sampler, point, at)
        for point in reversed(todo):
            self._go_through(sampler, point, 0)
        return sampler

    def _go_through(self, sampler: Sampler, point: Point, begin: int) -> None:
        if begin == 0 and point.index is not None:
            generator = np.array(Sfc32(self.seed, point.index).state, np.uint32)
            sampler.load_state_dict({**sampler.state_dict(), "generator": generator})
        for token in point.ids[begin:]:
            if point.kind == DRAWN:
                sampler.repeat([token])
            else:
                sampler.feed([token])

    def read(self, parent: Point | None, ids: Iterable[int], kind: str = TYPED) -> Point:
        """A point of ids that were not chosen here.

        Raises:
            CharnnError: the model's output is not finite.
        """
        point, sampler = Point(parent, kind), self.sampler(parent)
        for token in map(int, ids):
            point.nats.append(sampler.surprisal(token) if point.end else NOT_KNOWN)
            sampler.feed([token])
            point.ids.append(token)
            point.keep(sampler)
        point.keep(sampler, always=True)
        return point

    def begun(self, point: Point | None) -> Point:
        """Where a continuation begins: an empty text with the token that texts start after."""
        return point or self.read(None, [self.model.start_token], START)

    def draw(
        self,
        parent: Point | None,
        settings: SamplingConfig,
        index: int | None,
        done: Callable[[Point], None],
    ) -> Generator[Piece]:
        """Draws a continuation; `done` gets its point at the end, also of whoever leaves early.

        Raises:
            CharnnError: the model's output is not finite.
        """
        point = Point(self.begun(parent), DRAWN, index=index, asked=settings.max_tokens)
        sampler = self.sampler(point, {name: getattr(settings, name) for name in FILTERS})
        decoder, matcher = self.model.tokenizer.stream_decoder(), StopMatcher(settings.stop)
        held: list[Piece] = []
        waiting, shown = 0.0, 0
        try:
            for token in sampler.stream(settings.max_tokens):
                point.ids.append(token)
                point.nats.append(sampler.last_nats)
                point.keep(sampler)
                waiting += sampler.last_nats
                if not (text := decoder.push(token)):
                    continue
                held.append(Piece(text, waiting))
                waiting = 0.0
                for piece in _release(held, matcher.push(text)):
                    shown += len(piece.text.encode("utf-8", "surrogateescape"))
                    yield piece
                if matcher.found:
                    break
            point.keep(sampler, always=True)
        except GeneratorExit:  # thrown where a piece was handed out, with the ids all read
            point.keep(sampler, always=True)
            raise
        finally:
            del point.ids[len(point.nats) :]  # a signal may have come between the two
            ended: Point | None = point
            if matcher.found:
                ended = self.without(point, int(self._sizes[point.ids].sum()) - shown)
            if ended and ended is not point.parent and ended.ids:
                done(ended)
        if not matcher.found:
            if text := decoder.flush():
                held.append(Piece(text, waiting))
            yield from held

    def without(self, point: Point, size: int) -> Point | None:
        """The point before the last `size` bytes of the text; a part of a token is as if typed."""
        if not size:
            return point
        while True:
            keep = len(point.ids)
            while keep and size > 0:
                keep -= 1
                size -= int(self._sizes[point.ids[keep]])
            if size <= 0:
                break
            assert point.parent, "there are fewer bytes than are to go"
            point = point.parent
        before = point.cut(keep) if keep else shown(point.parent)
        if size == 0:
            return before
        tokenizer = self.model.tokenizer
        part = tokenizer.token_bytes[point.ids[keep]][:-size]
        return self.read(before, tokenizer.encode(part.decode("utf-8", "surrogateescape")))


def shown(point: Point | None) -> Point | None:
    """The point itself, unless nothing of the text is there yet."""
    return None if point and point.kind == START else point


def _release(held: list[Piece], text: str) -> Generator[Piece]:
    """Takes pieces with the characters of `text` from those that were held back."""
    left = len(text)
    while left:
        piece = held.pop(0)
        if len(piece.text) > left:
            held.insert(0, piece._replace(text=piece.text[left:]))
            piece = piece._replace(text=piece.text[:left])
        left -= len(piece.text)
        yield piece
