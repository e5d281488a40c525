"""A loss that is not finite is told once for each model in a training loop of the user's own; `fit` tells it itself."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.value_ranges import off_cpu, range_of, ranges_known

if TYPE_CHECKING:
    from xaikit.mitigation.base import Loss, Mitigator

_IN_FIT: ContextVar[bool] = ContextVar("in fit", default=False)


@dataclasses.dataclass
class _Memory:
    """Of one model: whether it has been told, and task, penalty and total of a loss that a GPU may still compute."""

    is_told: bool = False
    last: tuple[Tensor, ...] = ()


_MEMORIES: weakref.WeakKeyDictionary[nn.Module, _Memory] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def in_fit() -> Iterator[None]:
    """While active nothing is told here."""
    token = _IN_FIT.set(True)
    try:
        yield
    finally:
        _IN_FIT.reset(token)


@contextlib.contextmanager
def ranges_and_losses_known(mitigator: Mitigator, model: nn.Module, batch: Any) -> Iterator[Callable[[Loss], Loss]]:
    """While active, the ranges of a batch are known; a function that is yielded takes the loss, and gives it back.

    On a CPU a loss that is not finite is told at once. On a GPU that would take one more wait for the device in each
    step, so the numbers of a loss are read at the model's next one, together with the ranges.

    Args:
        mitigator: whose loss it is.
        model: that is trained.
        batch: as for `Mitigator.loss`.
    """
    memory = _MEMORIES.get(model)
    if memory is None:
        memory = _MEMORIES.setdefault(model, _Memory())
    last, memory.last = memory.last, ()

    def note(loss: Loss) -> Loss:
        if _IN_FIT.get() or memory.is_told or torch_private.is_batched(loss.total):
            return loss
        scalars = loss.task.detach(), loss.penalty.detach(), loss.total.detach()
        if loss.total.device.type != "cpu":
            memory.last = scalars
        elif not math.isfinite(float(scalars[2])):
            _tell(mitigator, memory, scalars, stacklevel=4)
        return loss

    with ranges_known(off_cpu((batch, last[2:]))):
        if last and not range_of(last[2]).finite:
            _tell(mitigator, memory, last, stacklevel=5)
        yield note


def _tell(mitigator: Mitigator, memory: _Memory, scalars: tuple[Tensor, ...], *, stacklevel: int) -> None:
    memory.is_told = True
    task, penalty, total = map(float, scalars)
    if not math.isfinite(task):
        reason = f"the task loss is {task:g}; look at the model's weights, the learning rate and these samples"
    elif not math.isfinite(penalty):
        reason = (
            f"the task loss is {task:g}, but the penalty is {penalty:g}; the explainer's attribute() on the batch "
            "names the samples and the reason"
        )
    else:
        reason = f"task loss {task:g} and penalty {penalty:g} overflow together; lower {mitigator.WEIGHT}"
    warnings.warn(
        f"{type(mitigator).__name__}.loss is {total:g}: {reason}. Leave such steps out, as fit does: "
        "if loss.total.isfinite(): loss.total.backward()",
        stacklevel=stacklevel,
    )
