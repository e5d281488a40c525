"""Running the user's model in training and in evaluation: its output, its logits, its mode and its precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.core.forward import call_model, explain_failure, with_rows
from xaikit.core.model_device import model_device
from xaikit.core.model_state import EXCLUSIVE, own_state_kept
from xaikit.core.rows import agree, warn_of_dependent_rows
from xaikit.core.structure import flatten
from xaikit.core.targets import pick_head


def run_model(model: nn.Module, inputs: Any) -> Any:
    """The output of the model, in its own mode and with its graph.

    It waits while another thread explains with torch's global random numbers, which dropout draws from too, or explains
    a model that has to run itself, since such a model is in evaluation mode meanwhile.

    Args:
        model: of the user.
        inputs: as for `call_model`.

    Raises:
        InvalidTypeError: for arguments that the model does not take, or of another precision.
    """
    try:
        with EXCLUSIVE:
            return call_model(model, inputs)
    except (RuntimeError, ValueError) as error:
        explain_failure(model, flatten(inputs)[0], error)
        raise


def logits_of(model: nn.Module, inputs: Any, head: str | int) -> Tensor:
    """The model's logits, in its own mode and with their graph.

    Args:
        model: of the user.
        inputs: as for `run_model`.
        head: which output holds the logits, where the model returns several.
    """
    return with_rows(pick_head(run_model(model, inputs), head), len(flatten(inputs)[0][0]))


def class_logits(model: nn.Module, inputs: Any, head: str | int) -> Tensor:
    """The model's logits (N, classes); a single output (N, 1) or (N,) is that of the class 1 against the class 0.

    Args:
        model: of the user.
        inputs: as for `run_model`.
        head: which output holds the logits, where the model returns several.

    Raises:
        InvalidInputError: for an output of another shape.
    """
    logits = logits_of(model, inputs, head)
    if is_single(logits) and logits.is_floating_point():
        single = logits.reshape(-1, 1)
        return torch.cat([torch.zeros_like(single), single], 1)
    if logits.ndim == 1:
        raise InvalidInputError(
            f"the model must return logits (N, classes), got {logits.dtype} numbers {tuple(logits.shape)}, such as "
            "predicted classes; return the scores that they are read off, before argmax"
        )
    if logits.ndim != 2:
        maps = "; of maps of classes one class is judged by one logit, as logits[:, 1].amax((1, 2))"
        raise InvalidInputError(
            f"the model must return logits (N, classes), got {tuple(logits.shape)}; name the output with head="
            f"{maps if logits.ndim == 4 else ''}"
        )
    return logits


def is_single(logits: Tensor) -> bool:
    """Whether the model has a single output, (N, 1) or (N,).

    Args:
        logits: as `logits_of` gives them.
    """
    return logits.ndim == 1 or logits.shape[1:] == (1,)


def check_rows(model: nn.Module, batch: Batch, logits: Tensor, head: str | int) -> None:
    """Warn where a sample's logits change with the other samples of its batch, in which the same thing is exchanged.

    Args:
        model: of the user, in evaluation mode.
        batch: on the model's device.
        logits: of the batch, (N, classes).
        head: which output holds the logits.
    """
    n = len(logits)
    half = (n + 1) // 2
    if n == 1:
        return
    with contextlib.suppress(RuntimeError, ValueError, IndexError, XaikitError):  # it may take certain batches only
        others = class_logits(model, batch.take([*range(half), *[0] * (n - half)]).inputs, head)
        alike = agree(others[:half], logits[:half])
        # A model that draws random numbers differs from itself.
        if not alike and agree(class_logits(model, batch.inputs, head), logits):
            warn_of_dependent_rows(
                type(model).__name__,
                "Figures on exchanged data also hold what the exchange does to the other samples of a batch; batches "
                "of one sample show each by itself",
            )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """While active: evaluation mode, no gradients. Then all is as before, the modes and what the model writes.

    Yields the model's device.

    Args:
        model: of the user.
    """
    modules = list(model.modules())
    with own_state_kept(modules), torch.no_grad():  # the mode is a part of the state
        for module in modules:
            module.training = False
        yield model_device(model)


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """While active: training mode. Then each module's mode is as before.

    A model that is in training mode already keeps its flags: parts that its owner froze stay frozen.

    Args:
        model: of the user.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        if not model.training:
            model.train()
        yield
    finally:
        for module, training in flags:
            module.training = training


def autocast_on(inputs: Any) -> bool:
    """Whether autocast is active on the device of the inputs.

    Args:
        inputs: as for `run_model`.
    """
    return torch.is_autocast_enabled(flatten(inputs)[0][0].device.type)


@contextlib.contextmanager
def full_precision(inputs: Any) -> Iterator[Any]:
    """While active, autocast is off.

    Args:
        inputs: as for `run_model`.

    Yields:
        The inputs; if autocast was on, those of half precision in float32.
    """
    if not autocast_on(inputs):
        yield inputs
        return
    tensors, rebuild = flatten(inputs)
    low = (torch.float16, torch.bfloat16)
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield rebuild(tuple(t.float() if t.dtype in low else t for t in tensors))
