"""Functions of the user's with a backward of their own, in a penalty: exact, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xaikit import RRR, Gradient
from xaikit.core import EXPLAINERS
from xaikit.core.errors import NotDifferentiableError


class Square(torch.autograd.Function):
    """Keeps its input as torch asks for it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Detached(Square):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach().clone()
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.x * g


class WithoutGraph(Square):
    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            (x,) = ctx.saved_tensors
            scale = 2 * x
        return scale * g


class Once(Square):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class WritesOut(Square):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        result = torch.empty_like(x)
        torch.mul(x, g, out=result)
        return result * 2


class StraightThrough(torch.autograd.Function):
    """Its gradient is none of its own; what it is, is differentiated."""

    @staticmethod
    def forward(_ctx, x):
        return x.sign()

    @staticmethod
    def backward(_ctx, g):
        return g


class Net(nn.Module):
    def __init__(self, function: type[torch.autograd.Function] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h * h if self.function is None else self.function.apply(h))


def gradient_of_penalty(model: nn.Module) -> list[Tensor]:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(next(model.parameters()).dtype)
    penalty = RRR().loss(model, (x, torch.tensor([0, 1, 2]), torch.ones(3, 4))).penalty
    return list(torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_that_tells_how_it_depends_on_its_input_is_exact(dtype):
    written, plain = (gradient_of_penalty(Net(f).to(dtype)) for f in (Square, None))
    for a, b in zip(written, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [Detached, WithoutGraph, Once, WritesOut])
def test_a_function_that_hides_it_is_refused(function, dtype):
    model = Net(function).to(dtype)
    with pytest.raises(NotDifferentiableError, match="differentia|Backward does not tell"):
        gradient_of_penalty(model)
    x = torch.randn(3, 4, dtype=dtype)
    assert torch.equal(Gradient(model).attribute(x, 0), Gradient(Net().to(dtype)).attribute(x, 0))


class DetachedWeight(torch.autograd.Function):
    """A product with a matrix that its backward takes for a constant."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        ctx.w = w.detach()
        return x @ w.T

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g @ ctx.w, g.T @ x


class Product(Net):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(DetachedWeight.apply(self.first(x), self.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", [None, "first"])
@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad", "gradient_x_input"])
@pytest.mark.parametrize("model", [lambda: Net(Detached), Product], ids=["input", "weight"])
def test_it_is_refused_in_every_gradient(model, name, layer, dtype):
    model, x = model().to(dtype), torch.randn(3, 4, dtype=dtype)
    explainer = EXPLAINERS.create(name, **({"layer": layer} if layer else {})).bind(model)
    with pytest.raises(NotDifferentiableError, match="Backward does not tell"):
        explainer.attribute(x, 1, create_graph=True)
    assert explainer.attribute(x, 1).isfinite().all()


def test_a_straight_through_function_is_differentiated_as_it_is_written():
    assert all(g.isfinite().all() for g in gradient_of_penalty(Net(StraightThrough)))


def test_a_norm_across_maps_is_refused_with_the_layer_to_use():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.CrossMapLRN2d(3), nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(NotDifferentiableError, match="LocalResponseNorm"):
        RRR().loss(model, (torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 2]), torch.ones(2, 2)))
