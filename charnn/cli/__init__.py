"""The command line: one module per command, and each error as one line."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import typer

from charnn.cli.compare import compare
from charnn.cli.console import (
    LIVE,
    debugging,
    flush_stdout,
    give_up_stdout,
    prepare_streams,
    put,
    say,
)
from charnn.cli.corpus import corpus
from charnn.cli.demo import demo
from charnn.cli.evaluate import evaluate
from charnn.cli.export import export
from charnn.cli.horizon import horizon
from charnn.cli.inspect import inspect
from charnn.cli.lab import lab
from charnn.cli.options import Sectioned, expanded
from charnn.cli.plan import plan
from charnn.cli.report import report
from charnn.cli.runs import runs
from charnn.cli.sample import sample
from charnn.cli.score import score
from charnn.cli.serve import serve
from charnn.cli.show import show
from charnn.cli.tokenize import tokenize
from charnn.cli.train import train
from charnn.cli.write import write
from charnn.errors import CharnnError, ConfigError, UnknownCharacter, needed
from charnn.version import __version__

START = """\
charnn learns to write from a text, on this computer.
charnn demo              write at once, with a network that read English books
charnn train book.txt    learn from your text for 3 minutes; then: charnn sample
"""

COLUMNS = min(shutil.get_terminal_size().columns, 120)  # longer lines are hard to read

app = typer.Typer(
    name="charnn",
    help="Learns to write from a text file, character by character, with recurrent networks.",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": COLUMNS - 1 if COLUMNS < 52 else COLUMNS - 2,
    },
    rich_markup_mode=None,  # the default deletes [bracketed] words from help
    pretty_exceptions_enable=False,  # they print control characters of messages as they are
)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command so that every error becomes one line and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with needed("this command"):
                command(*args, **kwargs)
            flush_stdout()
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # the reader of stdout went away, as head does
            give_up_stdout()
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            if debugging():
                traceback.print_exc()
            remedy = _remedy(command, error) if isinstance(error, UnknownCharacter) else ""
            say(f"error: {_explain(error)}{remedy}", "31")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        finally:
            LIVE.clear()

    return run


@app.callback(invoke_without_command=True)
@guarded
def _charnn(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks (also: CHARNN_DEBUG=1).")
    ] = False,
) -> None:
    if version:
        put(f"charnn {__version__}")
    elif context.invoked_subcommand is None:
        put(*START.splitlines())


def _remedy(command: Callable[..., None], error: UnknownCharacter) -> str:
    """Names the ways in which a command can handle an unknown character."""
    choices = set(get_args(get_type_hints(command).get("unknown")))
    if not error.replaceable:
        choices.discard("replace")
    ways = {
        "skip": "--unknown skip leaves it out",
        "replace": "--unknown replace takes the nearest known one",
    }
    can = [text for choice, text in ways.items() if choice in choices]
    return f"; {', '.join(can) or 'leave it out of the text'}"


def _explain(error: Exception) -> str:
    if isinstance(error, CharnnError):
        return str(error)
    # torch raises RuntimeError when memory is short, the loader of its libraries ImportError.
    if isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError))
        and any(word in str(error) for word in ("memory", "failed to map"))
    ):
        return "out of memory: use a smaller model, batch or text, or allow more memory (ulimit -v)"
    if isinstance(error, OSError):
        if "No usable temporary directory" in str(error):
            return "no folder for temporary files can be written to: set TMPDIR to one that can"
        where = f" {error.filename}" if error.filename else ""
        return f"the system refused{where}: {error.strerror or error}"
    kind = type(error).__name__
    return f"charnn has a fault: {kind}: {error}; run again with --debug and report what it prints"


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "plan": plan,
    "sample": sample,
    "write": write,
    "tokenize": tokenize,
    "eval": evaluate,
    "score": score,
    "compare": compare,
    "runs": runs,
    "show": show,
    "corpus": corpus,
    "export": export,
    "serve": serve,
    "report": report,
    "inspect": inspect,
    "horizon": horizon,
    "lab": lab,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Sectioned)(guarded(expanded(command)))


# What to type instead, where the message has these words.
REMEDIES = {
    "no such option: -m": "; give the name alone",
    "unexpected extra argument": "; put a text with spaces in quotes",
}


def usage_line(error: typer.TyperException, words: list[str]) -> str:
    """Returns a usage error as one line that names the help."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    message = message.replace("(Possible options: ", "(did you mean ").replace(". Did", "; did")
    name = next((f"charnn {word}" for word in words if word in COMMANDS), "charnn")
    message = message[:1].lower() + message[1:]
    message += next((remedy for words, remedy in REMEDIES.items() if words in message), "")
    return f"{message}; see '{name} --help'"


def main() -> None:
    """Runs the command line; `--debug` may stand anywhere before a lone `--`."""
    prepare_streams()
    words = sys.argv[1:]
    options = words[: words.index("--")] if "--" in words else words
    if "--debug" in options:
        os.environ["CHARNN_DEBUG"] = "1"
        sys.argv.remove("--debug")
    if sys.stdout is None and {"-h", "--help"}.intersection(options):
        say("error: stdout is closed: there is nowhere to print the help", "31")
        sys.exit(1)
    try:
        # In standalone_mode typer prints a usage error in four lines.
        sys.exit(app(prog_name="charnn", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):  # Ctrl-C before a command has begun
        sys.exit(128 + signal.SIGINT)
    except typer.TyperException as error:
        if debugging():
            traceback.print_exc()
        say(f"error: {usage_line(error, words)}", "31")
        sys.exit(error.exit_code)
    except OSError as error:  # from help, which typer prints
        give_up_stdout()
        say(f"error: cannot write to stdout: {error.strerror or error}", "31")
        sys.exit(1)
