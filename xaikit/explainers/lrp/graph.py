"""Questions to autograd's graph about operations that no mode and no hook can see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    return any(node in goals for node in _nodes(output, lambda node: node.name() != "StopBackward"))


def is_behind_layers(x: Tensor) -> bool:
    """Whether autograd leads from a tensor back to the output of a layer with a rule of its own."""
    return any(torch_private.autograd_class(node) is Ruled for node in _nodes(x))


def operations_before(output: Tensor, tensors: Iterable[Tensor]) -> str:
    """Names of the operations that lead from known tensors, or from rules, to a result."""
    goals = {x.grad_fn for x in tensors}
    hidden = _nodes(output, lambda node: node not in goals and node.next_functions and not _ours(node))
    return ", ".join(reversed(dict.fromkeys(map(_operation, hidden))))


def _nodes(output: Tensor, enters: Callable[[Any], Any] = lambda _node: True) -> Iterator[Any]:
    """The nodes of autograd's graph behind a result, as far as they are entered."""
    visited, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in visited or not enters(node):
            continue
        visited.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


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
