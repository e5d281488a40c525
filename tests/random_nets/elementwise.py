"""Kinds that work element by element: activations as modules, functions and methods, arithmetic, writes in place."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_nets.kinds import Function, WithParts, function, kind, when

MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Hardtanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.PReLU, nn.RReLU, nn.Identity, nn.Dropout, nn.AlphaDropout),
)
for _module in MODULES:
    kind(f"nn.{_module.__name__}")(lambda r, shape, module=_module: module())

IN_PLACE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.Hardtanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.RReLU, nn.Dropout),
)
for _module in IN_PLACE:
    kind(f"nn.{_module.__name__} in place")(lambda r, shape, module=_module: module(inplace=True))

kind("nn.GELU tanh")(lambda r, shape: nn.GELU("tanh"))
kind("nn.Threshold")(lambda r, shape: nn.Threshold(-0.2, 0.1))
kind("nn.PReLU per channel")(when(lambda s: len(s) > 1, lambda r, s: nn.PReLU(s[0])))
for _module in (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
    kind(f"nn.{_module.__name__}")(
        when(lambda s, n=int(_module.__name__[-2]): len(s) == n + 1, lambda r, s, module=_module: module())
    )

FUNCTIONS = (
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign),
    *(F.logsigmoid, F.tanhshrink, F.softshrink, F.hardshrink, F.hardtanh, F.hardswish, F.hardsigmoid, F.rrelu),
)
for _function in FUNCTIONS:
    function(f"F.{_function.__name__}", _function)
for _function in (torch.relu, torch.sigmoid, torch.tanh, torch.sin, torch.atan, torch.erf, torch.abs, torch.square):
    function(f"torch.{_function.__name__}", _function)

function("x.relu()", lambda x: x.relu())
function("x.relu_()", lambda x: x.relu_())
function("F.relu in place", lambda x: F.relu(x, inplace=True))
function("F.prelu", lambda x: F.prelu(x, x.new_full((1,), 0.2)))
function("F.threshold", lambda x: F.threshold(x, 0.1, 0.0))
function("x.clamp", lambda x: x.clamp(-1.5, 1.5))
function("x.clamp(min=0)", lambda x: torch.clamp(x, min=0))
function("torch.maximum", lambda x: torch.maximum(x, 0.1 * x))
function("torch.where", lambda x: torch.where(x > 0.1, x, 0.3 * x))
function("x.masked_fill", lambda x: x.masked_fill(x < -1, -1.0))
function("torch.exp", lambda x: torch.exp(x.clamp(max=2)))
function("torch.log1p", lambda x: torch.log1p(x.abs()))
function("torch.sqrt", lambda x: torch.sqrt(x * x + 0.1))
function("torch.rsqrt", lambda x: x * torch.rsqrt(x.square() + 1))
function("x ** 2", lambda x: x**2 / 3)
function("x ** 3", lambda x: x**3 / 9)
function("x / (1 + |x|)", lambda x: x / (1 + x.abs()))
function("1 - x", lambda x: 1 - x)
function("x * sigmoid(1.7 x)", lambda x: x * torch.sigmoid(1.7 * x))
function("x * tanh(softplus(x))", lambda x: x * torch.tanh(F.softplus(x)))
function("x * 2 - 0.5", lambda x: x * 2 - 0.5)
function("torch.lerp", lambda x: torch.lerp(x, torch.tanh(x), 0.3))
function("torch.addcmul", lambda x: torch.addcmul(x, x, torch.sigmoid(x), value=0.5))
function("F.dropout", lambda x: F.dropout(x, 0.5, training=False))
function("x.add_(0.5)", lambda x: (x * 1.0).add_(0.5))
function("x.mul_(0.7)", lambda x: x.mul_(0.7))
function("detached gate", lambda x: x * torch.sigmoid(x).detach())
function("x.clone()", lambda x: x.clone().contiguous())


def _augmented(x: torch.Tensor) -> torch.Tensor:
    out = torch.cos(x)
    out += x
    out *= 0.8
    return out


function("out = cos(x); out += x", _augmented)


@kind("scale and shift parameters")
def _scale(r, shape):
    return WithParts(
        "x * scale + shift", lambda self, x: x * self.scale + self.shift,
        scale=nn.Parameter(torch.rand(shape) + 0.5), shift=nn.Parameter(torch.randn(shape) / 4),
    )  # fmt: skip


@kind("learned exponent")
def _exponent(r, shape):
    return WithParts(
        "log(1 + exp(x) * a)", lambda self, x: torch.log(1 + torch.exp(x.clamp(-4, 4)) * self.a.exp()),
        a=nn.Parameter(torch.randn(()) / 4),
    )  # fmt: skip


@kind("written slice")
def _slice(r, shape):
    half = max(1, shape[0] // 2)

    def write(x):
        out = torch.zeros_like(x)
        out[:, :half] = x[:, :half] * 0.5
        out[:, half:] += torch.tanh(x[:, half:])
        return out

    return Function(f"out[:, :{half}] = x[:, :{half}] / 2; out[:, {half}:] += tanh(x[:, {half}:])", write)


@kind("written slice of the input")
def _slice_in_place(r, shape):
    def write(x):
        x[:, 0] = x[:, 0] * math.sqrt(2)
        return x

    return Function("x[:, 0] *= 2 ** .5", write)
