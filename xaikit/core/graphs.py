"""Questions to autograd's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from xaikit.core import torch_private


def nodes_behind(roots: Iterable[Any], enters: Callable[[Any], Any] = lambda _node: True) -> Iterator[Any]:
    """Every node of autograd's graph that leads to some nodes, once, and these.

    Args:
        roots: these nodes.
        enters: whether a node is looked at, and what lies before it.
    """
    visited, waiting = set[Any](), list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in visited or not enters(node):
            continue
        visited.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


def depends_on(output: Tensor, inputs: Iterable[Tensor], enters: Callable[[Any], Any] = lambda _node: True) -> bool:
    """Whether autograd leads from a result back to one of some tensors, which must require a gradient.

    Args:
        output: the result.
        inputs: these tensors.
        enters: whether the way may lead through a node.
    """
    if not output.requires_grad:
        return False
    with torch_private.DisableTorchFunction():
        goals = {get_gradient_edge(x).node for x in inputs if x.requires_grad}
        start = get_gradient_edge(output).node
    return any(node in goals for node in nodes_behind([start], enters))


def steps_between(inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of autograd's graph that leads to some results, once, but for what lies before some tensors.

    Args:
        inputs: these tensors.
        outputs: the results.
    """
    before = {x.grad_fn for x in inputs}
    return nodes_behind((x.grad_fn for x in outputs), lambda node: node not in before)
