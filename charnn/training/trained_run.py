"""A run as a Python program sees it: its progress, its history and its model."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

from charnn.checkpoint import peek
from charnn.errors import FileError, needed
from charnn.generation import Model
from charnn.runs import Run


class TrainedRun(Run):
    """The run that `charnn.train` returns; a path-like object, so that other calls take it."""

    def __repr__(self) -> str:
        """Returns name, step and validation loss in nats per token."""
        step, loss = None, "unknown"
        with suppress(FileError, KeyError, TypeError, AttributeError, ValueError):
            info = peek(self.last)["info"]
            step, results = info["step"], info["results"]
            score = results.get("cold_256") or results.get("lines")
            nats = score["nats_per_token"] if score else _losses(info["history"])[-1][1]
            loss = f"{nats:.4f} nats/token"
        return f"<charnn run {self.name!r}: step {step}, validation loss {loss}>"

    @property
    def history(self) -> list[dict[str, Any]]:
        """The validations of the network so far, as rows for a table.

        The keys are those of ``history`` in docs/file-format.md.

        Raises:
            FileError: the file of the run is missing or damaged.
        """
        rows: list[dict[str, Any]] = peek(self.last)["info"]["history"]
        return rows

    def load(self, **options: Any) -> Model:
        """Loads the best model; the options are those of `charnn.load`.

        Raises:
            CharnnError: the file of the model is damaged.
        """
        return Model.load(self.model, **options)

    def plot(self) -> Any:
        """Draws training and validation loss over steps; returns the axes of matplotlib.

        Raises:
            MissingPackage: matplotlib is not installed.
        """
        with needed("run.plot()"):
            pyplot = import_module("matplotlib.pyplot")
        axes = pyplot.figure().add_subplot(xlabel="step", ylabel="nats/token", title=self.name)
        rows = self.history
        for label, points in (
            ("training", [(row["step"], row["train_loss"]) for row in rows]),
            ("validation", _losses(rows)),
        ):
            known = [(step, loss) for step, loss in points if loss is not None]
            axes.plot(*zip(*known, strict=True) if known else ([], []), label=label)
        axes.legend()
        return axes


def _losses(rows: list[dict[str, Any]]) -> list[tuple[int, float | None]]:
    """Returns step and validation loss of each row."""
    return [(row["step"], row.get("cold_256", row.get("lines"))) for row in rows]
