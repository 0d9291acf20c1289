"""The choice between a base and a network from scratch, by the loss to expect of each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charnn.bases import BASES
from charnn.config import DEFAULT_MINUTES, TrainConfig, TrainOptions
from charnn.errors import FileError
from charnn.model import LanguageModel
from charnn.ngrams.add import NGramStep
from charnn.ngrams.expected_loss import ExpectedLoss, expect, mixed_loss
from charnn.training.fine_tune import SAMPLE_TOKENS, Base, loss_before
from charnn.training.plan import USUAL_WORK, Plan, choose_shape

if TYPE_CHECKING:
    from charnn.text.token_file import TokenFile
    from charnn.training.trainer import Trainer

# Options that ask for a network other than the base.
OTHER_NETWORK = ("cell", "num_layers", "hidden_size", "embedding_size", "tokenizer", "vocab_size")
# Fitted to measured runs (NOTES.md): of what the loss of the base on the text is above FLOOR,
# the share LEFT remains, once fine-tuning has read a few times FAST million tokens.
FLOOR, LEFT, FAST = 1.0, 0.25, 0.15
# For a text of up to SMALL_TEXT tokens, of which the base knows a share of KNOWN_CHARACTERS, the
# base is expected to end below scratch by the share GAIN at least. It ended 0 to 9 % below on
# fifteen such texts in other languages and of other kinds.
SMALL_TEXT, KNOWN_CHARACTERS, GAIN = 150_000, 0.8, 0.02


class Choice(NamedTuple):
    """A base or none, and the losses to expect in nats per token; None if there is no estimate.

    Attributes:
        base: the model to start from; None: from scratch.
        before: the loss of the base on the text, before training.
        note: a line for people.
    """

    base: Base | None = None
    before: float | None = None
    fine_tuned: float | None = None
    scratch: float | None = None
    note: str = ""


class BaseChooser:
    """Chooses between the bases that ship and a network from scratch for a text.

    Attributes:
        final_step: the step that will mix n-grams in, which lowers the loss to expect.
        choice: the latest choice.
    """

    def __init__(self, final_step: NGramStep) -> None:
        self.final_step = final_step
        self.choice = Choice()

    @classmethod
    def of(cls, options: TrainOptions) -> BaseChooser:
        """Returns a chooser with the final step that the options ask for."""
        return cls(NGramStep(options.ngram))

    def __call__(self, tokens: TokenFile, options: TrainOptions) -> tuple[Base | None, str]:
        """Scores each base on a part of the text, and compares the losses to expect."""
        self.choice = self._choose(tokens, options)
        return self.choice.base, self.choice.note

    def expect(self, trainer: Trainer, plan: Plan) -> ExpectedLoss:
        """Estimates the loss of a planned run, and advises."""
        order = self.final_step.order or 0
        expected = expect(trainer.token_file, plan.model, plan.epochs, order)
        # The estimate is for running text and a network from scratch.
        if trainer.config.lines:
            return replace(expected, cold_256=None)
        if trainer.origin is not None:
            loss = self.choice.fine_tuned
            if loss is None and "name" in trainer.origin:  # a base that was not chosen but named
                before = loss_before(trainer.network, trainer.token_file).nats_per_token
                read = plan.config.max_steps * plan.step_tokens
                loss = self._mixed(expected_fine_tuned(before, read), expected)
            return replace(expected, cold_256=None if expected.ngrams is None else loss)
        return expected

    def _mixed(self, loss: float, expected: ExpectedLoss) -> float:
        """Returns the loss to expect of a network with this loss after the final step."""
        mixed = self.final_step.order and expected.ngrams
        return mixed_loss(loss, mixed) if mixed else loss

    def _choose(self, tokens: TokenFile, options: TrainOptions) -> Choice:
        asked = [f"--{name.replace('_', '-')}" for name in options.given(OTHER_NETWORK)]
        if options.lines:
            asked.append("--lines")
        if asked:
            return Choice(note=f"starts from scratch, as {', '.join(asked)} asks")
        if not tokens.tokenizer.known:
            kind = tokens.tokenizer.kind
            return Choice(note=f"starts from scratch: no base has the {kind} tokenizer")
        if len(tokens.split("train")) < 2:
            return Choice()  # the plan refuses such a text
        try:
            found = [self._try(name, tokens, options) for name in BASES]
        except FileError as error:  # a run needs no base
            return Choice(note=f"starts from scratch: {error}; install charnn again to have it")
        return min(found, key=lambda choice: choice.fine_tuned or math.inf, default=Choice())

    def _try(self, name: str, tokens: TokenFile, options: TrainOptions) -> Choice:
        base = Base(BASES[name].path, name)
        train = len(tokens.split("train"))
        model = replace(base.config, vocab_size=tokens.tokenizer.vocab_size)
        network = LanguageModel(model)
        base.initialise(network, tokens.tokenizer)
        before = loss_before(network, tokens).nats_per_token
        read = _tokens_read(options, train, model.parameters)
        fine_tuned = expected_fine_tuned(before, read)
        fresh = choose_shape(options, model.vocab_size, read * model.parameters)
        epochs = _tokens_read(options, train, fresh.parameters) / train
        expected = expect(tokens, fresh, epochs, self.final_step.order or 0)
        # Without an estimate, a base is better if it beats a uniform distribution.
        scratch = math.log(model.vocab_size) if expected.cold_256 is None else expected.cold_256
        fine_tuned = self._mixed(fine_tuned, expected)
        sample = np.asarray(tokens.split("train")[:SAMPLE_TOKENS])
        known = base.knows(tokens.tokenizer)[sample].mean()
        if train <= SMALL_TEXT and known >= KNOWN_CHARACTERS:
            fine_tuned = min(fine_tuned, (1 - GAIN) * scratch)
        better = fine_tuned < scratch
        start, other = (f"the base {name!r}", "scratch") if better else ("scratch", name)
        note = (
            f"starts from {start}: expected loss {fine_tuned:.2f} nats/token from {name!r}, "
            f"{scratch:.2f} from scratch; the other way: --from {other}"
        )
        return Choice(base if better else None, before, fine_tuned, scratch, note)


def expected_fine_tuned(before: float, read: float) -> float:
    """Estimates the loss after fine-tuning on `read` tokens, from the loss `before` it."""
    left = LEFT + (1 - LEFT) * math.exp(-read / 1e6 / FAST)
    return before - (1 - left) * max(0.0, before - FLOOR)


def _tokens_read(options: TrainOptions, train: int, parameters: int) -> float:
    """Estimates the tokens that a network of this size reads within the budget."""
    if options.max_steps is not None:
        return float(options.max_steps * TrainConfig.batch_size * TrainConfig.bptt)
    if options.epochs is not None:
        return options.epochs * train
    return 60 * (options.minutes or DEFAULT_MINUTES) * USUAL_WORK / parameters
