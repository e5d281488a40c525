"""The contract of mitigators: checks that every one must pass, also those of plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.testing.case import SIZE, N, contract_case


def check_plain_step(mitigator: Any) -> None:
    """With weight 0 the loss, its gradient and the random state are those of the plain step, bit for bit."""
    model, batch, instance = _step(mitigator)
    torch.manual_seed(5)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    plain, after = [p.grad for p in model.parameters()], torch.random.get_rng_state()
    for settings, options in (({instance.WEIGHT: 0.0}, {}), ({}, {"weight": 0.0})):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        loss = instance.set_kwargs(**settings).loss(model, batch, **options)
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
    model, batch, instance = _step(mitigator)
    model.eval()
    loss = instance.loss(model, batch, seed=3, weight=2.5)
    assert torch.allclose(loss.total, loss.task + 2.5 * loss.penalty)
    assert torch.allclose(loss.task, nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert torch.equal(loss.penalty, instance.loss(model, batch, seed=3).penalty)


def check_penalty_derivative(mitigator: Any) -> None:
    """The penalty's gradient agrees with finite differences along a direction of all parameters to 1e-5.

    Args:
        mitigator: a mitigator or its class.

    Raises:
        AssertionError: where it does not.
    """
    model, batch, instance = _step(mitigator)
    error = penalty_derivative_error(instance, model.eval(), batch)
    assert error < 1e-5, f"the penalty's derivative is off by {error:.1e}"


def penalty_derivative_error(
    mitigator: Any, model: nn.Module, batch: Any, *, directions: int = 1, steps: tuple[float, ...] = (1e-7,)
) -> float:
    """Largest relative error of d penalty / d parameters along random directions of all parameters.

    A derivative along a direction that is small beside the gradient's length is compared with a thousandth of that
    length. The best of the steps counts: a larger one crosses kinks of ReLU and hinges, a smaller one loses digits.

    Args:
        mitigator: the object to check.
        model: float64, in evaluation mode.
        batch: (inputs, labels, masks), as for `Mitigator.loss`.
        directions: number of random directions.
        steps: lengths of the finite differences.

    Returns:
        The largest error, as a share of the finite difference.
    """
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(1)
    penalty = mitigator.loss(model, batch, seed=0).penalty
    grads = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    length = float(torch.stack([g.norm() for g in grads]).norm())
    # The derivative of a penalty that is constant but for its last digits.
    rounding = 1e-7 * (abs(float(penalty.detach())) + 1e-8)
    errors = []
    for _ in range(directions):
        along = [torch.randn(p.shape, generator=generator, dtype=p.dtype, device="cpu") for p in parameters]
        exact = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True))
        numeric = [_difference(mitigator, model, batch, along, step) for step in steps]
        errors.append(min(abs(exact - f) / max(abs(f), 1e-3 * length, rounding) for f in numeric))
    return max(errors)


def _difference(mitigator: Any, model: nn.Module, batch: Any, along: list[Tensor], step: float) -> float:
    """The central difference of the penalty; the parameters are put back."""
    start, ends = [p.detach().clone() for p in model.parameters()], []
    for sign in (1, -1):
        with torch.no_grad():
            for p, old, d in zip(model.parameters(), start, along, strict=True):
                p.copy_(old + sign * step * d)
        ends.append(float(mitigator.loss(model, batch, seed=0).penalty.detach()))
    with torch.no_grad():
        for p, old in zip(model.parameters(), start, strict=True):
            p.copy_(old)
    return (ends[0] - ends[1]) / (2 * step)


MITIGATOR_CHECKS: tuple[Callable[[Any], None], ...] = (check_plain_step, check_total, check_penalty_derivative)


def _step(mitigator: Any) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor], Any]:
    """The net in training mode, a batch with a mask for each sample, the mitigator."""
    model, x, y = contract_case()
    # One class twice, so that a mean over classes is not the mean over samples.
    x, y = torch.cat([x, -x[:1]]), torch.cat([y, y[2:]])
    mask = torch.rand(N + 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=x.dtype, device="cpu")
    return model, (x, y, mask), mitigator() if isinstance(mitigator, type) else mitigator
