"""The place in a model where a torch function is called, for messages."""

from __future__ import annotations

import inspect

from torch import nn


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


def described(module: nn.Module, path: str | None) -> str:
    """A module by its class and its path in the model; by its class alone where it has none.

    Args:
        module: the module.
        path: its name in the model's `named_modules()`.
    """
    kind = getattr(module, "original_name", type(module).__name__)  # the class that TorchScript was made of
    return f"{kind} {path!r}" if path else str(kind)
