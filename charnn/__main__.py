"""`charnn` and `python -m charnn`: the command line, which Ctrl-C ends without a traceback."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Runs the command line; until it has started, Ctrl-C ends the process at once."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup sets it
        # KeyboardInterrupt in an import may surface as any error.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from charnn.cli import main as run

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
