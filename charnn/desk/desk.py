"""A text that a person and a model write together: all can be taken back, and tried again.

The text is a tree of points (`charnn/desk/points.py`); a branch is a name for one of them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from charnn.config import SamplingConfig
from charnn.desk.points import DRAWN, Piece, Point, Tree, shown
from charnn.errors import CharnnError, ConfigError
from charnn.generation.model import Model

MAX_NAME = 40


@dataclass
class Branch:
    """A name's place in the tree, and the places that `redo` goes back to, the next one last."""

    point: Point | None = None
    undone: list[Point] = field(default_factory=list)


class Desk:
    """The texts in the making, their settings, and the model that goes on with them.

    What is drawn first is the text that `Model.write` gives for the same seed; what is drawn anew,
    by `retry` or `column`, is the next of the samples of that seed, counted in ``index``.

    Attributes:
        settings: for whatever is drawn from now on.
        branches: by name; ``name`` is the one being written.
        columns: continuations of ``base`` to choose from.
        changed: whether there is anything that was not saved; whoever saves it sets it.
    """

    def __init__(
        self,
        model: Model,
        seed: int,
        settings: SamplingConfig | None = None,
        unknown: str = "error",
    ) -> None:
        """An empty text.

        Args:
            model: what writes.
            seed: all that is drawn follows from it.
            settings: max_tokens is the length of one continuation.
            unknown: what becomes of unknown characters that are typed: see `Tokenizer.encode`.

        Raises:
            ConfigError: the seed is out of range.
        """
        self.tree = Tree(model, seed)
        self.model, self.seed, self.unknown = model, seed, unknown
        self.settings = settings or SamplingConfig()
        self.index = 0
        self.name = "main"
        self.branches = {self.name: Branch()}
        self.base: Point | None = None
        self.columns: list[Point] = []
        self.changed = False
        self._decoded: tuple[Point | None, str] = (None, "")

    # --- looking

    @property
    def point(self) -> Point | None:
        """Where the text ends; None is the empty text."""
        return self.branches[self.name].point

    @property
    def before(self) -> Point | None:
        """Where the text ended before the last thing done."""
        return shown(self.point.parent) if self.point else None

    @property
    def text(self) -> str:
        """The whole text; bytes that are not UTF-8 are surrogate escapes."""
        if self._decoded[0] is not self.point:
            self._decoded = self.point, self.tree.text(self.point)
        return self._decoded[1]

    def pieces(self) -> Generator[Piece]:
        """The text from its beginning, as it came about."""
        return self.tree.pieces(self.point)

    def state(self) -> dict[str, Any]:
        """The sampler's state where the text ends: see `Sampler.state_dict`."""
        return self.tree.sampler(self.point).state_dict()

    # --- writing

    def type(self, text: str) -> None:
        """Adds what a person wrote.

        Raises:
            UnknownCharacter: the model does not know one of its characters; nothing is added.
        """
        ids = self.model.tokenizer.encode(text, self.unknown)
        if len(ids):
            self._go(self.tree.read(self.point, ids))

    def draw(self, tokens: int | None = None) -> Generator[Piece]:
        """Goes on with the text, piece by piece, and ends before a stop string.

        Whoever leaves early has what was drawn until then.

        Args:
            tokens: how many, instead of the setting.

        Raises:
            ConfigError: the number is out of range.
            CharnnError: the model's output is not finite.
        """
        settings = self._with(max_tokens=self.settings.max_tokens if tokens is None else tokens)
        yield from self.tree.draw(self.point, settings, None, self._go)

    def retry(self) -> Generator[Piece]:
        """Draws the last continuation another way, of the length once asked for.

        `redo` brings the earlier one back.

        Raises:
            CharnnError: the text does not end in a continuation.
        """
        branch, last = self.branches[self.name], self.point
        if last is None:
            raise CharnnError("there is nothing to draw again: the text is empty")
        if last.kind != DRAWN:
            raise CharnnError("there is nothing to draw again: the text ends with what was typed")
        undone = [*branch.undone, last]
        self.index += 1
        settings = self._with(max_tokens=last.asked)
        try:
            yield from self.tree.draw(self.before, settings, self.index, self._go)
        finally:
            if branch.point is not last:
                branch.undone = undone

    def column(self, temperature: float, tokens: int | None = None) -> Generator[Piece]:
        """Draws another continuation to choose from, beside the text; see `take`.

        Raises:
            ConfigError: the temperature or the number is out of range.
        """
        settings = self._with(temperature=temperature)
        if tokens is not None:
            settings = replace(settings, max_tokens=tokens)
        if self.base is not self.point or not self.columns:
            self.base, self.columns = self.point, []
        self.index += 1
        yield from self.tree.draw(self.point, settings, self.index, self.columns.append)

    def take(self, number: int) -> None:
        """Goes on with one of the columns, counted from 1; another one may be taken instead.

        Raises:
            CharnnError: there is no such column, or the text has moved on since.
        """
        if not self.columns:
            raise CharnnError("there are no columns to take one of: draw some first")
        if self.point is not self.base and self.point not in self.columns:
            raise CharnnError("the text has moved on since the columns were drawn: draw new ones")
        if not 1 <= number <= len(self.columns):
            raise CharnnError(f"there is no column {number}: choose from 1 to {len(self.columns)}")
        self._go(self.columns[number - 1])

    # --- going back and elsewhere

    def undo(self, characters: int | None = None) -> str:
        """Takes back so many characters, or the last thing done; returns what was removed.

        State and random numbers are as they were there. A token that is cut is as if typed.

        Raises:
            CharnnError: the text is empty.
        """
        branch, text = self.branches[self.name], self.text
        if branch.point is None:
            raise CharnnError("there is nothing to undo: the text is empty")
        if characters is None:
            point = self.before
            lost = text[len(self.tree.text(point)) :]
        else:
            lost = text[max(0, len(text) - characters) :]
            point = self.tree.without(branch.point, len(lost.encode("utf-8", "surrogateescape")))
        if point is not branch.point:
            undone = [*branch.undone, branch.point]
            self._go(point)
            branch.undone = undone
        return lost

    def redo(self) -> None:
        """Takes the last `undo` back.

        Raises:
            CharnnError: nothing was undone, or the text has moved on since.
        """
        branch = self.branches[self.name]
        if not branch.undone:
            raise CharnnError("there is nothing to redo: nothing was undone just before")
        *undone, point = branch.undone
        self._go(point)
        branch.undone = undone

    def fork(self, name: str) -> None:
        """Gives the text a second name, which is written on from here; the old one stays.

        Raises:
            ConfigError: it is no good as a name, or taken.
        """
        check_name(name)
        if name in self.branches:
            raise ConfigError(f"there is a {name!r} already: switch to it, or take another name")
        branch = self.branches[self.name]
        self.branches[name] = Branch(branch.point, list(branch.undone))
        self.name, self.changed = name, True

    def switch(self, name: str) -> None:
        """Goes to another text.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.branches:
            raise ConfigError(f"there is no {name!r} here, only {', '.join(self.branches)}")
        self.name = name

    def set(self, name: str, value: Any) -> None:
        """Changes a setting for what is drawn from now on.

        Raises:
            ConfigError: there is no such setting, or the value is out of range.
        """
        self.settings = self._with(**{name: value})
        self.changed = self.changed or self.point is not None

    # --- inside

    def _with(self, **changes: Any) -> SamplingConfig:
        known = [f.name for f in fields(SamplingConfig)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"there is no setting {name!r}, only {', '.join(known)}")
        return SamplingConfig.from_dict({**asdict(self.settings), **changes})

    def _go(self, point: Point | None) -> None:
        branch = self.branches[self.name]
        branch.point, branch.undone, self.changed = point, [], True


def check_name(name: str) -> None:
    """Raises ConfigError for what is no good as the name of a branch."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or " " in name:
        raise ConfigError(
            f"a name has 1 to {MAX_NAME} letters, digits and signs, without a space; got {name!r}"
        )
