"""The private name of accelerate that xaikit uses, under a public one."""

from __future__ import annotations

import torch
from torch import nn


def execution_device(module: nn.Module) -> torch.device | None:
    """Where accelerate will load a module's weights when it runs; None for a module that has no hook of accelerate's.

    Without this name, inputs would be moved to "meta", where accelerate's offloaded weights stand between the passes.

    Args:
        module: any module.
    """
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return None if device is None else torch.device(device)
