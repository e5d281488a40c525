"""How steps are joined: residuals, branches, shared modules, checkpoints. Each takes steps that keep the shape."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Checkpoints:
    """Whether steps that ask for a checkpoint get one; the reference runs without."""

    on = True


@contextlib.contextmanager
def without_checkpoints() -> Iterator[None]:
    """Inside, nothing is recomputed: the same function, which any call of autograd can differentiate."""
    Checkpoints.on = False
    try:
        yield
    finally:
        Checkpoints.on = True


class Wiring(nn.Module):
    """A step around one or two inner steps that keep the shape."""

    def __init__(self, text: str, forward: Callable[..., Tensor], *inner: nn.Module) -> None:
        super().__init__()
        self.text, self.function, self.inner = text, forward, nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner)

    def extra_repr(self) -> str:
        return self.text


def _in_place(x, f):
    out = f(x)
    out += x
    return out


def _into_the_input(x, f):
    return x.add_(f(x.clone()))


def _downsampled(x, f):
    identity = x
    out = f(x)
    identity = identity * 0.5
    out += identity
    return torch.relu_(out)


def _switched(x, f, g):
    return torch.where(x.mean(tuple(range(1, x.ndim)), keepdim=True) > 0, f(x), g(x))


def _recomputed(x, f):
    return checkpoint(f, x, use_reentrant=False) if Checkpoints.on else f(x)


def _reentrant(x, f):
    return checkpoint(f, x, use_reentrant=True) if Checkpoints.on else f(x)


ONE: dict[str, Callable[..., Tensor]] = {
    "x + f(x)": lambda x, f: x + f(x),
    "out = f(x); out += x": _in_place,
    "out = f(x); out += x / 2; relu_(out)": _downsampled,
    "x.add_(f(x))": _into_the_input,
    "torch.add(f(x), x, alpha=0.5)": lambda x, f: torch.add(f(x), x, alpha=0.5),
    "x - f(x)": lambda x, f: x - f(x),
    "x * sigmoid(f(x))": lambda x, f: x * torch.sigmoid(f(x)),
    "cat([x, f(x)], 1)": lambda x, f: torch.cat([x, f(x)], 1),
    "f(f(x))": lambda x, f: f(f(x)),
    "f(x) + f(-x)": lambda x, f: f(x) + f(-x),
    "checkpoint(f, x)": _recomputed,
    "checkpoint(f, x, use_reentrant=True)": _reentrant,
}
TWO: dict[str, Callable[..., Tensor]] = {
    "f(x) + g(x)": lambda x, f, g: f(x) + g(x),
    "f(x) * g(x)": lambda x, f, g: f(x) * g(x),
    "f(x) / (1 + g(x) ** 2)": lambda x, f, g: f(x) / (1 + g(x).square()),
    "maximum(f(x), g(x))": lambda x, f, g: torch.maximum(f(x), g(x)),
    "stack([f(x), g(x)]).mean(0)": lambda x, f, g: torch.stack([f(x), g(x)]).mean(0),
    "where(mean(x) > 0, f(x), g(x))": _switched,
    "lerp(f(x), g(x), 0.3)": lambda x, f, g: torch.lerp(f(x), g(x), 0.3),
}
