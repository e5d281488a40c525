"""Whether a `torch.autograd.Function` of the user's hides a part of its second derivative."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from xaikit.core import torch_private
from xaikit.core.errors import NotDifferentiableError
from xaikit.core.graphs import steps_between
from xaikit.core.layer_gradients import read_layers
from xaikit.core.structure import Tensors
from xaikit.core.torch_private import parameters_of

if TYPE_CHECKING:
    from xaikit.core.call import Call
    from xaikit.core.model_state import Modules

Values = Sequence[Tensor | None]
AGREEMENT = 0.01  # if two finite differences agree within this, they are taken for the derivative
DEVIATION = 0.05  # and autograd's must agree with them within this


def refuse_detached(call: Call, start: Tensor) -> None:
    """Refuse a gradient that forgets what it depends on, since a function's backward detaches what it keeps.

    torch differentiates what the backward of a `torch.autograd.Function` computes; it cannot know that
    `ctx.x = x.detach()` was the input. Where the graph holds such a function, the derivative of the gradient along one
    direction of the explained tensors, and along one of the parameters that the functions take, is compared with
    finite differences. It is refused only where two differences agree with each other.

    Args:
        call: whose gradients stand in a loss.
        start: what they are the gradients of, whose graph is looked at.

    Raises:
        NotDifferentiableError: with the names of the functions.
    """
    nodes = [node for node in steps_between((), (start,)) if _is_the_users(node)]
    if not nodes:
        return
    plain = dataclasses.replace(call, recompute=False, passes_kept=None, more_targets=(), on_output=None)
    once, twice = (dataclasses.replace(plain, create_graph=graph) for graph in (False, True))
    inputs = tuple(x.detach() for x in call.inputs)
    leaves = [x.requires_grad_() for x in inputs if x.is_floating_point()]
    names = sorted({type(node).__name__ for node in nodes})

    def at_inputs(moved: dict[Tensor, Tensor]) -> Values:
        return _gradients(once, tuple(moved.get(x, x.detach()) for x in inputs))

    # Inside of a checkpoint, what is saved here must not count as saved by the pass that will be computed again.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        gradients = _gradients(twice, inputs)
        _compare(gradients, leaves, at_inputs, names)
        _compare(gradients, _parameters_of(nodes), lambda moved: _gradients_with(once, inputs, moved), names)


def _compare(
    gradients: Values, points: Sequence[Tensor], gradient_at: Callable[[dict[Tensor, Tensor]], Values], names: list[str]
) -> None:
    if not points:
        return
    draw = torch.Generator("cpu").manual_seed(0)
    directions = [_like(x, draw) * x.detach().square().mean().sqrt() for x in points]
    weights = [None if g is None else _like(g, draw) for g in gradients]

    def projected(values: Values) -> Tensor:
        pairs = zip(weights, values, strict=True)
        return torch.stack([(w * g).sum() for w, g in pairs if w is not None and g is not None]).sum()

    value = projected(gradients)
    second: Values = [None]
    if value.requires_grad:
        second = torch.autograd.grad(value, points, retain_graph=True, allow_unused=True)
    by_torch = sum(float((s * d).sum()) for s, d in zip(second, directions, strict=False) if s is not None)

    def difference(h: float) -> float:
        up, down = (
            projected(gradient_at({x: x.detach() + s * h * d for x, d in zip(points, directions, strict=True)}))
            for s in (1, -1)
        )
        return float(up - down) / (2 * h)

    far, near = (difference(h) for h in ((1e-4, 1e-5) if points[0].dtype == torch.float64 else (1e-2, 1e-3)))
    if abs(far - near) <= AGREEMENT * abs(near) and abs(by_torch - near) > DEVIATION * abs(near):
        raise NotDifferentiableError(
            f"the backward of {', '.join(names)} does not tell torch how it depends on what it was called with (it "
            f"keeps a detached value, or computes without a graph): the explanation's derivative is {by_torch:.3g} "
            f"where finite differences give {near:.3g}; keep the input with ctx.save_for_backward(x) and compute with "
            "it, or use a penalty without a gradient, such as a mitigator with contextual decomposition"
        )


def _gradients(call: Call, inputs: Tensors) -> Values:
    """What the call differentiates: by its inputs or its layers' activations, or by what layers return."""
    call = dataclasses.replace(call, inputs=inputs)
    if call.read_at:
        return [g for runs in read_layers(call).gradients for g in runs]
    return call.grad_of(inputs)


def _gradients_with(call: Call, inputs: Tensors, moved: dict[Tensor, Tensor]) -> Values:
    with _replaced(call.modules, moved):
        return _gradients(call, inputs)


@contextlib.contextmanager
def _replaced(modules: Modules, moved: dict[Tensor, Tensor]) -> Iterator[None]:
    """The modules, private copies, with other values of some parameters."""
    places = [
        (parameters_of(module), name, parameter)
        for module in modules
        for name, parameter in parameters_of(module).items()
        if parameter is not None and parameter in moved
    ]
    try:
        for table, name, parameter in places:
            table[name] = nn.Parameter(moved[parameter])
        yield
    finally:
        for table, name, parameter in places:
            table[name] = parameter


def _parameters_of(nodes: Sequence[Any]) -> list[Tensor]:
    """The parameters, and other leaves, that functions take as they are."""
    following = [node for function in nodes for node, _ in function.next_functions]
    leaves = [node.variable for node in following if hasattr(node, "variable")]
    return list(dict.fromkeys(x for x in leaves if isinstance(x, nn.Parameter)))


def _is_the_users(node: Any) -> bool:
    if not isinstance(node, BackwardCFunction):
        return False
    package = torch_private.function_of(node).__module__.partition(".")[0]
    return package not in ("torch", "xaikit")


def _like(x: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=draw, device="cpu").to(x)
