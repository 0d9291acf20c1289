"""HUP, Ctrl-C and TERM: the first signal saves and stops, a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import typer

from charnn.cli.console import say
from charnn.portable import SIGNALS

SHOW_CURSOR = "\x1b[?25h"


class OrderlyEnd:
    """A block in which signals set ``code``, the exit code, and call ``stop``.

    Without ``stop`` there is nothing to save, and a signal raises KeyboardInterrupt. A signal that
    is ignored on entry, as by nohup, stays ignored.
    """

    def __init__(self, doing: str = "saving") -> None:
        """`doing` says what ``stop`` begins."""
        self.code, self._doing = 0, doing
        self._stop: Callable[[], None] | None = None
        self.patient = False  # a second Ctrl-C does not stop at once: torchrun may send it twice

    @property
    def stop(self) -> Callable[[], None] | None:
        """Saves and stops; called at once where Python has swallowed an earlier KeyboardInterrupt.

        Python does so in callbacks, which imports run, too.
        """
        return self._stop

    @stop.setter
    def stop(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        if self.code:
            stop()

    def __enter__(self) -> OrderlyEnd:
        self.before = {n: signal.getsignal(n) for n in SIGNALS}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        leaving = bool(self.code)
        for number, handler in self.before.items():
            # Ctrl-C is ignored while the interpreter shuts down.
            signal.signal(number, signal.SIG_IGN if leaving else handler)
        # An import that a signal interrupts may raise any error.
        if leaving and self.stop is None and kind is not None and kind is not typer.Exit:
            say("stopped before there was anything to save")
            raise typer.Exit(self.code) from None

    def _handle(self, number: int, _: FrameType | None) -> None:
        again, self.code = self.code == 128 + signal.SIGINT == 128 + number, 128 + number
        if again and not self.patient:
            if sys.stderr.isatty():
                sys.stderr.write(SHOW_CURSOR + "\n")
                sys.stderr.flush()
            os._exit(self.code)
        if self.stop is None:
            raise KeyboardInterrupt
        self.stop()
        with suppress(RuntimeError):  # the signal interrupted another write to stderr
            say(self._doing + "; Ctrl-C again to quit now" * (not self.patient))
