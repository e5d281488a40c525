"""Derivatives of explanations against finite differences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.core import Explainer
from xaikit.core.structure import flatten

ENOUGH = 1e-6  # relative error


def derivative_error(explainer: Explainer, x: Any, y: Any, *, step: float = 1e-6) -> float:
    """Largest relative error of d penalty / d parameter along random directions, one for each parameter.

    The penalty is sum((w * attribution)**2) with fixed random w.

    Args:
        explainer: bound to a model, which should be float64.
        x: inputs as for `Explainer.attribute`.
        y: targets as for `Explainer.attribute`.
        step: length of the finite difference along a direction.

    Returns:
        The largest error, as a share of the finite difference.
    """
    model = explainer.model
    if model is None:
        raise AssertionError("bind the explainer to a model first")
    generator = torch.Generator().manual_seed(1)
    weights: list[Tensor] = []

    def penalty() -> Tensor:
        a = explainer.attribute(x, y, create_graph=True)
        parts = [a] if isinstance(a, Tensor) else list(a.values() if isinstance(a, dict) else a)
        if not weights:
            weights.extend(torch.rand(p.shape, generator=generator, dtype=p.dtype, device="cpu") for p in parts)
        return torch.stack([(w * p).square().sum() for w, p in zip(weights, parts, strict=True)]).sum()

    parameters = [p for p in model.parameters() if p.requires_grad]
    value = penalty()
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    exact, numeric = [], []
    for p, g in zip(parameters, grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype, device="cpu")
        exact.append(0.0 if g is None else float((g * direction).sum()))
        before = p.detach().clone()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.copy_(before + sign * step * direction)
            ends.append(float(penalty().detach()))
        with torch.no_grad():
            p.copy_(before)
        numeric.append((ends[0] - ends[1]) / (2 * step))
    scale = max([abs(f) for f in numeric] + [1e-12])
    return max(abs(a - b) / max(abs(b), 1e-3 * scale) for a, b in zip(exact, numeric, strict=True))


def directional_derivative_error(
    explainer: Explainer, x: Any, y: Any, *, parts: int = 3, steps: tuple[float, ...] = (1e-6, 1e-7, 1e-8)
) -> float:
    """Largest relative error of d penalty / d parameters along few directions, for nets with many parameters.

    The penalty is sum((w a)^2 + w a) of the attribution a with fixed random w. The directions move all parameters at
    once, then every third of them (with `parts=3`). The best of the steps counts: a larger one crosses kinks of ReLU
    and max-pooling, a smaller one loses digits. An error below 1e-6 is small enough: no further step is tried.

    Args:
        explainer: bound to a model, which should be float64.
        x: inputs as for `Explainer.attribute`.
        y: targets as for `Explainer.attribute`.
        parts: number of groups of parameters that are moved by themselves.
        steps: lengths of the finite differences.

    Returns:
        The largest error, as a share of the finite difference.
    """
    model = explainer.model
    if model is None:
        raise AssertionError("bind the explainer to a model first")
    parameters = list(model.parameters())

    def penalty(create_graph: bool = False) -> Tensor:
        attribution = explainer.attribute(x, y, create_graph=create_graph)
        flat = torch.cat([part.flatten(1) for part in flatten(attribution)[0]], 1)
        generator = torch.Generator().manual_seed(5)
        weighted = flat * torch.randn(flat.shape, dtype=flat.dtype, generator=generator, device="cpu")
        return (weighted.square() + weighted).sum()

    def moved(direction: list[Tensor], size: float) -> Tensor:
        with torch.no_grad():
            originals = [p.clone() for p in parameters]
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=size)
            value = penalty()
            for p, old in zip(parameters, originals, strict=True):
                p.copy_(old)
        return value

    grads = torch.autograd.grad(penalty(True), parameters, allow_unused=True, materialize_grads=True)
    errors = []
    for part in range(-1, min(parts, len(parameters))):  # no group is empty: nothing moves, 0 by 0
        direction = [
            torch.randn_like(p) * (p.detach().abs().mean() + 1e-3) * (part in (-1, i % parts))
            for i, p in enumerate(parameters)
        ]
        exact = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()
        smallest = float("inf")
        for h in steps:
            numeric = (moved(direction, h) - moved(direction, -h)) / (2 * h)
            smallest = min(smallest, float((numeric - exact).abs() / numeric.abs()))
            if smallest < ENOUGH:
                break
        errors.append(smallest)
    return max(errors)
