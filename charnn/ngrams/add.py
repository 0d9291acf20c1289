"""The final step of a run that mixes n-grams of the training text into the best model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charnn.config.training import DEFAULT_NGRAM
from charnn.errors import ConfigError, DamagedFile, TextError
from charnn.ngrams.section import MAX_NGRAM, NGramSection
from charnn.ngrams.tree import MAX_TOKENS, NGramTree
from charnn.training.final_step import NO_COSTS, NOTHING_DONE, Completed, FinalCosts, FinalStep

if TYPE_CHECKING:
    from charnn.checkpoint import Checkpoint
    from charnn.evaluation import Batches, Predictor
    from charnn.text.token_file import TokenFile

# Longer n-grams are kept if they occur twice. The others would take half of the file and hardly
# change the loss (NOTES.md), and text that occurs once would be in the file in long pieces.
ONCE, ONCE_PIECES = 5, 2
MIN_VALID = 100  # validation tokens that n-grams by default need
# Measured seconds: per token and length for counting, per target for reading probabilities.
COUNTED_TOKEN, COUNTED_TARGET = 1.5e-7, 1.5e-5


class NGramStep(FinalStep):
    """Counts n-grams of the training text and mixes them into the best model if that helps."""

    def __init__(self, order: int | None = None) -> None:
        """Takes the longest n-gram: 0 for none, None for the default.

        Raises:
            ConfigError: the order is out of range.
        """
        known = {None, 0, *range(2, MAX_NGRAM + 1)}
        if isinstance(order, bool | float) or order not in known:
            raise ConfigError(f"--ngram must be 0 or 2 to {MAX_NGRAM}, got {order!r}")
        self.order = order
        self._earlier: NGramSection | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The order; 0 for no n-grams."""
        return {"ngram": self.order or 0}

    @property
    def wanted(self) -> bool:
        """True for an order above 0."""
        return bool(self.order)

    def prepare(self, tokens: TokenFile) -> None:
        """Chooses the default order if none was given.

        Raises:
            TextError: there is no validation split to fit the mixture weights on.
        """
        valid = len(tokens.valid)
        if self.order is None:
            self.order = DEFAULT_NGRAM if valid >= MIN_VALID else 0
        elif self.order and valid < 2:
            raise TextError(
                f"--ngram {self.order} needs a validation split of at least 2 tokens to fit the "
                f"mixture weights on, this text has {valid}: use --split or --valid, or --ngram 0"
            )

    def restore(self, settings: dict[str, Any], best: Path) -> None:
        """Takes over the order of a run, and the n-grams of its best model."""
        from charnn.checkpoint import load

        try:
            self.order = NGramStep(settings["ngram"]).order
        except (KeyError, ConfigError) as error:
            raise DamagedFile(f"the final step of the run is damaged: {error}") from None
        if self.order and best.exists():
            self._earlier = load(best).ngrams

    def costs(self, train_tokens: int) -> FinalCosts:
        """Estimates the time for counting, and for mixing per token."""
        if not self.order:
            return NO_COSTS
        counted = self.order * min(train_tokens, MAX_TOKENS)
        return FinalCosts(COUNTED_TOKEN * counted, COUNTED_TARGET)

    def describe(self) -> list[str]:
        """See `FinalStep.describe`."""
        if not self.order:
            return []
        return [f"then: n-grams of up to {self.order} are mixed in if they lower the loss"]

    def carry_over(self, model: Checkpoint) -> None:
        """Keeps the n-grams of the previous budget until `apply` refits their weights."""
        model.ngrams = self._earlier

    def apply(
        self,
        best: Checkpoint,
        tokens: TokenFile,
        read: Callable[[Predictor], Batches],
        device: str = "cpu",
    ) -> Generator[str, None, Completed]:
        """Mixes n-grams into `best`, with weights fitted on half of the targets of `read`."""
        from charnn.evaluation import network_of
        from charnn.ngrams.fit import WORTH, fit_and_check

        if not self.order:
            return NOTHING_DONE
        once = ONCE_PIECES if tokens.tokenizer.chars_per_id > 1 else ONCE
        yield "counting n-grams"
        tree = NGramTree.of(tokens.split("train"), best.config.vocab_size, self.order, once)
        yield "fitting the mixture weights"
        weights, losses = fit_and_check(network_of(best, device), tree, read)
        gain = losses.network - losses.mixed
        if not gain >= WORTH:  # also for NaN, if the network has overflowed
            best.ngrams = None
            return Completed({}, "n-grams: left out, since they hardly lower the held-out loss")
        best.ngrams = tree.section(weights, losses)
        return Completed(
            {"ngrams": {**best.ngrams.facts(), "gain": gain}},
            f"mixed in: {best.mixture}",
            tuple(best.ngrams.cautions()),
        )
