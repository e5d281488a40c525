"""Where in the model a torch function was called."""

from __future__ import annotations

import inspect

from torch import nn


def calling_module() -> str:
    """Path and class of the innermost module whose forward is running, read from the call stack.

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
    path = paths.get(id(innermost), "")
    return f"`{path}` ({type(innermost).__name__})" if path else f"the forward of {type(innermost).__name__}"
