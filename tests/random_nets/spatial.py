"""Kinds for channels and positions, in one to three dimensions: convolutions, pools, norms, resizing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_nets.kinds import WithParts, divisors, function, kind, when

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NAMES = {1: "1d", 2: "2d", 3: "3d"}


def _maps(smallest: int = 1, dims: tuple[int, ...] = (1, 2, 3)):
    """Whether a shape is channels and positions, at least `smallest` along each axis."""
    return lambda shape: len(shape) - 1 in dims and min(shape[1:]) >= smallest


def _small(shape):
    return _maps(2)(shape) and torch.Size(shape).numel() <= 200


def _conv(r, shape):
    return CONVOLUTIONS[len(shape) - 1](shape[0], r.randint(2, 4), r.choice((1, 2)), bias=r.random() < 0.8)


def _padded(r, shape):
    mode = r.choice(("zeros", "circular", "replicate", "reflect"))
    return CONVOLUTIONS[len(shape) - 1](shape[0], r.randint(2, 4), 3, padding=1, padding_mode=mode)


def _same(r, shape):
    return CONVOLUTIONS[len(shape) - 1](shape[0], r.randint(2, 4), 3, padding="same")


def _strided(r, shape):
    return CONVOLUTIONS[len(shape) - 1](shape[0], r.randint(2, 4), 3, stride=2, padding=1)


def _dilated(r, shape):
    return CONVOLUTIONS[len(shape) - 1](shape[0], 3, 2, dilation=2, padding=1)


def _grouped(r, shape):
    return CONVOLUTIONS[len(shape) - 1](shape[0], shape[0] * 2, 2, groups=r.choice(divisors(shape[0])))


def _transposed(r, shape):
    groups = r.choice([1, shape[0]])
    return TRANSPOSED[len(shape) - 1](
        shape[0], shape[0], 2, stride=r.choice((1, 2)), padding=r.choice((0, 1)), groups=groups
    )


def _functional_conv(r, shape):
    n = len(shape) - 1
    call = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[n]
    weight = nn.Parameter(torch.randn(3, shape[0], *([2] * n)) / shape[0])
    return WithParts(f"F.conv{n}d(x, weight)", lambda self, x: call(x, self.weight), weight=weight)


kind("Conv")(when(_maps(2), _conv))
kind("Conv padded")(when(_maps(2), _padded))
kind("Conv same")(when(_maps(2), _same))
kind("Conv strided")(when(_maps(3), _strided))
kind("Conv dilated")(when(_maps(2), _dilated))
kind("Conv grouped")(when(_maps(2), _grouped))
kind("ConvTranspose")(when(_small, _transposed))
kind("F.conv")(when(_maps(2), _functional_conv))


def _pool(name, **options):
    def make(r, shape):
        module = getattr(nn, f"{name}{NAMES[len(shape) - 1]}")
        return module(**{key: value(r, shape) if callable(value) else value for key, value in options.items()})

    return make


kind("MaxPool")(when(_maps(3), _pool("MaxPool", kernel_size=2)))
kind("MaxPool overlapping")(when(_maps(3), _pool("MaxPool", kernel_size=3, stride=1, padding=1)))
kind("MaxPool dilated")(when(_maps(4), _pool("MaxPool", kernel_size=2, stride=1, dilation=2)))
kind("MaxPool ceil")(when(_maps(3), _pool("MaxPool", kernel_size=2, ceil_mode=True)))
kind("AvgPool")(when(_maps(3), _pool("AvgPool", kernel_size=2)))
kind("AvgPool padded")(
    when(
        _maps(3), _pool("AvgPool", kernel_size=3, stride=2, padding=1, count_include_pad=lambda r, s: r.random() < 0.5)
    )
)
kind("AdaptiveAvgPool")(when(_maps(3), _pool("AdaptiveAvgPool", output_size=lambda r, s: r.randint(1, 3))))
kind("AdaptiveMaxPool")(when(_maps(3), _pool("AdaptiveMaxPool", output_size=lambda r, s: r.randint(1, 3))))
kind("LPPool")(
    when(_maps(3), lambda r, s: nn.Sequential(nn.Softplus(), _pool("LPPool", norm_type=2, kernel_size=2)(r, s)))
)
function("F.max_pool2d", lambda x: F.max_pool2d(x, 2, 1), _maps(3, (2,)))
function("F.avg_pool2d", lambda x: F.avg_pool2d(x, 2, 1), _maps(3, (2,)))
function("F.max_pool1d", lambda x: F.max_pool1d(x, 2, 1), _maps(3, (1,)))
function("F.adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, (2, None)), _maps(3, (2,)))
function("F.adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x, 2), _maps(3, (1,)))


def _batch_norm(r, shape):
    n = max(1, len(shape) - 1)
    norm = getattr(nn, f"BatchNorm{n}d")(shape[0], affine=r.random() < 0.8)
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.5, 2)
    return norm


kind("BatchNorm")(_batch_norm)
kind("LayerNorm")(lambda r, s: nn.LayerNorm(s[r.randrange(len(s)) :] if s[-1] > 1 else s))
kind("RMSNorm")(lambda r, s: nn.RMSNorm(s[-1:]))
kind("GroupNorm")(when(_maps(2), lambda r, s: nn.GroupNorm(r.choice(divisors(s[0])), s[0])))
kind("InstanceNorm")(
    when(_maps(2), lambda r, s: getattr(nn, f"InstanceNorm{len(s) - 1}d")(s[0], affine=r.random() < 0.5))
)
kind("LocalResponseNorm")(when(_maps(2), lambda r, s: nn.LocalResponseNorm(2)))
function("F.layer_norm", lambda x: F.layer_norm(x, x.shape[-1:]), lambda s: s[-1] > 2)
function("F.group_norm", lambda x: F.group_norm(x, 1), _maps(2))
function("F.instance_norm", F.instance_norm, _maps(2))
function("F.normalize", lambda x: F.normalize(x, dim=1), lambda s: s[0] > 1)
function(
    "hand-written layer norm",
    lambda x: (x - x.mean(-1, True)) / (x.var(-1, keepdim=True) + 0.1).sqrt(),
    lambda s: s[-1] > 2,
)

kind("Upsample nearest")(when(_small, lambda r, s: nn.Upsample(scale_factor=2)))
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
kind("Upsample linear")(
    when(_small, lambda r, s: nn.Upsample(scale_factor=1.5, mode=MODES[len(s) - 1], align_corners=r.random() < 0.5))
)
function("F.interpolate bilinear", lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"), _maps(2, (2,)))
function("F.interpolate bicubic", lambda x: F.interpolate(x, size=(4, 3), mode="bicubic"), _maps(2, (2,)))
function("F.interpolate area", lambda x: F.interpolate(x, size=(2, 2), mode="area"), _maps(2, (2,)))
kind("PixelShuffle")(when(lambda s: len(s) == 3 and s[0] % 4 == 0, lambda r, s: nn.PixelShuffle(2)))
kind("PixelUnshuffle")(when(lambda s: len(s) == 3 and s[1] % 2 == s[2] % 2 == 0, lambda r, s: nn.PixelUnshuffle(2)))
kind("ChannelShuffle")(when(lambda s: len(s) == 3 and s[0] % 2 == 0, lambda r, s: nn.ChannelShuffle(2)))
kind("ZeroPad2d")(when(_maps(1, (2,)), lambda r, s: nn.ZeroPad2d((1, 0, 0, 1))))
kind("ReflectionPad")(when(_maps(2), lambda r, s: getattr(nn, f"ReflectionPad{NAMES[len(s) - 1]}")(1)))
kind("ReplicationPad")(when(_maps(2), lambda r, s: getattr(nn, f"ReplicationPad{NAMES[len(s) - 1]}")(1)))
kind("ConstantPad1d")(when(_maps(1, (1,)), lambda r, s: nn.ConstantPad1d(1, 0.3)))
function("F.pad", lambda x: F.pad(x, (1, 1), value=0.5), lambda s: len(s) > 1)
function("F.unfold", lambda x: F.unfold(x, 2), lambda s: _maps(2, (2,))(s) and torch.Size(s).numel() < 100)
