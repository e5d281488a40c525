"""Models that write in place into tensors of their own: scans, caches, buffers, outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.explainers.cd.helpers import check_promises, decompose
from xaikit import ContextualDecomposition
from xaikit.core.errors import NotDifferentiableError, UnsupportedOperationError


def _by_assignment(a, b):
    state, out = torch.zeros(len(b), b.shape[2]).to(b), torch.zeros_like(b)
    for t in range(b.shape[1]):
        state = a[:, t] * state + b[:, t]
        out[:, t] = state
    return out


def _state_in_place(a, b):
    state, steps = b.new_zeros(len(b), b.shape[2]), []
    for t in range(b.shape[1]):
        state.mul_(a[:, t]).add_(b[:, t])
        steps.append(state.clone())
    return torch.stack(steps, 1)


def _operators(a, b):
    state, out = torch.ones(len(b), b.shape[2], dtype=b.dtype), torch.empty(b.shape, dtype=b.dtype)
    for t in range(b.shape[1]):
        state *= a[:, t]
        state += b[:, t]
        out[:, t].copy_(state)
    return out


def _views_taken_before(a, b):
    out = torch.zeros(b.shape[1], len(b), b.shape[2], dtype=b.dtype)
    for row, step in zip(out.unbind(0), b.unbind(1), strict=True):
        row.add_(step)
    return out.transpose(0, 1) * a


def _given_as_out(a, b):
    out = torch.empty(b.shape, dtype=b.dtype)
    torch.mul(a, b, out=out)
    torch.add(out, b, out=out)
    return out


def _slices(a, b):
    out = torch.ones(b.shape, dtype=b.dtype)
    out[:, ::2] = b[:, ::2]
    out[:, :, 0] *= a[:, :, 1]
    out[..., 1].zero_()
    return out


def _by_truth_values(a, b):
    out, chosen = torch.zeros(b.shape, dtype=b.dtype), torch.tensor([True, False, True, False, True])
    out[:, chosen] = b[:, chosen]
    out[a > 0.5] = a[a > 0.5]
    out[:, chosen] += 1
    return out


def _scattered(a, b):
    index = torch.tensor([0, 2, 1, 4, 3]).view(1, 5, 1).expand(b.shape)
    out = torch.zeros(b.shape, dtype=b.dtype).scatter_add(1, index, b)
    return out.scatter_(2, torch.zeros(len(b), 5, 1, dtype=torch.long), a[..., :1])


def _along_a_dimension(a, b):
    out = torch.zeros(b.shape, dtype=b.dtype).index_add_(1, torch.tensor([3, 3]), b[:, :2], alpha=2)
    return out.index_copy(1, torch.tensor([1]), a[:, :1]).select_scatter(a[:, 0], 1, 0)


def _cache_of_keys_and_values(a, b):
    cache = torch.zeros(2, *b.shape, dtype=b.dtype)
    cache[0, :, :3], cache[1] = a[:, :3], b
    keys, values = cache
    return torch.softmax(a @ keys.transpose(1, 2), -1) @ values


SCANS = [_by_assignment, _state_in_place, _operators, _views_taken_before, _given_as_out, _slices, _by_truth_values,
         _scattered, _along_a_dimension, _cache_of_keys_and_values]  # fmt: skip


class Scan(nn.Module):
    def __init__(self, scan):
        super().__init__()
        torch.manual_seed(1)
        self.scan, self.a, self.b, self.head = scan, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.scan(torch.sigmoid(self.a(x)), self.b(x)).mean(1))


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__.strip("_"))
def test_scans(scan):
    net, x = Scan(scan).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    check_promises(net, x, 1e-12)
    mask = torch.tensor([1.0, 1, 0, 0, 0]).view(1, 5, 1).double()
    plain = decompose(net, x, mask)
    live = decompose(net, x, mask, grad=True)
    assert torch.allclose(plain.relevant, live.relevant, atol=1e-12)
    direction = torch.randn_like(net.b.weight)
    (slope,) = torch.autograd.grad(live.relevant.sum(), net.b.weight)
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            net.b.weight += sign * 1e-7 * direction
        moved.append(decompose(net, x, mask).relevant.sum())
        with torch.no_grad():
            net.b.weight -= sign * 1e-7 * direction
    assert ((moved[0] - moved[1]) / 2e-7 - (slope * direction).sum()).abs() < 1e-5 * (1 + slope.abs().max())


@pytest.mark.filterwarnings("ignore:the rows of this")  # the buffer holds two rows, however many come
def test_a_buffer_of_the_model_keeps_its_values():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)
            self.register_buffer("cache", torch.full((2, 4), 0.5))

        def forward(self, x):
            self.cache.copy_(self.lin(x))
            self.cache[:, 1:] += x[:, 1:]
            return self.cache

    net, x = Cached(), torch.randn(2, 4)
    result = ContextualDecomposition(net).decompose(x, torch.tensor([[1.0, 1, 0, 0]]))
    assert torch.equal(net.cache, torch.full((2, 4), 0.5))
    assert torch.allclose(result.total[0], net(x), atol=1e-6)


def test_a_tensor_that_is_not_contiguous_is_refused():
    class Transposed(nn.Module):
        def forward(self, x):
            out = torch.zeros(3, len(x)).T.clone(memory_format=torch.preserve_format)
            out[:, 0] = x.sum(1)
            return out

    with pytest.raises(UnsupportedOperationError, match="contiguous"):
        ContextualDecomposition(Transposed()).decompose(torch.randn(2, 5), torch.ones(1, 5))


class Written(nn.Module):
    """A net that writes into an activation."""

    def __init__(self, write):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.write = nn.Linear(4, 8), nn.Linear(8, 3), write
        self.double()

    def forward(self, x):
        h = torch.tanh(self.first(x))
        self.write(h)
        return self.last(h)


def doubled_without_gradients(h):
    with torch.no_grad():
        h.mul_(2)


def assigned_without_gradients(h):
    with torch.no_grad():
        h[:, :3] = 0.5


def view_without_gradients(h):
    with torch.no_grad():
        h.view(-1, 2, 4)[:, 1].mul_(3)


def penalty(model, x):
    values = ContextualDecomposition(model).attribute(x, 1, create_graph=True)
    return values.square().sum()


@pytest.mark.parametrize("write", [doubled_without_gradients, assigned_without_gradients, view_without_gradients])
def test_what_is_written_without_gradients_counts_in_a_loss(write):
    model, x = Written(write), torch.randn(5, 4, dtype=torch.float64)
    penalty(model, x).backward()
    weight, step = model.first.weight, 1e-6
    gradient = weight.grad.clone()
    for i, j in ((0, 0), (3, 2), (7, 3)):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[i, j] += sign * step
            sides.append(penalty(model, x).item())
            with torch.no_grad():
                weight[i, j] -= sign * step
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(gradient[i, j].item(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("alias", [torch.Tensor.detach, lambda h: h.data])
def test_what_is_written_past_the_graph_is_refused_in_a_loss(alias):
    model, x = Written(lambda h: alias(h).mul_(2)), torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(NotDifferentiableError, match="writes into a tensor without its graph"):
        penalty(model, x)
    values = ContextualDecomposition(model).attribute(x, 1)
    torch.testing.assert_close(values, ContextualDecomposition(Written(lambda h: h.mul_(2))).attribute(x, 1))


class Doubled(torch.autograd.Function):
    """A function of the user's own, whose forward pass torch runs without gradients."""

    @staticmethod
    def forward(x):
        return x.clamp(min=0) * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 2 * g * (ctx.saved_tensors[0] > 0)


class OldStyle(torch.autograd.Function):
    """As `Doubled`, with the context in the forward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu().mul_(2)

    backward = Doubled.backward


@pytest.mark.parametrize("function", [Doubled, OldStyle])
def test_a_function_of_autograd_is_exact_in_a_loss(function):
    class Net(Written):
        def forward(self, x):
            return self.last(self.write(self.first(x)))

    gradients = []
    for step in (function.apply, lambda h: 2 * torch.relu(h)):
        model, x = Net(step), torch.linspace(-2, 2, 20, dtype=torch.float64).view(5, 4)
        penalty(model, x).backward()
        gradients.append((model.first.weight.grad, model.last.weight.grad))
    torch.testing.assert_close(*gradients)


def _grown(x: Tensor) -> Tensor:
    return x.add_(1)


MOVES: dict[str, tuple[Any, Any]] = {
    "transpose": (lambda h: h.transpose(2, 3), lambda h: h.transpose(2, 3)),
    "channels behind": (lambda h: h.permute(0, 2, 3, 1), lambda h: h.permute(0, 3, 1, 2)),
    "tokens": (lambda h: h.flatten(2).transpose(1, 2), lambda h: h.transpose(1, 2).unflatten(2, (4, 4))),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_write_into_a_copy_in_order_does_not_reach_what_was_moved(move: str) -> None:
    moved, back = MOVES[move]
    image = torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(2, 3, 4, 4)
    conv = nn.Conv2d(3, 5, 1).double()

    def parts(step: Any) -> Tensor:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = conv

            def forward(self, x: Tensor) -> Tensor:
                h = self.conv(x).relu()
                assert moved(h).is_contiguous() is False  # as torch says
                assert moved(h).is_contiguous(memory_format=torch.contiguous_format) is False
                return (back(step(moved(h))) + h).mean((2, 3))

        return ContextualDecomposition(Net()).decompose(image, (image > 0)[None]).relevant

    torch.testing.assert_close(parts(lambda y: _grown(y.contiguous())), parts(lambda y: _grown(y.clone())))


@pytest.mark.parametrize("name", ["to", "contiguous", "double", "clone"])
def test_a_memory_format_is_of_four_axes(name: str) -> None:
    image = torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(2, 3, 4, 4)
    conv = nn.Conv2d(3, 5, 1).double()

    class Net(nn.Module):
        def __init__(self, laid: Any) -> None:
            super().__init__()
            self.conv, self.laid = conv, laid

        def forward(self, x: Tensor) -> Tensor:
            return self.laid(self.conv(self.laid(x)).relu()).mean((2, 3))

    laid = Net(lambda h: getattr(h, name)(memory_format=torch.channels_last))
    mask = (image > 0)[None]
    torch.testing.assert_close(
        ContextualDecomposition(laid).decompose(image, mask).relevant,
        ContextualDecomposition(Net(lambda h: h)).decompose(image, mask).relevant,
    )
