"""Kinds that move, pick, join and reduce elements, and functions along an axis."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_nets.kinds import function, kind, when


def _wide(shape):
    return shape[0] > 1


def _even(shape):
    return shape[0] % 2 == 0


def _maps(shape):
    return len(shape) > 1


def _two(shape):
    return len(shape) == 2


def _spread(x):
    """A tensor and a ramp: of values that are equal, as saturated ones, rounding would decide which comes first."""
    return x + 0.01 * torch.arange(x[0].numel(), dtype=x.dtype).view_as(x[0])


kind("nn.Flatten")(when(_maps, lambda r, s: nn.Flatten()))
kind("nn.Unflatten")(when(lambda s: s == (s[0],) and s[0] % 2 == 0, lambda r, s: nn.Unflatten(1, (2, s[0] // 2))))
function("x.flatten(1)", lambda x: x.flatten(1), _maps)
function("x.view", lambda x: x.contiguous().view(len(x), -1), _maps)
function("x.reshape", lambda x: x.reshape(x.shape[0], x.shape[1], -1), _maps)
function("x.unsqueeze", lambda x: x.unsqueeze(1), lambda s: len(s) < 4)
function("x.squeeze", lambda x: x.squeeze(1) if x.shape[1] == 1 and x.ndim > 2 else x)
function("x.transpose", lambda x: x.transpose(1, 2), _maps)
function("x.permute", lambda x: x.permute(0, *range(x.ndim - 1, 0, -1)), _maps)
function("x.movedim", lambda x: torch.movedim(x, 1, -1), _maps)
function("torch.flip", lambda x: torch.flip(x, [1]))
function("torch.roll", lambda x: torch.roll(x, 1, 1))
function("x.expand", lambda x: x.unsqueeze(2).expand(-1, -1, 2).reshape(len(x), -1), lambda s: len(s) == 1)
function("x.repeat", lambda x: x.repeat(1, 2), lambda s: len(s) == 1)
function("repeat_interleave", lambda x: x.repeat_interleave(2, 1), _two)
function("torch.cat", lambda x: torch.cat([x, -x], 1))
function("torch.cat of pieces", lambda x: torch.cat([x[:, 1:], x[:, :1].sin()], 1), _wide)
function("torch.stack", lambda x: torch.stack([x, x.tanh()], 1), lambda s: len(s) < 4)
function("x.split", lambda x: torch.cat(x.split(1, 1)[::-1], 1), _wide)
function("x.chunk", lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]), _even)
function("x.unbind", lambda x: sum(x.unbind(1)), lambda s: _maps(s) and _wide(s))
function("x.narrow", lambda x: x.narrow(1, 0, x.shape[1] - 1), _wide)
function("x[:, ::2]", lambda x: x[:, ::2], _wide)
function("x[..., -1]", lambda x: x[..., -1], _maps)
function("x[:, None]", lambda x: x[:, None] * x.new_ones(2, 1), lambda s: len(s) == 1)
function("x[:, index]", lambda x: x[:, torch.tensor([0, 1, 0])], _wide)
function("index_select", lambda x: x.index_select(1, torch.tensor([1, 0])), _wide)
function("torch.gather", lambda x: x.gather(1, _spread(x).detach().argsort(1)))
function("torch.sort", lambda x: torch.sort(_spread(x), 1).values)
function("torch.topk", lambda x: torch.topk(_spread(x), 2, 1).values, _wide)
function(
    "torch.take_along_dim", lambda x: torch.take_along_dim(x, _spread(x).detach().argmax(1, keepdim=True), 1), _maps
)
function("x.scatter", lambda x: torch.zeros_like(x).scatter(1, _spread(x).detach().argsort(1), x))
function("index_add", lambda x: torch.zeros_like(x).index_add(1, torch.arange(x.shape[1]) // 2, x))
function("torch.tril", lambda x: torch.tril(x) + 0.1 * x, _two)
function("mean over an axis", lambda x: x.mean(-1), _maps)
function("sum over an axis", lambda x: x.sum(2, keepdim=True) / 2, _maps)
function("amax over an axis", lambda x: _spread(x).amax(-1), _maps)
function("max over an axis", lambda x: _spread(x).max(-1).values, _maps)
function("median over an axis", lambda x: _spread(x).median(-1).values, _maps)
function("logsumexp over an axis", lambda x: torch.logsumexp(x, -1), _maps)
function("std over an axis", lambda x: x.std(-1), lambda s: _maps(s) and s[-1] > 2)
function("norm over an axis", lambda x: torch.linalg.vector_norm(x + 0.01, dim=-1), _maps)
function("prod over an axis", lambda x: x[..., :2].prod(-1), _maps)
function("cumsum", lambda x: torch.cumsum(x, 1))
function("cumprod", lambda x: torch.cumprod(x.tanh() + 0.1, 1))
function("torch.diff", lambda x: torch.diff(x, dim=1), _wide)
function("softmax", lambda x: F.softmax(x, 1), _wide)
function("log_softmax", lambda x: F.log_softmax(x, -1), lambda s: s[-1] > 1)
function("F.softmin", lambda x: F.softmin(x, 1), _wide)
kind("nn.Softmax")(when(_wide, lambda r, s: nn.Softmax(1)))
kind("nn.LogSoftmax")(when(_wide, lambda r, s: nn.LogSoftmax(1)))
kind("nn.Softmax2d")(when(lambda s: len(s) == 3 and s[0] > 1, lambda r, s: nn.Softmax2d()))
kind("nn.GLU")(when(_even, lambda r, s: nn.GLU(1)))
function("F.glu", lambda x: F.glu(x, 1), _even)
function(
    "cosine similarity",
    lambda x: F.cosine_similarity(x.unsqueeze(2), x.flip(1).unsqueeze(1) + 0.5, dim=-1),
    lambda s: len(s) == 2 and s[1] > 1 and s[0] < 8,
)
function(
    "F.pairwise_distance", lambda x: F.pairwise_distance(x, x.flip(1) * 0.5 + 1), lambda s: len(s) == 2 and s[1] > 1
)
function("torch.cdist", lambda x: torch.cdist(x, x.flip(1).tanh() + 2), lambda s: len(s) == 2 and s[0] < 8)
function("outer product", lambda x: x.unsqueeze(2) * x.unsqueeze(1) / 2, lambda s: len(s) == 1 and s[0] < 8)
function("torch.fft magnitude", lambda x: torch.fft.rfft(x, dim=-1).add(0.1).abs(), lambda s: s[-1] > 2)
