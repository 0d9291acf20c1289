"""`charnn demo`: a text at once, from a base that ships."""

from __future__ import annotations

from charnn.cli.console import Output, tell
from charnn.cli.model import seed_or_drawn
from charnn.cli.options import SeedOption

BASE, PROMPT, TEMPERATURE = "english", "It was ", 0.5
CHARS, TOKENS = 300, 600  # the text ends with the sentence that is written after CHARS


def demo(seed: SeedOption = None) -> None:
    """Write a text at once, with a network that ships with charnn.

    \b
    charnn demo
    charnn demo --seed 6
    """
    output = Output()
    from charnn.bases import BASES
    from charnn.generation import Model

    model = Model.load(BASES[BASE].path)
    left, seed = CHARS, seed_or_drawn(seed)
    for piece in model.stream(
        PROMPT, echo=True, max_tokens=TOKENS, temperature=TEMPERATURE, seed=seed
    ):
        output.write(piece)
        left -= len(piece)
        if left < 0 and piece.endswith("."):
            break
    output.end_line()
    output.flush()
    tell("")
    tell("Try a beginning of your own, or train on a text of yours:")
    tell(f'  charnn sample "She had " -m {BASE} -t {TEMPERATURE}')
    tell("  charnn train book.txt")
