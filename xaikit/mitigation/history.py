"""What happened in training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.results import Real, Result, Stopped

ENDS = {Stopped.EARLY_STOPPING: ", stopped early", Stopped.INTERRUPTED: ", interrupted"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class History(Result):
    """What happened in training.

    Attributes:
        epochs: one dict for each whole epoch: epoch, task, penalty, total (means over its steps), accuracy (of the
            samples as they were trained on), samples, weight (of the penalty, at the last step), skipped (steps whose
            loss or gradient was not finite); with validation data also validation_accuracy and validation_worst_group.
        stopped: why it ended: "done" (all epochs), "early_stopping" (no improvement on the validation data), or
            "interrupted" (by Ctrl-C).
        seed: the mitigator's `random_state`.
    """

    epochs: list[dict[str, int | Real]]
    stopped: Stopped = Stopped.DONE
    seed: int | None = None

    def __getitem__(self, name: str) -> list[float]:
        """One column, such as ``history["penalty"]``."""
        return [epoch[name] for epoch in self.epochs]

    def __repr__(self) -> str:
        end = ENDS.get(self.stopped, "")
        if not self.epochs:
            return f"History(no epoch yet{end})"
        last = self.epochs[-1]
        accuracy = (
            "" if math.isnan(last["accuracy"]) else f", accuracy {percent(last['accuracy'])}"
        )  # a regression has none
        return (
            f"History({len(self.epochs)} epochs{end}; last: task {last['task']:.4g}, penalty {last['penalty']:.4g}"
            f"{accuracy})"
        )

    def to_pandas(self) -> Any:
        """One row for each epoch, as a DataFrame.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".epochs")
        return pd.DataFrame(self.epochs)
