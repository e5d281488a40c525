"""The place in a model where a torch function is called, for messages."""

from __future__ import annotations

import inspect

from torch import nn
from torch.autograd import Function


def calling_module() -> str:
    """The innermost module whose forward runs now, read from the call stack: ``"Linear 'head'"``.

    Only an error or a report asks for it, so that a forward pass without either pays nothing.
    """
    running: list[nn.Module] = []
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_argcount else None
        if isinstance(owner, nn.Module):
            running.append(owner)
        frame = frame.f_back
    if not running:
        return "outside any module"
    innermost, outermost = running[0], running[-1]
    paths = {id(module): path for path, module in outermost.named_modules()}
    return described(innermost, paths.get(id(innermost), ""))


def innermost_module() -> nn.Module | None:
    """The module whose forward runs now, read from the call stack; None outside any."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_argcount else None
        if isinstance(owner, nn.Module):
            return owner
        frame = frame.f_back
    return None


def inside_function() -> bool:
    """Whether a `torch.autograd.Function` runs its forward pass, which torch runs without gradients."""
    apply = Function.apply.__func__.__code__  # type: ignore[attr-defined]
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not apply:
        if frame.f_code.co_argcount and isinstance(frame.f_locals.get("self"), nn.Module):
            return False  # a module runs inside what called the operation, and switched gradients off itself
        frame = frame.f_back
    return frame is not None


def described(module: nn.Module, path: str | None) -> str:
    """A module by its class and its path in the model; by its class alone where it has none.

    Args:
        module: the module.
        path: its name in the model's `named_modules()`.
    """
    kind = getattr(module, "original_name", type(module).__name__)  # the class that TorchScript was made of
    return f"{kind} {path!r}" if path else str(kind)
