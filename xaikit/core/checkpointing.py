"""Switches activation checkpoints off inside a model that is explained: they run parts of it a second time.

`torch.utils.checkpoint` drops activations in the forward pass and runs the part again in the backward pass, outside the
hooks that read layers and rules. An explained pass keeps its activations instead, which takes more memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from xaikit.core.torch_private import wrap_checkpoint

_INSTALLING = threading.Lock()


def install(explained: Callable[[], bool]) -> None:
    """Let torch's checkpoint ask `explained` before it drops activations; elsewhere it works as always.

    Args:
        explained: whether an explained pass runs in this context.
    """
    with _INSTALLING:
        wrap_checkpoint(explained)
