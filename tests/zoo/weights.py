"""Weights that a fresh model does not have: biases that matter, or none at all; BatchNorm statistics of data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.zoo.entry import Entry

# Parameters that add a constant to what they meet, by parts of their names.
ADDITIVE = (
    "pos_emb", "position", "class_token", "cls_token", "token_type", "relative_position_bias", "dist_token", "rel_pos",
    "cpb", "pos_embed", "attention_bias", "zero_bias",
)  # fmt: skip


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _is_layer_scale(name: str) -> bool:
    return "." in name and ("gamma" in name or "ls" in name.split(".")[-2])


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 1) -> nn.Module:
    """Random BatchNorm statistics and biases; what starts at zero or at a constant gets random numbers too."""
    generator = torch.Generator().manual_seed(seed)
    for norm in _batch_norms(model):
        norm.running_mean.copy_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("bias"):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        elif float(parameter.std() if parameter.numel() > 1 else 0) == 0 and float(parameter.abs().max()) < 1e-3:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        elif _is_layer_scale(name):
            parameter.add_(0.3 * torch.rand(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def zero_bias(model: nn.Module) -> nn.Module:
    """Set everything that adds a constant to zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or ".bias_" in name or any(part in name for part in ADDITIVE):
            parameter.zero_()
    for norm in _batch_norms(model):
        norm.running_mean.zero_()
    return model


@torch.no_grad()
def calibrate(model: nn.Module, entry: Entry, seed: int = 7) -> list[_BatchNorm]:
    """Give every BatchNorm the statistics of three batches, and return these layers."""
    norms = _batch_norms(model)
    if not norms:
        return norms
    torch.manual_seed(seed)
    batches = torch.cat([entry.make_input() for _ in range(3)])
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(batches)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    return norms


@torch.no_grad()
def disturb_statistics(norms: list[_BatchNorm], *, zero_means: bool) -> None:
    """Move the statistics away from those of the data, or set the means to zero."""
    generator = torch.Generator().manual_seed(3)
    for norm in norms:
        norm.running_var.clamp_(min=1e-6)
        if zero_means:
            norm.running_mean.zero_()
            continue
        shape = norm.running_mean.shape
        norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn(shape, generator=generator))
        norm.running_var.mul_(0.7 + 0.6 * torch.rand(shape, generator=generator))
