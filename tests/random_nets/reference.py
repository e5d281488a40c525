"""What the explainers are compared with: plain autograd and loops, one sample and one copy at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.random_nets.nets import Case
from tests.random_nets.wiring import without_checkpoints

Points = tuple[Tensor, ...]


@contextlib.contextmanager
def evaluation(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode after."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _FullPrecision(TorchFunctionMode):
    """Hardsigmoid written out: torch's derivative of it holds 1/6 in single precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        if func is not torch.nn.functional.hardsigmoid:
            return func(*args, **(kwargs or {}))
        values = (args[0] + 3).clamp(0, 6) / 6
        return args[0].copy_(values) if (kwargs or {}).get("inplace") or args[1:] == (True,) else values


@dataclasses.dataclass
class Reference:
    """The score of one sample of a case as a function of what is explained of it."""

    case: Case
    create_graph: bool = False  # of the gradients, so that they can be differentiated by the parameters

    def points(self, row: int) -> Points:
        """What is explained of a sample: its inputs, or the vectors of its ids."""
        arguments = [t[row : row + 1].detach() for t in self.case.arguments]
        if self.case.layer is not None:
            vectors = self.case.net.embedding(arguments[0])
            return (vectors if self.create_graph else vectors.detach(),)
        return tuple(arguments)

    def score(self, points: Points, row: int) -> Tensor:
        """The explained score, a scalar."""
        net, copies = self.case.net, tuple(p.clone() for p in points)
        with without_checkpoints(), evaluation(net), _FullPrecision():
            if self.case.layer is not None:
                rest = [t[row : row + 1] for t in self.case.arguments[1:]]
                x = copies[0] if not rest else copies[0] + net.second(rest[0]).unsqueeze(1)
            else:
                x = net.features(*copies)
            out = net.head(net.steps_of(x).flatten(1))[0]
        return out[0] if self.case.targets is None else out[self.case.targets[row]]

    def gradient(self, points: Points, row: int) -> Points:
        """d score / d points."""
        leaves = tuple(p if p.requires_grad else p.detach().clone().requires_grad_() for p in points)
        score = self.score(leaves, row)
        return torch.autograd.grad(
            score, leaves, materialize_grads=True, allow_unused=True, create_graph=self.create_graph
        )

    def gradients(self) -> Points:
        """The gradient of every sample, stacked."""
        return self._each(lambda row: self.gradient(self.points(row), row))

    def gradients_x_inputs(self) -> Points:
        """Gradient times input of every sample."""
        return tuple(g * x for g, x in zip(self.gradients(), self._each(self.points), strict=True))

    def integrated_gradients(self, steps: int) -> Points:
        """Integrated gradients from zeros, by the Gauss-Legendre rule."""
        nodes, weights = np.polynomial.legendre.leggauss(steps)

        def of_row(row: int) -> Points:
            ends = self.points(row)
            total = [torch.zeros_like(x) for x in ends]
            for node, weight in zip(nodes, weights, strict=True):
                grads = self.gradient(tuple(x * (float(node) + 1) / 2 for x in ends), row)
                total = [t + g * float(weight) / 2 for t, g in zip(total, grads, strict=True)]
            return tuple(t * x for t, x in zip(total, ends, strict=True))

        return self._each(of_row)

    def ablation(self, masks: Points) -> Points:
        """The fall of the score when a group is set to zero, at each element of the group.

        At an embedding the numbers of a token's vector share it, so that a token gets it once.
        """
        shared = 1 if self.case.layer is None else masks[0].shape[-1]

        def of_row(row: int) -> Points:
            ends = self.points(row)
            with torch.no_grad():
                full = self.score(ends, row)
                results = [torch.zeros_like(x) for x in ends]
                for group in sorted({int(g) for mask in masks for g in mask.unique()}):
                    inside = [mask.expand_as(x) == group for mask, x in zip(masks, ends, strict=True)]
                    without = tuple(x.masked_fill(i, 0) for x, i in zip(ends, inside, strict=True))
                    fall = (full - self.score(without, row)) / shared
                    results = [r + fall * i for r, i in zip(results, inside, strict=True)]
            return tuple(results)

        return self._each(of_row)

    def gradients_at(self, module: nn.Module) -> Tensor:
        """d score / d what the module returned, of every sample; it runs once."""
        outputs: list[Tensor] = []

        def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
            outputs.append(output.detach().clone().requires_grad_())
            return outputs[-1].clone()

        rows = []
        for row in range(len(self.case.arguments[0])):
            outputs.clear()
            handle = module.register_forward_hook(keep)
            try:
                score = self.score(self.points(row), row)
            finally:
                handle.remove()
            rows.append(torch.autograd.grad(score, outputs)[0])
        return torch.cat(rows)

    def _each(self, of_row: Any) -> Points:
        rows = [of_row(row) for row in range(len(self.case.arguments[0]))]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
