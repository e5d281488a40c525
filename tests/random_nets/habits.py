"""Habits of people who write models, which leave the function as it is: nothing of them may reach an explanation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Tensors = tuple[Tensor, ...]


class Habits:
    """What a net does with its inputs before its first step.

    Args:
        names: of `WITH_INPUTS`.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def of(self, net: nn.Module, inputs: Tensors) -> Tensors:
        """The inputs, the same numbers."""
        for name in self.names:
            inputs = tuple(WITH_INPUTS[name](net, t) for t in inputs)
        return inputs


def _scaled_in_place(_net: nn.Module, t: Tensor) -> Tensor:
    return t.mul_(2) / 2 if t.is_floating_point() else t.add_(1) - 1


def _laid_out(_net: nn.Module, t: Tensor) -> Tensor:
    layouts: dict[int, Any] = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=layouts.get(t.ndim, torch.contiguous_format))


def _cut_and_joined(_net: nn.Module, t: Tensor) -> Tensor:
    return torch.cat(t.split(1))


def _looked_at(_net: nn.Module, t: Tensor) -> Tensor:
    if torch.isnan(t).any() or not f"{t.float().mean().item():.3f} {tuple(t.shape)}":
        raise ValueError("NaN")
    return t


def _remembered(net: Any, t: Tensor) -> Tensor:
    net.seen = t
    return net.seen  # type: ignore[no-any-return]


def _counted(net: Any, t: Tensor) -> Tensor:
    net.count += len(t)
    net.log.append(len(t))
    return t


def _assigned(_net: nn.Module, t: Tensor) -> Tensor:
    out = torch.empty_like(t, memory_format=torch.contiguous_format)
    for i in range(len(t)):
        out[i] = t[i]
    return out


WITH_INPUTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scales its input in place": _scaled_in_place,
    "lays its input out": _laid_out,
    "cuts and joins its input": _cut_and_joined,
    "looks at its input": _looked_at,
    "remembers its input": _remembered,
    "counts": _counted,
    "assigns its input row by row": _assigned,
}


def _gradient_hook(net: Any) -> None:
    net.head.register_full_backward_hook(lambda *_: None)


def _copying_hook(net: Any) -> None:
    net.head.register_forward_hook(lambda _module, _args, output: output.clone())


def _parametrised(net: Any) -> None:
    parametrize.register_parametrization(net.head, "weight", nn.Identity())


WITH_MODULES: dict[str, Callable[[Any], None]] = {
    "a hook that looks at gradients": _gradient_hook,
    "a hook that copies": _copying_hook,
    "a parametrised weight": _parametrised,
}


def take_up(net: Any, seed: int) -> list[str]:
    """Give a net some habits, none of which changes what it computes; their names.

    Args:
        net: with a head.
        seed: of the net.
    """
    r = random.Random(f"habits of {seed}")
    names = [name for name in WITH_INPUTS if r.random() < 0.12]
    of_modules = [name for name in WITH_MODULES if r.random() < 0.12]
    net.register_buffer("count", torch.zeros((), dtype=torch.long))
    net.log, net.seen = [], None
    net.habits = Habits(names)
    for name in of_modules:
        WITH_MODULES[name](net)
    return names + of_modules
