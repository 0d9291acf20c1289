"""The HTTP server: the socket, and how it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import uvicorn

from charnn.errors import ConfigError, FileError
from charnn.server.worker import Worker

CONNECTIONS = 1024
STOP_SECONDS = 3  # for answers that are on their way


class Server(uvicorn.Server):
    """uvicorn without its signal handlers; a signal handler may call `stop`."""

    def __init__(self, app: object, worker: Worker) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]  # an ASGI application
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._worker = worker

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the caller."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections."""
        asyncio.get_running_loop().set_exception_handler(self._handle)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the requests that are being written, then the connections."""
        self._worker.close()
        await super().shutdown(sockets)

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Reports an error of asyncio, but not that a connection waits for a free descriptor.

        asyncio repeats that thousands of times a second, and tries again after the end.
        """
        if not (self.should_exit or isinstance(context.get("exception"), OSError)):
            loop.default_exception_handler(context)

    def stop(self) -> None:
        """Ends `run` soon."""
        self.should_exit = True


def listen(host: str, port: int, locked: bool) -> tuple[socket.socket, bool]:
    """Returns a listening socket, and whether only this computer reaches it.

    Raises:
        ConfigError: there is no such host, or other machines reach it and the server is not
            `locked` by a key.
        FileError: the port is in use, or not allowed.
    """
    try:
        found = socket.getaddrinfo(host or "?", port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host!r} is no address: try 127.0.0.1") from None
    private = ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not private and not locked:
        raise ConfigError(
            f"--host {host} lets other machines in: add --api-key KEY (or set CHARNN_API_KEY), or "
            "leave --host out"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS), private
    except OSError as error:
        raise FileError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}; stop the program "
            "that uses it, or give another --port (0: a free one)"
        ) from None
