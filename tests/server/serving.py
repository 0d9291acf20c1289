"""A server in a thread, with a small model of random weights."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

from random_model import random_model

from charnn.checkpoint import Checkpoint
from charnn.config import ServerConfig
from charnn.generation import Model
from charnn.server.app import LOOPBACK, make_app
from charnn.server.completions import Service
from charnn.server.listen import Server, listen
from charnn.server.worker import Worker
from charnn.text.tokenizers import CharTokenizer, Tokenizer

ALPHABET = "\nabcdefgh .é"


def checkpoint_of(tokenizer: Tokenizer | None = None, scale: float = 0.5) -> Checkpoint:
    """A model with random weights, the same every time."""
    tokenizer = tokenizer or CharTokenizer.learn(ALPHABET)
    return random_model(tokenizer, "lstm", 12, 2, scale=scale)


def model_of(tokenizer: Tokenizer | None = None, scale: float = 0.5, **options: Any) -> Model:
    """The model of `checkpoint_of`."""
    return Model.from_checkpoint(checkpoint_of(tokenizer, scale), **options)


class Serving:
    """A running server and a client of it.

    Attributes:
        faults: the faults of the program that it reported.
    """

    def __init__(self, model: Model, key: str = "", unknown: str = "error", **limits: Any) -> None:
        config = ServerConfig(port=0, **limits)
        self.faults: list[Exception] = []
        self.model, self.worker = model, Worker(model, 2, self.faults.append)
        self.socket, private = listen(config.host, config.port, locked=False)
        assert private
        self.port = self.socket.getsockname()[1]
        service = Service(model, "small", config, unknown)
        app = make_app(self.worker, service, config, LOOPBACK, key, self.faults.append)
        self.server = Server(app, self.worker)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()

    def close(self) -> None:
        self.server.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.socket.close()

    def open(
        self, path: str, body: Any = None, method: str = "", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Sends a request; `body` is JSON, or bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        kind = {} if body is None else {"content-type": "application/json"}
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, data, {**kind, **(headers or {})})
        return connection, connection.getresponse()

    def request(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Returns status and JSON of an answer."""
        connection, answer = self.open(path, body, **options)
        try:
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def complete(self, **body: Any) -> Any:
        """Returns the JSON of a successful answer."""
        status, answer = self.request("/v1/completions", body)
        assert 200 == status, answer
        return answer

    def text(self, **body: Any) -> str:
        """Returns the only text of an answer."""
        (choice,) = self.complete(**body)["choices"]
        return choice["text"]

    def refusal(self, **body: Any) -> tuple[int, str | None]:
        """Returns the status and the field of a refused request."""
        status, answer = self.request("/v1/completions", body)
        assert {"error"} == set(answer), answer
        assert {"message", "type", "param", "code"} == set(answer["error"])
        return status, answer["error"]["param"]

    def events(self, **body: Any) -> list[Any]:
        """Returns the JSON of the events of a stream that ends as streams do."""
        connection, answer = self.open("/v1/completions", {**body, "stream": True})
        lines = answer.read().decode().split("\n\n")
        connection.close()
        assert 200 == answer.status
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert ["data: [DONE]", ""] == lines[-2:]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
