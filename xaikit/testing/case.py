"""The net that every check runs on, and the state of a model, to compare before and after a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import Explainer, torch_private

N, CHANNELS, SIZE, CLASSES = 3, 2, 6, 3


class ContractNet(nn.Module):
    """A small net of modules only: what any explainer should handle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """The logits of images.

        Args:
            image: (N, CHANNELS, SIZE, SIZE).

        Returns:
            (N, CLASSES).
        """
        hidden = self.relu2(self.second(self.relu1(self.first(image))))
        return self.head(self.drop(self.flatten(hidden)))


def contract_case(dtype: torch.dtype = torch.float64) -> tuple[ContractNet, Tensor, Tensor]:
    """A net with a batch and its targets, always the same.

    Args:
        dtype: of the net and the batch.

    Returns:
        The net in training mode, so that a call that does not restore the mode is noticed; inputs
        (N, CHANNELS, SIZE, SIZE); a class for each, (N,).
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = ContractNet().to(dtype)
    x = torch.randn(N, CHANNELS, SIZE, SIZE, generator=generator, dtype=torch.float64, device="cpu").to(dtype)
    return model.train(), x, torch.tensor([0, 2, 1])


def make(explainer: Any, model: nn.Module | None = None) -> Explainer:
    """An explainer from a class or an object, bound to a model where one is given."""
    instance: Explainer = explainer() if isinstance(explainer, type) else explainer
    return instance if model is None else instance.bind(model)


def fail(*_: Any) -> None:
    """A hook that raises."""
    raise RuntimeError("raised by a hook of the contract tests")


def state_of(model: nn.Module) -> Any:
    """All that a call could disturb: modes, hooks, attributes, parameters, gradients and buffers.

    Args:
        model: any module.

    Returns:
        Plain values; two states are equal when nothing has changed in between.
    """
    readers = (torch_private.forward_hooks_of, torch_private.forward_pre_hooks_of, torch_private.backward_hooks_of)
    modules = [
        (name, m.training, [len(hooks_of(m)) for hooks_of in readers], sorted(m.__dict__))
        for name, m in model.named_modules()
    ]
    parameters = [(n, id(p), p.requires_grad, p.grad is None, p.tolist()) for n, p in model.named_parameters()]
    return modules, parameters, [(n, b.tolist()) for n, b in model.named_buffers()]
