"""A model class of lm-evaluation-harness, under the name ``charnn``.

    python -m charnn.adapters.lm_eval_model run --model charnn --model_args model=book --tasks TASK

Releases of lm_eval that read entry points find it themselves: ``lm_eval run --model charnn``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

import charnn
from charnn.config import SamplingConfig
from charnn.generation.batch import write_together
from charnn.scoring.surprisal import Array, TokenScorer

AT_ONCE = 1000  # requests that are scored together, in memory
DEFAULTS = {"temperature": 0.0, "max_gen_toks": 256}  # of tasks that set neither


@register_model("charnn")
class CharnnLM(LM):
    """A charnn model in lm_eval.

    Likelihoods are those of `charnn.score`, which reads the start token before the text; answers
    are those of `charnn sample`, which begins with the prompt.

    The arguments are those of `charnn.load`. Characters that the model does not know are an error;
    ``unknown=skip`` leaves them out, which makes their text likelier.
    """

    def __init__(
        self,
        model: str | None = None,
        unknown: str = "error",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **options: Any,
    ) -> None:
        """Loads a model; lm_eval passes batch sizes and a device, which have no effect.

        Raises:
            CharnnError: there is no such model.
        """
        super().__init__()
        self.model, self.unknown = charnn.load(model, **options), unknown

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm_eval caches requests."""
        return f"charnn-{self.model.digest}"

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Returns log p of each (context, continuation), and whether every token is the likeliest.

        Raises:
            UnknownCharacter: a text has an unknown character, and ``unknown`` is "error".
        """
        pairs = [request.args for request in requests]
        return self._score([(context, context + continued) for context, continued in pairs])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns log p of each text; raises as `loglikelihood` does."""
        return [nats for nats, _ in self._score([("", request.args[0]) for request in requests])]

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Scores the rest of each second text after the first text, which it begins with."""
        found: list[tuple[float, bool]] = []
        scorer = TokenScorer(self.model.predictor, self.model.start_token, details=True)
        for start in range(0, len(pairs), AT_ONCE):
            some = pairs[start : start + AT_ONCE]
            ids = [self._encode(whole) for _, whole in some]
            skipped = [len(self._encode(context)) if context else 0 for context, _ in some]
            lengths = np.array([len(each) for each in ids])
            scored = scorer.lines(np.concatenate(ids), lengths)
            assert scored.rank is not None, "details are on"
            for before, end, size in zip(skipped, np.cumsum(lengths), lengths, strict=True):
                part = slice(int(end - size) + before, int(end))
                nats = float(scored.bits[part].sum() * np.log(2))
                found.append((-nats, bool((scored.rank[part] == 1).all())))
        return found

    def _encode(self, text: str) -> Array:
        return self.model.tokenizer.encode(text, self.unknown)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns what follows each context, up to the first of the strings in ``until``.

        Raises:
            CharnnError: a context has unknown characters, or charnn lacks a setting of the task.
        """
        writings = []
        for request in requests:
            context, settings = request.args
            given = {**DEFAULTS, **settings}
            if not given.pop("do_sample", True):
                given["temperature"] = 0.0
            until = given.pop("until", None) or ()
            stop = [until] if isinstance(until, str) else until
            config = SamplingConfig.from_dict(
                {
                    "max_tokens": given.pop("max_gen_toks"),
                    "stop": [each for each in stop if each],
                    **given,
                }
            )
            writings.append(self.model.write(context, config, 0, unknown=self.unknown, echo=False))
        for _ in write_together(writings, self.model.predictor):
            pass
        return [writing.text for writing in writings]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
