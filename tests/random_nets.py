"""A generator of random nets, and what every explanation owes on them.

Each seed gives a net of some of 60 kinds of layers and functions, its inputs, and checks: shapes, finite values, sums
where they are promised, a sample alone against in a batch, the gradient against finite differences, state as found.

    python -m tests.random_nets --seeds 0:1000
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS
from xaikit.core.errors import XaikitError

CLASSES = 3
SPECS = (
    *("gradient", "gradient_x_input", "smoothgrad:n_iter=4", "integrated_gradients:n_steps=6", "vargrad:n_iter=4"),
    *("expected_gradients:n_iter=4", "lrp_epsilon_plus", "lrp_uniform_epsilon", "contextual_decomposition"),
    *("captum.feature_ablation:n_segments=6", "captum.occlusion:window=0.5", "captum.integrated_gradients:n_steps=6"),
)


class Apply(nn.Module):
    """A function as a module, so that a net can be printed."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class Residual(nn.Module):
    """x + f(x), also in place."""

    def __init__(self, body: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.body, self.in_place = body, in_place

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if self.in_place:
            h = h.clone()
            h += x
            return h
        return h + x


class Gate(nn.Module):
    """x * sigmoid(f(x))."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(x).sigmoid()


class First(nn.Module):
    """The first of what a module returns: recurrent nets, attention."""

    def __init__(self, body: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.body, self.times = body, times

    def forward(self, x: Tensor) -> Tensor:
        return self.body(*[x] * self.times)[0]


class Square(nn.Module):
    """A bilinear layer of x with itself."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(c, c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x)


class Counting(nn.Module):
    """Writes into a buffer and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.last = None

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        self.last = x * 1.5
        return self.last


def _write_half(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, ::2] = x[:, ::2] * 0.5
    return y


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "Tanh": nn.Tanh, "Sigmoid": nn.Sigmoid, "GELU": nn.GELU, "SiLU": nn.SiLU, "Mish": nn.Mish, "ELU": nn.ELU,
    "CELU": nn.CELU, "SELU": nn.SELU, "Softplus": nn.Softplus, "Softsign": nn.Softsign, "LogSigmoid": nn.LogSigmoid,
    "Tanhshrink": nn.Tanhshrink, "ReLU": nn.ReLU, "LeakyReLU": nn.LeakyReLU, "PReLU": nn.PReLU, "ReLU6": nn.ReLU6,
    "Hardswish": nn.Hardswish, "Hardtanh": nn.Hardtanh, "Hardsigmoid": nn.Hardsigmoid, "Softshrink": nn.Softshrink,
    "ReLU_": lambda: nn.ReLU(inplace=True), "SiLU_": lambda: nn.SiLU(inplace=True), "Counting": Counting,
    "Dropout": nn.Dropout, "Identity": nn.Identity,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu, "torch.relu_": lambda x: torch.relu_(x.clone()), "F.gelu": F.gelu, "F.silu": F.silu,
    "x.tanh": lambda x: x.tanh(), "x*0.5": lambda x: x * 0.5, "x+1": lambda x: x + 1, "1-x": lambda x: 1 - x,
    "x.clamp": lambda x: x.clamp(-1, 1), "x.sin": lambda x: x.sin(), "x**2": lambda x: x**2,
    "exp": lambda x: (-x.abs()).exp(), "x*x.tanh": lambda x: x * x.tanh(), "add_": lambda x: x.clone().add_(0.3),
    "mul_": lambda x: x.clone().mul_(0.7), "chunk-cat": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "roll": lambda x: x.roll(1, 1), "flip": lambda x: x.flip(1), "softmax": lambda x: x.softmax(1) * x.shape[1],
    "maximum": lambda x: torch.maximum(x, 0.1 * x), "where": lambda x: torch.where(x > 0, x, 0.2 * x),
    "setitem": _write_half, "F.hardsigmoid": F.hardsigmoid,
    "F.layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "einsum": lambda x: torch.einsum("n...,n...->n...", x, x * 0.5), "F.normalize": lambda x: 2 * F.normalize(x, dim=1),
}  # fmt: skip


def _layers_of(axes: int, c: int) -> dict[str, Callable[[], nn.Module]]:
    """Layers that keep (N, c, ...) of that many axes behind the batch."""
    if axes == 1:
        return {
            "Linear": lambda: nn.Linear(c, c), "BatchNorm1d": lambda: nn.BatchNorm1d(c), 
            "LayerNorm": lambda: nn.LayerNorm(c),
            "RMSNorm": lambda: nn.RMSNorm(c), "Bilinear": lambda: Square(c),
        }  # fmt: skip
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 2]
    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 2]
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 2]
    average = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 2]
    largest = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[axes - 2]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 2]
    layers: dict[str, Callable[[], nn.Module]] = {
        "Conv": lambda: conv(c, c, 3, padding=1), "Conv same": lambda: conv(c, c, 2, padding="same"),
        "Conv circular": lambda: conv(c, c, 3, padding=1, padding_mode="circular"),
        "Conv depthwise": lambda: conv(c, c, 3, padding=1, groups=c),
        "Conv dilated": lambda: conv(c, c, 3, padding=2, dilation=2),
        "ConvTranspose": lambda: transposed(c, c, 3, padding=1), "BatchNorm": lambda: batch(c),
        "InstanceNorm": lambda: instance(c, affine=True), "GroupNorm": lambda: nn.GroupNorm(2, c),
        "AvgPool": lambda: average(3, 1, 1), "MaxPool": lambda: largest(3, 1, 1),
    }  # fmt: skip
    if axes == 2:
        turned = lambda body: nn.Sequential(
            Apply("transpose", lambda x: x.transpose(1, 2)), body, Apply("back", lambda x: x.transpose(1, 2))
        )  # noqa: E731,E501
        layers |= {
            "LSTM": lambda: turned(First(nn.LSTM(c, c, batch_first=True))),
            "GRU": lambda: turned(First(nn.GRU(c, c, batch_first=True))),
            "Attention": lambda: turned(First(nn.MultiheadAttention(c, 2, batch_first=True), 3)),
            "Transformer": lambda: turned(nn.TransformerEncoderLayer(c, 2, 8, batch_first=True)),
            "Linear last": lambda: turned(nn.Linear(c, c)), "LayerNorm last": lambda: turned(nn.LayerNorm(c)),
            "cumsum": lambda: Apply("cumsum", lambda x: 0.3 * x.cumsum(2)),
        }  # fmt: skip
    if axes == 3:
        layers |= {
            "Upsample": lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
            "PixelShuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
            "pad": lambda: Apply("pad", lambda x: F.pad(x, (1, 0, 0, 1))[..., :-1, 1:]),
            "channels last": lambda: Apply("channels_last", lambda x: x.contiguous(memory_format=torch.channels_last)),
        }
    return layers


class Net(nn.Module):
    """A random body, then a linear head over what it returns; a second input enters by a product."""

    def __init__(self, rng: random.Random, axes: int, second: bool) -> None:
        super().__init__()
        self.channels = 4
        self.body = nn.ModuleList(_block(rng, axes, self.channels) for _ in range(rng.randint(2, 5)))
        self.side = nn.Linear(3, self.channels) if second else None
        self.pooled = axes > 1 and rng.random() < 0.5
        size = self.channels if self.pooled or axes == 1 else self.channels * 4 ** (axes - 1)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h = x
        for i, layer in enumerate(self.body):
            h = layer(h)
            if i == 0 and z is not None:
                h = h * self.side(z).tanh().view(len(h), -1, *[1] * (h.ndim - 2))
        h = h.flatten(2).mean(2) if self.pooled else h.flatten(1)
        return self.head(h)


def _block(rng: random.Random, axes: int, c: int) -> nn.Module:
    layers = _layers_of(axes, c)
    inner = nn.Sequential(layers[rng.choice(sorted(layers))](), _activation(rng))
    kind = rng.random()
    if kind < 0.25:
        return Residual(inner, rng.random() < 0.5)
    return Gate(inner) if kind < 0.35 else inner


def _activation(rng: random.Random) -> nn.Module:
    if rng.random() < 0.6:
        return SMOOTH[rng.choice(sorted(SMOOTH))]()
    name = rng.choice(sorted(FUNCTIONS))
    return Apply(name, FUNCTIONS[name])


def case(seed: int) -> tuple[Net, tuple[Tensor, ...], Tensor]:
    """The net of a seed in float64, its inputs and its targets."""
    rng = random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        axes, second = rng.choice([1, 2, 3, 3, 4]), rng.random() < 0.3
        net = Net(rng, axes, second).double()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        n = rng.choice([1, 2, 3])
        inputs = [torch.randn(n, 4, *[4] * (axes - 1), dtype=torch.float64)]
        if second:
            inputs.append(torch.randn(n, 3, dtype=torch.float64))
        return net.train(rng.random() < 0.5), tuple(inputs), torch.randint(0, CLASSES, (n,))


def violations(seed: int) -> Iterator[str]:
    """What an explanation of the net of a seed does not keep."""
    net, inputs, y = case(seed)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    flags = [m.training for m in net.modules()]
    for spec in SPECS:
        explainer = EXPLAINERS.create(spec).bind(net)
        try:
            values = explainer.attribute(inputs, y)
        except XaikitError as error:
            if spec == "gradient" or "lrp" not in spec and "contextual" not in spec:
                yield f"{spec} refuses: {error}"
            continue
        except Exception as error:  # noqa: BLE001
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{at.filename.rsplit('/', 1)[-1]}:{at.lineno}"
            yield f"{spec} raw {type(error).__name__}: {str(error)[:90]} at {place}"
            continue
        yield from (f"{spec} {what}" for what in _of_values(spec, explainer, inputs, y, values))
        if any(not torch.equal(state[k], v) for k, v in net.state_dict().items()) or flags != [
            m.training for m in net.modules()
        ]:
            yield f"{spec} leaves the model changed"
            net.load_state_dict(state)


def _of_values(
    spec: str, explainer: object, inputs: tuple[Tensor, ...], y: Tensor, values: tuple[Tensor, ...]
) -> Iterator[str]:
    if [v.shape for v in values] != [x.shape for x in inputs]:
        yield "gives another shape"
        return
    if not all(bool(v.isfinite().all()) for v in values):
        yield "is not finite"
        return
    scale = max(1e-8, *(float(v.abs().max()) for v in values))  # an instance norm before a mean leaves rounding alone
    if len(y) > 1:
        alone = explainer.attribute(tuple(x[:1] for x in inputs), y[:1])  # type: ignore[attr-defined]
        error = max(float((a - v[:1]).abs().max()) for a, v in zip(alone, values, strict=True))
        if error > 1e-6 * scale:
            yield f"differs alone and in a batch by {error / scale:.2g}"
    if spec == "gradient":
        error = _gradient_error(explainer, inputs, y, values)
        if error > 1e-4:
            yield f"differs from finite differences by {error:.2g}"


def _gradient_error(explainer: object, inputs: tuple[Tensor, ...], y: Tensor, values: tuple[Tensor, ...]) -> float:
    """Relative error along a random direction: the best of three steps, since a large one may cross a kink."""
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    exact = sum(float((v * d).sum()) for v, d in zip(values, direction, strict=True))
    errors = []
    for step in (1e-4, 1e-5, 1e-6, 1e-7):
        ends = []
        for sign in (1, -1):
            moved = tuple(x + sign * step * d for x, d in zip(inputs, direction, strict=True))
            output = explainer.output(moved)  # type: ignore[attr-defined]
            ends.append(float(output.gather(1, y[:, None]).sum()))
        errors.append(abs((ends[0] - ends[1]) / (2 * step) - exact) / max(abs(exact), 1e-3))
    return min(errors)


def main(arguments: list[str]) -> int:
    """Check the seeds FIRST:END; the number with a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_nets", description=main.__doc__)
    parser.add_argument("--seeds", default="0:100", help="FIRST:END")
    first, _, end = parser.parse_args(arguments).seeds.partition(":")
    torch.set_num_threads(1)
    wrong = 0
    for seed in range(int(first), int(end)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(violations(seed))
        wrong += bool(found)
        for line in found:
            print(f"seed {seed}: {line}", flush=True)
    print(f"{wrong} of {int(end) - int(first)} nets with a violation")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
