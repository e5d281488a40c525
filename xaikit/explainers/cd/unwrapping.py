"""The model inside its wrappers: contextual decomposition runs the Python code of the forward pass."""

from __future__ import annotations

import torch
from torch import nn

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.lightning_private import lightning_inner


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel, DistributedDataParallel or Lightning Fabric.

    Raises:
        UnsupportedOperationError: for a model of torch.jit, whose code is no longer Python.
    """
    while True:
        inner = torch_private.compiled_inner(model) or lightning_inner(model)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, torch.jit.ScriptModule):
            raise UnsupportedOperationError(
                "contextual decomposition cannot look inside a torch.jit module; pass the model as it was before "
                "torch.jit.script or torch.jit.trace"
            )
        else:
            return model
