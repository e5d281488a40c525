"""Faster kernels for derivatives of convolutions that torch computes slowly on a CPU.

T(x, w, g) = sum(g * conv(x, w)) is linear in each of the three tensors. The input gradient dT/dx is a function of
(g, w), the weight gradient dT/dw one of (g, x), and the derivatives of one are made of the other and of conv. On a CPU
torch computes

* an input gradient of few channels by a oneDNN kernel that works in blocks of 16: 2 to 10 times the time of torch's
  plain kernel, and more than all the rest of a small net;
* the derivative of an input gradient by the weight as a convolution of transposed copies, group after group, although
  it is a weight gradient: with few channels 2 to 4 times the time, for depthwise convolutions 5 to 20 times;
* the weight gradient of large weights on few positions, the end of a deep net, in 2 to 5 times the time of a matrix
  product.

Under torch.vmap, many g that are 0 in most channels, as where the relevance of single channels is handed back, take the
others alone.

`python -m benchmarks.convolutions` measures all three.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import torch_private

FEW_CHANNELS = 8
SPARSE = 4  # a g with at most one in so many channels is handed back through these alone
LARGE_WEIGHT, FEW_POSITIONS = 2**20, 256
KINDS = (nn.Conv1d, nn.Conv2d)
DTYPES = (torch.float32, torch.float64)


class Form(NamedTuple):
    """The settings of a convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class OfParameters(torch.autograd.Function):
    """y = conv(x, w) + b, which is already computed, as a function of w and b.

    The derivative by x has its own node, `OfInput`: a custom node cannot know which of its derivatives are needed.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, b: Tensor | None, form: Form, x: list[Tensor], y: list[Tensor]) -> Tensor:  # noqa: D102
        ctx.save_for_backward(*x, w)
        ctx.form, ctx.bias = form, None if b is None else list(b.shape)
        return y[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,), (x, w), (by_w, by_b, *_) = grads, ctx.saved_tensors, ctx.needs_input_grad
        return *parameter_gradients(g, x, w, ctx.form, by_w, ctx.bias if by_b else None), None, None, None


class OfInput(torch.autograd.Function):
    """The same y as a function of x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, form: Form, w: list[Tensor]) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x, *w)
        ctx.form = form
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,), (x, w) = grads, ctx.saved_tensors
        return g, InputGradient.apply(g, w, x.detach(), ctx.form), None, None


def by_fast_kernels(x: Tensor, w: Tensor, b: Tensor | None, y: Tensor, form: Form) -> Tensor:
    """The output y of a convolution, whose derivatives are computed by `input_gradient` and `parameter_gradients`.

    Args:
        x: the input, on a CPU.
        w: the weight.
        b: the bias.
        y: conv(x, w) + b.
        form: of the convolution.
    """
    of_parameters = OfParameters.apply(w, b, form, [x], [y.detach()])
    result: Tensor = OfInput.apply(of_parameters, x, form, [w])
    return result


class InputGradient(torch.autograd.Function):
    """dT/dx at (g, w); x only gives the shape. Under torch.vmap, many g of one w are one batch."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, x: Tensor, form: Form) -> Tensor:  # noqa: D102
        return input_gradient(g, w, x, form)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        g, w, _, ctx.form = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, w: Tensor, x: Tensor, form: Form) -> tuple[Tensor, int]:  # noqa: D102
        of_g, of_w, of_x, _ = in_dims
        gs = g.expand(info.batch_size, *g.shape) if of_g is None else g.movedim(of_g, 0)
        shape = x if of_x is None else x.select(of_x, 0)
        if of_w is not None:
            stacked = [InputGradient.apply(a, w.select(of_w, i), shape, form) for i, a in enumerate(gs)]
            return torch.stack(stacked), 0
        used = _used_channels(gs, w, form)
        if used is not None:
            return _from_channels(gs, w, used, form), 0
        shapes = shape.new_empty((len(gs) * len(shape), *shape.shape[1:]))
        return InputGradient.apply(gs.flatten(0, 1), w, shapes, form).unflatten(0, (len(gs), -1)), 0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (v,), (g, w), form, (by_g, by_w, *_) = grads, ctx.saved_tensors, ctx.form, ctx.needs_input_grad
        conv = F.conv1d if v.ndim == 3 else F.conv2d
        dg = conv(v, w, None, *form) if by_g else None
        return dg, parameter_gradients(g, v, w, form, by_w, None)[0], None, None


def input_gradient(g: Tensor, w: Tensor, x: Tensor, form: Form) -> Tensor:
    """dT/dx at (g, w)."""
    if not few_channels(w, form.groups) or max(form.dilation) > 1:
        return _torch_backward(g, x, w, form, None, [True, False, False])[0]
    if g.ndim == 3:  # a sequence is an image of height 1
        flat = Form((1, *form.stride), (0, *form.padding), (1, 1), 1)
        return input_gradient(g.unsqueeze(2), w.unsqueeze(2), x.unsqueeze(2), flat).squeeze(2)
    kernel = torch_private.slow_conv2d_backward
    dx: Tensor = kernel(g, x, w, w.shape[2:], form.stride, form.padding, [True, False, False])[0]
    return dx


def _used_channels(gs: Tensor, w: Tensor, form: Form) -> Tensor | None:
    """The channels of each of many g, (B, N, C, ...), that are not 0, (B, K); None where they save nothing.

    So it is where the relevance of chosen channels is handed back. A derivative by g needs all channels.
    """
    kernel, most = w.shape[2:], gs.shape[2] // SPARSE
    narrow = any(p > d * (k - 1) for k, p, d in zip(kernel, form.padding, form.dilation, strict=True))
    strided = form.groups > 1 or max(form.stride) > 1
    differentiated = torch.is_grad_enabled() and (gs.requires_grad or w.requires_grad)
    if narrow or strided or differentiated or gs.device.type != "cpu" or torch_private.is_batched(gs) or not gs.numel():
        return None

    def used(some: Tensor) -> Tensor:
        return some.abs().sum(1).flatten(2).sum(-1) != 0

    if int(used(gs[:1, :1]).sum()) > most:  # one sample tells a g of many channels soon
        return None
    flags = used(gs)
    count = int(flags.sum(1).max())
    return flags.byte().topk(max(1, count)).indices if count <= most else None


def _from_channels(gs: Tensor, w: Tensor, used: Tensor, form: Form) -> Tensor:
    """dT/dx of each g by its used channels: a convolution with the flipped kernels, in a group for each g."""
    n, positions = gs.shape[1], gs.shape[3:]
    index = used.view(len(gs), 1, -1, *[1] * len(positions)).expand(-1, n, -1, *positions)
    some = gs.gather(2, index).transpose(0, 1).flatten(1, 2)
    kernels = w[used].transpose(1, 2).flatten(0, 1).flip(tuple(range(2, w.ndim)))
    padding = tuple(d * (k - 1) - p for k, p, d in zip(w.shape[2:], form.padding, form.dilation, strict=True))
    conv = F.conv1d if w.ndim == 3 else F.conv2d
    dx = conv(some, kernels, None, 1, padding, form.dilation, len(gs))  # type: ignore[arg-type]
    return dx.unflatten(1, (len(gs), -1)).transpose(0, 1)


def parameter_gradients(
    g: Tensor, x: Tensor, w: Tensor, form: Form, by_w: bool, bias: list[int] | None
) -> tuple[Tensor | None, Tensor | None]:
    """dT/dw at (g, x), and the sum of g for each channel of a bias; None where it is not asked for."""
    if by_w and _crowded(g, w, form.groups):
        columns = F.unfold(x, w.shape[2:], form.dilation, form.padding, form.stride)
        dw = g.transpose(0, 1).flatten(1) @ columns.transpose(1, 2).flatten(0, 1)
        return dw.view(w.shape), None if bias is None else g.sum((0, 2, 3))
    if not by_w and bias is None:
        return None, None
    _, dw, db = _torch_backward(g, x, w, form, bias, [False, by_w, bias is not None])
    return dw, db


def _torch_backward(g: Tensor, x: Tensor, w: Tensor, form: Form, bias: list[int] | None, which: list[bool]) -> Any:
    stride, padding, dilation, groups = form
    nothing = [0] * len(stride)
    return torch.ops.aten.convolution_backward(g, x, w, bias, stride, padding, dilation, False, nothing, groups, which)


@contextlib.contextmanager
def fast_convolutions(modules: Iterable[nn.Module], *, twice: bool) -> Iterator[None]:
    """While active, the slow ones among the modules are differentiated by the fast kernels.

    A convolution that is called as a function, or by a class of the user's, stays as it is.

    Args:
        modules: those of the model.
        twice: whether the gradient will be differentiated, too.
    """
    thread = threading.get_ident()

    def rewire(module: Any, args: Any, y: Any) -> Any:
        x: Any = args[0] if args else None
        if threading.get_ident() != thread or not _is_torchs(module, x, y):
            return None
        w, groups = module.weight, module.groups
        if not (few_channels(w, groups) or (twice and (groups > 1 or _crowded(y, w, groups)))):
            return None
        form = _form_of(y)
        if not _gives(x, w, form, y):
            return None
        return by_fast_kernels(x, w, module.bias, y, form)

    # This hook runs before all others, since another hook may change the output.
    slow = [m for m in modules if type(m) in KINDS and _may_be_slow(m, twice=twice)]
    handles = [m.register_forward_hook(rewire, prepend=True) for m in slow]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _may_be_slow(module: Any, *, twice: bool) -> bool:
    """Whether torch's kernels may be slow for a convolution, whatever the size of its output."""
    w, groups = module.weight, module.groups
    return few_channels(w, groups) or (twice and (groups > 1 or w.numel() >= LARGE_WEIGHT))


def few_channels(w: Tensor, groups: int) -> bool:
    """Whether a convolution has so few input channels that torch's kernel for the input gradient is slow.

    Args:
        w: its weight.
        groups: its groups.
    """
    return groups == 1 and w.shape[1] <= FEW_CHANNELS


def _crowded(g: Tensor, w: Tensor, groups: int) -> bool:
    """Whether a weight is large and its output g has few positions."""
    image = w.ndim == 4 and groups == 1 and w[0, 0].numel() > 1
    return image and w.numel() >= LARGE_WEIGHT and g.numel() <= FEW_POSITIONS * g.shape[1]


def _is_torchs(module: Any, x: Any, y: Any) -> bool:
    """Whether torch's own convolution computed y from a batch x on a CPU, without a cast and with a graph."""
    return (
        type(x) is Tensor
        and type(y) is Tensor
        and x.requires_grad
        and x.device.type == module.weight.device.type == "cpu"  # weights may be offloaded again since it ran
        and x.ndim == module.weight.ndim
        and x.dtype == y.dtype == module.weight.dtype
        and x.dtype in DTYPES
        and module.padding_mode == "zeros"
        and y.grad_fn is not None
        and y.grad_fn.name() == "ConvolutionBackward0"
    )


def _form_of(y: Tensor) -> Form:
    """The settings of the convolution that gave y; not its module's, which a model may change later on."""
    *settings, groups = torch_private.convolution_settings(y.grad_fn)
    n = y.ndim - 2
    stride, padding, dilation = (tuple(s) * n if len(s) < n else tuple(s) for s in settings)
    return Form(stride, padding, dilation, groups)


def _gives(x: Tensor, w: Tensor, form: Form, y: Tensor) -> bool:
    """Whether a convolution of x itself has the size of y: not for an uneven padding="same", which pads x first."""
    sizes = zip(x.shape[2:], w.shape[2:], form.stride, form.padding, form.dilation, strict=True)
    return y.shape[2:] == tuple((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in sizes)
