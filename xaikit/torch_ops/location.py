"""The place in a model where a torch function is called, for messages."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import nn
from torch.autograd import Function


def calling_module() -> str:
    """The innermost module whose forward runs now, read from the call stack: ``"Linear 'head'"``.

    Only an error or a report asks for it, so that a forward pass without either pays nothing.
    """
    running = [module for _, module in _frames() if module is not None]
    if not running:
        return "outside any module"
    innermost, outermost = running[0], running[-1]
    paths = {id(module): path for path, module in outermost.named_modules()}
    return described(innermost, paths.get(id(innermost), ""))


def innermost_module() -> nn.Module | None:
    """The module whose forward runs now, read from the call stack; None outside any."""
    return next((module for _, module in _frames() if module is not None), None)


def inside_function() -> bool:
    """Whether a `torch.autograd.Function` runs its forward pass, which torch runs without gradients."""
    forward_passes = {getattr(cls.forward, "__code__", None) for cls in _subclasses(Function)}
    for frame, module in _frames():
        if frame.f_code in forward_passes:
            return True
        if module is not None:
            return False  # a module runs inside what called the operation, and switched gradients off itself
    return False


def _subclasses(cls: Any) -> Iterator[Any]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _frames() -> Iterator[tuple[FrameType, nn.Module | None]]:
    """The frames of the call stack, from the innermost on, each with the module whose method it runs."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_argcount else None
        yield frame, owner if isinstance(owner, nn.Module) else None
        frame = frame.f_back


def described(module: nn.Module, path: str | None) -> str:
    """A module by its class and its path in the model; by its class alone where it has none.

    Args:
        module: the module.
        path: its name in the model's `named_modules()`.
    """
    kind = getattr(module, "original_name", type(module).__name__)  # the class that TorchScript was made of
    return f"{kind} {path!r}" if path else str(kind)
