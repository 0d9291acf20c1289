"""Texts that a person and a model write together; each step can be undone and drawn again.

A text is a branch: a name for a passage of a tree (`charnn/desk/passages.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from charnn.config import SamplingConfig
from charnn.desk.passages import DRAWN, Passage, Tree
from charnn.errors import CharnnError, ConfigError
from charnn.generation.model import Model
from charnn.generation.writer import TextPiece

MAX_NAME = 40


@dataclass
class Branch:
    """The last passage of a text, None while it is empty; the undone passages, the latest last."""

    passage: Passage | None = None
    undone: list[Passage] = field(default_factory=list)


class Desk:
    """Several texts, their sampling settings, and the model that continues them.

    The first continuation is the text that `Model.write` gives for the same seed. Each `retry` and
    each `column` is the next sample of that seed, counted in ``index``.

    Attributes:
        settings: for everything drawn from now on; ``max_tokens`` is the length of a continuation.
        branches: by name; ``name`` is the current one.
        columns: alternative continuations of the passage ``base``.
        changed: set by every change; the caller that saves the desk resets it.
    """

    def __init__(
        self,
        model: Model,
        seed: int,
        settings: SamplingConfig | None = None,
        unknown: str = "error",
    ) -> None:
        """Starts with an empty text; `unknown` is that of `Tokenizer.encode`, for typed text.

        Raises ConfigError if the seed is out of range.
        """
        self.tree = Tree(model, seed)
        self.model, self.seed, self.unknown = model, seed, unknown
        self.settings = settings or SamplingConfig()
        self.index = 0
        self.name = "main"
        self.branches = {self.name: Branch()}
        self.base: Passage | None = None
        self.columns: list[Passage] = []
        self.changed = False
        self._decoded: tuple[Passage | None, str] = (None, "")

    @property
    def branch(self) -> Branch:
        """The current branch."""
        return self.branches[self.name]

    @property
    def passage(self) -> Passage | None:
        """The last passage of the current text; None while the text is empty."""
        return self.branch.passage

    @property
    def text(self) -> str:
        """The current text; bytes that are not UTF-8 are surrogate escapes."""
        if self._decoded[0] is not self.passage:
            self._decoded = self.passage, self.tree.text(self.passage)
        return self._decoded[1]

    def type(self, text: str) -> None:
        """Adds text that a person wrote; raises UnknownCharacter, and then adds nothing."""
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(tokenizer.spelled(text), self.unknown)
        if len(ids):
            self._move(self.tree.read(self.passage, ids))

    def draw(self, tokens: int | None = None) -> Generator[TextPiece]:
        """Continues the text, by `tokens` if given, and yields the continuation.

        A caller that stops early keeps what was drawn until then. Raises what `Tree.draw` raises.
        """
        settings = self._settings(tokens)
        yield from self.tree.draw(self.passage, settings, None, self._move)

    def retry(self) -> Generator[TextPiece]:
        """Draws the last continuation again, as another sample of the same length.

        `redo` brings the earlier one back. Raises CharnnError if the last passage was not drawn.
        """
        branch, last = self.branch, self.passage
        if last is None or last.kind != DRAWN:
            ends = "ends with typed text" if last else "is empty"
            raise CharnnError(
                f"nothing to draw again: the text {ends}, not with a continuation; draw one first"
            )
        undone = [*branch.undone, last]
        self.index += 1
        try:
            settings = self._settings(last.asked)
            yield from self.tree.draw(last.previous, settings, self.index, self._move)
        finally:
            if branch.passage is not last:
                branch.undone = undone

    def column(self, temperature: float, tokens: int | None = None) -> Generator[TextPiece]:
        """Draws an alternative continuation, which joins the text by `take`."""
        settings = replace(self._settings(tokens), temperature=temperature)
        if self.base is not self.passage or not self.columns:
            self.base, self.columns = self.passage, []
        self.index += 1
        yield from self.tree.draw(self.passage, settings, self.index, self.columns.append)

    def take(self, number: int) -> None:
        """Appends one of the columns, counted from 1; a later call may take another instead.

        Raises CharnnError if there is no such column, or the text has changed since.
        """
        if not self.columns:
            raise CharnnError("there are no columns to take: draw some first")
        if self.passage is not self.base and self.passage not in self.columns:
            raise CharnnError("the text has changed since its columns were drawn: draw new ones")
        if not 1 <= number <= len(self.columns):
            raise CharnnError(f"there is no column {number}: choose from 1 to {len(self.columns)}")
        self._move(self.columns[number - 1])

    def undo(self, characters: int | None = None) -> str:
        """Removes the last `characters`, or the last passage; returns what was removed.

        State and generator return to where they were. The rest of a cut token counts as typed.
        Raises CharnnError if the text is empty.
        """
        branch, text, last = self.branch, self.text, self.passage
        if last is None:
            raise CharnnError("nothing to undo: the text is empty; type something first")
        if characters is None:
            passage = last.previous
            removed = text[len(self.tree.text(passage)) :]
        else:
            removed = text[max(0, len(text) - characters) :]
            passage = self.tree.without(last, len(removed.encode("utf-8", "surrogateescape")))
        if passage is not last:
            undone = [*branch.undone, last]
            self._move(passage)
            branch.undone = undone
        return removed

    def redo(self) -> None:
        """Reverses the last `undo` or `retry`; raises CharnnError if the text changed since."""
        branch = self.branch
        if not branch.undone:
            raise CharnnError("nothing to redo: the last change of this text was no undo or retry")
        *undone, passage = branch.undone
        self._move(passage)
        branch.undone = undone

    def fork(self, name: str) -> None:
        """Copies the text under a new name, which becomes the current one.

        Raises ConfigError if the name is taken or not allowed.
        """
        check_name(name)
        if name in self.branches:
            raise ConfigError(f"a text named {name!r} exists: switch to it, or use another name")
        self.branches[name] = Branch(self.passage, list(self.branch.undone))
        self.name, self.changed = name, True

    def switch(self, name: str) -> None:
        """Makes another text the current one; raises ConfigError if there is none of that name."""
        if name not in self.branches:
            known = ", ".join(self.branches)
            raise ConfigError(f"there is no text named {name!r}: choose one of {known}")
        self.name = name

    def set(self, name: str, value: Any) -> None:
        """Changes a setting for everything drawn from now on.

        Raises CharnnError if the value is out of range, or this model cannot obey it.
        """
        settings = SamplingConfig.from_dict({**asdict(self.settings), name: value})
        self.model.guides(settings)
        self.settings = settings
        self.changed = self.changed or self.passage is not None

    def set_network_only(self, on: bool) -> bool:
        """Continues with the network alone, or with the whole model; returns whether they differ.

        The text stays as it is.
        """
        tree, differ = self.tree, self.model.network_only() is not self.model
        if differ and on != tree.network_only:
            tree.network_only, self.changed = on, self.changed or self.passage is not None
            for end in self.ends():
                for passage in end.path():
                    passage.states.clear()
        return differ

    def ends(self) -> list[Passage]:
        """Returns the last passages of all texts, undone ones and columns."""
        groups = [(b.passage, *b.undone) for b in self.branches.values()]
        return [end for group in ((self.base, *self.columns), *groups) for end in group if end]

    def _settings(self, tokens: int | None) -> SamplingConfig:
        return self.settings if tokens is None else replace(self.settings, max_tokens=tokens)

    def _move(self, passage: Passage | None) -> None:
        """Makes `passage` the last one of the current text."""
        self.branch.passage, self.branch.undone, self.changed = passage, [], True


def check_name(name: str) -> None:
    """Raises ConfigError unless `name` may be the name of a branch."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or " " in name:
        raise ConfigError(
            f"a name has 1 to {MAX_NAME} printable characters and no space, got {name[:80]!r}: "
            "use another name, such as draft-2"
        )
