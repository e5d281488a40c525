"""The losses of a task that have a name, for spec strings, job files and the shell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.spec_strings import parse_spec
from xaikit.mitigation.penalties import REGRESSION, classes_last

TaskLoss = Callable[[Tensor, Tensor], Tensor]
# Losses of torch that compare numbers one by one; they broadcast (N,) against (N, 1) to (N, N).
ELEMENTWISE = (
    nn.BCEWithLogitsLoss, nn.BCELoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss,
    F.binary_cross_entropy_with_logits, F.binary_cross_entropy, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss,
)  # fmt: skip
INDEPENDENT = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, F.binary_cross_entropy_with_logits)


def cross_entropy(logits: Tensor, labels: Tensor, weight: Any = None, **settings: Any) -> Tensor:
    """Mean cross-entropy of class indices, also of maps (N, H, W) and tokens (N, T), or of soft labels.

    Args:
        logits: (N, C), (N, C, ...) or (N, ..., C).
        labels: class indices, or probabilities of the shape of the logits.
        weight: a number for each class.
        settings: of `torch.nn.functional.cross_entropy`: `label_smoothing`, `ignore_index`.

    Raises:
        InvalidInputError: for numbers of another shape, or a class that the model does not have.
    """
    if labels.is_floating_point() and labels.shape != logits.shape:
        raise InvalidInputError(
            f"cross_entropy takes class indices, or probabilities of the logits' shape {tuple(logits.shape)}, got "
            f"numbers of shape {tuple(labels.shape)}"
        )
    weights = None if weight is None else torch.as_tensor(weight, dtype=logits.dtype, device=logits.device)
    labels = labels.to(logits.dtype) if labels.is_floating_point() else labels.long()
    if logits.ndim > 2 and labels.shape != logits.shape:
        logits = classes_last(logits, labels).movedim(-1, 1)
    try:
        return F.cross_entropy(logits, labels, weight=weights, **settings)
    except IndexError as error:
        last = logits.shape[1] - 1
        wrong = labels[((labels < 0) | (labels > last)) & (labels != settings.get("ignore_index", -100))][0].item()
        raise InvalidInputError(
            f"labels must be classes of the model, 0 to {last}, got {wrong}; where that marks what has no class, pass "
            f"task_loss='cross_entropy:ignore_index={wrong}'"
        ) from error


def binary_cross_entropy(logits: Tensor, labels: Tensor, pos_weight: Any = None) -> Tensor:
    """Mean cross-entropy of the sigmoid of each logit: several labels for one sample.

    Args:
        logits: of any shape.
        labels: numbers in [0, 1], of that shape.
        pos_weight: the weight of a label 1: one number, or one for each class.
    """
    weights = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
    return F.binary_cross_entropy_with_logits(logits, _like(labels, logits), pos_weight=weights)


def mean_squared_error(output: Tensor, labels: Tensor) -> Tensor:
    """The mean squared difference.

    Args:
        output: of the model.
        labels: numbers, as many.
    """
    return F.mse_loss(output, _like(labels, output))


def mean_absolute_error(output: Tensor, labels: Tensor) -> Tensor:
    """The mean absolute difference.

    Args:
        output: of the model.
        labels: numbers, as many.
    """
    return F.l1_loss(output, _like(labels, output))


def huber(output: Tensor, labels: Tensor, delta: float = 1.0) -> Tensor:
    """The mean Huber loss: quadratic for small differences, linear for large ones.

    Args:
        output: of the model.
        labels: numbers, as many.
        delta: the difference at which it becomes linear.
    """
    return F.huber_loss(output, _like(labels, output), delta=delta)


BY_NAME: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "huber": huber,
}
SETTINGS = {
    "cross_entropy": ("weight", "label_smoothing", "ignore_index"),
    "binary_cross_entropy": ("pos_weight",),
    "huber": ("delta",),
}


def check_task_loss(value: Any, where: str) -> Any:
    """The setting `task_loss`, checked.

    Args:
        value: None, ``"regression"``, a name of `BY_NAME` with its settings, or a function.
        where: the name of the setting, for messages.

    Raises:
        InvalidInputError: for an unknown name or setting.
        InvalidTypeError: for what is neither text nor a function.
    """
    if isinstance(value, str) and value != REGRESSION:
        named_loss(value, where)
    elif value is not None and value != REGRESSION and (not callable(value) or isinstance(value, type)):
        raise InvalidTypeError(
            f"{where} must be a function (logits, labels) -> loss, a name such as 'cross_entropy' or 'regression', or "
            f"None, got {value!r}"
        )
    return value


@functools.cache
def named_loss(spec: str, where: str = "task_loss") -> TaskLoss:
    """The loss that a name with settings stands for, such as ``"cross_entropy:ignore_index=-100"``.

    Args:
        spec: the name, with settings behind a colon.
        where: the name of the setting, for messages.

    Raises:
        InvalidInputError: for an unknown name or setting.
    """
    name, settings = parse_spec(spec)
    if name not in BY_NAME:
        raise InvalidInputError(
            f"{where} must be one of {', '.join((*BY_NAME, REGRESSION))} or a function (logits, labels) -> loss, "
            f"got {spec!r}"
        )
    able = SETTINGS.get(name, ())
    unknown = [key for key in settings if key not in able]
    if unknown:
        has = f"it has {', '.join(able)}" if able else "it has none"
        raise InvalidInputError(f"{where}: {name} has no setting {unknown[0]!r}; {has}")
    return functools.partial(BY_NAME[name], **settings)


def loss_function(task_loss: Any) -> TaskLoss:
    """The loss as a function of logits and labels, whose forms may differ by an axis of length 1 where that is safe.

    Args:
        task_loss: a checked setting: a name, a loss of torch or a function of the user's.
    """
    if isinstance(task_loss, str):
        return named_loss(task_loss)
    if not _is_one_of(task_loss, ELEMENTWISE):
        function: TaskLoss = task_loss
        return function
    return lambda logits, labels: task_loss(logits, _like(labels, logits))


def is_multi_label(task_loss: Any) -> bool:
    """Whether each class has a probability of its own: the task's loss is one of torch's, or ours, that says so.

    Args:
        task_loss: a checked setting.
    """
    if isinstance(task_loss, str):
        return task_loss.partition(":")[0] == "binary_cross_entropy"
    return _is_one_of(task_loss, INDEPENDENT)


def _is_one_of(function: Any, losses: tuple[Any, ...]) -> bool:
    function = function.func if isinstance(function, functools.partial) else function
    return any(function is loss or type(function) is loss for loss in losses)


def _like(labels: Tensor, output: Tensor) -> Tensor:
    """Labels as numbers of the output's shape, which may have one more axis of length 1."""
    if labels.numel() != output.numel() or labels.shape[0] != output.shape[0]:
        raise InvalidInputError(
            f"labels must have the shape of the model's output {tuple(output.shape)}, got {tuple(labels.shape)}"
        )
    return labels.reshape(output.shape).to(output.dtype)
