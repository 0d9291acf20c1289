"""Thread settings of OpenMP and the linear algebra libraries, which read them when loaded."""

from __future__ import annotations

import os

# OpenBLAS, OpenMP, MKL and Apple's Accelerate, which are under numpy and torch.
VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def set_defaults() -> None:
    """Sets the variables that the user has not set; must run before torch and numpy are loaded.

    OpenMP threads spin while they wait for each other between the small parallel parts of a
    recurrent step. On a busy machine the awaited thread does not run meanwhile: measured, training
    fell to a tenth. A short spin costs little on a quiet machine. The same holds for numpy's
    products, which compute the samples during training.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def set_numpy_threads(threads: int | None) -> None:
    """Sets how many threads numpy uses; must run before numpy is loaded.

    None keeps the environment variables, or sets one thread: a second thread that shares its core
    with another program makes a step several times slower.
    """
    for name in VARIABLES:
        if threads is not None:
            os.environ[name] = str(threads)
        else:
            os.environ.setdefault(name, "1")
