"""Questions to autograd's graph about operations that no mode and no hook can see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from xaikit.core import torch_private
from xaikit.explainers.lrp.flow import Ruled

BackwardCFunction = torch.autograd.function.BackwardCFunction


def depends(output: Tensor, inputs: Iterable[Tensor]) -> bool:
    """Whether autograd leads from a result back to one of some tensors, other than through a frozen scale."""
    with torch_private.DisableTorchFunction():
        goals = {get_gradient_edge(x).node for x in inputs}
    visited, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in goals:
            return True
        if node is None or node in visited or node.name() == "StopBackward":
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def is_behind_layers(x: Tensor) -> bool:
    """Whether autograd leads from a tensor back to the output of a layer with a rule of its own."""
    visited, waiting = set(), [x.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in visited:
            continue
        if torch_private.autograd_class(node) is Ruled:
            return True
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def operations_before(output: Tensor, tensors: Iterable[Tensor]) -> str:
    """Names of the operations that lead from known tensors, or from rules, to a result."""
    goals, names = {x.grad_fn for x in tensors}, dict[str, None]()
    visited, waiting = set(), [output.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in visited or node in goals or not node.next_functions or _ours(node):
            continue
        visited.add(node)
        names[_operation(node)] = None
        waiting += [following for following, _ in node.next_functions]
    return ", ".join(reversed(names))


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
