"""Hooks on gradients: they change what torch's backward pass hands back, but not relevance, multipliers or parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xaikit import EXPLAINERS

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
NAMES = ("lrp_uniform_epsilon", "lrp_epsilon_plus", "attn_lrp", "deep_lift", "contextual_decomposition")


class Net(nn.Module):
    """Two linear layers around a ReLU."""

    def __init__(self, seen: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.last = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
        self.seen = seen
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.first(x))
        if self.seen is not None and hidden.requires_grad:
            self.seen(hidden)
        return self.last(hidden)


def _doubled(*gradients: Any) -> Any:
    (gradient,) = gradients[-2] if len(gradients) == 3 else gradients[-1]
    return (None if gradient is None else gradient * 2,)


HOOKED: dict[str, Callable[[nn.Module], Any]] = {
    "full": lambda module: module.register_full_backward_hook(_doubled),
    "full, before": lambda module: module.register_full_backward_pre_hook(_doubled),
    "of old": lambda module: module.register_backward_hook(_doubled),
}


def _values(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    values = EXPLAINERS.get(name)(model).attribute(X, [0, 1, 2], create_graph=True)
    gradients = torch.autograd.grad(values.square().sum(), list(model.parameters()), allow_unused=True)
    return values.detach(), torch.cat([g.flatten() for g in gradients if g is not None])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [*HOOKED, "of a tensor"])
def test_hooks_on_gradients_do_not_touch_what_rules_hand_back(kind: str, name: str) -> None:
    plain = Net()
    model = Net(lambda hidden: hidden.register_hook(lambda gradient: gradient * 2) if kind == "of a tensor" else None)
    if kind in HOOKED:
        HOOKED[kind](model.relu)
    for ours, expected in zip(_values(model, name), _values(plain, name), strict=True):
        torch.testing.assert_close(ours, expected)


def test_hooks_act_again_after_the_call() -> None:
    model = Net()
    model.relu.register_full_backward_hook(_doubled)
    x = X.clone().requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(model(x).sum(), x)[0]

    before = gradient()
    _values(model, "attn_lrp")
    torch.testing.assert_close(gradient(), before)
    torch.testing.assert_close(gradient(), 2 * torch.autograd.grad(Net()(x).sum(), x)[0])


def test_gradients_keep_the_hooks_as_torch_has_them() -> None:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of hooks that see only one operation
        model.relu.register_backward_hook(_doubled)
    values, derivative = _values(model, "gradient")
    expected, derivative_of_plain = _values(Net(), "gradient")
    torch.testing.assert_close(values, 2 * expected)
    assert derivative.norm() > derivative_of_plain.norm()  # a hook of the copy runs after the call, too
