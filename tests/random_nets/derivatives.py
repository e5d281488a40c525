"""The derivative of a penalty on an explanation, against finite differences and against plain double backward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.random_nets.nets import Case
from tests.random_nets.reference import Points, Reference
from xaikit.core.structure import flatten

STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
TOLERANCE = 1e-4  # of finite differences
DOUBLE_BACKWARD = 1e-7  # of two exact derivatives
SAME = 1e-9  # with and without a graph


def derivative_violations(case: Case, explainer: Any, name: str) -> Iterator[str]:
    """Whether the derivative of a penalty by the parameters is right, along a random direction of all of them.

    Args:
        case: the net; its parameters are moved and put back.
        explainer: of the case's net.
        name: of the explainer in the registry.
    """
    if any("detached" in kind for kind in case.kinds):
        return  # autograd takes for a constant what a finite difference moves
    line = _Line(case)

    def attributed(create_graph: bool) -> Points:
        return flatten(explainer.attribute(case.inputs, case.targets, create_graph=create_graph))[0]

    def penalty() -> float:
        return float(penalty_of(attributed(False)))

    with_graph = attributed(True)
    exact, scale = line.derivative(lambda: with_graph)
    continuous = functools.cache(lambda: not line.breaks(penalty, scale))
    smallest = math.inf
    for step in STEPS:
        after, before = (line.at(sign * step, penalty) for sign in (1, -1))
        smallest = min(smallest, abs((after - before) / (2 * step) - exact) / max(scale, abs(exact), 1e-8))
        if smallest < TOLERANCE:
            break
    else:
        if continuous() and line.jumps(lambda: attributed(True), exact, scale) < smallest / 10:
            yield f"{smallest:.2g} from finite differences"
    without = attributed(False)
    largest = max(float(w.detach().abs().max()) for w in without)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(with_graph, without, strict=True))
    if apart > SAME * max(largest, 1e-9) and continuous():
        yield f"the attribution is {apart / max(largest, 1e-9):.2g} from itself when it has a graph"
    reference = _plain_gradients(case, name)
    if reference is None:
        return
    expected, _ = line.derivative(reference)
    error = abs(expected - exact) / max(scale, abs(exact), 1e-8)
    if error > DOUBLE_BACKWARD and line.jumps(reference, expected, scale) < error / 10:
        yield f"{error:.2g} from plain double backward"


def penalty_of(parts: Sequence[Tensor]) -> Tensor:
    """A smooth number of an explanation, in which every element has another weight."""
    weights = torch.linspace(0.5, 1.5, sum(p.numel() for p in parts), dtype=parts[0].dtype)
    weighted = torch.cat([p.flatten() for p in parts]) * weights
    return (weighted.square() + weighted).sum()


def _plain_gradients(case: Case, name: str) -> Callable[[], Points] | None:
    """The explanation by plain autograd with its graph; None where the method is another, or torch has no graph."""
    reference = Reference(case, create_graph=True)
    make = {"gradient": reference.gradients, "gradient_x_input": reference.gradients_x_inputs}.get(name)
    if make is None:
        return None
    try:
        with sdpa_kernel(SDPBackend.MATH):
            _Line(case).derivative(make)
    except RuntimeError:  # torch has no second derivative for an operation of this net
        return None

    def gradients() -> Points:
        with sdpa_kernel(SDPBackend.MATH):
            return make()

    return gradients


class _Line:
    """A line through the parameters of a net, in a random direction."""

    def __init__(self, case: Case) -> None:
        self.parameters = [p for p in case.net.parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(case.seed)
        self.direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self.parameters]
        self.start = [p.detach().clone() for p in self.parameters]

    def at(self, step: float, compute: Callable[[], Any]) -> Any:
        """What a function gives at a place of the line."""
        try:
            with torch.no_grad():
                for p, d, s in zip(self.parameters, self.direction, self.start, strict=True):
                    p.copy_(s + step * d)
            return compute()
        finally:
            with torch.no_grad():
                for p, s in zip(self.parameters, self.start, strict=True):
                    p.copy_(s)

    def derivative(self, parts: Callable[[], Sequence[Tensor]]) -> tuple[float, float]:
        """d penalty / d place by autograd, and the sum of the sizes of its parts, one for each parameter."""
        grads = torch.autograd.grad(penalty_of(parts()), self.parameters, allow_unused=True, materialize_grads=True)
        products = torch.stack([(g * d).sum() for g, d in zip(grads, self.direction, strict=True)])
        return float(products.sum()), float(products.abs().sum())

    def breaks(self, penalty: Callable[[], float], scale: float) -> bool:
        """Whether the penalty is not even continuous here: equal values are sorted by their last digits."""
        here, step = penalty(), STEPS[-1]
        ends = [self.at(sign * step, penalty) for sign in (1, -1)]
        return max(abs(end - here) for end in ends) > 1e3 * step * max(scale, abs(here))

    def jumps(self, parts: Callable[[], Sequence[Tensor]], exact: float, scale: float) -> float:
        """How far the derivative changes within the steps: where a kink or a tie lies, no difference is right."""
        nearby = [self.at(s * step, lambda: self.derivative(parts)[0]) for step in (*STEPS, 1e-15) for s in (1, -1)]
        return max(abs(value - exact) for value in nearby) / max(scale, abs(exact), 1e-8)
