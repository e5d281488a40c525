"""The one reader of labels and targets: one class, or for a regression one number, for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.value_ranges import range_of

REMEDY = "; number the classes from 0 on, as pandas.factorize does"


def read_labels(labels: Any, n: int, *, what: str = "labels") -> Tensor:
    """One label for each sample: class indices (N,) of int64, or floating-point numbers (N,) for a regression.

    Args:
        labels: class indices (N,) of any integer type, as a tensor, an array, a list or a pandas Series. For a
            regression floating-point numbers, (N,) or (N, 1).
        n: number of samples, N.
        what: name of the labels in messages.

    Raises:
        InvalidTypeError: for strings, objects, booleans.
        InvalidInputError: for one-hot rows, a column (N, 1) of classes, another number of labels, NaN.
    """
    tensor = label_values(labels, what)
    what = f"{what}.to_numpy()" if hasattr(labels, "columns") else what  # in remedies for a DataFrame
    if tensor.dtype == torch.bool and tensor.shape == (n,):
        raise InvalidTypeError(
            f"{what} must be whole class indices, got booleans; if these are the classes 0 and 1 pass "
            f"{what}.long(), of an array {what}.astype(int)"
        )
    if tensor.is_floating_point() and not range_of(tensor).finite:
        rows = (~torch.isfinite(tensor)).reshape(len(tensor) if tensor.ndim else 1, -1).any(1).nonzero().flatten()
        raise InvalidInputError(f"{what} must be finite, got NaN or inf in sample {int(rows[0])}")
    if tensor.is_floating_point() and tensor.shape == (n, 1):
        tensor = tensor[:, 0]
    if tensor.shape != (n,):
        raise InvalidInputError(
            f"{what} must have shape ({n},), one for each sample, got {tuple(tensor.shape)}"
            f"{_shape_remedy(tensor, n, what)}"
        )
    return tensor if tensor.is_floating_point() else tensor.long()


def label_values(labels: Any, what: str = "labels") -> Tensor:
    """The numbers of labels, of any shape; of a DataFrame with one column those of the column, in its own type.

    Args:
        labels: as `read_labels` takes them, or any others.
        what: name of the labels in messages.

    Raises:
        InvalidTypeError: for strings, objects.
        InvalidInputError: for a ragged list.
    """
    one_column = hasattr(labels, "columns") and labels.shape[1] == 1
    return to_tensor(labels.iloc[:, 0] if one_column else labels, what, remedy=REMEDY)


def read_classes(labels: Any, n: int, *, what: str = "labels", n_classes: int | None = None) -> Tensor:
    """Class indices (N,) of int64, as `read_labels` reads them.

    Args:
        labels: as for `read_labels`, without numbers for a regression.
        n: number of samples, N.
        what: name of the labels in messages.
        n_classes: number of the model's outputs, where it is known.

    Raises:
        InvalidTypeError: as `read_labels`; for floating-point numbers, also whole ones.
        InvalidInputError: as `read_labels`; for an index outside 0..n_classes - 1.
    """
    indices = read_labels(labels, n, what=what)
    if indices.is_floating_point():
        integral = bool((indices == indices.round()).all())
        example = "with whole values" if integral else f"such as {float(indices[indices != indices.round()][0]):g}"
        raise InvalidTypeError(
            f"{what} must be whole class indices of an integer type, got {indices.dtype} numbers {example}"
            f"{_float_remedy(what, integral)}"
        )
    if n_classes is not None and len(indices):
        low, high = range_of(indices)
        if low < 0 or high >= n_classes:
            outside = (indices < 0) | (indices >= n_classes)
            remedy = ""
            if low >= 1 and high == n_classes:
                remedy = f"; number the classes from 0 on: {what} - 1"
            elif low < 0:
                remedy = f"; samples without a label are left out: inputs[{what} >= 0], {what}[{what} >= 0]"
            raise InvalidInputError(
                f"{what} must lie in 0..{n_classes - 1} for a model with {n_classes} outputs, "
                f"got {int(indices[outside][0])}{remedy}"
            )
    return indices


def _float_remedy(what: str, whole: bool) -> str:
    """What to pass instead of floating-point numbers: integers only where these are whole."""
    integers = f"; if they are classes, pass {what}.long(), of an array {what}.astype(int)" if whole else ""
    if what == "targets":
        return f"{integers}; for a model with a single output, such as a regression, pass None"
    return integers or (
        "; numbers are labels of a regression, of a model with a single output; to judge one by classes pass for each "
        f"sample whether it is above a threshold, ({what} > t).long(), and a model that returns its output less t"
    )


def _shape_remedy(tensor: Tensor, n: int, what: str) -> str:
    if tensor.ndim > 2 and len(tensor) == n:
        return (
            "; to train on a map of classes use task_loss='cross_entropy', to judge a class of it pass for each sample "
            "whether its map has the class, 0 or 1, and a model that returns one logit, as logits[:, 1].amax((1, 2))"
        )
    if tensor.ndim != 2 or len(tensor) != n:
        return ""
    if tensor.shape[1] == 1:
        return f"; of a column pass {what}[:, 0]"
    if not bool(((tensor == 0) | (tensor == 1)).all()):
        positions = "; to train on a class for each position, as of tokens, use task_loss='cross_entropy'"
        return f"; of scores pass {what}.argmax(1)" if tensor.is_floating_point() else positions
    if bool((tensor.sum(1) == 1).all()):
        return f"; these are one-hot rows: pass {what}.argmax(1)"
    return (
        "; to train on several labels for each sample use task_loss='binary_cross_entropy', to judge one of them pass "
        f"{what}[:, 0] as whole numbers and a model that returns its output alone, logits[:, :1] (mend would train "
        "this output alone)"
    )
