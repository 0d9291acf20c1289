"""Thread settings of OpenMP and OpenBLAS, which both read when they are loaded."""

from __future__ import annotations

import os


def set_defaults() -> None:
    """Sets the variables that the user has not set; must run before torch and numpy are loaded.

    OpenMP threads spin while they wait for each other between the small parallel parts of a
    recurrent step. On a busy machine the awaited thread does not run meanwhile: measured, training
    fell to a tenth. A short spin costs little on a quiet machine. The same holds for numpy's
    products, which samples during training are made with.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
