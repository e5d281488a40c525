"""Influences: how much each training sample did for, or against, the prediction of each test sample."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Int
from xaikit.core.results import Result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Influences(Result):
    """The influence of training samples on test samples.

    Attributes:
        values: (test samples, training samples). Positive: the training sample lowers the loss of the test sample, it
            speaks for its label. Negative: it raises the loss.
        method: how they were measured.
        names: of the training samples; empty where they have none.
    """

    values: Tensor
    method: str
    names: tuple[str, ...] = ()

    def of(self, sample: int | str) -> Tensor:
        """The influence of one training sample on each test sample, (test samples,).

        Args:
            sample: its number among the training samples, or its name.

        Raises:
            InvalidInputError, UnknownNameError: for a sample that the model was not trained on.
        """
        count = self.values.shape[1]
        if isinstance(sample, str):
            if sample not in self.names:
                raise UnknownNameError(f"no training sample is called {sample!r}{near_names(sample, self.names)}")
            return self.values[:, self.names.index(sample)]
        return self.values[:, Int(ge=0, le=count - 1).check(sample, "the number of a training sample")]

    def strongest(self, count: int = 10, *, tests: Any = None, against: bool = False) -> list[int]:
        """The training samples with the largest influence, the mean over test samples, strongest first.

        Args:
            count: how many.
            tests: number of the test sample that counts, or several; None for all.
            against: those that speak against the labels of the test samples instead.

        Raises:
            InvalidInputError: for a test sample that is not there.
        """
        number = Int(ge=0, le=len(self.values) - 1)
        chosen = (
            range(len(self.values))
            if tests is None
            else [tests]
            if hasattr(tests, "__index__") and not hasattr(tests, "__len__")
            else tests
        )
        rows = [number.check(test, "the number of a test sample") for test in chosen]
        if not rows:
            raise InvalidInputError(f"tests must name one of the test samples 0 to {len(self.values) - 1}, got none")
        mean = self.values[rows].mean(0)
        order = mean.argsort(descending=not against, stable=True)
        return [int(i) for i in order[: max(0, count)]]

    def to_pandas(self) -> Any:
        """A table with a row for each training sample and a column for each test sample.

        Raises:
            MissingDependencyError: without pandas.
        """
        table = import_pandas().DataFrame(self.values.T.tolist())
        if self.names:
            table.index = list(self.names)
        return table

    def __repr__(self) -> str:
        tests, trained = self.values.shape
        return f"Influences({self.method}: {trained} training samples on {tests} test samples)"


def names_of(data: Any, count: int) -> tuple[str, ...]:
    """The names of the samples of a data set that has them, else none.

    Args:
        data: as the user passed it.
        count: of samples.
    """
    names = getattr(getattr(data, "dataset", data), "names", None)
    return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) and len(names) == count else ()
