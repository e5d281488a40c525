"""The private name of Lightning Fabric that xaikit uses, under a public one."""

from __future__ import annotations

from torch import nn


def lightning_inner(module: nn.Module) -> nn.Module | None:
    """The module that Lightning Fabric's `setup` has wrapped; None for any other module.

    Fabric's public `.module` unwraps the data-parallel wrapper too, and many users' modules have an attribute of that
    name. Without this name a model that Fabric has wrapped would be taken for a user's own module.

    Args:
        module: any module.
    """
    return getattr(module, "_forward_module", None)
