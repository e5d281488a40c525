"""What every mitigator owes its users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.testing.case import SIZE, N, contract_case


def check_plain_step(mitigator: Any) -> None:
    """With weight 0 the loss, its gradient and the random state are those of the plain step, bit for bit."""
    model, batch, made = _step(mitigator)
    torch.manual_seed(5)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    plain, after = [p.grad for p in model.parameters()], torch.random.get_rng_state()
    for settings, options in (({made.WEIGHT: 0.0}, {}), ({}, {"weight": 0.0})):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        loss = made.set_kwargs(**settings).loss(model, batch, **options)
        loss.total.backward()
        assert torch.equal(after, torch.random.get_rng_state())
        assert torch.equal(loss.total, loss.task)
        assert bool(torch.isfinite(loss.penalty))
        for p, g in zip(model.parameters(), plain, strict=True):
            assert g is not None
            assert p.grad is not None
            assert torch.equal(p.grad, g)


def check_total(mitigator: Any) -> None:
    """Total = task + weight * penalty, with the task's loss that of the model alone; one seed, one penalty."""
    model, batch, made = _step(mitigator)
    model.eval()
    loss = made.loss(model, batch, seed=3, weight=2.5)
    assert torch.allclose(loss.total, loss.task + 2.5 * loss.penalty)
    assert torch.allclose(loss.task, nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert torch.equal(loss.penalty, made.loss(model, batch, seed=3).penalty)


def check_penalty_derivative(mitigator: Any) -> None:
    """The penalty's gradient is that of finite differences along one direction of all parameters, to 1e-5."""
    model, batch, made = _step(mitigator)
    model.eval()
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(1)
    grads = torch.autograd.grad(made.loss(model, batch, seed=0).penalty, parameters, allow_unused=True)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    exact = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True) if g is not None)
    step = 1e-7  # small, since a ReLU or a hinge that changes sides on the way spoils the difference
    ends = []
    for move in (step, -2 * step, step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=move)
        ends.append(float(made.loss(model, batch, seed=0).penalty.detach()))
    found = (ends[0] - ends[1]) / (2 * step)
    size = max((float(g.norm()) for g in grads if g is not None), default=0.0)
    assert abs(exact - found) < 1e-5 * max(abs(found), 1e-3 * size) + 1e-9


MITIGATOR_CHECKS: tuple[Callable[[Any], None], ...] = (check_plain_step, check_total, check_penalty_derivative)


def _step(mitigator: Any) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor], Any]:
    """The net in training mode, a batch with a mask for each sample, the mitigator."""
    model, x, y = contract_case()
    mask = torch.rand(N, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return model, (x, y, mask), mitigator() if isinstance(mitigator, type) else mitigator
