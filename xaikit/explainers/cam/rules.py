"""The rules of the class activation maps that weight activations by a gradient.

Each takes activations A and gradients g = dS/dA, both (N, K, ...), and gives the contributions of the K channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

MapRule = Callable[[Tensor, Tensor], Tensor]


def positions(t: Tensor) -> tuple[int, ...]:
    """The axes of the positions of (N, K, ...)."""
    return tuple(range(2, t.ndim))


def gradcam(a: Tensor, g: Tensor) -> Tensor:
    """w_k A_k, w_k the mean of g_k over the positions."""
    return g.mean(positions(g), keepdim=True) * a


def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """w_k A_k, w_k = sum of alpha_k relu(g_k) over the positions, alpha_k = 1 / (2 + relu(g_k) sum relu(A_k))."""
    rising = g.relu()
    total = a.relu().sum(positions(a), keepdim=True)
    return (rising / (2 + rising * total)).sum(positions(a), keepdim=True) * a


def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    """w_k A_k, w_k = sum g_k A_k / sum A_k over the positions; 0 where the activations of a channel sum to 0."""
    total = a.sum(positions(a), keepdim=True)
    weight = (g * a).sum(positions(a), keepdim=True) / total.where(total != 0, 1)
    return weight.where(total != 0, 0) * a


def hirescam(a: Tensor, g: Tensor) -> Tensor:
    """g_k A_k at each position."""
    return g * a


def elementwise(a: Tensor, g: Tensor) -> Tensor:
    """relu(g_k A_k) at each position."""
    return (g * a).relu()


def layercam(a: Tensor, g: Tensor) -> Tensor:
    """relu(g_k) A_k at each position."""
    return g.relu() * a


RULES: Mapping[str, MapRule] = MappingProxyType(
    {rule.__name__: rule for rule in (gradcam, gradcam_plus_plus, xgradcam, hirescam, elementwise, layercam)}
)
