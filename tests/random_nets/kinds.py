"""The registry of what a random net is made of: each kind builds one step for a tensor of a given shape."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]  # of one sample
Builder = Callable[[Random, Shape], nn.Module | None]  # None where the kind does not suit the shape
KINDS: dict[str, Builder] = {}
MAX_ELEMENTS = 400  # of one sample, so that a net stays fast


def kind(name: str) -> Callable[[Builder], Builder]:
    """Registers a builder under a name."""

    def register(builder: Builder) -> Builder:
        if name in KINDS:
            raise ValueError(f"two kinds are called {name}")
        KINDS[name] = builder
        return builder

    return register


class Function(nn.Module):
    """A step that is a function and no module of torch: ``x -> function(x)``."""

    def __init__(self, text: str, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.text, self.function = text, function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.text


class WithParts(nn.Module):
    """A step that is a function of its input and of modules of its own: ``x -> function(self, x)``."""

    def __init__(self, text: str, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.text, self.function = text, function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)

    def extra_repr(self) -> str:
        return self.text


def when(fits: Callable[[Shape], bool], make: Callable[[Random, Shape], nn.Module]) -> Builder:
    """A builder that declines shapes for which `fits` is false."""
    return lambda r, shape: make(r, shape) if fits(shape) else None


def function(name: str, call: Callable[[Tensor], Any], fits: Callable[[Shape], bool] = lambda shape: True) -> None:
    """Registers a kind that is one function without parameters."""
    kind(name)(when(fits, lambda r, shape: Function(name, call)))


def divisors(number: int) -> list[int]:
    """The divisors of a number."""
    return [d for d in range(1, number + 1) if number % d == 0]
