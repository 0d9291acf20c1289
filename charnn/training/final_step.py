"""The step between the last training step and the last save of a run; by default there is none."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.evaluation import Batches, Predictor
    from charnn.text.token_file import TokenFile


class FinalCosts(NamedTuple):
    """Time that a final step takes, in seconds: once, and per token scored with its result."""

    seconds: float = 0.0
    per_token: float = 0.0


class Completed(NamedTuple):
    """The result of a final step: facts for the "end" event; a note and warnings for people."""

    facts: dict[str, Any]
    note: str = ""
    warnings: tuple[str, ...] = ()


NO_COSTS, NOTHING_DONE = FinalCosts(), Completed({})


class FinalStep:
    """Completes the best model of a run when the run ends or is interrupted.

    This base class does nothing. The trainer calls only the methods below.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that are stored with the run, for `restore` and as a part of the recipe."""
        return {}

    @property
    def wanted(self) -> bool:
        """True if `apply` does anything."""
        return False

    def prepare(self, tokens: TokenFile) -> None:
        """Chooses the settings for a new run on `tokens`.

        Raises:
            TextError: the text does not allow the step.
        """

    def restore(self, settings: dict[str, Any], best: Path) -> None:
        """Takes over the settings of a resumed run and what its best model already holds.

        Raises:
            DamagedFile: the settings are out of range, or the best model is damaged.
        """

    def costs(self, train_tokens: int) -> FinalCosts:
        """Estimates the time that the step takes."""
        return NO_COSTS

    def describe(self) -> list[str]:
        """Returns lines for people about the step that will come."""
        return []

    def carry_over(self, model: Checkpoint) -> None:
        """Adds the result of an earlier budget to a model that is saved during training."""

    def apply(
        self,
        best: Checkpoint,
        tokens: TokenFile,
        read: Callable[[Predictor], Batches],
        device: str = "cpu",
    ) -> Generator[str, None, Completed]:
        """Completes `best` in place; `read` yields a predictor's logits on the validation part.

        Yields the name of each stage before it begins.
        """
        yield from ()
        return NOTHING_DONE
