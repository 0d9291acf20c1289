"""The HTTP application: routes, the checks before them, and errors as the API writes them."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charnn.config import MAX_SEED, ServerConfig
from charnn.pages import read, render, source_hash, style_sheet
from charnn.server.assembly import Piece, by_text, valid
from charnn.server.completions import Fields, Service, usage
from charnn.server.worker import FAULT, Job, Order, RequestError, Worker
from charnn.tensor_file import parse_json

MAX_BODY = 4 << 20  # bytes
LAST_EVENTS_SECONDS = 10.0  # for sending the last events of a stream after its time limit
BODY_SECONDS = 30.0  # for receiving the body of a request
OPEN_PATHS = {"/", "/health"}  # no key is needed for these
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


class Guard:
    """Checks the host and the key of each request, and turns errors into answers."""

    def __init__(
        self, app: ASGIApp, hosts: set[str] | None, key: str, report: Callable[[Exception], None]
    ) -> None:
        """`hosts` are the allowed names of this server (None: any), `key` is "" without one."""
        self._app, self._hosts, self._report = app, hosts, report
        self._key = f"Bearer {key}".encode() if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        scope["app"] = self  # starlette then raises HTTPException for unknown paths and methods
        response: Response | None = None
        try:
            self._check(scope)
            await self._app(scope, receive, watched)
        except RequestError as error:
            response = error_response(error)
        except HTTPException as error:
            message = f"{error.detail}: {scope['method']} {scope['path'][:200]}"
            code = None
            if error.status_code == 404:
                message += "; POST /v1/completions continues a prompt"
                code = "unknown_url"
            response = error_response(RequestError(message, error.status_code, code=code))
        except ClientDisconnect:
            pass
        except Exception as fault:
            self._report(fault)
            response = error_response(RequestError(FAULT, 500))
        if response and not started:
            await response(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Refuses a foreign host name, which DNS rebinding sends, and a wrong key.

        Raises:
            RequestError: the request is refused.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and _without_port(host) not in self._hosts:
            raise RequestError(
                f"the Host header names {host[:80]!r}, not this server: use the server's address",
                403,
            )
        if self._key and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._key):
                raise RequestError(
                    "Incorrect API key provided: send the server's key as "
                    "'Authorization: Bearer KEY'",
                    401,
                    code="invalid_api_key",
                )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def error_response(error: RequestError) -> JSONResponse:
    """Returns the response for an error."""
    headers = {
        401: {"www-authenticate": "Bearer"},
        429: {"retry-after": "1"},
        503: {"x-should-retry": "false"},  # else the openai package repeats what took too long
    }
    return JSONResponse(error_json(error), error.status, headers.get(error.status))


def error_json(error: RequestError) -> dict[str, Any]:
    """Returns an error in the JSON of the API."""
    kinds = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    kind = kinds.get(error.status, "invalid_request_error")
    param = error.param and valid(error.param)  # an unknown field's name is that of the client
    facts = {"message": valid(str(error)), "type": kind, "param": param, "code": error.code}
    return {"error": facts}


async def read_json(request: Request) -> Any:
    """Returns the JSON of a request's body.

    Raises:
        RequestError: the body is too large or slow, or not JSON.
    """
    # Browsers let pages of other sites send other types without a CORS preflight.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("send JSON, with the header 'Content-Type: application/json'", 415)
    body = bytearray()

    async def receive() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > MAX_BODY:
                raise RequestError(f"the body is larger than {MAX_BODY:,} bytes", 413)

    try:
        await asyncio.wait_for(receive(), BODY_SECONDS)
        return parse_json(body.decode())
    except asyncio.TimeoutError:
        raise RequestError(f"the body took over {BODY_SECONDS:g} seconds to arrive", 408) from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {str(error)[:200]}") from None


class EventStream(StreamingResponse):
    """Server-sent events; their request ends when the client disconnects or stops reading."""

    def __init__(
        self, events: AsyncIterator[bytes], end: Callable[[], None], seconds: float
    ) -> None:
        """`end` ends the request; `seconds` is its time limit, without the last events."""
        super().__init__(
            events, headers={"cache-control": "no-store"}, media_type="text/event-stream"
        )
        self._end, self._seconds = end, seconds + LAST_EVENTS_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await asyncio.wait_for(super().__call__(scope, receive, send), self._seconds)
        except asyncio.TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._end()


class Endpoints:
    """The routes of one model."""

    def __init__(self, service: Service, worker: Worker, limits: ServerConfig) -> None:
        self._service, self._worker, self._limits = service, worker, limits
        self._running: set[Job] = set()
        name = service.name
        began = int(time.time())
        self._facts = {"id": name, "object": "model", "created": began, "owned_by": "charnn"}
        self._page, self._policy = make_page()

    def routes(self) -> list[Route]:
        """Returns the routes."""
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def page(self, _: Request) -> Response:
        """Returns the page to try the model."""
        headers = {
            "content-security-policy": self._policy,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return HTMLResponse(self._page, headers=headers)

    async def health(self, _: Request) -> Response:
        """Tells whether the server can write."""
        alive = self._worker.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def models(self, _: Request) -> Response:
        """Lists the one model."""
        return JSONResponse({"object": "list", "data": [self._facts]})

    async def model(self, request: Request) -> Response:
        """Describes the model."""
        self._service.check_name(request.path_params["name"])
        return JSONResponse(self._facts)

    async def completions(self, request: Request) -> Response:
        """Writes texts."""
        read = Fields.read(await read_json(request))
        order = await asyncio.to_thread(self._service.order, read)  # a prompt may be long
        if len(self._running) >= self._limits.max_requests:
            raise RequestError(
                f"the server has {len(self._running)} requests at once, its limit: try again later",
                429,
                code="rate_limit_exceeded",
            )
        job = Job(order, read.stream, self._limits.timeout)
        self._worker.submit(job)
        self._running.add(job)
        if read.stream:
            events, seconds = self._events(read, order, job), self._limits.timeout
            return EventStream(events, lambda: self._end(job), seconds)
        try:
            pieces = await all_pieces(request, job)
        finally:
            self._end(job)
        return await asyncio.to_thread(
            lambda: JSONResponse(self._service.answer(read, order, pieces))
        )

    def _end(self, job: Job) -> None:
        job.cancelled = True
        self._running.discard(job)

    async def _events(self, read: Fields, order: Order, job: Job) -> AsyncIterator[bytes]:
        """Yields the events of a stream; an error is the last event."""
        head, endings = self._service.head(), []
        try:
            async for pieces in job.arrivals():
                endings += [piece for piece in pieces if piece.ending]
                for some in by_text(pieces).values():
                    yield _event(self._service.chunk(read, head, some))
        except RequestError as error:
            yield _event(error_json(error))
            return
        if read.include_usage:
            yield _event({**head, "choices": [], "usage": usage(order, endings)})
        yield b"data: [DONE]\n\n"

    async def tokenizer_info(self, _: Request) -> Response:
        """Names the special tokens, for evaluation tools."""
        start = self._service.start_text
        return JSONResponse({"bos_token": start, "eos_token": start, "pad_token": None})

    async def tokenize(self, request: Request) -> Response:
        """Returns the ids of a prompt."""
        body = await read_json(request)
        prompt = body.get("prompt") if isinstance(body, dict) else None
        ids = await asyncio.to_thread(self._service.encode, prompt)  # it may be long
        facts = {"count": len(ids), "max_model_len": self._limits.max_tokens, "tokens": ids}
        return JSONResponse(facts)

    async def detokenize(self, request: Request) -> Response:
        """Returns the text of ids."""
        body = await read_json(request)
        tokens = body.get("tokens") if isinstance(body, dict) else None
        return JSONResponse({"prompt": await asyncio.to_thread(self._service.decode, tokens)})


async def all_pieces(request: Request, job: Job) -> list[Piece]:
    """Returns the pieces of a whole answer; raises ClientDisconnect if the client goes away."""

    async def collect() -> list[Piece]:
        return [piece async for pieces in job.arrivals() for piece in pieces]

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    collecting, leaving = asyncio.ensure_future(collect()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ClientDisconnect
        return collecting.result()
    finally:
        collecting.cancel()
        leaving.cancel()


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def make_page() -> tuple[str, str]:
    """Returns the page to try a model, and its Content-Security-Policy."""
    style = style_sheet(read("charnn.pages", "page.css"))
    script = read("charnn.server", "page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; "
        f"script-src {source_hash(script)}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    values = {"style": style, "script": script, "max_seed": str(MAX_SEED)}
    return render(read("charnn.server", "page.html"), values), policy


def make_app(
    worker: Worker,
    service: Service,
    limits: ServerConfig,
    hosts: set[str] | None,
    key: str = "",
    report: Callable[[Exception], None] = lambda fault: None,
) -> ASGIApp:
    """Returns the application; `hosts`, `key` and `report` are those of `Guard`."""

    @asynccontextmanager
    async def running(_: Any) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()

    routes = Endpoints(service, worker, limits).routes()
    router = Router(routes, redirect_slashes=False, lifespan=running)
    return Guard(router, hosts, key, report)
