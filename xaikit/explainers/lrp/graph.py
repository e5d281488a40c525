"""Questions about operations that no mode and no hook can see, to autograd's graph and to a module run again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.graphs import depends_on, nodes_behind
from xaikit.explainers.lrp.flow import Ruled

BackwardCFunction = torch.autograd.function.BackwardCFunction
FEWEST = 4  # entries that tell an activation from other functions


def depends(output: Tensor, inputs: Iterable[Tensor]) -> bool:
    """Whether autograd leads from a result back to one of some tensors, other than through a frozen scale."""
    return depends_on(output, inputs, lambda node: node.name() != "StopBackward")


def is_behind_layers(x: Tensor) -> bool:
    """Whether autograd leads from a tensor back to the output of a layer with a rule of its own."""
    return any(torch_private.autograd_class(node) is Ruled for node in nodes_behind([x.grad_fn]))


def operations_before(output: Tensor, tensors: Iterable[Tensor]) -> str:
    """Names of the operations that lead from known tensors, or from rules, to a result."""
    goals = {x.grad_fn for x in tensors}
    hidden = nodes_behind([output.grad_fn], lambda node: node not in goals and node.next_functions and not _ours(node))
    return ", ".join(reversed(dict.fromkeys(map(_operation, hidden))))


def _ours(node: Any) -> bool:
    kind = torch_private.autograd_class(node)
    return kind is not None and kind.__module__.startswith("xaikit.")


def _operation(node: Any) -> str:
    name = node.name().rpartition("::")[2]
    if name == "DifferentiableGraphBackward":
        return "a TorchScript graph"
    if isinstance(node, BackwardCFunction):
        return str(name.removesuffix("Backward"))  # the class of an autograd.Function
    return str(name.rstrip("0123456789").removesuffix("Backward").lower())


def is_activation(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether a module without parameters computes its output from its only input, entry by entry.

    It is run once more on its input with every other entry replaced by its neighbour: exactly these may change, to what
    the neighbour's output was.
    """
    if next(module.children(), None) is not None or next(module.parameters(), None) is not None:
        return False
    if not (x.is_floating_point() and y.is_floating_point()):
        return False
    if x.shape != y.shape or x.numel() < FEWEST:
        return False
    with torch.no_grad():
        is_replaced = (torch.arange(x.numel(), device=x.device) % 2 == 0).view(x.shape)
        neighbour, expected = (torch.where(is_replaced, t.flatten().roll(1).view(t.shape), t) for t in (x, y))
        changed = module.forward(neighbour)
    # Kernels for many entries and those for the last few round otherwise.
    tolerance = 64 * torch.finfo(y.dtype).eps
    is_same = isinstance(changed, Tensor) and changed.shape == y.shape
    return is_same and torch.allclose(changed, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
