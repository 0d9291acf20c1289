"""What a training shows on its way: a text, or lines, by the model as it stands."""

from __future__ import annotations

from charnn.config import LineConfig, TrainConfig
from charnn.generation.model import Model

SAMPLE_TOKENS, SAMPLE_LINES = 200, 10


def written(model: Model, config: TrainConfig) -> str:
    """The same length and seed every time.

    Raises:
        CharnnError: the network has overflowed.
    """
    if not config.lines:
        return model.generate(max_tokens=SAMPLE_TOKENS, seed=config.seed)
    some = model.lines(LineConfig(SAMPLE_LINES), seed=config.seed)
    return "\n".join(line.text for line in some)
