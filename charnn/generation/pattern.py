"""Text that matches a whole regular expression, by an automaton that rules out tokens.

outlines-core, an optional package, makes the automaton over bytes (Willard & Louf 2023, Efficient
Guided Generation for Large Language Models). This module computes, once per pattern, the
state that each token leads to, and the number of tokens from each state to a match.

Shapes: S states, plus a last one without transitions; V tokens.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from charnn.errors import ConfigError, needed
from charnn.generation.guides import Guide, Logits
from charnn.text.tokenizers import Tokenizer

MAX_MOVES = 1 << 26  # states x tokens; four bytes each
MAX_PATTERN = 1000  # characters
# The time of outlines-core grows with the square of the number of states, and it cannot be
# interrupted: so the copies that counted repetitions make are bounded before it starts.
MAX_REPETITIONS = 2000
COUNTED = re.compile(r"(\))?\{(\d+)(?:,(\d*))?\}")
NEVER = np.iinfo(np.int32).max // 2


class Pattern:
    """The automaton of a pattern over the tokens of a vocabulary.

    Attributes:
        start: the state at the start of a text.
        accepting: (S + 1,) whether a text may end in a state.
        moves: (S + 1, V) the state that each token leads to.
        distance: (S + 1,) the fewest tokens from a state to a match, `NEVER` without one.
    """

    def __init__(self, pattern: str, tokenizer: Tokenizer) -> None:
        """Raises MissingPackage without outlines-core, ConfigError for an invalid pattern."""
        self.start, self.accepting, steps = _automaton(pattern)
        states = len(steps)
        if states * tokenizer.vocab_size > MAX_MOVES:
            raise ConfigError(
                f"the pattern {pattern[:60]!r} is too large: {states:,} states for "
                f"{tokenizer.vocab_size:,} tokens; repeat less in it"
            )
        self.moves = _moves(steps, tokenizer.token_bytes)
        self.distance = _distances(self.moves, self.accepting)
        if self.distance[self.start] >= NEVER:
            raise ConfigError(
                f"this model cannot match {pattern!r}: its vocabulary lacks the characters; use "
                "another pattern or model"
            )


def _automaton(pattern: str) -> tuple[int, NDArray[np.bool_], NDArray[np.int32]]:
    """Returns the start, the accepting states (S + 1,) and the moves by bytes (S + 1, 256)."""
    with needed("--regex"):
        from outlines_core import Index, Vocabulary
    if len(pattern) > MAX_PATTERN:
        raise ConfigError(
            f"the pattern has {len(pattern):,} characters, at most {MAX_PATTERN:,} are allowed: "
            "shorten it"
        )
    if _repetitions(pattern) > MAX_REPETITIONS:
        raise ConfigError(
            f"the counted repetitions of the pattern {pattern[:60]!r} may give more than "
            f"{MAX_REPETITIONS:,} copies: use smaller numbers in braces, or * and +"
        )
    # The library matches whole texts and has no anchors.
    whole = pattern.removeprefix("^")
    if whole.endswith("$") and (len(whole) - len(whole[:-1].rstrip("\\"))) % 2:
        whole = whole[:-1]
    end = 256
    try:
        index = Index(whole, Vocabulary(end, {bytes([byte]): [byte] for byte in range(256)}))
    except ValueError:
        raise ConfigError(
            f"the pattern {pattern[:60]!r} cannot be used: write a regular expression in Rust's "
            "syntax, without anchors inside, look-around and back references"
        ) from None
    table: dict[int, dict[int, int]] = index.get_transitions()
    finals, start = index.get_final_states(), index.get_initial_state()
    numbers = {state: number for number, state in enumerate(sorted({*table, *finals, start}))}
    dead = len(numbers)
    steps = np.full((dead + 1, 256), dead, np.int32)
    for state, row in table.items():
        for byte, after in row.items():
            if byte != end:
                steps[numbers[state], byte] = numbers[after]
    accepting = np.zeros(dead + 1, bool)
    accepting[[numbers[state] for state in finals]] = True
    return numbers[start], accepting, steps


def _repetitions(pattern: str) -> int:
    """Returns a bound on the repetitions of a pattern, with those of its groups written out."""
    single, groups = 0, 1
    for group, least, most in COUNTED.findall(pattern):
        count = max(1, int(least), int(most or 0))
        if group:
            groups *= count
        else:
            single += count
    return max(1, single) * groups


def _moves(steps: NDArray[np.int32], tokens: list[bytes]) -> NDArray[np.int32]:
    states, longest = len(steps), max(map(len, tokens))
    padded = np.zeros((len(tokens), longest), np.uint8)
    for token, data in enumerate(tokens):
        padded[token, : len(data)] = list(data)
    sizes = np.array([len(data) for data in tokens])
    moves = np.repeat(np.arange(states, dtype=np.int32)[:, None], len(tokens), 1)
    for place in range(longest):
        longer = np.flatnonzero(sizes > place)
        moves[:, longer] = steps[moves[:, longer], padded[longer, place]]
    moves[:, sizes == 0] = states - 1  # a token without bytes could repeat for ever
    return moves


def _distances(moves: NDArray[np.int32], accepting: NDArray[np.bool_]) -> NDArray[np.int32]:
    after = [np.unique(row) for row in moves]
    targets = np.concatenate(after)
    sources = np.repeat(np.arange(len(moves)), [len(row) for row in after])
    distance = np.where(accepting, 0, NEVER).astype(np.int32)
    while True:
        nearer = distance.copy()
        np.minimum.at(nearer, sources, distance[targets] + 1)
        if (nearer == distance).all():
            return distance
        distance = nearer


class PatternGuide(Guide):
    """Guides a text to a match of a pattern within `max_tokens` tokens.

    While the text matches only in part, tokens that lead to no match in time are ruled out. Once it
    matches, no token is: one that cannot continue the pattern ends the text and is not part of it.
    ``state`` is the pattern's state and the number of tokens left.
    """

    state: tuple[int, int]

    def __init__(self, pattern: Pattern, max_tokens: int) -> None:
        """Raises ConfigError if every match needs more than `max_tokens`."""
        needed = int(pattern.distance[pattern.start])
        if needed > max_tokens:
            raise ConfigError(
                f"the shortest match of the pattern has {needed:,} tokens, --max-tokens allows "
                f"{max_tokens:,}: raise it"
            )
        self._pattern = pattern
        self.state = (pattern.start, max_tokens)

    def _allowed(self) -> NDArray[np.bool_]:
        state, left = self.state
        pattern = self._pattern
        allowed: NDArray[np.bool_] = pattern.distance[pattern.moves[state]] < left
        return allowed

    @property
    def over(self) -> bool:  # type: ignore[override]  # follows from the state
        return self.cut or bool(
            self._pattern.accepting[self.state[0]] and not self._allowed().any()
        )

    @property
    def cut(self) -> bool:  # type: ignore[override]  # follows from the state
        return self.state[1] < 0

    def mask(self, logits: Logits) -> Logits:
        if self._pattern.accepting[self.state[0]]:
            return logits
        return np.where(self._allowed(), logits, -np.inf)

    def push(self, token: int) -> None:
        state, left = self.state
        if self._allowed()[token]:
            self.state = (int(self._pattern.moves[state, token]), left - 1)
        else:
            self.state = (state, -1)
