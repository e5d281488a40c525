"""BatchNorm's running statistics from before a pass in training mode, for a penalty on the model in evaluation mode."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from xaikit.core.modes import is_training
from xaikit.core.torch_private import buffers_of

Statistics = Mapping[nn.Module, Mapping[str, Tensor]]  # of the user's modules, by the buffer's name

_ACTIVE: contextvars.ContextVar[Statistics | None] = contextvars.ContextVar("earlier_statistics", default=None)


class EarlierStatistics:
    """The running statistics of a model's normalisation layers, as they were when this was made.

    A pass in training mode moves them. A penalty on the model in evaluation mode has its exact derivative at the
    statistics from before that pass: those after it depend on the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        statistics = {
            module: {
                name: buffer.detach().clone()
                for name, buffer in buffers_of(module).items()
                if buffer is not None and name in ("running_mean", "running_var")
            }
            for module in model.modules()
            if is_training(module)
        }
        self._statistics = {module: buffers for module, buffers in statistics.items() if buffers}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While active, calls in this thread start from them. The user's model keeps its present ones."""
        token = _ACTIVE.set(self._statistics)
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def earlier_statistics() -> Statistics:
    """The statistics from which a call starts, by the user's modules; empty where it starts from their own."""
    return _ACTIVE.get() or {}


@contextlib.contextmanager
def swapped_in(statistics: Statistics) -> Iterator[None]:
    """While active, the modules themselves have these statistics: for a model of which no copy can be made."""
    present = [(module, {name: buffers_of(module)[name] for name in own}) for module, own in statistics.items()]
    try:
        for module, earlier in statistics.items():
            buffers_of(module).update(earlier)
        yield
    finally:
        for module, buffers in present:
            buffers_of(module).update(buffers)
