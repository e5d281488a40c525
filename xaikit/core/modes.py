"""Whether a model computes the same in training mode as in evaluation mode."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from xaikit.core import torch_private

# torch's own modules for which a setting decides, not their source.
_BY_SETTING: tuple[tuple[type[nn.Module], Callable[[Any], bool]], ...] = (
    (torch_private.Dropout, lambda m: m.p > 0),
    (torch_private.InstanceNorm, lambda m: m.track_running_stats),
    # Without running statistics evaluation mode uses those of the batch, too.
    (torch_private.RunningNorm, lambda m: m.running_mean is not None),
    (nn.RNNBase, lambda m: m.dropout > 0),
    (nn.MultiheadAttention, lambda m: m.dropout > 0),
    # In evaluation mode without a graph they take a fused path, which computes the same up to rounding.
    (nn.TransformerEncoderLayer, lambda _: False),
    (nn.TransformerEncoder, lambda _: False),
)


def is_training(module: nn.Module) -> bool:
    """Whether a module is in training mode; a frozen TorchScript module has no mode, and runs as in evaluation.

    Args:
        module: of the user's.
    """
    return bool(getattr(module, "training", False))


def mode_matters(model: nn.Module) -> bool:
    """Whether some module that is in training mode would compute something else in evaluation mode.

    Torch's own modules are judged by their settings, any other by whether its code (or that of a hook on it) names
    ``training``. Code that cannot be read counts as mattering: a wrong yes costs a second pass, a wrong no would
    change a result.
    """
    return any(is_training(module) and _matters(module) for module in model.modules())


def _matters(module: nn.Module) -> bool:
    hooks = [*torch_private.forward_hooks_of(module).values(), *torch_private.forward_pre_hooks_of(module).values()]
    if any(_names_training(hook) for hook in hooks):
        return True
    for kind, by_setting in _BY_SETTING:
        if isinstance(module, kind) and type(module).__module__.startswith("torch.nn.modules."):
            return by_setting(module)
    # A forward put on the instance hides that of its class.
    return "forward" in vars(module) or _class_matters(type(module))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1024)
def _class_matters(cls: type) -> bool:
    user_classes = [c for c in cls.__mro__ if c not in (object, nn.Module)]
    functions = [f for c in user_classes for f in _functions(c)]
    return not functions or any(_names_training(f) for f in functions)


def _functions(cls: type) -> Iterator[Any]:
    for value in vars(cls).values():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if callable(function) and not isinstance(function, type):
            yield function


def _names_training(function: Any) -> bool:
    function = getattr(function, "func", function)  # functools.partial
    function = getattr(function, "__func__", function)  # a bound method
    if not isinstance(function, types.FunctionType):
        function = next((vars(c)["__call__"] for c in type(function).__mro__ if "__call__" in vars(c)), None)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return not isinstance(function, types.FunctionType) or _code_names_training(function.__code__)


def _code_names_training(code: types.CodeType) -> bool:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return "training" in code.co_names or "training" in code.co_consts or any(map(_code_names_training, inner))
