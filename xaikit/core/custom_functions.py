"""Whether a `torch.autograd.Function` of the user's hides a part of its second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from xaikit.core import torch_private
from xaikit.core.errors import NotDifferentiableError
from xaikit.core.graphs import steps_between
from xaikit.core.structure import Tensors

AGREEMENT = 0.01  # two differences that are nearer than this are taken for the derivative
DEVIATION = 0.05  # and torch's must be nearer than this


def refuse_detached(
    gradients: Sequence[Tensor | None], start: Tensor, points: Tensors, gradient_at: Callable[[Tensors], Tensors]
) -> None:
    """Refuse a gradient that forgets how it depends on the point, since a function's backward detaches what it keeps.

    torch differentiates what the backward of a `torch.autograd.Function` computes; it cannot know that
    `ctx.x = x.detach()` was the input. Where the graph holds such a function, the derivative of the gradient along one
    direction is compared with finite differences. It is refused only where two differences agree with each other.

    Args:
        gradients: d score / d point of each point, with a graph.
        start: what they are the gradients of, whose graph is looked at.
        points: where they were taken, leaves.
        gradient_at: the gradients at other points, without a graph.

    Raises:
        NotDifferentiableError: with the names of the functions.
    """
    names = {type(node).__name__ for node in steps_between((), (start,)) if _is_the_users(node)}
    pairs = [(x, g) for x, g in zip(points, gradients, strict=True) if g is not None and x.is_floating_point()]
    if not names or len(pairs) < len(points):
        return
    draw = torch.Generator("cpu").manual_seed(0)
    directions = [_like(x, draw) * x.detach().square().mean().sqrt() for x, _ in pairs]
    weights = [_like(g, draw) for _, g in pairs]

    def projected(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([(w * g).sum() for w, g in zip(weights, values, strict=True)]).sum()

    value = projected([g for _, g in pairs])
    second: Sequence[Tensor | None] = [None]
    if value.requires_grad:
        second = torch.autograd.grad(value, points, retain_graph=True, allow_unused=True)
    by_torch = sum(float((s * d).sum()) for s, d in zip(second, directions, strict=False) if s is not None)

    def difference(h: float) -> float:
        up, down = (
            projected(gradient_at(tuple(x.detach() + s * h * d for (x, _), d in zip(pairs, directions, strict=True))))
            for s in (1, -1)
        )
        return float(up - down) / (2 * h)

    far, near = (difference(h) for h in ((1e-4, 1e-5) if points[0].dtype == torch.float64 else (1e-1, 1e-2)))
    if abs(far - near) <= AGREEMENT * abs(near) and abs(by_torch - near) > DEVIATION * abs(near):
        raise NotDifferentiableError(
            f"the backward of {', '.join(sorted(names))} does not tell torch how it depends on the input (it keeps a "
            f"detached value, or computes without a graph): the derivative of the explanation is {by_torch:.3g} where "
            f"finite differences give {near:.3g}; keep the input with ctx.save_for_backward(x) and compute with it, or "
            "use a penalty without a gradient, such as a mitigator with contextual decomposition"
        )


def _is_the_users(node: Any) -> bool:
    if not isinstance(node, BackwardCFunction):
        return False
    package = torch_private.function_of(node).__module__.partition(".")[0]
    return package not in ("torch", "xaikit")


def _like(x: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=draw, device="cpu").to(x)
