"""What all tests share: the same examples on every run, and nothing of the developer's shell."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Tests that run beside others leave the cores to them: two threads each would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: the machines that run this are shared. Derandomised: what failed once fails again.
settings.register_profile("charnn", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("charnn")

# Whoever begins the tests in the background may have had SIGINT ignored, for these and their own.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Variables that change what charnn, rich and typer print, or where charnn looks for runs.
for name in list(os.environ):
    if name.startswith(("CHARNN_", "TTY_")) or name in {
        "COLUMNS",
        "FORCE_COLOR",
        "GITHUB_ACTIONS",
        "NO_COLOR",
        "PY_COLORS",
    }:
        del os.environ[name]
