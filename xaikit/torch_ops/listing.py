"""The operations of torch's public API, listed by torch itself, to find those that `kinds` does not know."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch.overrides import get_testing_overrides

from xaikit.core.process_wide import warnings_ignored
from xaikit.torch_ops.kinds import KINDS, UNDECIDED, why_none
from xaikit.torch_ops.names import canonical, plain_name

MODULES = (torch.nn.functional, torch.special, torch.linalg, torch.fft)


def public_operations() -> list[str]:
    """The names of all operations of torch, torch.Tensor, torch.nn.functional, special, linalg and fft.

    An operation with several names, or with a form that works in place, counts once.
    """
    with warnings_ignored():  # torch warns of what it will take away
        functions = [*get_testing_overrides(), *_functions()]
    return sorted({canonical(plain_name(function)) for function in functions if plain_name(function) != "__get__"})


def _functions() -> Iterator[object]:
    """What torch's own list of overrides leaves out, such as torch.nn.functional.hardswish."""
    for module in MODULES:
        for name in dir(module):
            function = getattr(module, name)
            takes_tensor = inspect.isbuiltin(function)
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                takes_tensor = next(iter(inspect.signature(function).parameters), "") in ("input", "query", "mat_a")
            if takes_tensor and not name.startswith("_") and not plain_name(function).startswith("_"):
                yield function


def coverage() -> tuple[float, list[str]]:
    """The share of operations with a kind, among those that map floats to floats, and the names of the others.

    Operations that are unknown to the table count as lacking a kind.

    Returns:
        The share, and the names of the operations without a kind.
    """
    names = public_operations()
    without = [name for name in names if name not in KINDS and why_none(name) in (None, UNDECIDED)]
    with_kind = sum(name in KINDS for name in names)
    return with_kind / (with_kind + len(without)), without
