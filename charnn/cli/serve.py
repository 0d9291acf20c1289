"""`charnn serve`: OpenAI's completions API over HTTP, for one model."""

from __future__ import annotations

import traceback
from typing import Annotated

import typer

from charnn.cli.console import debugging, say, tell
from charnn.cli.model import open_model
from charnn.cli.options import (
    DEFAULT_CHECKPOINTS,
    CheckpointsOption,
    EngineOption,
    Int8Option,
    ModelArgument,
    NetworkOnlyOption,
    ThreadsOption,
    UnknownOption,
)
from charnn.cli.signals import OrderlyEnd
from charnn.config import ServerConfig
from charnn.errors import ConfigError
from charnn.threads import set_numpy_threads

EXAMPLE = '{"prompt": "", "max_tokens": 200}'  # every model knows the characters of ""


def serve(
    model: ModelArgument = None,
    config: ServerConfig = ServerConfig(),
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="CHARNN_API_KEY",
            help="Key that every request has to send. [default: none]",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    unknown: UnknownOption = "error",
    engine: EngineOption = "auto",
    int8: Int8Option = False,
    network_only: NetworkOnlyOption = False,
    threads: ThreadsOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
) -> None:
    """Serve a model to other programs: OpenAI's completions API over HTTP.

    Runs until Ctrl-C. The printed address shows a page in a browser to try the model.

    \b
    charnn serve
    charnn serve english --port 0
    CHARNN_API_KEY=secret charnn serve book --host 0.0.0.0
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
        raise ConfigError("--api-key must be one or more printable ASCII characters")
    set_numpy_threads(threads)  # before numpy is loaded
    with OrderlyEnd("stopping") as end:
        from charnn.pages import plain_name
        from charnn.runs import model_name
        from charnn.server.app import LOOPBACK, make_app
        from charnn.server.completions import Service
        from charnn.server.listen import Server, listen
        from charnn.server.worker import Worker

        path, loaded = open_model(model, checkpoints, network_only, engine=engine, int8=int8)
        listening, private = listen(config.host, config.port, locked=api_key is not None)
        with listening:
            host = f"[{config.host}]" if ":" in config.host else config.host
            hosts = {*LOOPBACK, host.lower()} if private else None
            service = Service(loaded, plain_name(model_name(path)), config, unknown)
            worker = Worker(loaded, threads, _report)
            app = make_app(worker, service, config, hosts, api_key or "", _report)
            server = Server(app, worker)
            end.stop = server.stop
            address = f"http://{host}:{listening.getsockname()[1]}"
            key = ' -H "Authorization: Bearer $CHARNN_API_KEY"' if api_key else ""
            tell(
                f"serving {service.name} at {address}; open it in a browser, or try: curl "
                f"{address}/v1/completions -H 'Content-Type: application/json'{key} -d '{EXAMPLE}'"
            )
            server.run([listening])
    if end.code:
        raise typer.Exit(end.code)


def _report(fault: Exception) -> None:
    """Prints the kind and place of a fault of the program, but no text of a request."""
    if debugging():
        traceback.print_exception(fault)
    place = traceback.extract_tb(fault.__traceback__)[-1:]
    where = "".join(f" in {each.name}, line {each.lineno}" for each in place)
    say(
        f"error: charnn has a fault: {type(fault).__name__}{where}; run again with --debug and "
        "report what it prints",
        "31",
    )
