"""Groups of training samples: their names, the group of each sample, and what a training keeps of each group."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.loader_order import order_of_its_own
from xaikit.core.private_arguments import private_copy


def groups_of_function(groups: Callable[[Any, Any], Any], x: Any, y: Any, n: int) -> list[Any]:
    """What a user's function (inputs, labels) says of n samples, as `read_group_names`; it may write into them.

    Args:
        groups: the function.
        x: inputs.
        y: labels.
        n: number of samples.

    Raises:
        InvalidInputError, InvalidTypeError: as for `read_group_names`.
    """
    return read_group_names(groups(*private_copy((x, y))), n)


def read_group_names(values: Any, n: int, *, begin: int = 0) -> list[Any]:
    """One name or number for each of n samples.

    Args:
        values: a tensor, an array, a list or a pandas object, (n,).
        n: number of samples.
        begin: number of the first sample, for the message.

    Raises:
        InvalidTypeError: for what is no sequence of names.
        InvalidInputError: for another number of names, a sample without a name, or an empty group of a pandas
            categorical.
    """
    shape = getattr(values, "shape", None)
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or (shape is not None and not len(shape)):
        raise InvalidTypeError(f"groups must be (N,) names or numbers, or a function (x, y) -> (N,), got {values!r}")
    if shape is not None and len(shape) != 1:
        raise InvalidInputError(f"groups must name one for each sample, shape ({n},), got {tuple(shape)}")
    categories = getattr(getattr(values, "cat", values), "categories", None)
    names = values.tolist() if hasattr(values, "tolist") else list(values)
    names = [name.item() if isinstance(name, np.generic) else name for name in names]
    if len(names) != n:
        raise InvalidInputError(f"groups must name one for each of the {begin + n} samples, got {begin + len(names)}")
    nameless = None
    if any(issubclass(kind, (float, type(None))) for kind in set(map(type, names))):
        nameless = next((i for i, v in enumerate(names) if v is None or (isinstance(v, float) and math.isnan(v))), None)
    if nameless is not None:
        raise InvalidInputError(
            f"groups must name one for each sample, and sample {begin + nameless} has {names[nameless]}"
        )
    if categories is not None and not begin:
        empty = [c for c in list(categories) if c not in set(names)]
        if empty:
            raise InvalidInputError(
                f"the group {empty[0]!r} is empty: no sample belongs to it; leave it out "
                "(pandas: .cat.remove_unused_categories())"
            )
    return names


def refuse_loader_order(groups: Any, data: Any) -> None:
    """Raise for groups sample by sample beside a loader whose order is not that of its data set.

    Args:
        groups: of the user.
        data: whose samples they are of.

    Raises:
        InvalidInputError: for such a loader.
    """
    if groups is not None and not callable(groups) and (order := order_of_its_own(data)):
        raise InvalidInputError(
            f"groups with one for each sample need the samples in order, and {order}; pass a loader with "
            "shuffle=False, or groups as a function (x, y) -> (N,)"
        )


def split_groups(trains_by_groups: bool, groups: Any, validation_groups: Any, validation: Any) -> tuple[Any, Any]:  # noqa: FBT001
    """The groups of the training samples, and those of the validation samples, from what `fit` was given.

    Args:
        trains_by_groups: whether the training needs groups; without, `groups` are those of the validation samples.
        groups: for `fit`; a function serves both.
        validation_groups: for `fit`.
        validation: for `fit`.
    """
    if not trains_by_groups:
        return None, groups if validation_groups is None else validation_groups
    serves_both = callable(groups) and validation_groups is None and validation is not None
    return groups, groups if serves_both else validation_groups


class GroupWeights:
    """What a training keeps of each group from step to step: its number, and the logarithm of its weight.

    It is the state of one training, as an optimizer is: `GroupDRO.loss` changes it in each step.

    >>> weights = GroupWeights()
    >>> weights.codes(["sea", "land", "sea"])
    tensor([0, 1, 0])
    >>> weights.to_dict()
    {'sea': 0.5, 'land': 0.5}
    """

    def __init__(self) -> None:
        self.names: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._logs = torch.zeros(0, device="cpu")

    def codes(self, names: list[Any]) -> Tensor:
        """The number of each sample's group, (N,); a new name gets the next number.

        Args:
            names: of the samples' groups.
        """
        for name in names:
            if name not in self._numbers:
                self._numbers[name] = len(self.names)
                self.names.append(name)
        return torch.tensor([self._numbers[name] for name in names], dtype=torch.long, device="cpu")

    def logs(self, n: int, like: Tensor) -> Tensor:
        """The logarithms of the weights of n groups, (n,); a group that is new begins with 0.

        Args:
            n: number of groups.
            like: whose device and precision they get.
        """
        if self._logs.device != like.device or self._logs.dtype != like.dtype:
            self._logs = self._logs.to(like)
        if len(self._logs) < n:
            self._logs = torch.cat([self._logs, self._logs.new_zeros(n - len(self._logs))])
        return self._logs[:n]

    def keep(self, logs: Tensor) -> None:
        """Remember new logarithms.

        Args:
            logs: (n,).
        """
        self._logs = logs.detach()

    def to_dict(self) -> dict[Any, float]:
        """The weight of each group, by its name; they add up to 1."""
        names = self.names or list(range(len(self._logs)))
        values = self.logs(len(names), self._logs).softmax(0).tolist()
        return dict(zip(names, values, strict=True))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and plain values."""
        return {"logs": self._logs, "names": [str(name) for name in self.names]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Args:
            state: of a checkpoint.
        """
        self._logs = state["logs"]


class SampleGroups(NamedTuple):
    """The groups of a batch.

    Attributes:
        codes: the number of each sample's group, (N,).
        weights: of the training that the batch belongs to.
    """

    codes: Tensor
    weights: GroupWeights

    def take(self, rows: Tensor) -> SampleGroups:
        """Those of some of the samples."""
        return SampleGroups(self.codes[rows.to(self.codes.device)], self.weights)

    def to(self, device: torch.device | str) -> SampleGroups:
        """With the numbers on a device."""
        return SampleGroups(self.codes.to(device), self.weights)


class GroupReader:
    """Finds the groups of batches by what the user said.

    Args:
        groups: one name or number for each sample of the data, a function (x, y) -> (N,), or None for the classes.
        n: samples of the data; None where it is not known.
        weights: where the names get their numbers.

    Raises:
        InvalidInputError, InvalidTypeError: for groups that cannot be right.
    """

    def __init__(self, groups: Any, n: int | None, weights: GroupWeights | None = None) -> None:
        self._function = groups if callable(groups) else None
        self.weights = GroupWeights() if weights is None else weights
        self._codes: Tensor | None = None
        if groups is not None and not callable(groups):
            size = len(groups) if n is None and hasattr(groups, "__len__") else n or 0
            self._codes = self.weights.codes(read_group_names(groups, size))

    def put(self, batch: Batch, rows: list[Any] | None) -> Batch:
        """The batch with its groups.

        Args:
            batch: inputs and labels, read.
            rows: numbers of its samples in the data; None where they have none.

        Raises:
            InvalidInputError: for names by sample where the samples have no numbers; labels that are no classes.
        """
        return batch._replace(groups=SampleGroups(self._codes_of(batch, rows), self.weights))

    def _codes_of(self, batch: Batch, rows: list[Any] | None) -> Tensor:
        if self._function is not None:
            return self.weights.codes(groups_of_function(self._function, batch.inputs, batch.labels, batch.size))
        if self._codes is None:
            return class_codes(batch.labels)
        if rows is None:
            raise InvalidInputError(
                "groups by sample need samples that have a number, and an iterable of batches has none; pass a data "
                "set, a DataLoader or tensors, or groups as a function (x, y) -> (N,)"
            )
        return self._codes[torch.as_tensor(rows, dtype=torch.long, device="cpu")]


def class_codes(labels: Tensor) -> Tensor:
    """The classes as groups.

    Args:
        labels: of a batch.

    Raises:
        InvalidInputError: for labels that are no classes.
    """
    if labels.is_floating_point() or labels.ndim != 1:
        raise InvalidInputError(
            "without groups= the groups are the classes, and these labels are no classes; name the group of each "
            "sample with groups="
        )
    return labels.long()
