"""The optimizer of a training: by its name in `torch.optim`, or made by a function of the user."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.spec_strings import parse_spec

# Those that need more than a gradient in each step, or gradients of another form.
UNFIT = ("LBFGS", "SparseAdam", "Optimizer")
BY_NAME: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and name not in UNFIT
}


def check_optimizer(value: Any, where: str) -> Any:
    """The setting `optimizer`, checked.

    Args:
        value: a name or spec string such as ``"sgd:momentum=0.9"``, a class, or a function of the parameters.
        where: the name of the setting, for messages.

    Raises:
        InvalidInputError: for an unknown name, or settings that this optimizer does not have.
        InvalidTypeError: for what is neither text nor callable.
    """
    if isinstance(value, str):
        _by_spec(value, where)
    elif not callable(value):
        raise InvalidTypeError(
            f"{where} must be a name such as 'adam' or 'sgd:momentum=0.9', or a function that takes the parameters and "
            f"returns an optimizer, got {value!r}"
        )
    return value


def make_optimizer(
    setting: Any, model: nn.Module, *, lr: float, weight_decay: float, may_fuse: bool
) -> torch.optim.Optimizer:
    """The optimizer of a training.

    Args:
        setting: as `check_optimizer` takes it.
        model: whose parameters it changes: those that require a gradient.
        lr: the learning rate, where the setting is a name or a class.
        weight_decay: likewise.
        may_fuse: whether torch's fused kernels may be used.

    Raises:
        InvalidInputError: for a function whose optimizer changes nothing of the model.
        InvalidTypeError: for a function that returns no optimizer.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if isinstance(setting, str):
        maker, settings = _by_spec(setting, "optimizer")
    elif isinstance(setting, type) and issubclass(setting, torch.optim.Optimizer):
        maker, settings = setting, {}
    else:
        return _by_function(setting, parameters)
    settings = {"lr": lr, "weight_decay": weight_decay} | settings
    # A fused step passes once over weights, gradients and moments: an eighth of the time of torch's default on a CPU.
    if may_fuse and "fused" in inspect.signature(maker).parameters:
        settings["fused"] = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return maker(parameters, **settings)


def _by_spec(spec: str, where: str) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    name, settings = parse_spec(spec)
    maker = BY_NAME.get(name.lower())
    if maker is None:
        raise InvalidInputError(f"{where} must be one of {', '.join(sorted(BY_NAME))} or a function, got {spec!r}")
    able = inspect.signature(maker).parameters
    unknown = [key for key in settings if key not in able or key in ("params", "fused")]
    if unknown:
        raise InvalidInputError(f"{where}: {name} has no setting {unknown[0]!r}; it has {', '.join(list(able)[1:])}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    if "lr" in settings or "weight_decay" in settings:
        raise InvalidInputError(f"{where}: lr and weight_decay are settings of the mitigator; leave them out here")
    try:
        maker([nn.Parameter(torch.zeros(1, device="cpu"))], **settings)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{where}={spec!r}: {error}") from error
    return maker, settings


def _by_function(function: Any, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer = function(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidTypeError(
            f"an optimizer function must return a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    trained = {id(p) for p in parameters}
    if not any(id(p) in trained for group in optimizer.param_groups for p in group["params"]):
        raise InvalidInputError(
            "the optimizer that the function returned changes no parameter of this model; make it from the parameters "
            "that the function is given, or from those of the same model"
        )
    return optimizer
