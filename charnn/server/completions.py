"""The JSON of OpenAI's legacy completions API: reads requests and makes answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from charnn.config import MAX_SEED, ServerConfig
from charnn.config.sampling import BIAS
from charnn.config.settings import KEY, number, setting, switch, whole
from charnn.errors import UnknownCharacter
from charnn.generation import Model
from charnn.generation.sampler import draw_seed
from charnn.server.assembly import Piece, ScoredToken, by_text, token_name, valid
from charnn.server.worker import Order, Prompt, RequestError

MAX_FIELD = 2**31  # `ServerConfig.max_tokens` is the real limit
MAX_STOPS, STOP_CHARS = 4, 200


@dataclass(frozen=True)
class Fields:
    """The fields of a request with the API's names, defaults and ranges; they need no help text."""

    model: str | None = setting(None, "")
    prompt: Any = ""
    best_of: int | None = whole(None, 1, 20, "")
    echo: bool = switch("")
    frequency_penalty: float = number(0.0, -2, 2, "")
    logit_bias: Any = None
    logprobs: int | None = whole(None, 0, 5, "")
    max_tokens: int = whole(16, 0, MAX_FIELD, "")
    n: int = whole(1, 1, 128, "")
    presence_penalty: float = number(0.0, -2, 2, "")
    seed: int | None = whole(None, 0, MAX_SEED, "")
    stop: Any = None
    stream: bool = switch("")
    stream_options: Any = None
    suffix: str | None = setting(None, "")
    temperature: float = number(1.0, 0, 2, "")
    top_p: float = number(1.0, 0, 1, "")
    user: str | None = setting(None, "")

    @classmethod
    def read(cls, body: Any) -> Fields:
        """Reads the JSON of a request; a field that is null has its default.

        Raises:
            RequestError: a field is unknown, out of range, or contradicts another.
        """
        if not isinstance(body, dict):
            raise RequestError("the body must be a JSON object")
        known = {each.name: each.metadata.get(KEY) for each in fields(cls)}
        given = {name: value for name, value in body.items() if value is not None}
        for name, value in given.items():
            if name not in known:
                raise RequestError(
                    f"Unrecognized request argument supplied: {name[:80]}", param=name[:80]
                )
            rule = known[name]
            if rule and (problem := rule.problem(value)):
                raise RequestError(f"{name} {problem[:200]}", param=name)
        read = cls(**given)
        read._refuse_contradictions()
        return read

    def _refuse_contradictions(self) -> None:
        if self.suffix:
            raise RequestError("this model only continues text: leave suffix out", param="suffix")
        if self.best_of is not None and self.best_of < self.n:
            raise RequestError(
                f"best_of {self.best_of} is below n {self.n}: the server would return more texts "
                "than it writes",
                param="best_of",
            )
        if self.stream and self.candidates > self.n:
            raise RequestError("texts cannot be streamed if best_of is above n", param="best_of")
        if not self.max_tokens and not self.echo:
            raise RequestError("max_tokens must be at least 1 without echo", param="max_tokens")
        options = self.stream_options
        if options is not None:
            if not self.stream:
                raise RequestError("stream_options needs stream: true", param="stream_options")
            good = isinstance(options, dict) and set(options) <= {"include_usage"}
            if not good or not all(isinstance(value, bool) for value in options.values()):
                raise RequestError(
                    'stream_options must be {"include_usage": true or false}',
                    param="stream_options",
                )

    @property
    def candidates(self) -> int:
        """The number of texts written after each prompt; the `n` best are returned."""
        return self.n if self.best_of is None else self.best_of

    @property
    def include_usage(self) -> bool:
        """Tells whether a stream ends with the counts of tokens."""
        return bool((self.stream_options or {}).get("include_usage"))


class Service:
    """A model with a name: turns requests into orders, and pieces into answers."""

    def __init__(
        self, model: Model, name: str, limits: ServerConfig, unknown: str = "error"
    ) -> None:
        """`unknown` is what happens to unknown characters of prompts: see `Tokenizer.encode`."""
        self.model, self.name, self._limits, self._unknown = model, name, limits, unknown
        self._names = [token_name(data) for data in model.tokenizer.token_bytes]

    @property
    def start_text(self) -> str:
        """The text of the start token."""
        return self._names[self.model.start_token]

    def check_name(self, name: str | None) -> None:
        """Raises RequestError if a request names another model."""
        if name is not None and name != self.name:
            raise RequestError(
                f"The model {name[:80]!r} does not exist: this server has {self.name!r}",
                404,
                "model",
                "model_not_found",
            )

    def order(self, read: Fields) -> Order:
        """Returns what to write for a request.

        Raises:
            RequestError: the request names another model, or exceeds a limit; a prompt, a stop
                string or a bias is impossible.
        """
        self.check_name(read.model)
        prompts = [
            Prompt(
                self.model.tokenizer.decode(ids),
                ids,
                draw_seed() if read.seed is None else read.seed,
            )
            for ids in self._prompts(read)
        ]
        self._check_size(read, len(prompts), sum(max(1, len(prompt.ids)) for prompt in prompts))
        filters = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
        return Order(
            prompts,
            read.candidates,
            read.max_tokens,
            {name: getattr(read, name) for name in filters},
            self._biases(read.logit_bias),
            _stops(read.stop),
            read.echo,
            read.logprobs,
        )

    def _check_size(self, read: Fields, prompts: int, tokens: int) -> None:
        """Raises RequestError if a request with so many prompts, and tokens in them, is too large.

        An echoed prompt counts once for each text.
        """
        read_tokens = tokens * (read.candidates if read.echo else 1)
        new_tokens = prompts * read.candidates * read.max_tokens
        if read_tokens + new_tokens > self._limits.max_tokens:
            raise RequestError(
                f"a request may take {self._limits.max_tokens:,} tokens, and this one asks for "
                f"{read_tokens + new_tokens:,}: {read_tokens:,} in prompts, {new_tokens:,} to "
                "write; shorten it, or start the server with a higher --max-tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )

    def _prompts(self, read: Fields) -> list[list[int]]:
        """Returns the ids of each prompt: a string, a list of ids, or a list of either."""
        value = read.prompt
        several = value if isinstance(value, list) and not _are_ids(value) else [value]
        if not several:
            raise RequestError("prompt must not be an empty list", param="prompt")
        self._check_size(read, len(several), len(several))  # encoding many takes long
        return [self.encode(each) for each in several]

    def encode(self, prompt: Any) -> list[int]:
        """Returns the ids of one prompt, which is a string or a list of ids.

        Raises:
            RequestError: it is neither, or contains an unknown character or id.
        """
        if isinstance(prompt, str):
            _check_whole(prompt, "prompt")
            tokenizer = self.model.tokenizer
            try:
                ids: list[int] = tokenizer.encode(tokenizer.spelled(prompt), self._unknown).tolist()
            except UnknownCharacter as error:
                raise RequestError(f"prompt: {error}", param="prompt") from None
            return ids
        if not _are_ids(prompt):
            raise RequestError(
                "prompt must be a string, a list of token ids, or a list of either", param="prompt"
            )
        for token in prompt:
            self._check_id(token, "prompt")
        return list(prompt)

    def decode(self, ids: Any) -> str:
        """Returns the text of ids; raises RequestError for anything else."""
        if ids != [] and not _are_ids(ids):
            raise RequestError("tokens must be a list of token ids", param="tokens")
        for token in ids:
            self._check_id(token, "tokens")
        return valid(self.model.tokenizer.decode(ids))

    def _check_id(self, token: int, param: str) -> None:
        size = len(self._names)
        if not 0 <= token < size:
            raise RequestError(
                f"{param} has the token id {str(token)[:20]}: ids run from 0 to {size - 1}",
                param=param,
            )

    def _biases(self, value: Any) -> dict[int, float]:
        """Returns the biases by id of a JSON object with ids as names."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise RequestError(
                "logit_bias must be an object: token id to number", param="logit_bias"
            )
        biases: dict[int, float] = {}
        for name, bias in value.items():
            if not (name.isascii() and name.isdecimal() and len(name) < 10):
                raise RequestError(
                    f"logit_bias has the name {name[:20]!r}, which is no token id",
                    param="logit_bias",
                )
            self._check_id(int(name), "logit_bias")
            if problem := BIAS.problem(bias):
                raise RequestError(f"logit_bias of {name} {problem[:200]}", param="logit_bias")
            biases[int(name)] = bias
        return biases

    def _best(self, read: Fields, pieces: Iterable[Piece]) -> list[list[Piece]]:
        """Returns the pieces of each returned text: the `n` best after each prompt.

        The best have the highest log-probability per token.
        """
        texts, best = by_text(pieces), []
        for first in range(0, len(texts), read.candidates):
            some = [texts[first + index] for index in range(read.candidates)]
            if read.candidates > read.n:
                some.sort(key=_nats_per_token)
            best += some[: read.n]
        return best

    def answer(self, read: Fields, order: Order, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Returns the JSON of a whole answer."""
        best = enumerate(self._best(read, pieces))
        choices = [self._choice(read, index, parts) for index, parts in best]
        return {**self.head(), "choices": choices, "usage": usage(order, pieces)}

    def chunk(
        self, read: Fields, head: Mapping[str, Any], pieces: Sequence[Piece]
    ) -> dict[str, Any]:
        """Returns the JSON of an event: consecutive pieces of one text."""
        choice = self._choice(read, pieces[0].text, pieces)
        return {**head, "choices": [choice], **({"usage": None} if read.include_usage else {})}

    def head(self) -> dict[str, Any]:
        """Returns the fields that an answer begins with."""
        digest = self.model.digest
        return {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "system_fingerprint": f"fp_{digest[:12]}" if digest else None,
        }

    def _choice(self, read: Fields, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Returns the JSON of consecutive pieces of one text."""
        tokens = [token for piece in pieces for token in piece.tokens]
        ending = pieces[-1].ending
        return {
            "index": index,
            "text": "".join(piece.shown for piece in pieces),
            "logprobs": None if read.logprobs is None else self._logprobs(tokens),
            "finish_reason": ending and ending[0],
        }

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, list[Any]]:
        """Returns the log-probabilities of tokens as the API lists them."""
        return {
            "tokens": [self._names[token.id] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }

    def _top(self, token: ScoredToken) -> dict[str, float] | None:
        """Returns the likeliest tokens and the token itself, by name."""
        if token.logprob is None:
            return None
        named: dict[str, float] = {}  # of ids with the same name, the likeliest stays
        for each, logprob in (*token.top, (token.id, token.logprob)):
            named.setdefault(self._names[each], logprob)
        return named


def usage(order: Order, pieces: Iterable[Piece]) -> dict[str, int]:
    """Returns the counts of tokens, including those of texts that are not returned."""
    read = sum(len(prompt.ids) for prompt in order.prompts)
    written = sum(piece.ending[1] for piece in pieces if piece.ending)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def _nats_per_token(pieces: Sequence[Piece]) -> float:
    _, tokens, nats = pieces[-1].ending or ("", 0, 0.0)
    return nats / max(1, tokens)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _stops(value: Any) -> tuple[str, ...]:
    """Returns the stop strings: none, one, or up to `MAX_STOPS` in a list."""
    stops = [] if value is None else value if isinstance(value, list) else [value]
    good = all(isinstance(stop, str) and 0 < len(stop) <= STOP_CHARS for stop in stops)
    if not good or len(stops) > MAX_STOPS:
        raise RequestError(
            f"stop must be a string of 1 to {STOP_CHARS} characters, or up to {MAX_STOPS} of them",
            param="stop",
        )
    for stop in stops:
        _check_whole(stop, "stop")
    return tuple(stops)


def _check_whole(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{param} contains half a character (a lone surrogate)", param=param
        ) from None
