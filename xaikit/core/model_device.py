"""Where a model computes."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from xaikit.core.accelerate_private import execution_device


def model_device(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU for a model without any.

    Weights that accelerate keeps elsewhere until they are needed (`device_map`, `cpu_offload`, `disk_offload`) stand on
    "meta" meanwhile; its hook says where they will be.

    Args:
        model: of the user's.
    """
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    if first is None or not first.is_meta:
        return torch.device("cpu") if first is None else first.device
    devices = filter(None, map(execution_device, model.modules()))
    return next(devices, first.device)
