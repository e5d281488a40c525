"""Questions to autograd's graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from xaikit.core import torch_private


def depends_on(output: Tensor, inputs: Iterable[Tensor]) -> bool:
    """Whether autograd leads from a result back to one of some tensors, which must require a gradient."""
    if not output.requires_grad:
        return False
    with torch_private.DisableTorchFunction():
        goals = {get_gradient_edge(x).node for x in inputs if x.requires_grad}
        start = get_gradient_edge(output).node
    visited, waiting = set[Any](), list[Any]((start,))
    while waiting:
        node = waiting.pop()
        if node in goals:
            return True
        if node is None or node in visited:
            continue
        visited.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def steps_between(inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of autograd's graph that leads to some results, once, but for what lies before some tensors.

    Args:
        inputs: these tensors.
        outputs: the results.
    """
    visited, waiting = {x.grad_fn for x in inputs}, [x.grad_fn for x in outputs]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]
