"""The worker: a thread that holds the model and writes the texts of all requests, step by step.

In each step every active text gets its next token, from its prompt or by sampling, and the model
reads all of these tokens in one batch. An exact predictor gives each text the bits that it would
get alone, so no text depends on the others.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from charnn.config import RECENT
from charnn.errors import CharnnError
from charnn.generation import Model, Sampler
from charnn.generation.batch import BatchReader
from charnn.generation.guides import TokenBias
from charnn.predictor import Array
from charnn.server.assembly import Assembly, Piece, ScoredToken, valid
from charnn.server.prefixes import Prefixes

FAULT = "charnn has a fault; the terminal of the server shows more"
PREFIX_STEP = 256  # tokens of a prompt after which its state is kept
# What the worker sends to a client: pieces, an error, and whether this is the end.
Arrival = tuple[list[Piece], Exception | None, bool]


class RequestError(CharnnError):
    """A request that was refused or that failed.

    Attributes:
        status: the HTTP status.
        param: the name of the wrong field.
        code: a word by which programs recognise the error.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True)
class Prompt:
    """A prompt and the seed of the texts after it."""

    text: str
    ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Order:
    """The texts to write after each prompt of a request.

    Attributes:
        count: the number of texts per prompt; text i is sample i of the prompt's seed.
        max_tokens: the highest number of new tokens of a text.
        filters: settings of `charnn.generation.filters.FILTERS`.
        biases: numbers to add to logits, by token id.
        stop: strings before which a text ends.
        echo: whether a text begins with its prompt.
        logprobs: the number of likeliest tokens to name at each place; None: no log-probabilities.
    """

    prompts: Sequence[Prompt]
    count: int
    max_tokens: int
    filters: dict[str, float]
    biases: dict[int, float]
    stop: tuple[str, ...]
    echo: bool
    logprobs: int | None


class Job:
    """A request in the worker, and the pieces on their way to its client."""

    def __init__(self, order: Order, streamed: bool, seconds: float) -> None:
        """`streamed` pieces arrive step by step, others at the end; `seconds` is the time limit."""
        self.order, self.streamed = order, streamed
        self.unread = iter(range(len(order.prompts)))  # numbers of prompts
        self.texts: deque[Task] = deque()  # after prompts that were read; they wait
        self.left = len(order.prompts) * order.count  # texts that have not ended
        self.error: Exception | None = None
        self.cancelled = False  # set by the event loop, read by the worker
        self.made: list[Piece] = []
        self.arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        self._deadline, self._seconds = time.monotonic() + seconds, seconds

    @property
    def over(self) -> bool:
        """Tells whether there is nothing left to write."""
        return self.cancelled or self.error is not None or self.left == 0

    async def arrivals(self) -> AsyncIterator[list[Piece]]:
        """Yields the pieces as they arrive, several together to a slow client.

        Raises:
            RequestError: the request failed or took too long.
        """
        last = False
        while not last:
            left = self._deadline - time.monotonic()
            try:
                pieces, error, last = await asyncio.wait_for(self.arrived.get(), max(0.0, left))
            except asyncio.TimeoutError:
                raise RequestError(
                    f"the request took over {self._seconds:g} seconds, the limit of this server: "
                    "request fewer tokens",
                    503,
                    code="timeout",
                ) from None
            while not self.arrived.empty():
                more, error, last = self.arrived.get_nowait()
                pieces = pieces + more
            if pieces:
                yield pieces
            if error:
                raise error


@dataclass
class Task:
    """A prompt being read or a text being written.

    Each item of `steps` is True and leaves the sampler with an unread token.
    """

    job: Job
    sampler: Sampler
    steps: Iterator[bool]


class Worker:
    """The thread, its active texts and those that wait."""

    def __init__(
        self,
        model: Model,
        threads: int | None = None,
        report: Callable[[Exception], None] = lambda fault: None,
    ) -> None:
        """`threads` share each step; `report` is called with faults of the program."""
        self.model, self.prefixes = model, Prefixes()
        self._reader, self._report = BatchReader(model.predictor, threads), report
        self._predictor = model.predictor.twin(1)
        self._requests: SimpleQueue[Job | None] = SimpleQueue()
        self._active: list[Task] = []
        self._waiting: deque[Job] = deque()  # they take turns
        self._thread = threading.Thread(target=self._run, name="charnn-worker", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def alive(self) -> bool:
        """Tells whether the thread runs."""
        return self._thread.is_alive()

    @property
    def busy(self) -> int:
        """The number of active prompts and texts, and of waiting requests."""
        return len(self._active) + len(self._waiting) + self._requests.qsize()

    def start(self) -> None:
        """Starts the thread, which sends pieces to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a request; raises RequestError if the thread has ended."""
        if not self.alive:
            raise RequestError("the server cannot write any more: start it again", 503)
        self._requests.put(job)

    def close(self) -> None:
        """Ends all requests with an error, and the thread."""
        self._requests.put(None)

    def _run(self) -> None:
        try:
            with self._reader:
                while self._receive():
                    self._step()
        except Exception as fault:
            self._report(fault)
        jobs = {*(task.job for task in self._active), *self._waiting}
        while not self._requests.empty():
            jobs |= {job for job in [self._requests.get()] if job}
        for job in jobs:
            self._fail(job, RequestError("the server is shutting down", 503))
        self._hand_over(jobs)

    def _receive(self) -> bool:
        """Takes new requests, waiting for one if there is no other work; False: close."""
        while True:
            idle = not self._active and not self._waiting
            try:
                job = self._requests.get(block=idle)
            except Empty:
                return True
            if job is None:
                return False
            self._waiting.append(job)

    def _step(self) -> None:
        """Advances every active text by a token."""
        self._active = [task for task in self._active if not task.job.over]
        while self._waiting and len(self._active) < self._reader.size:
            job = self._waiting.popleft()
            if not job.over and (task := self._next(job)):
                self._active.append(task)
                self._waiting.append(job)
        jobs = {task.job for task in self._active}
        self._active = [task for task in self._active if self._advance(task)]
        self._hand_over(jobs)
        try:
            self._reader.read([task.sampler for task in self._active])
        except Exception as error:
            for job in jobs:
                self._fail(job, error)
            self._hand_over(jobs)

    def _advance(self, task: Task) -> bool:
        """Makes a step of a task; returns False if it was the last one."""
        try:
            return next(task.steps, False)
        except Exception as error:
            self._fail(task.job, error)
            return False

    def _fail(self, job: Job, error: Exception) -> None:
        """Ends a request with an error; a fault of the program is reported."""
        if not isinstance(error, CharnnError):
            self._report(error)
            error = RequestError(FAULT, 500)
        job.error = error if isinstance(error, RequestError) else RequestError(str(error), 500)

    def _hand_over(self, jobs: set[Job]) -> None:
        """Sends the pieces of all requests to the event loop in one call."""
        ready: list[tuple[Job, Arrival]] = []
        for job in jobs:
            if job.over or (job.streamed and job.made):
                ready.append((job, (job.made, job.error, job.over)))
                job.made = []
        if ready and self._loop:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_arrive, ready)

    def _next(self, job: Job) -> Task | None:
        """Returns the next task of a request: a text, or a prompt to read; None: all have begun."""
        if job.texts:
            return job.texts.popleft()
        number = next(job.unread, None)
        if number is None:
            return None
        sampler = Sampler(self._predictor, 0)
        return Task(job, sampler, self._read(job, number, sampler))

    def _read(self, job: Job, number: int, sampler: Sampler) -> Iterator[bool]:
        """Reads a prompt, token by token; then adds its texts to those that wait."""
        order, prompt = job.order, job.order.prompts[number]
        ids, scored = prompt.ids or self.model.start, list[ScoredToken]()
        scoring = order.echo and order.logprobs is not None and len(prompt.ids) > 0
        if order.max_tokens or scoring:
            known = None if scoring else self.prefixes.longest(ids)
            if known:
                _continue(sampler, ids[: known[0]], *known[1:])
            else:
                sampler.feed(ids[:1])
                scored += [ScoredToken(ids[0])] * scoring
            for position in range(known[0] if known else 1, len(ids)):
                if scoring:
                    scored.append(_scored(ids[position], sampler.log_probabilities(), order))
                elif position % PREFIX_STEP == 0:
                    self.prefixes.keep(ids[:position], *_after(sampler))
                sampler.unread = ids[position]
                yield True
        writers = [self._writer(order, prompt, index) for index in range(order.count)]
        if order.max_tokens:
            after = _after(sampler)
            self.prefixes.keep(ids, *after)
            for writer in writers:
                _continue(writer, ids, *after)
        first = number * order.count
        job.texts += [
            Task(job, writer, self._write(job, first + index, prompt, writer, scored))
            for index, writer in enumerate(writers)
        ]
        if job not in self._waiting:
            self._waiting.append(job)

    def _writer(self, order: Order, prompt: Prompt, index: int) -> Sampler:
        """Returns the sampler of a text, which has read nothing."""
        size = self._predictor.config.vocab_size
        guides = [TokenBias(order.biases, size)] if order.biases else []
        return Sampler(self._predictor, prompt.seed, index, order.filters, guides)

    def _write(
        self, job: Job, number: int, prompt: Prompt, sampler: Sampler, scored: list[ScoredToken]
    ) -> Iterator[bool]:
        """Writes a text, token by token."""
        order, tokenizer = job.order, self.model.tokenizer
        if order.echo:
            echo = Assembly(tokenizer)
            tokens = [token for each in scored for token in echo.push(each.id, each)[1]]
            job.made.append(Piece(number, valid(prompt.text), tokens + echo.flush()[1]))
        text = Assembly(tokenizer, order.stop, len(prompt.text))
        chosen = sampler.stream(order.max_tokens)
        for place in range(order.max_tokens):
            scores = None if order.logprobs is None else sampler.log_probabilities()
            token = next(chosen)
            shown, tokens = text.push(
                token, None if scores is None else _scored(token, scores, order)
            )
            if shown or tokens:
                job.made.append(Piece(number, shown, tokens))
            if text.stopped:
                break
            if place < order.max_tokens - 1:  # the last token is not read
                yield True
        shown, tokens = text.flush()
        reason = "stop" if text.stopped else "length"
        job.made.append(Piece(number, shown, tokens, (reason, sampler.tokens, sampler.nats)))
        job.left -= 1


def _arrive(ready: list[tuple[Job, Arrival]]) -> None:
    for job, arrival in ready:
        job.arrived.put_nowait(arrival)


def _after(sampler: Sampler) -> tuple[Array, Array]:
    """Returns copies of the logits and the state of a sampler."""
    values = sampler.state_dict()
    return values["logits"], values["state"]


def _continue(sampler: Sampler, ids: Sequence[int], logits: Array, state: Array) -> None:
    """Gives a new sampler the logits and state after `ids`, which another sampler has read."""
    read = {"recent": ids[-RECENT:], "logits": logits, "state": state}
    sampler.load_state_dict({**sampler.state_dict(), **read})


def _scored(token: int, scores: NDArray[np.float64], order: Order) -> ScoredToken:
    """Returns a token with its log-probability and the likeliest tokens."""
    count = min(order.logprobs or 0, scores.size)
    best = np.argpartition(-scores, count - 1)[:count] if count else np.zeros(0, np.int64)
    best = best[np.lexsort((best, -scores[best]))]  # the likeliest first, equal ones by id
    top = tuple(zip(best.tolist(), scores[best].tolist(), strict=True))
    return ScoredToken(token, float(scores[token]), top)
